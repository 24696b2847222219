// random_fill, replay.
#include "kernels/synthetic_ops.h"

#include "kernels/base/error.h"
#include "kernels/base/parallel.h"
#include "kernels/cpu/ops.h"

namespace longhaul::cpu {
namespace {

template <class T>
void fill_with(const RandomFillArgs& a) {
  T* out = static_cast<T*>(a.out);
  parallel_for(a.count, 1 << 14, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      out[i] = from_float<T>(synthetic::random_value(a.seed, static_cast<std::uint64_t>(i), a.mean, a.spread));
  });
}

}  // namespace

void random_fill(const RandomFillArgs& a) { a.type == DType::bf16 ? fill_with<bf16>(a) : fill_with<float>(a); }

void replay(const ReplayArgs& a) {
  parallel_for(a.batch.count * a.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const auto list = synthetic::replayed_list(a, a.batch.spans[i / a.kv_heads], i % a.kv_heads);
      check(list.size() <= a.out.stride, "replay: the list has room for the budget");
      a.out.count[i] = static_cast<std::int32_t>(list.size());
      for (std::int64_t j = 0; j < list.size(); ++j) a.out.rows[i * a.out.stride + j] = list.row(j, a.recall);
    }
  });
}

}  // namespace longhaul::cpu
