#include "runtime/layer.h"

namespace longhaul {

void Layer::norm(Stream& compute, const bf16* gain, std::int64_t row, std::int64_t tokens) const {
  compute.launch(RmsNormArgs{.x = act_.hidden_row(row, config_.hidden),
                             .gain = gain,
                             .out = act_.normed,
                             .act = act_.act,
                             .tokens = tokens,
                             .hidden = config_.hidden,
                             .eps = config_.rms_norm_eps});
}

void Layer::run(Stream& compute, std::int64_t l, const Chunk& chunk, KvPass& kv) const {
  const ModelConfig& c = config_;
  const LayerWeights& w = weights_.layer(l);
  std::byte* hidden = act_.hidden_row(chunk.row, c.hidden);
  auto linear = [&](const void* x, const bf16* weight, void* out, std::int64_t in, std::int64_t out_dim, bool add) {
    compute.launch(LinearArgs{.x = x,
                              .w = weight,
                              .out = out,
                              .act = act_.act,
                              .out_type = act_.act,
                              .accumulate = add,
                              .tokens = chunk.tokens,
                              .in = in,
                              .out_dim = out_dim});
  };

  norm(compute, w.attn_norm, chunk.row, chunk.tokens);
  linear(act_.normed, w.qkv, act_.qkv, c.hidden, shape_.qkv_width(), false);
  compute.launch(RopeArgs{.qkv = act_.qkv,
                          .positions = act_.input.positions + chunk.row,
                          .inv_freq = act_.inv_freq,
                          .freq_stride = chunk.own_frequencies ? c.head_dim / 2 : 0,
                          .act = act_.act,
                          .tokens = chunk.tokens,
                          .q_heads = c.q_heads,
                          .kv_heads = c.kv_heads,
                          .head_dim = c.head_dim,
                          .scale = 1});
  const std::int64_t qkv_row = shape_.qkv_width() * size_of(act_.act);
  const std::int64_t out_row = c.q_heads * c.head_dim * size_of(act_.act);
  for (const Span& span : chunk.spans) kv.append(l, span, act_.qkv + (span.row - chunk.row) * qkv_row);
  for (const Span& span : chunk.spans)
    kv.attend(l, span, act_.qkv + (span.row - chunk.row) * qkv_row, act_.attended + (span.row - chunk.row) * out_row);
  linear(act_.attended, w.o, hidden, c.q_heads * c.head_dim, c.hidden, true);

  norm(compute, w.mlp_norm, chunk.row, chunk.tokens);
  linear(act_.normed, w.gate_up, act_.gate_up, c.hidden, 2 * c.intermediate, false);
  compute.launch(SiluMulArgs{
      .gate_up = act_.gate_up, .out = act_.inner, .act = act_.act, .tokens = chunk.tokens, .inter = c.intermediate});
  linear(act_.inner, w.down, hidden, c.intermediate, c.hidden, true);
}

void Layer::head(Stream& compute, std::int64_t row, std::int64_t tokens) const {
  norm(compute, weights_.final_norm(), row, tokens);
  compute.launch(LinearArgs{.x = act_.normed,
                            .w = weights_.head(),
                            .out = act_.logits,
                            .act = act_.act,
                            .out_type = DType::f32,
                            .accumulate = false,
                            .tokens = tokens,
                            .in = config_.hidden,
                            .out_dim = config_.vocab});
}

}  // namespace longhaul
