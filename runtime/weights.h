// The model's weights on the device, in bf16 as in the file: q, k, v in one matrix, gate and up in one.
#pragma once
#include <vector>

#include "kernels/arena.h"
#include "kernels/device.h"
#include "runtime/model_config.h"
#include "runtime/safetensors.h"

namespace longhaul {

struct LayerWeights {
  bf16* attn_norm;  // [hidden]
  bf16* qkv;        // [(q_heads + 2 * kv_heads) * head_dim, hidden]
  bf16* o;          // [hidden, q_heads * head_dim]
  bf16* mlp_norm;   // [hidden]
  bf16* gate_up;    // [2 * intermediate, hidden]
  bf16* down;       // [hidden, intermediate]
};

class Weights {
 public:
  static constexpr std::int64_t kStagingBytes = std::int64_t{8}
                                                << 20;  // of each of the two host buffers that load() uses

  Weights(const ModelConfig& config, Arena& device, Arena& host);

  /// Reads every tensor and copies it to the device on `stream`; returns when all have arrived.
  /// Throws UserError{bad_model} for an absent, misshapen or unknown tensor, before the first byte is read.
  void load(Device& device, Stream& stream, const Safetensors& file);
  /// Random weights instead: norms of 1, all else scaled so that activations keep their size. Enqueues on `stream`.
  void randomize(Stream& stream) const;

  const LayerWeights& layer(std::int64_t l) const { return layers_[static_cast<std::size_t>(l)]; }
  const bf16* embedding() const { return embedding_; }  // [vocab, hidden]
  const bf16* head() const { return head_; }            // [vocab, hidden]
  const bf16* final_norm() const { return final_norm_; }

 private:
  struct Source {
    std::string name;
    std::vector<std::int64_t> shape;
    bf16* to;
  };
  std::vector<Source> sources() const;

  ModelConfig config_;
  std::vector<LayerWeights> layers_;
  bf16 *embedding_, *head_, *final_norm_;
  std::byte* staging_;  // host
};

}  // namespace longhaul
