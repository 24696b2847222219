#include "runtime/model/layer.h"

namespace longhaul {
namespace {

class LayerPredictor final : public QueryPredictor {
 public:
  LayerPredictor(const Layer& layer, Stream& compute, const Chunk& chunk)
      : layer_(layer), compute_(compute), chunk_(chunk) {}
  void prepare(std::int64_t layer) override { layer_.foresee(compute_, layer, chunk_); }
  Queries predict(Stream& stream, std::int64_t layer) override { return layer_.predict(stream, layer, chunk_); }

 private:
  const Layer& layer_;
  Stream& compute_;
  const Chunk& chunk_;
};

}  // namespace

void Layer::norm(Stream& compute, const bf16* gain, const std::byte* hidden, std::byte* out,
                 std::int64_t tokens) const {
  compute.launch(RmsNormArgs{.x = hidden,
                             .gain = gain,
                             .out = out,
                             .act = act_.act,
                             .tokens = tokens,
                             .hidden = config_.hidden,
                             .eps = config_.rms_norm_eps});
}

QueryForms Layer::rope(Stream& compute, std::int64_t l, const Chunk& chunk, void* qkv, std::int64_t kv_heads,
                       std::byte* older) const {
  const LayerWeights& w = weights_.layer(l);
  if (config_.head_norm)
    compute.launch(HeadNormArgs{.qkv = qkv,
                                .q_gain = w.q_norm,
                                .k_gain = w.k_norm,
                                .act = act_.act,
                                .tokens = chunk.tokens,
                                .q_heads = config_.q_heads,
                                .kv_heads = kv_heads,
                                .head_dim = config_.head_dim,
                                .eps = config_.rms_norm_eps});
  if (shape_.is_still(l)) return {};
  const QueryForms forms{shape_.chunk, older, chunk.tokens * config_.q_heads * config_.head_dim};
  compute.launch(RopeArgs{.qkv = qkv,
                          .positions = chunk.positions,
                          .inv_freq = chunk.inv_freq,
                          .freq_stride = chunk.freq_stride,
                          .act = act_.act,
                          .tokens = chunk.tokens,
                          .q_heads = config_.q_heads,
                          .kv_heads = kv_heads,
                          .head_dim = config_.head_dim,
                          .scale = static_cast<float>(config_.rope.attention_factor) * chunk.temperature,
                          .scales = chunk.temperatures,
                          .chunk = shape_.chunk,
                          .reach = shape_.reach,
                          .older = older,
                          .form_stride = forms.form_stride});
  return forms;
}

void Layer::linear(Stream& compute, const void* x, const bf16* weight, const bf16* bias, void* out, std::int64_t tokens,
                   std::int64_t in, std::int64_t out_dim, bool accumulate) const {
  compute.launch(LinearArgs{.x = x,
                            .w = weight,
                            .bias = bias,
                            .out = out,
                            .act = act_.act,
                            .out_type = act_.act,
                            .accumulate = accumulate,
                            .tokens = tokens,
                            .in = in,
                            .out_dim = out_dim});
}

void Layer::foresee(Stream& compute, std::int64_t l, const Chunk& chunk) const {
  if (act_.noise != nullptr) return;
  stream_.need_ahead(l);
  norm(compute, weights_.layer(l).attn_norm, chunk.hidden, act_.foreseen, chunk.tokens);
}

Queries Layer::predict(Stream& stream, std::int64_t l, const Chunk& chunk) const {
  const std::int64_t width = config_.q_heads * config_.head_dim;
  if (act_.noise != nullptr) return {act_.noise, width, {shape_.chunk, act_.noise, 0}};
  const LayerWeights& w = weights_.layer(l);
  // The first rows of qkv are q's.
  linear(stream, act_.foreseen, w.qkv, w.qkv_bias, act_.predicted, chunk.tokens, config_.hidden, width, false);
  return {act_.predicted, width, rope(stream, l, chunk, act_.predicted, /*kv_heads=*/0, act_.predicted_older)};
}

void Layer::run(Stream& compute, std::int64_t l, const Chunk& chunk, KvPass& kv) const {
  const ModelConfig& c = config_;
  const LayerWeights& w = weights_.layer(l);
  stream_.need(l, WeightPart::projection);
  norm(compute, w.attn_norm, chunk.hidden, act_.normed, chunk.tokens);
  linear(compute, act_.normed, w.qkv, w.qkv_bias, act_.qkv, chunk.tokens, c.hidden, shape_.qkv_width(), false);
  const Queries queries{act_.qkv, shape_.qkv_width(), rope(compute, l, chunk, act_.qkv, c.kv_heads, act_.older)};
  kv.append(l, chunk.spans, act_.qkv);  // look-ahead, too, has left the projection's weights
  stream_.projected(l);
  LayerPredictor predictor(*this, compute, chunk);
  kv.attend(l, chunk.spans, queries, act_.attended, predictor);
  stream_.need(l, WeightPart::rest);
  linear(compute, act_.attended, w.o, w.o_bias, chunk.hidden, chunk.tokens, c.q_heads * c.head_dim, c.hidden, true);

  norm(compute, w.mlp_norm, chunk.hidden, act_.normed, chunk.tokens);
  c.experts > 0 ? mix_experts(compute, w, chunk) : feed_forward(compute, w, chunk);
}

void Layer::feed_forward(Stream& compute, const LayerWeights& w, const Chunk& chunk) const {
  const ModelConfig& c = config_;
  linear(compute, act_.normed, w.gate_up, nullptr, act_.gate_up, chunk.tokens, c.hidden, 2 * c.intermediate, false);
  compute.launch(SiluMulArgs{
      .gate_up = act_.gate_up, .out = act_.inner, .act = act_.act, .tokens = chunk.tokens, .inter = c.intermediate});
  linear(compute, act_.inner, w.down, nullptr, chunk.hidden, chunk.tokens, c.intermediate, c.hidden, true);
}

void Layer::mix_experts(Stream& compute, const LayerWeights& w, const Chunk& chunk) const {
  const ModelConfig& c = config_;
  auto expert_linear = [&](const void* x, bool by_token, const bf16* weight, void* out, std::int64_t in,
                           std::int64_t out_dim) {
    compute.launch(ExpertLinearArgs{.x = x,
                                    .by_token = by_token,
                                    .w = weight,
                                    .out = out,
                                    .routes = act_.routes,
                                    .act = act_.act,
                                    .tokens = chunk.tokens,
                                    .in = in,
                                    .out_dim = out_dim});
  };
  logits(compute, w.router, act_.router_logits, chunk.tokens, c.experts);
  compute.launch(RouteArgs{
      .logits = act_.router_logits, .routes = act_.routes, .normalised = c.normalised_routes, .tokens = chunk.tokens});
  expert_linear(act_.normed, true, w.gate_up, act_.gate_up, c.hidden, 2 * c.intermediate);
  compute.launch(SiluMulArgs{.gate_up = act_.gate_up,
                             .out = act_.inner,
                             .act = act_.act,
                             .tokens = chunk.tokens * c.experts_per_token,
                             .inter = c.intermediate});
  expert_linear(act_.inner, false, w.down, act_.mixed, c.intermediate, c.hidden);
  compute.launch(MixArgs{.x = act_.mixed,
                         .out = chunk.hidden,
                         .routes = act_.routes,
                         .act = act_.act,
                         .tokens = chunk.tokens,
                         .hidden = c.hidden});
}

void Layer::head(Stream& compute, const std::byte* hidden, std::int64_t tokens) const {
  norm(compute, weights_.final_norm(), hidden, act_.normed, tokens);
  logits(compute, weights_.head(), act_.logits, tokens, config_.vocab);
}

void Layer::logits(Stream& compute, const bf16* weight, float* out, std::int64_t tokens, std::int64_t out_dim) const {
  compute.launch(LinearArgs{.x = act_.normed,
                            .w = weight,
                            .out = out,
                            .act = act_.act,
                            .out_type = DType::f32,
                            .accumulate = false,
                            .tokens = tokens,
                            .in = config_.hidden,
                            .out_dim = out_dim});
}

}  // namespace longhaul
