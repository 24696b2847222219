#include "kernels/cpu/gemm.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <dnnl.hpp>
#include <map>
#include <string_view>

#include "kernels/base/error.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace longhaul::cpu {
namespace {

std::atomic<bool> bf16_allowed{true};

/// The library sets up what its primitives share with the first of them. That one is made here, before all others: the
/// thread sanitizer does not see into the library, but that they come after this.
dnnl::engine& engine() {
  static dnnl::engine cpu = [] {
    dnnl::engine made(dnnl::engine::kind::cpu, 0);
    const dnnl::memory::desc one({1, 1}, dnnl::memory::data_type::f32, dnnl::memory::dims{1, 1});
#if DNNL_VERSION_MAJOR >= 3
    dnnl::matmul(dnnl::matmul::primitive_desc(made, one, one, one));
#else
    dnnl::matmul(dnnl::matmul::primitive_desc(dnnl::matmul::desc(one, one, one), made));
#endif
    return made;
  }();
  return cpu;
}

/// A product of one shape: the primitive, and the memory objects that are pointed at the operands of each call.
struct Product {
  dnnl::matmul primitive;
  dnnl::memory a, b, c;
};

/// Reference loops, and kernels that emulate bf16, run slower than sgemm.
bool fast(const dnnl::matmul::primitive_desc& desc) {
  const std::string_view kernel = desc.impl_info_str();
#ifdef __x86_64__
  static const bool native = __builtin_cpu_supports("avx512bf16");
#else
  static const bool native = false;
#endif
  return kernel.starts_with("brg") || (native && kernel.starts_with("gemm:jit"));
}

Product make_product(const GemmArgs& g) {
  using dnnl::memory;
  const memory::desc a({g.m, g.k}, memory::data_type::bf16, memory::dims{g.lda, 1});
  const memory::desc b({g.k, g.n}, memory::data_type::bf16,
                       g.b_transposed ? memory::dims{1, g.ldb} : memory::dims{g.ldb, 1});
  const memory::desc c({g.m, g.n}, memory::data_type::f32, memory::dims{g.ldc, 1});
  dnnl::primitive_attr attr;
  if (g.accumulate) {
    dnnl::post_ops ops;
    ops.append_sum(1.0f);
    attr.set_post_ops(ops);
  }
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::matmul::primitive_desc desc(engine(), a, b, c, attr, true);
#else
  const dnnl::matmul::primitive_desc desc(dnnl::matmul::desc(a, b, c), attr, engine(), true);
#endif
  if (!desc || !fast(desc)) return {};
  return {dnnl::matmul(desc), memory(a, engine(), nullptr), memory(b, engine(), nullptr), memory(c, engine(), nullptr)};
}

/// False where there is no bf16 kernel for this shape.
bool try_bf16(const GemmArgs& g) {
  using Key = std::array<std::int64_t, 8>;
  thread_local std::map<Key, Product> products;
  thread_local dnnl::stream stream(engine());
  const Key key{g.m, g.n, g.k, g.lda, g.ldb, g.ldc, g.b_transposed, g.accumulate};
  auto found = products.find(key);
  if (found == products.end()) {
    if (products.size() >= 512) products.clear();  // prompts of every length pass by
    found = products.emplace(key, make_product(g)).first;
  }
  Product& p = found->second;
  if (!p.primitive) return false;
  p.a.set_data_handle(const_cast<void*>(g.a));
  p.b.set_data_handle(const_cast<void*>(g.b));
  p.c.set_data_handle(g.c);
  p.primitive.execute(stream, {{DNNL_ARG_SRC, p.a}, {DNNL_ARG_WEIGHTS, p.b}, {DNNL_ARG_DST, p.c}});
  return true;
}

/// A block of a matrix as float32: in place, or widened to `space` with rows of `cols`.
struct Block {
  const float* data;
  std::int64_t stride;
};
Block widened(const void* data, DType type, std::int64_t stride, std::int64_t rows, std::int64_t cols, float* space) {
  if (type == DType::f32) return {static_cast<const float*>(data), stride};
  for (std::int64_t r = 0; r < rows; ++r)
    simd().widen(reinterpret_cast<const bf16*>(at(data, type, r * stride)), space + r * cols, cols);
  return {space, cols};
}

void in_f32(const GemmArgs& g) {
  constexpr std::int64_t kDepth = 512;  // of k at a time, so that the widened operands stay in cache
  thread_local Scratch a_scratch, b_scratch;
  const std::int64_t depth = std::min(g.k, kDepth);
  float* a_space = g.a_type == DType::f32 ? nullptr : a_scratch.get<float>(g.m * depth);
  float* b_space = g.b_type == DType::f32 ? nullptr : b_scratch.get<float>(g.n * depth);
  for (std::int64_t k0 = 0; k0 < g.k; k0 += depth) {
    const std::int64_t k = std::min(depth, g.k - k0);
    const Block a = widened(at(g.a, g.a_type, k0), g.a_type, g.lda, g.m, k, a_space);
    const Block b = g.b_transposed ? widened(at(g.b, g.b_type, k0), g.b_type, g.ldb, g.n, k, b_space)
                                   : widened(at(g.b, g.b_type, k0 * g.ldb), g.b_type, g.ldb, k, g.n, b_space);
    const auto status = dnnl_sgemm('N', g.b_transposed ? 'T' : 'N', g.m, g.n, k, 1.0f, a.data, a.stride, b.data,
                                   b.stride, g.accumulate || k0 > 0 ? 1.0f : 0.0f, g.c, g.ldc);
    check(status == dnnl_success, "dnnl_sgemm refused its arguments");
  }
}

}  // namespace

void gemm(const GemmArgs& g) {
  thread_local bool single = (omp_set_num_threads(1), true);
  (void)single;
  if (g.m == 0 || g.n == 0) return;
  const bool bf16_operands = g.a_type == DType::bf16 && g.b_type == DType::bf16;
  if (bf16_operands && bf16_allowed.load(std::memory_order_relaxed) && try_bf16(g)) return;
  in_f32(g);
}

void set_bf16_gemm(bool allowed) { bf16_allowed = allowed; }

}  // namespace longhaul::cpu
