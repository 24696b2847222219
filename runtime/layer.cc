#include "runtime/layer.h"

namespace longhaul {
namespace {

class LayerPredictor final : public QueryPredictor {
 public:
  LayerPredictor(const Layer& layer, Stream& compute, const Chunk& chunk)
      : layer_(layer), compute_(compute), chunk_(chunk) {}
  const void* predict(std::int64_t layer) override { return layer_.predict(compute_, layer, chunk_); }

 private:
  const Layer& layer_;
  Stream& compute_;
  const Chunk& chunk_;
};

}  // namespace

void Layer::norm(Stream& compute, const bf16* gain, const std::byte* hidden, std::int64_t tokens) const {
  compute.launch(RmsNormArgs{.x = hidden,
                             .gain = gain,
                             .out = act_.normed,
                             .act = act_.act,
                             .tokens = tokens,
                             .hidden = config_.hidden,
                             .eps = config_.rms_norm_eps});
}

void Layer::rope(Stream& compute, const Chunk& chunk, void* qkv, std::int64_t kv_heads) const {
  compute.launch(RopeArgs{.qkv = qkv,
                          .positions = chunk.positions,
                          .inv_freq = act_.inv_freq,
                          .freq_stride = chunk.own_frequencies ? config_.head_dim / 2 : 0,
                          .act = act_.act,
                          .tokens = chunk.tokens,
                          .q_heads = config_.q_heads,
                          .kv_heads = kv_heads,
                          .head_dim = config_.head_dim,
                          .scale = 1});
}

const void* Layer::predict(Stream& compute, std::int64_t l, const Chunk& chunk) const {
  if (act_.noise != nullptr) return act_.noise;
  stream_.need_ahead(l);
  norm(compute, weights_.layer(l).attn_norm, chunk.hidden, chunk.tokens);
  compute.launch(LinearArgs{.x = act_.normed,
                            .w = weights_.layer(l).qkv,  // its first rows are q's
                            .out = act_.predicted,
                            .act = act_.act,
                            .out_type = act_.act,
                            .accumulate = false,
                            .tokens = chunk.tokens,
                            .in = config_.hidden,
                            .out_dim = config_.q_heads * config_.head_dim});
  rope(compute, chunk, act_.predicted, /*kv_heads=*/0);
  return act_.predicted;
}

void Layer::run(Stream& compute, std::int64_t l, const Chunk& chunk, KvPass& kv) const {
  const ModelConfig& c = config_;
  const LayerWeights& w = weights_.layer(l);
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

  stream_.need(l, WeightPart::projection);
  norm(compute, w.attn_norm, chunk.hidden, chunk.tokens);
  linear(act_.normed, w.qkv, act_.qkv, c.hidden, shape_.qkv_width(), false);
  stream_.projected(l);
  rope(compute, chunk, act_.qkv, c.kv_heads);
  kv.append(l, chunk.spans, act_.qkv);
  LayerPredictor predictor(*this, compute, chunk);
  kv.attend(l, chunk.spans, act_.qkv, act_.attended, predictor);
  stream_.need(l, WeightPart::rest);
  linear(act_.attended, w.o, chunk.hidden, c.q_heads * c.head_dim, c.hidden, true);

  norm(compute, w.mlp_norm, chunk.hidden, chunk.tokens);
  linear(act_.normed, w.gate_up, act_.gate_up, c.hidden, 2 * c.intermediate, false);
  compute.launch(SiluMulArgs{
      .gate_up = act_.gate_up, .out = act_.inner, .act = act_.act, .tokens = chunk.tokens, .inter = c.intermediate});
  linear(act_.inner, w.down, chunk.hidden, c.intermediate, c.hidden, true);
}

void Layer::head(Stream& compute, const std::byte* hidden, std::int64_t tokens) const {
  norm(compute, weights_.final_norm(), hidden, tokens);
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
