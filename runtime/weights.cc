#include "runtime/weights.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"

namespace longhaul {

namespace {

/// In this order, so that each part is one run of memory, alike on the device and on the host.
LayerWeights take_layer(const ModelConfig& c, Arena& arena, const char* name) {
  auto take = [&](std::int64_t rows, std::int64_t cols = 1) { return arena.take<bf16>(rows * cols, name); };
  return {.attn_norm = take(c.hidden),
          .qkv = take((c.q_heads + 2 * c.kv_heads) * c.head_dim, c.hidden),
          .o = take(c.hidden, c.q_heads * c.head_dim),
          .mlp_norm = take(c.hidden),
          .gate_up = take(2 * c.intermediate, c.hidden),
          .down = take(c.hidden, c.intermediate)};
}

}  // namespace

Weights::Weights(const ModelConfig& c, std::int64_t streamed, bool host_embedding, Arena& device, Arena& host)
    : config_(c), host_embedding_(host_embedding && !c.tied_embeddings) {
  check(streamed >= 0 && streamed <= c.layers, "at most all layers are streamed");
  embedding_ = (host_embedding_ ? host : device).take<bf16>(c.vocab * c.hidden, "weights");
  for (std::int64_t l = 0; l < c.layers - streamed; ++l) layers_.push_back(take_layer(c, device, "weights"));
  std::vector<LayerWeights> slots;
  for (std::int64_t i = 0; i < std::min(streamed, kSlots); ++i) slots.push_back(take_layer(c, device, "weight slots"));
  for (std::int64_t i = 0; i < streamed; ++i) {
    layers_.push_back(slots[static_cast<std::size_t>(i % kSlots)]);
    host_layers_.push_back(take_layer(c, host, "weights"));
  }
  final_norm_ = device.take<bf16>(c.hidden, "weights");
  head_ = c.tied_embeddings ? embedding_ : device.take<bf16>(c.vocab * c.hidden, "weights");
  staging_ = host.take_bytes(WeightLoader::kStagingBytes, "weight staging");
}

CopyArgs Weights::copy_of(std::int64_t n, WeightPart part) const {
  const LayerWeights &from = host_layers_[static_cast<std::size_t>(n)], &to = layer(first_streamed() + n);
  const bf16* middle = from.o;
  if (part == WeightPart::projection)
    return {.dst = to.attn_norm,
            .src = from.attn_norm,
            .width = (middle - from.attn_norm) * 2,
            .kind = CopyKind::host_to_device};
  const bf16* end = from.down + config_.hidden * config_.intermediate;
  return {.dst = to.o, .src = middle, .width = (end - middle) * 2, .kind = CopyKind::host_to_device};
}

std::int64_t Weights::Source::count() const {
  std::int64_t count = 1;
  for (std::int64_t d : shape) count *= d;
  return count;
}

std::vector<Weights::Source> Weights::sources() const {
  const ModelConfig& c = config_;
  const std::int64_t q = c.q_heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  std::vector<Source> all{{"model.embed_tokens.weight",
                           {c.vocab, c.hidden},
                           host_embedding_ ? nullptr : embedding_,
                           host_embedding_ ? embedding_ : nullptr},
                          {"model.norm.weight", {c.hidden}, final_norm_, nullptr}};
  if (!c.tied_embeddings) all.push_back({"lm_head.weight", {c.vocab, c.hidden}, head_, nullptr});
  for (std::int64_t l = 0; l < c.layers; ++l) {
    const LayerWeights& w = layer(l);
    const LayerWeights* host =
        l < first_streamed() ? nullptr : &host_layers_[static_cast<std::size_t>(l - first_streamed())];
    auto add = [&](const char* name, std::vector<std::int64_t> shape, bf16* LayerWeights::*of, std::int64_t at = 0) {
      all.push_back({fmt::format("model.layers.{}.{}.weight", l, name), std::move(shape), w.*of + at,
                     host != nullptr ? host->*of + at : nullptr});
    };
    add("input_layernorm", {c.hidden}, &LayerWeights::attn_norm);
    add("self_attn.q_proj", {q, c.hidden}, &LayerWeights::qkv);
    add("self_attn.k_proj", {kv, c.hidden}, &LayerWeights::qkv, q * c.hidden);
    add("self_attn.v_proj", {kv, c.hidden}, &LayerWeights::qkv, (q + kv) * c.hidden);
    add("self_attn.o_proj", {c.hidden, q}, &LayerWeights::o);
    add("post_attention_layernorm", {c.hidden}, &LayerWeights::mlp_norm);
    add("mlp.gate_proj", {c.intermediate, c.hidden}, &LayerWeights::gate_up);
    add("mlp.up_proj", {c.intermediate, c.hidden}, &LayerWeights::gate_up, c.intermediate * c.hidden);
    add("mlp.down_proj", {c.hidden, c.intermediate}, &LayerWeights::down);
  }
  return all;
}

void Weights::load(Device& device, Stream& stream, const Checkpoint& checkpoint, const LoadReport& report) {
  const std::vector<Source> wanted = sources();
  std::vector<std::unique_ptr<TensorReader>> readers;
  std::set<std::string> used;
  std::int64_t stored = 0;
  for (const Source& source : wanted) {
    readers.push_back(checkpoint.tensor(source.name, source.shape));
    used.insert(readers.back()->parts().begin(), readers.back()->parts().end());
    stored += readers.back()->stored_bytes(readers.back()->rows());
  }
  checkpoint.refuse_others(used, config_);
  WeightLoader loader(device, stream, staging_, stored, report);
  for (std::size_t i = 0; i < wanted.size(); ++i)
    loader.add(*readers[i], wanted[i].host != nullptr ? nullptr : wanted[i].device, wanted[i].host);
  loader.finish();
}

void Weights::randomize(Stream& stream) const {
  std::uint64_t seed = 0;
  for (const Source& source : sources()) randomize(stream, source, ++seed);
}

/// The embedding table in pieces of a size that a layer has room for, which is made after it; alike wherever the table
/// is, so that the bits are, too.
void Weights::randomize(Stream& stream, const Source& source, std::uint64_t seed) const {
  const std::int64_t width = source.shape.back(), count = source.count();
  const bool norm = source.shape.size() == 1, table = source.name == "model.embed_tokens.weight";
  const std::int64_t most = table ? 2 * config_.intermediate * width : count;
  // The sum over the inputs of a row then has the variance of one input.
  const float spread = std::sqrt(3.0f / (table ? 1.0f : static_cast<float>(width)));
  for (std::int64_t done = 0, piece = 0; done < count; done += most, ++piece) {
    const std::int64_t n = std::min(most, count - done);
    bf16* to = source.device != nullptr ? source.device + done : layers_.back().gate_up;
    stream.launch(RandomFillArgs{.out = to,
                                 .type = DType::bf16,
                                 .count = n,
                                 .seed = seed + (static_cast<std::uint64_t>(piece) << 32),
                                 .mean = norm ? 1.0f : 0.0f,
                                 .spread = norm ? 0.0f : spread});
    if (source.host != nullptr)
      stream.copy({.dst = source.host + done, .src = to, .width = n * 2, .kind = CopyKind::device_to_host});
  }
}

std::int64_t layer_weight_bytes(const ModelConfig& c) {
  return 2 * c.hidden * (2 + (2 * c.q_heads + 2 * c.kv_heads) * c.head_dim + 3 * c.intermediate);
}

}  // namespace longhaul
