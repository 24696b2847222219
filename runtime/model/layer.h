// One decoder layer, for a prefill chunk and for a decode step alike. It sees the KV cache through KvPass only.
#pragma once
#include <span>

#include "offload/kv_pass.h"
#include "runtime/model/activations.h"
#include "runtime/model/weight_stream.h"

namespace longhaul {

/// Rows that go through a layer together, and the spans of sessions they belong to.
struct Chunk {
  std::byte* hidden;              // [tokens, hidden] act
  const std::int32_t* positions;  // [tokens]
  std::int64_t tokens;
  std::span<const Span> spans;
  const float* inv_freq;     // [head_dim / 2], the rope table of every row
  std::int64_t freq_stride;  // not 0: each row has its own, so many floats on (decode with a rope that depends on it)
  float temperature = 1;     // of all rows (DualChunks)
  const float* temperatures = nullptr;  // [tokens] besides; null: 1
};

class Layer {
 public:
  Layer(const ModelConfig& config, const KvShape& shape, const Weights& weights, WeightStream& stream,
        const Activations& act)
      : config_(config), shape_(shape), weights_(weights), stream_(stream), act_(act) {}

  /// hidden rows of `chunk` += attention, then += feed-forward. Enqueues on `compute` and what `kv` enqueues.
  void run(Stream& compute, std::int64_t layer, const Chunk& chunk, KvPass& kv) const;
  /// The query of `layer` as the chunk's hidden states, the inputs of an earlier layer, foretell it (arXiv 2408.07092,
  /// section 3.3). On compute, what the hidden states are to that layer: to act.foreseen; then, on any stream, the
  /// query: to act.predicted, and its older forms.
  void foresee(Stream& compute, std::int64_t layer, const Chunk& chunk) const;
  Queries predict(Stream& stream, std::int64_t layer, const Chunk& chunk) const;
  /// Logits of `tokens` rows of hidden states, to act.logits (at most its rows).
  void head(Stream& compute, const std::byte* hidden, std::int64_t tokens) const;

 private:
  void norm(Stream& compute, const bf16* gain, const std::byte* hidden, std::byte* out, std::int64_t tokens) const;
  /// Heads are normalised and turned, as far as the model and the layer do that; older forms of queries, where they
  /// have any, to `older`.
  QueryForms rope(Stream& compute, std::int64_t layer, const Chunk& chunk, void* qkv, std::int64_t kv_heads,
                  std::byte* older) const;
  void linear(Stream& compute, const void* x, const bf16* weight, const bf16* bias, void* out, std::int64_t tokens,
              std::int64_t in, std::int64_t out_dim, bool accumulate) const;
  /// Of act.normed, in float32: the router's and the head's.
  void logits(Stream& compute, const bf16* weight, float* out, std::int64_t tokens, std::int64_t out_dim) const;
  /// hidden rows += the feed-forward of act.normed.
  void feed_forward(Stream& compute, const LayerWeights& w, const Chunk& chunk) const;
  void mix_experts(Stream& compute, const LayerWeights& w, const Chunk& chunk) const;

  const ModelConfig& config_;
  const KvShape& shape_;
  const Weights& weights_;
  WeightStream& stream_;
  const Activations& act_;
};

}  // namespace longhaul
