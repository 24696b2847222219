// The model's weights, whatever the file has: q, k, v in one matrix, gate and up in one, in bf16 or packed. Layers are
// on the device, but for the last ones, as many as are streamed: those are in host memory, and the device has two slots
// that WeightStream fills with them in turn. A packed layer's matrices are expanded to bf16 where compute reads them,
// in memory that all layers share: two of the projection's, one of the rest.
#pragma once
#include <array>
#include <memory>
#include <vector>

#include "kernels/arena.h"
#include "kernels/device.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/weight_loader.h"
#include "runtime/model/layer_layout.h"

namespace longhaul {

class Weights {
 public:
  static constexpr std::int64_t kSlots = 2;

  /// `streamed` layers are in host memory; with `host_embedding` so is the embedding table, unless it is also the head.
  /// `formats`: layers are packed as they say; null: all is in bf16.
  Weights(const ModelConfig& config, std::int64_t streamed, bool host_embedding, Arena& device, Arena& host,
          std::shared_ptr<const WeightFormats> formats = nullptr);

  /// Reads every tensor to its place; what belongs to the device goes there on `stream`. Returns when all have arrived.
  /// Throws UserError{bad_model} for an absent, misshapen or unknown tensor, before the first byte of one is read.
  void load(Device& device, Stream& stream, const Checkpoint& checkpoint, const LoadReport& report = {});
  /// Random weights instead: norms of 1, all else scaled so that activations keep their size; of packed ones the same
  /// rows over and over. Enqueues on `stream`; uses the slots.
  void randomize(Device& device, Stream& stream) const;

  /// Where compute reads layer l: of a streamed one, its slot; packed matrices where expand() puts them.
  const LayerWeights& layer(std::int64_t l) const { return layers_[static_cast<std::size_t>(l)]; }
  const bf16* embedding() const { return embedding_; }  // [vocab, hidden], on the device or in pinned host memory
  const bf16* head() const { return head_; }            // [vocab, hidden]
  const bf16* final_norm() const { return final_norm_; }

  std::int64_t streamed() const { return streamed_; }
  std::int64_t first_streamed() const { return config_.layers - streamed_; }
  /// The copy that brings a part of the n-th streamed layer to its slot.
  CopyArgs copy_of(std::int64_t n, WeightPart part) const;
  /// Turns a part of layer l, which is on the device, into what compute reads: to the projections' memory of an even or
  /// odd layer, or to that of the rest. Nothing, where nothing in it is packed.
  void expand(Stream& stream, std::int64_t l, WeightPart part) const;

 private:
  using Parts = std::array<std::byte*, 2>;  // where each begins
  struct Source {
    std::string name;
    TensorShape shape;
    std::byte* at;
    bool on_host;
    std::byte* room;  // on the device: `at`, or what is overwritten later
    PackedFormat format;
    std::int64_t count() const;
  };
  std::vector<Source> sources() const;
  void randomize(Stream& stream, const Source& source, std::uint64_t seed) const;
  void randomize_packed(Stream& stream, const Source& source, std::uint64_t seed) const;
  const LayerLayout& layout(std::int64_t l) const { return formats_->layout(l); }
  /// On the device: where the layer rests, or its slot.
  const Parts& parts(std::int64_t l) const;

  ModelConfig config_;
  bool host_embedding_;
  std::shared_ptr<const WeightFormats> formats_;
  std::int64_t streamed_;
  std::vector<Parts> rests_;  // by layer: on the device, or on the host if it is streamed
  std::array<Parts, kSlots> slots_{};
  std::array<LayerWeights, 2> expanded_{};  // of even and odd layers: matrices that are packed in some layer
  std::vector<LayerWeights> layers_;
  bf16 *embedding_, *head_, *final_norm_;
  std::byte* staging_;  // host
};

/// Bytes of one layer's weights in bf16; with `tokens`, of those that so many tokens read, as far as they ask different
/// experts at random.
std::int64_t layer_weight_bytes(const ModelConfig& config);
std::int64_t layer_weight_bytes(const ModelConfig& config, std::int64_t tokens);
/// Bytes of layers [first, last) as they rest in these formats (null: in bf16), and of what of them expand() reads and
/// writes.
struct RestBytes {
  std::int64_t at_rest = 0, expanded_from = 0, expanded_to = 0;
};
RestBytes layers_at_rest(const ModelConfig& config, const WeightFormats* formats, std::int64_t first,
                         std::int64_t last);

}  // namespace longhaul
