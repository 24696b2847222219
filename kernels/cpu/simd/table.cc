#include "kernels/cpu/simd/rows.h"

namespace longhaul::cpu::LONGHAUL_ISA {

#ifdef __AVX512F__
constexpr const char* kName = "avx512";
#elif defined(__AVX2__)
constexpr const char* kName = "avx2";
#else
constexpr const char* kName = "native";
#endif

extern const Simd kTable{
    .name = kName,
    .widen = widen,
    .narrow = narrow,
    .rms_norm = rms_norm,
    .silu_mul = silu_mul,
    .rotate = rotate,
    .scale = scale,
    .blend = blend,
    .add_sizes = add_sizes,
    .split_pairs = split_pairs,
    .dot_rows = dot_rows,
    .expand_4 = expand_4,
    .expand_8 = expand_8,
    .expand_fp8 = expand_fp8,
    .rows_bf16 = &kRowsBf16,
    .rows_f32 = &kRowsF32,
    .rows_int8 = &kRowsInt8,
    .rows_fp8 = &kRowsFp8,
    .rows_int4 = &kRowsInt4,
    .dots = dots,
    .project_bf16 = project_bf16,
    .project_f32 = project_f32,
    .encode = encode,
    .scan_labels = scan_labels,
    .top_score = top_score,
    .exp_scores = exp_scores,
    .combine = combine,
    .keep_keys = keep_keys,
    .copy_keys = copy_keys,
    .add_probabilities = add_probabilities,
    .softmax_bf16 = softmax_bf16,
    .softmax_f32 = softmax_f32,
};

}  // namespace longhaul::cpu::LONGHAUL_ISA
