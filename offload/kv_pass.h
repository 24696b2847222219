// One walk through the layers as the KV cache sees it: a prefill of one session, or a decode step of several. The layer
// calls append, then attend, for each span; it does not know which walk it is in.
#pragma once
#include <cstdint>

namespace longhaul {

/// `tokens` consecutive positions of one session, computed together.
struct Span {
  std::int64_t slot;  // session slot
  std::int64_t pos;   // position of the first token
  std::int64_t tokens;
  std::int64_t row;  // of the first token in the walk's hidden states
};

class KvPass {
 public:
  virtual ~KvPass() = default;
  virtual void begin_layer(std::int64_t layer) = 0;
  /// Stores the k and v parts of the span's rows. qkv: [span.tokens, qkv_width] act, after rope.
  virtual void append(std::int64_t layer, const Span& span, const void* qkv) = 0;
  /// Causal attention of the span over all rows of its session up to its own. out: [span.tokens, q_heads, head_dim]
  /// act.
  virtual void attend(std::int64_t layer, const Span& span, const void* qkv, void* out) = 0;
  virtual void end_layer(std::int64_t layer) = 0;
  virtual void end() = 0;
};

}  // namespace longhaul
