#include "kernels/cuda/matmul.h"

#include <algorithm>
#include <bit>

#include "kernels/base/error.h"

namespace longhaul::cuda {
namespace {

/// The largest power of two, up to 256, that all the addresses are multiples of.
std::uint32_t alignment_of(std::initializer_list<const void*> pointers) {
  std::uintptr_t bits = 256;
  for (const void* p : pointers) bits |= reinterpret_cast<std::uintptr_t>(p);
  return std::uint32_t{1} << std::countr_zero(bits);
}

template <class T>
void prefer(cublasLtMatmulPreferenceOpaque_t& preference, cublasLtMatmulPreferenceAttributes_t what, T value) {
  check(cublasLtMatmulPreferenceSetAttribute(&preference, what, &value, sizeof value));
}

}  // namespace

/// cuBLAS counts columns first: out^T [out, tokens] = w [in, out]^T * x^T [in, tokens], each as it lies in memory.
Matmul::Plan& Matmul::plan(const Shape& s) {
  if (auto known = plans_.find(s); known != plans_.end()) return known->second;
  Plan p{};
  check(cublasLtMatmulDescInit(&p.op, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  const cublasOperation_t transpose = CUBLAS_OP_T;
  check(cublasLtMatmulDescSetAttribute(&p.op, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose));
  if (s.bias) {  // of the product's type
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    check(cublasLtMatmulDescSetAttribute(&p.op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
  }
  const auto in = static_cast<std::uint64_t>(s.in), out = static_cast<std::uint64_t>(s.out);
  const auto tokens = static_cast<std::uint64_t>(s.tokens);
  check(cublasLtMatrixLayoutInit(&p.w, CUDA_R_16BF, in, out, s.in));
  check(cublasLtMatrixLayoutInit(&p.x, CUDA_R_16BF, in, tokens, s.in));
  check(cublasLtMatrixLayoutInit(&p.out, s.out_type == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F, out, tokens, s.out));

  cublasLtMatmulPreferenceOpaque_t preference;
  check(cublasLtMatmulPreferenceInit(&preference));
  prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{kWorkspaceBytes});
  prefer(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,  // split sums are added up in float32, not in bf16
         std::uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  for (auto operand : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                       CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    prefer(preference, operand, s.alignment);
  cublasLtMatmulHeuristicResult_t best;
  int found = 0;
  check(
      cublasLtMatmulAlgoGetHeuristic(handle_.get(), &p.op, &p.w, &p.x, &p.out, &p.out, &preference, 1, &best, &found));
  if (found == 0)
    throw DeviceError(fmt::format("cuBLASLt has no product for {} tokens, {} in, {} out", s.tokens, s.in, s.out));
  p.algorithm = best.algo;
  return plans_.emplace(s, p).first->second;
}

void Matmul::run(const LinearArgs& a, cudaStream_t stream) {
  if (a.tokens == 0) return;
  Plan& p = plan({.tokens = a.tokens,
                  .in = a.in,
                  .out = a.out_dim,
                  .out_type = a.out_type,
                  .accumulate = a.accumulate,
                  .bias = a.bias != nullptr,
                  .alignment = alignment_of({a.x, a.w, a.out, workspace_.data()})});
  if (a.bias != nullptr) {
    longhaul::check(a.out_type == DType::bf16, "linear: a bias is of the product's type");
    // The algorithm was chosen before there was a pointer, and may read packs.
    longhaul::check(a.out_dim % 8 == 0 && reinterpret_cast<std::uintptr_t>(a.bias) % 16 == 0,
                    "linear: a bias of whole, aligned packs");
    check(cublasLtMatmulDescSetAttribute(&p.op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &a.bias, sizeof a.bias));
  }
  workspace_.enter(stream);
  const float one = 1, keep = a.accumulate ? 1.0f : 0.0f;
  check(cublasLtMatmul(handle_.get(), &p.op, &one, a.w, &p.w, a.x, &p.x, &keep, a.out, &p.out, a.out, &p.out,
                       &p.algorithm, workspace_.data(), kWorkspaceBytes, stream));
}

}  // namespace longhaul::cuda
