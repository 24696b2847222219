// random_fill, replay, checksum.
#include "kernels/synthetic.h"

#include <atomic>
#include <cstring>

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

void checksum(const ChecksumArgs& a) {
  std::atomic<std::uint64_t> all = 0;
  parallel_for(a.kv_heads * a.kv.rows, 1024, [&](std::int64_t begin, std::int64_t end) {
    std::uint64_t sum = 0;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t head = i / a.kv.rows, row = i % a.kv.rows;
      const std::byte* from = a.kv.data + head * a.kv.head_stride + row * a.row_bytes;
      for (std::int64_t w = 0; w < a.row_bytes / 8; ++w) {
        std::uint64_t word;
        std::memcpy(&word, from + 8 * w, 8);
        sum += synthetic::word_sum(word, head, a.kv.first + row, w);
      }
    }
    all += sum;
  });
  *a.sum += all;
}

}  // namespace longhaul::cpu
