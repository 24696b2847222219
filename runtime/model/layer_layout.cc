#include "runtime/model/layer_layout.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "kernels/arena.h"
#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "runtime/model/families.h"

namespace longhaul {
namespace {

constexpr std::int64_t kPackedAlign = 16;  // what expand() asks of rows

WeightPart part_of(bf16* LayerWeights::*of) {
  for (auto first : {&LayerWeights::attn_norm, &LayerWeights::qkv, &LayerWeights::qkv_bias, &LayerWeights::q_norm,
                     &LayerWeights::k_norm})
    if (of == first) return WeightPart::projection;
  return WeightPart::rest;
}

}  // namespace

std::vector<LayerTensor> layer_tensors(const ModelConfig& c) {
  const Family& family = *find_family(c.model_type);
  const std::int64_t q = c.q_heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  std::vector<LayerTensor> all;
  auto add = [&](const std::string& name, TensorShape shape, bf16* LayerWeights::*of) {
    std::int64_t at = 0;  // behind what `of` has
    if (!all.empty() && all.back().of == of) at = all.back().at + all.back().rows() * all.back().cols();
    all.push_back({name, std::move(shape), of, at});
  };
  add("input_layernorm.weight", {c.hidden}, &LayerWeights::attn_norm);
  if (family.fused) {
    add("self_attn.qkv_proj.weight", {q + 2 * kv, c.hidden}, &LayerWeights::qkv);
  } else {
    add("self_attn.q_proj.weight", {q, c.hidden}, &LayerWeights::qkv);
    add("self_attn.k_proj.weight", {kv, c.hidden}, &LayerWeights::qkv);
    add("self_attn.v_proj.weight", {kv, c.hidden}, &LayerWeights::qkv);
  }
  if (c.qkv_bias) {
    add("self_attn.q_proj.bias", {q}, &LayerWeights::qkv_bias);
    add("self_attn.k_proj.bias", {kv}, &LayerWeights::qkv_bias);
    add("self_attn.v_proj.bias", {kv}, &LayerWeights::qkv_bias);
  }
  if (c.head_norm) {
    add("self_attn.q_norm.weight", {c.head_dim}, &LayerWeights::q_norm);
    add("self_attn.k_norm.weight", {c.head_dim}, &LayerWeights::k_norm);
  }
  add("self_attn.o_proj.weight", {c.hidden, q}, &LayerWeights::o);
  if (c.out_bias) add("self_attn.o_proj.bias", {c.hidden}, &LayerWeights::o_bias);
  add("post_attention_layernorm.weight", {c.hidden}, &LayerWeights::mlp_norm);
  const TensorShape up{c.intermediate, c.hidden}, down{c.hidden, c.intermediate};
  if (c.experts > 0) {
    const ExpertNames& names = *family.experts;
    add(fmt::format("{}.weight", names.router), {c.experts, c.hidden}, &LayerWeights::router);
    auto name = [&](std::int64_t e, const auto& of) { return fmt::format("{}.{}.{}.weight", names.list, e, of); };
    for (std::int64_t e = 0; e < c.experts; ++e) {
      add(name(e, names.gate), up, &LayerWeights::gate_up);
      add(name(e, names.up), up, &LayerWeights::gate_up);
    }
    for (std::int64_t e = 0; e < c.experts; ++e) add(name(e, names.down), down, &LayerWeights::down);
  } else if (family.fused) {
    add("mlp.gate_up_proj.weight", {2 * c.intermediate, c.hidden}, &LayerWeights::gate_up);
    add("mlp.down_proj.weight", down, &LayerWeights::down);
  } else {
    add("mlp.gate_proj.weight", up, &LayerWeights::gate_up);
    add("mlp.up_proj.weight", up, &LayerWeights::gate_up);
    add("mlp.down_proj.weight", down, &LayerWeights::down);
  }
  return all;
}

LayerLayout::LayerLayout(const std::vector<LayerTensor>& tensors, const std::vector<PackedFormat>& formats) {
  check(formats.empty() || formats.size() == tensors.size(), "a format for each of a layer's tensors");
  const auto format_of = [&](std::size_t i) { return formats.empty() ? PackedFormat{} : formats[i]; };
  for (std::size_t first = 0, end; first < tensors.size(); first = end) {
    const auto of = tensors[first].of;
    bool expanded = false;
    for (end = first; end < tensors.size() && tensors[end].of == of; ++end)
      expanded |= format_of(end).type != PackedType::none;
    const WeightPart part = part_of(of);
    std::int64_t& bytes = bytes_[static_cast<std::size_t>(part)];
    const std::int64_t begin = bytes = round_up(bytes, Arena::kAlign);
    if (!expanded) in_place_.push_back({of, part, begin});
    for (std::size_t i = first; i < end; ++i) {
      const LayerTensor& tensor = tensors[i];
      const PackedFormat format = format_of(i);
      const std::int64_t offset = expanded ? round_up(bytes, kPackedAlign) : begin + 2 * tensor.at;
      bytes = offset + tensor.rows() * packed_row_bytes(format, tensor.cols());
      places_.push_back({part, offset, format});
      if (!expanded) continue;
      auto& list = expansions_[static_cast<std::size_t>(part)];
      // What lies together and is alike is one launch.
      if (i > first && list.back().format == format && list.back().cols == tensor.cols() &&
          list.back().from + list.back().rows * packed_row_bytes(format, tensor.cols()) == offset)
        list.back().rows += tensor.rows();
      else list.push_back({format, of, tensor.at, offset, tensor.rows(), tensor.cols()});
    }
  }
}

void LayerLayout::point(const std::array<std::byte*, 2>& parts, LayerWeights& weights) const {
  for (const InPlace& one : in_place_)
    weights.*one.of = reinterpret_cast<bf16*>(parts[static_cast<std::size_t>(one.part)] + one.offset);
}

WeightFormats::WeightFormats(const ModelConfig& c, const std::vector<std::vector<PackedFormat>>& layers)
    : tensors_(layer_tensors(c)) {
  check(layers.empty() || std::ssize(layers) == c.layers, "formats of every layer");
  std::vector<std::vector<PackedFormat>> different;
  for (std::int64_t l = 0; l < c.layers; ++l) {
    const auto& formats = layers.empty() ? std::vector<PackedFormat>{} : layers[static_cast<std::size_t>(l)];
    const auto known = std::ranges::find(different, formats);
    layout_of_.push_back(static_cast<std::size_t>(known - different.begin()));
    if (known != different.end()) continue;
    different.push_back(formats);
    layouts_.emplace_back(tensors_, formats);
    for (const PackedFormat& format : formats)
      if (format.type != PackedType::none && std::ranges::find(types_, name_of(format.type)) == types_.end())
        types_.push_back(name_of(format.type));
  }
}

std::string WeightFormats::names() const { return fmt::format("{}", fmt::join(types_, ", ")); }

std::shared_ptr<const WeightFormats> weight_formats(const Checkpoint& checkpoint, const ModelConfig& config) {
  if (!checkpoint.is_quantised()) return nullptr;
  const std::vector<LayerTensor> tensors = layer_tensors(config);
  std::vector<std::vector<PackedFormat>> layers;
  bool any = false;
  for (std::int64_t l = 0; l < config.layers; ++l) {
    auto& layer = layers.emplace_back();
    for (const LayerTensor& tensor : tensors) {
      const auto reader = checkpoint.tensor(fmt::format("model.layers.{}.{}", l, tensor.name), tensor.shape);
      layer.push_back(tensor.shape.size() == 2 ? reader->packed_format() : PackedFormat{});  // vectors are small
      any |= layer.back().type != PackedType::none;
    }
  }
  return any ? std::make_shared<const WeightFormats>(config, layers) : nullptr;
}

std::shared_ptr<const WeightFormats> uniform_formats(const ModelConfig& config, PackedFormat format) {
  std::vector<PackedFormat> layer;
  for (const LayerTensor& tensor : layer_tensors(config))
    layer.push_back(tensor.shape.size() == 2 && tensor.of != &LayerWeights::router && is_packable(format, tensor.cols())
                        ? format
                        : PackedFormat{});
  return std::make_shared<const WeightFormats>(
      config, std::vector<std::vector<PackedFormat>>(static_cast<std::size_t>(config.layers), layer));
}

}  // namespace longhaul
