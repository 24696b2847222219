#include "runtime/weights.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "kernels/base/error.h"

namespace longhaul {

Weights::Weights(const ModelConfig& c, Arena& device, Arena& host) : config_(c) {
  auto take = [&](std::int64_t rows, std::int64_t cols = 1) { return device.take<bf16>(rows * cols, "weights"); };
  embedding_ = take(c.vocab, c.hidden);
  for (std::int64_t l = 0; l < c.layers; ++l)
    layers_.push_back({.attn_norm = take(c.hidden),
                       .qkv = take((c.q_heads + 2 * c.kv_heads) * c.head_dim, c.hidden),
                       .o = take(c.hidden, c.q_heads * c.head_dim),
                       .mlp_norm = take(c.hidden),
                       .gate_up = take(2 * c.intermediate, c.hidden),
                       .down = take(c.hidden, c.intermediate)});
  final_norm_ = take(c.hidden);
  head_ = c.tied_embeddings ? embedding_ : take(c.vocab, c.hidden);
  staging_ = host.take_bytes(2 * kStagingBytes, "weight staging");
}

std::vector<Weights::Source> Weights::sources() const {
  const ModelConfig& c = config_;
  const std::int64_t q = c.q_heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  std::vector<Source> all{{"model.embed_tokens.weight", {c.vocab, c.hidden}, embedding_},
                          {"model.norm.weight", {c.hidden}, final_norm_}};
  if (!c.tied_embeddings) all.push_back({"lm_head.weight", {c.vocab, c.hidden}, head_});
  for (std::int64_t l = 0; l < c.layers; ++l) {
    const LayerWeights& w = layer(l);
    auto add = [&](const char* name, std::vector<std::int64_t> shape, bf16* to) {
      all.push_back({fmt::format("model.layers.{}.{}.weight", l, name), std::move(shape), to});
    };
    add("input_layernorm", {c.hidden}, w.attn_norm);
    add("self_attn.q_proj", {q, c.hidden}, w.qkv);
    add("self_attn.k_proj", {kv, c.hidden}, w.qkv + q * c.hidden);
    add("self_attn.v_proj", {kv, c.hidden}, w.qkv + (q + kv) * c.hidden);
    add("self_attn.o_proj", {c.hidden, q}, w.o);
    add("post_attention_layernorm", {c.hidden}, w.mlp_norm);
    add("mlp.gate_proj", {c.intermediate, c.hidden}, w.gate_up);
    add("mlp.up_proj", {c.intermediate, c.hidden}, w.gate_up + c.intermediate * c.hidden);
    add("mlp.down_proj", {c.hidden, c.intermediate}, w.down);
  }
  return all;
}

void Weights::load(Device& device, Stream& stream, const Safetensors& file) {
  const std::vector<Source> wanted = sources();
  std::set<std::string> known;
  for (const Source& source : wanted) {
    file.expect(source.name, "BF16", source.shape);
    known.insert(source.name);
  }
  for (const auto& [name, info] : file.tensors())
    // Some files carry the tied head or the rotary table beside what they are computed from.
    if (!known.contains(name) && !(config_.tied_embeddings && name == "lm_head.weight") &&
        !name.ends_with("rotary_emb.inv_freq"))
      throw UserError(Exit::bad_model, "weights hold a tensor this model has no place for: {}", name);

  std::unique_ptr<Event> arrived[2] = {device.make_event(), device.make_event()};
  std::int64_t piece = 0;
  for (const Source& source : wanted) {
    const TensorInfo& info = file.expect(source.name, "BF16", source.shape);
    auto* to = reinterpret_cast<std::byte*>(source.to);
    for (std::int64_t done = 0; done < info.bytes; done += kStagingBytes, ++piece) {
      const std::int64_t bytes = std::min(kStagingBytes, info.bytes - done);
      std::byte* from = staging_ + piece % 2 * kStagingBytes;
      device.host_wait(*arrived[piece % 2], {"weights_arrived"});
      file.read(info, done, bytes, from);
      stream.copy({.dst = to + done, .src = from, .width = bytes, .kind = CopyKind::host_to_device});
      stream.record(*arrived[piece % 2]);
    }
  }
  for (auto& event : arrived) device.host_wait(*event, {"weights_arrived"});
}

void Weights::randomize(Stream& stream) const {
  std::uint64_t seed = 0;
  for (const Source& source : sources()) {
    const bool norm = source.shape.size() == 1, embedding = source.to == embedding_;
    std::int64_t count = 1;
    for (std::int64_t d : source.shape) count *= d;
    // The sum over the inputs of a row then has the variance of one input.
    const float spread = std::sqrt(3.0f / (embedding ? 1.0f : static_cast<float>(source.shape.back())));
    stream.launch(RandomFillArgs{.out = source.to,
                                 .type = DType::bf16,
                                 .count = count,
                                 .seed = ++seed,
                                 .mean = norm ? 1.0f : 0.0f,
                                 .spread = norm ? 0.0f : spread});
  }
}

}  // namespace longhaul
