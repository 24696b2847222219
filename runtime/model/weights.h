// The model's weights in bf16, whatever the file has: q, k, v in one matrix, gate and up in one. Layers are on the
// device, but for the last ones, as many as are streamed: those are in host memory, and the device has two slots that
// WeightStream fills with them in turn.
#pragma once
#include <array>
#include <vector>

#include "kernels/arena.h"
#include "kernels/device.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/weight_loader.h"
#include "runtime/model/model_config.h"

namespace longhaul {

/// Null: the model has none.
struct LayerWeights {
  bf16* attn_norm;        // [hidden]
  bf16* qkv;              // [(q_heads + 2 * kv_heads) * head_dim, hidden]
  bf16* qkv_bias;         // [(q_heads + 2 * kv_heads) * head_dim]
  bf16 *q_norm, *k_norm;  // [head_dim]
  bf16* o;                // [hidden, q_heads * head_dim]
  bf16* o_bias;           // [hidden]
  bf16* mlp_norm;         // [hidden]
  bf16* router;           // [experts, hidden]
  bf16* gate_up;          // [2 * intermediate, hidden], of every expert
  bf16* down;             // [hidden, intermediate], likewise
};

/// What a layer's weights come over the link in: look-ahead needs the first part a layer early.
enum class WeightPart : std::uint8_t { projection, rest };  // all up to q_norm and k_norm; all that is used after them

class Weights {
 public:
  static constexpr std::int64_t kSlots = 2;

  /// `streamed` layers are in host memory; with `host_embedding` so is the embedding table, unless it is also the head.
  Weights(const ModelConfig& config, std::int64_t streamed, bool host_embedding, Arena& device, Arena& host);

  /// Reads every tensor to its place; what belongs to the device goes there on `stream`. Returns when all have arrived.
  /// Throws UserError{bad_model} for an absent, misshapen or unknown tensor, before the first byte of one is read.
  void load(Device& device, Stream& stream, const Checkpoint& checkpoint, const LoadReport& report = {});
  /// Random weights instead: norms of 1, all else scaled so that activations keep their size. Enqueues on `stream`;
  /// uses the slots.
  void randomize(Stream& stream) const;

  /// Where compute reads layer l: of a streamed one, its slot.
  const LayerWeights& layer(std::int64_t l) const { return layers_[static_cast<std::size_t>(l)]; }
  const bf16* embedding() const { return embedding_; }  // [vocab, hidden], on the device or in pinned host memory
  const bf16* head() const { return head_; }            // [vocab, hidden]
  const bf16* final_norm() const { return final_norm_; }

  std::int64_t streamed() const { return static_cast<std::int64_t>(host_layers_.size()); }
  std::int64_t first_streamed() const { return config_.layers - streamed(); }
  /// The copy that brings a part of the n-th streamed layer to its slot.
  CopyArgs copy_of(std::int64_t n, WeightPart part) const;

 private:
  struct Source {
    std::string name;
    std::vector<std::int64_t> shape;
    bf16* device;  // of a streamed layer, in its slot; null for an embedding table in host memory
    bf16* host;    // null: it lives on the device
    std::int64_t count() const;
  };
  std::vector<Source> sources() const;
  void randomize(Stream& stream, const Source& source, std::uint64_t seed) const;

  ModelConfig config_;
  bool host_embedding_;
  std::vector<LayerWeights> layers_, host_layers_;
  bf16 *embedding_, *head_, *final_norm_;
  std::byte* staging_;  // host
};

/// Bytes of one layer's weights; with `tokens`, of those that so many tokens read, as far as they ask different experts
/// at random.
std::int64_t layer_weight_bytes(const ModelConfig& config);
std::int64_t layer_weight_bytes(const ModelConfig& config, std::int64_t tokens);

}  // namespace longhaul
