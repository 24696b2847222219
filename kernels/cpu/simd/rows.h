// What this folder's files define for each instruction set; simd.h says what each does.
#pragma once
#include "kernels/cpu/simd/simd.h"

namespace longhaul::cpu::LONGHAUL_ISA {

void widen(const bf16* x, float* out, std::int64_t n);
void narrow(const float* x, bf16* out, std::int64_t n);
void rms_norm(const float* x, const bf16* gain, float* out, std::int64_t n, float eps, bool round);
void silu_mul(const float* gate, const float* up, float* out, std::int64_t n);
void rotate(float* x, const float* cosine, const float* sine, std::int64_t half);
void scale(const float* x, float factor, float* out, std::int64_t n);
void blend(float* into, float a, const float* from, float b, std::int64_t n);
void add_sizes(const float* x, float factor, float* sums, float* sizes, std::int64_t n);
void split_pairs(const float* x, float* out, std::int64_t n);
void dot_rows(const bf16* w, std::int64_t rows, std::int64_t in, const float* x, std::int64_t tokens, float* out,
              std::int64_t out_stride, float* sums);
void expand_4(const std::byte* codes, std::int64_t n, float step, float zero, float base, bf16* out);
void expand_8(const std::byte* codes, std::int64_t n, float step, bf16* out);
void expand_fp8(const std::byte* codes, std::int64_t n, float step, bf16* out);
extern const RowLoops kRowsBf16, kRowsF32, kRowsInt8, kRowsFp8, kRowsInt4;
void dots(const float* w, std::int64_t rows, std::int64_t n, const float* x, float* out);
void project_bf16(const ProjectArgs&);
void project_f32(const ProjectArgs&);
void encode(const float* x, float zero, float step, float top, std::uint8_t* codes);
void scan_labels(const ScanArgs&);
float top_score(float* s, std::int64_t n);
float exp_scores(float* s, float top, std::int64_t n);
void combine(const float* s, std::int64_t stride, const float* factors, std::int64_t heads, bool highest,
             std::uint32_t* keys, std::int64_t n);
std::int64_t keep_keys(const std::uint32_t* keys, std::int64_t n, std::uint32_t lowest, std::int32_t first,
                       std::int32_t* out);
std::int64_t copy_keys(const std::uint32_t* keys, std::int64_t n, std::uint32_t lowest, std::uint32_t span,
                       std::uint32_t* out);
void add_probabilities(const AddProbabilitiesArgs&);
void softmax_bf16(const SoftmaxArgs&);
void softmax_f32(const SoftmaxArgs&);

extern const Simd kTable;

}  // namespace longhaul::cpu::LONGHAUL_ISA
