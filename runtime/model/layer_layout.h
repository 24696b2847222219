// How a layer's weights lie in memory: each tensor in bf16, or packed (kernels/packed_format.h). A matrix that has a
// packed tensor is expanded into bf16 elsewhere before it is used; everything else is used where it lies.
#pragma once
#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/device.h"
#include "runtime/checkpoint/checkpoint.h"
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

/// What a layer's weights come over the link in, and are expanded in: look-ahead needs the first part a layer early.
enum class WeightPart : std::uint8_t { projection, rest };  // all up to q_norm and k_norm; all that is used after them
inline constexpr std::array kWeightParts{WeightPart::projection, WeightPart::rest};

/// A tensor of a checkpoint, and which rows of a layer's matrix, or values of a vector, it is.
struct LayerTensor {
  std::string name;  // after "model.layers.N."
  TensorShape shape;
  bf16* LayerWeights::*of;
  std::int64_t at;  // elements from the first of `of`

  std::int64_t cols() const { return shape.back(); }
  std::int64_t rows() const { return shape.size() == 1 ? 1 : shape[0]; }
};
/// In the order of memory: of one `of` together, and without gaps.
std::vector<LayerTensor> layer_tensors(const ModelConfig& config);

/// Rows of a matrix that are expanded together; format none: copied.
struct Expansion {
  PackedFormat format;
  bf16* LayerWeights::*of;
  std::int64_t at;    // elements from the first of `of`
  std::int64_t from;  // bytes from the part's first
  std::int64_t rows, cols;
};

class LayerLayout {
 public:
  /// As what each tensor is packed; none: it is in bf16. Empty: all are.
  LayerLayout(const std::vector<LayerTensor>& tensors, const std::vector<PackedFormat>& formats);

  struct Place {
    WeightPart part;
    std::int64_t offset;  // bytes from the part's first
    PackedFormat format;
  };
  const Place& place(std::size_t tensor) const { return places_[tensor]; }
  std::int64_t bytes(WeightPart part) const { return bytes_[static_cast<std::size_t>(part)]; }
  const std::vector<Expansion>& expansions(WeightPart part) const {
    return expansions_[static_cast<std::size_t>(part)];
  }
  /// Sets what is used where it lies, the parts beginning there.
  void point(const std::array<std::byte*, 2>& parts, LayerWeights& weights) const;

 private:
  struct InPlace {
    bf16* LayerWeights::*of;
    WeightPart part;
    std::int64_t offset;
  };
  std::vector<Place> places_;  // by tensor
  std::vector<InPlace> in_place_;
  std::array<std::vector<Expansion>, 2> expansions_;
  std::array<std::int64_t, 2> bytes_{};
};

/// As what the tensors of all layers can be packed, and where they lie then.
class WeightFormats {
 public:
  /// By layer, in the order of layer_tensors; empty: all in bf16.
  explicit WeightFormats(const ModelConfig& config, const std::vector<std::vector<PackedFormat>>& layers = {});

  /// "int4", or "q4_k, q6_k": the types that there are.
  std::string names() const;
  const std::vector<LayerTensor>& tensors() const { return tensors_; }
  const LayerLayout& layout(std::int64_t layer) const { return layouts_[layout_of_[static_cast<std::size_t>(layer)]]; }
  /// Each different one once.
  const std::vector<LayerLayout>& layouts() const { return layouts_; }

 private:
  std::vector<LayerTensor> tensors_;
  std::vector<LayerLayout> layouts_;
  std::vector<std::size_t> layout_of_;  // by layer
  std::vector<std::string_view> types_;
};
/// Of a model's files, of which headers and scales are read; null: nothing in its layers can be packed.
std::shared_ptr<const WeightFormats> weight_formats(const Checkpoint& checkpoint, const ModelConfig& config);
/// All matrices alike, but for those of whose inputs the format cannot be.
std::shared_ptr<const WeightFormats> uniform_formats(const ModelConfig& config, PackedFormat format);

}  // namespace longhaul
