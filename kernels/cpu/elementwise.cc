// embed, rms_norm, head_norm, rope, silu_mul: one row after the other in float32, one rounding at the end.
#include <algorithm>
#include <cmath>

#include "kernels/base/error.h"
#include "kernels/base/parallel.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/query_forms.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace longhaul::cpu {

void embed(const EmbedArgs& a) {
  for (std::int64_t t = 0; t < a.tokens; ++t)
    check(a.ids[t] >= 0 && a.ids[t] < a.vocab, "token id outside the vocabulary");
  parallel_for(a.tokens, row_grain(a.hidden), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const bf16* row = a.table + a.ids[t] * a.hidden;
      void* out = at(a.out, a.act, t * a.hidden);
      if (a.act == DType::f32) simd().widen(row, static_cast<float*>(out), a.hidden);
      else std::memcpy(out, row, a.hidden * sizeof(bf16));
    }
  });
}

void rms_norm(const RmsNormArgs& a) {
  parallel_for(a.tokens, row_grain(a.hidden), [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch scratch;
    float* space = scratch.get<float>(2 * a.hidden);
    float* y = space + a.hidden;
    for (std::int64_t t = begin; t < end; ++t) {
      const float* x = read_row(at(a.x, a.act, t * a.hidden), a.act, a.hidden, space);
      simd().rms_norm(x, a.gain, y, a.hidden, a.eps, a.act == DType::bf16);
      write_row(y, at(a.out, a.act, t * a.hidden), a.act, a.hidden);
    }
  });
}

void head_norm(const HeadNormArgs& a) {
  const std::int64_t d = a.head_dim, normed = (a.q_heads + a.kv_heads) * d, width = normed + a.kv_heads * d;
  parallel_for(a.tokens, row_grain(normed), [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch scratch;
    float* space = scratch.get<float>(2 * d);
    float* y = space + d;
    for (std::int64_t t = begin; t < end; ++t)
      for (std::int64_t h = 0; h < a.q_heads + a.kv_heads; ++h) {
        void* head = at(a.qkv, a.act, t * width + h * d);
        const float* x = read_row(head, a.act, d, space);
        simd().rms_norm(x, h < a.q_heads ? a.q_gain : a.k_gain, y, d, a.eps, a.act == DType::bf16);
        write_row(y, head, a.act, d);
      }
  });
}

void rope(const RopeArgs& a) {
  const std::int64_t d = a.head_dim, half = d / 2, turned = (a.q_heads + a.kv_heads) * d;
  const std::int64_t width = turned + a.kv_heads * d, asked = a.q_heads * d;
  parallel_for(a.tokens, row_grain(turned), [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch scratch;
    float* cosine = scratch.get<float>(d + turned);
    float *sine = cosine + half, *x = sine + half;
    // The first `heads` heads of `from` at `position`, to `to`.
    const auto turn = [&](std::int64_t t, std::int64_t position, std::int64_t heads, const void* from, void* to) {
      const float scale = a.scales == nullptr ? a.scale : a.scale * a.scales[t];
      for (std::int64_t i = 0; i < half; ++i) {
        const float angle = static_cast<float>(position) * a.inv_freq[t * a.freq_stride + i];
        cosine[i] = std::cos(angle) * scale;
        sine[i] = std::sin(angle) * scale;
      }
      float* out = a.act == DType::f32 ? static_cast<float*>(to) : x;
      const float* read = read_row(from, a.act, heads * d, out);
      if (read != out) std::copy_n(read, heads * d, out);
      for (std::int64_t h = 0; h < heads; ++h) simd().rotate(out + h * d, cosine, sine, half);
      if (a.act != DType::f32) write_row(x, to, a.act, heads * d);
    };
    for (std::int64_t t = begin; t < end; ++t) {
      void* row = at(a.qkv, a.act, t * width);
      const auto place = [&](std::int64_t form) { return turned_to(form, a.positions[t], a.chunk, a.reach); };
      for (std::int64_t form = 1; a.chunk > 0 && form < kQueryForms; ++form)  // before q itself is turned
        turn(t, place(form), a.q_heads, row, at(a.older, a.act, (form - 1) * a.form_stride + t * asked));
      turn(t, place(0), a.q_heads + a.kv_heads, row, row);
    }
  });
}

void silu_mul(const SiluMulArgs& a) {
  parallel_for(a.tokens, row_grain(a.inter), [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch scratch;
    float* space = scratch.get<float>(3 * a.inter);
    float* y = space + 2 * a.inter;
    for (std::int64_t t = begin; t < end; ++t) {
      const float* x = read_row(at(a.gate_up, a.act, 2 * t * a.inter), a.act, 2 * a.inter, space);
      simd().silu_mul(x, x + a.inter, y, a.inter);
      write_row(y, at(a.out, a.act, t * a.inter), a.act, a.inter);
    }
  });
}

}  // namespace longhaul::cpu
