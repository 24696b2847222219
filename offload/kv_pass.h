// One walk through the layers as the KV cache sees it: a prefill of one session, or a decode step of several. The layer
// calls append, then attend; it does not know which walk it is in.
#pragma once
#include <cstdint>
#include <span>

#include "kernels/device.h"
#include "offload/queries.h"

namespace longhaul {

/// `tokens` consecutive positions of one session, computed together.
struct Span {
  std::int64_t slot;  // session slot
  std::int64_t pos;   // position of the first token
  std::int64_t tokens;
  std::int64_t row;  // of the first token in the walk's hidden states
};

/// Gives the query that a later layer will ask with, before its input is known.
class QueryPredictor {
 public:
  virtual ~QueryPredictor() = default;
  /// Enqueues on the compute stream, before the layer goes on: takes what the query is foretold from.
  virtual void prepare(std::int64_t layer) = 0;
  /// Enqueues on `stream`, after prepare(). A token for each span of the walk; good until the next call.
  virtual Queries predict(Stream& stream, std::int64_t layer) = 0;
};

class KvPass {
 public:
  virtual ~KvPass() = default;
  virtual void begin_layer(std::int64_t layer) = 0;
  /// Stores the k and v parts of the spans' rows. qkv: [tokens of all spans, qkv_width] act, after rope.
  virtual void append(std::int64_t layer, std::span<const Span> spans, const void* qkv) = 0;
  /// Causal attention of each span over the rows of its session up to its own. out: [tokens, q_heads, head_dim] act.
  virtual void attend(std::int64_t layer, std::span<const Span> spans, const Queries& q, void* out,
                      QueryPredictor& predictor) = 0;
  virtual void end_layer(std::int64_t layer) = 0;
  virtual void end() = 0;
};

}  // namespace longhaul
