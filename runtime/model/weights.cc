#include "runtime/model/weights.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "runtime/model/families.h"

namespace longhaul {

namespace {

struct Piece {
  bf16* LayerWeights::*at;
  std::int64_t count;  // 0: the model has none
};

/// In this order, so that each part is one run of memory, alike on the device and on the host.
std::vector<Piece> layer_pieces(const ModelConfig& c) {
  const std::int64_t q = c.q_heads * c.head_dim, qkv = q + 2 * c.kv_heads * c.head_dim;
  const std::int64_t networks = std::max<std::int64_t>(c.experts, 1), head = c.head_norm ? c.head_dim : 0;
  return {{&LayerWeights::attn_norm, c.hidden},
          {&LayerWeights::qkv, qkv * c.hidden},
          {&LayerWeights::qkv_bias, c.qkv_bias ? qkv : 0},
          {&LayerWeights::q_norm, head},
          {&LayerWeights::k_norm, head},
          {&LayerWeights::o, c.hidden * q},
          {&LayerWeights::o_bias, c.out_bias ? c.hidden : 0},
          {&LayerWeights::mlp_norm, c.hidden},
          {&LayerWeights::router, c.experts * c.hidden},
          {&LayerWeights::gate_up, networks * 2 * c.intermediate * c.hidden},
          {&LayerWeights::down, networks * c.hidden * c.intermediate}};
}

LayerWeights take_layer(const ModelConfig& c, Arena& arena, const char* name) {
  LayerWeights layer{};
  for (const Piece& piece : layer_pieces(c))
    if (piece.count > 0) layer.*piece.at = arena.take<bf16>(piece.count, name);
  return layer;
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
  const bf16* end = from.down + layer_pieces(config_).back().count;
  return {.dst = to.o, .src = middle, .width = (end - middle) * 2, .kind = CopyKind::host_to_device};
}

std::int64_t Weights::Source::count() const {
  std::int64_t count = 1;
  for (std::int64_t d : shape) count *= d;
  return count;
}

std::vector<Weights::Source> Weights::sources() const {
  const ModelConfig& c = config_;
  const Family& family = *find_family(c.model_type);
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
    auto add = [&](const std::string& name, std::vector<std::int64_t> shape, bf16* LayerWeights::*of,
                   std::int64_t at = 0) {
      all.push_back({fmt::format("model.layers.{}.{}", l, name), std::move(shape), w.*of + at,
                     host != nullptr ? host->*of + at : nullptr});
    };
    auto add_network = [&](const std::string& gate, const std::string& up, const std::string& down, std::int64_t e) {
      const std::int64_t size = c.intermediate * c.hidden;
      add(gate + ".weight", {c.intermediate, c.hidden}, &LayerWeights::gate_up, 2 * e * size);
      add(up + ".weight", {c.intermediate, c.hidden}, &LayerWeights::gate_up, (2 * e + 1) * size);
      add(down + ".weight", {c.hidden, c.intermediate}, &LayerWeights::down, e * size);
    };
    add("input_layernorm.weight", {c.hidden}, &LayerWeights::attn_norm);
    if (family.fused) {
      add("self_attn.qkv_proj.weight", {q + 2 * kv, c.hidden}, &LayerWeights::qkv);
    } else {
      add("self_attn.q_proj.weight", {q, c.hidden}, &LayerWeights::qkv);
      add("self_attn.k_proj.weight", {kv, c.hidden}, &LayerWeights::qkv, q * c.hidden);
      add("self_attn.v_proj.weight", {kv, c.hidden}, &LayerWeights::qkv, (q + kv) * c.hidden);
    }
    if (c.qkv_bias) {
      add("self_attn.q_proj.bias", {q}, &LayerWeights::qkv_bias);
      add("self_attn.k_proj.bias", {kv}, &LayerWeights::qkv_bias, q);
      add("self_attn.v_proj.bias", {kv}, &LayerWeights::qkv_bias, q + kv);
    }
    if (c.head_norm) {
      add("self_attn.q_norm.weight", {c.head_dim}, &LayerWeights::q_norm);
      add("self_attn.k_norm.weight", {c.head_dim}, &LayerWeights::k_norm);
    }
    add("self_attn.o_proj.weight", {c.hidden, q}, &LayerWeights::o);
    if (c.out_bias) add("self_attn.o_proj.bias", {c.hidden}, &LayerWeights::o_bias);
    add("post_attention_layernorm.weight", {c.hidden}, &LayerWeights::mlp_norm);
    if (c.experts > 0) {
      const ExpertNames& names = *family.experts;
      add(fmt::format("{}.weight", names.router), {c.experts, c.hidden}, &LayerWeights::router);
      for (std::int64_t e = 0; e < c.experts; ++e) {
        const std::string expert = fmt::format("{}.{}.", names.list, e);
        add_network(expert + names.gate, expert + names.up, expert + names.down, e);
      }
    } else if (family.fused) {
      add("mlp.gate_up_proj.weight", {2 * c.intermediate, c.hidden}, &LayerWeights::gate_up);
      add("mlp.down_proj.weight", {c.hidden, c.intermediate}, &LayerWeights::down);
    } else {
      add_network("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", 0);
    }
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
  const bool vector = source.shape.size() == 1, bias = source.name.ends_with(".bias");
  const bool table = source.name == "model.embed_tokens.weight";
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
                                 .mean = vector && !bias ? 1.0f : 0.0f,
                                 .spread = vector ? 0.0f : spread});
    if (source.host != nullptr)
      stream.copy({.dst = source.host + done, .src = to, .width = n * 2, .kind = CopyKind::device_to_host});
  }
}

std::int64_t layer_weight_bytes(const ModelConfig& c) {
  std::int64_t count = 0;
  for (const Piece& piece : layer_pieces(c)) count += piece.count;
  return 2 * count;
}

std::int64_t layer_weight_bytes(const ModelConfig& c, std::int64_t tokens) {
  if (c.experts == 0) return layer_weight_bytes(c);
  const double missed = 1 - static_cast<double>(c.experts_per_token) / static_cast<double>(c.experts);
  const double unread = static_cast<double>(c.experts) * std::pow(missed, static_cast<double>(tokens));
  return layer_weight_bytes(c) - static_cast<std::int64_t>(unread * 6 * static_cast<double>(c.hidden * c.intermediate));
}

}  // namespace longhaul
