#include "runtime/model/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <set>

#include "kernels/base/error.h"

namespace longhaul {
namespace {

constexpr std::array kMatrices{&LayerWeights::qkv, &LayerWeights::o, &LayerWeights::router, &LayerWeights::gate_up,
                               &LayerWeights::down};

std::int64_t elements(const std::vector<LayerTensor>& tensors, bf16* LayerWeights::*of) {
  std::int64_t count = 0;
  for (const LayerTensor& tensor : tensors)
    if (tensor.of == of) count = tensor.at + tensor.rows() * tensor.cols();
  return count;
}

bool expands(const LayerLayout& layout, bf16* LayerWeights::*of) {
  return std::ranges::any_of(kWeightParts, [&](WeightPart part) {
    return std::ranges::any_of(layout.expansions(part), [&](const Expansion& e) { return e.of == of; });
  });
}

std::array<std::byte*, 2> take_parts(const std::array<std::int64_t, 2>& bytes, Arena& arena, const char* name) {
  std::byte* projection = arena.take_bytes(bytes[0], name);
  return {projection, arena.take_bytes(bytes[1], name)};
}

/// Random codes, and scales with which values spread about as far as `spread`.
void fill_packed_row(std::byte* row, PackedFormat format, std::int64_t cols, float spread, std::mt19937_64& random) {
  const std::int64_t code_bytes = packed_code_bytes(format, cols);
  const int exponent = std::ilogb(spread);
  std::uint32_t scale;
  if (format.type == PackedType::int4) {
    scale = static_cast<std::uint32_t>(15 + exponent - 3) << 10 | 8u << 16;  // 2^(exponent - 3), half precision
  } else {
    check(!has_blocks(format.type), "random weights of a format with plain scales");
    scale = std::bit_cast<std::uint32_t>(std::ldexp(1.0f, exponent - (format.type == PackedType::fp8 ? 8 : 7)));
  }
  for (std::int64_t i = 0; i < code_bytes; i += 4) {
    auto codes = static_cast<std::uint32_t>(random());
    if (format.type == PackedType::fp8) codes &= 0xf7f7f7f7u;  // none is NaN's
    std::memcpy(row + i, &codes, 4);
  }
  std::memset(row + code_bytes, 0, static_cast<std::size_t>(packed_row_bytes(format, cols) - code_bytes));
  for (std::int64_t i = 0; i < packed_scale_words(format, cols); ++i) std::memcpy(row + code_bytes + 4 * i, &scale, 4);
}

}  // namespace

Weights::Weights(const ModelConfig& c, std::int64_t streamed, bool host_embedding, Arena& device, Arena& host,
                 std::shared_ptr<const WeightFormats> formats)
    : config_(c),
      host_embedding_(host_embedding && !c.tied_embeddings),
      formats_(formats ? std::move(formats) : std::make_shared<const WeightFormats>(c)),
      streamed_(streamed) {
  check(streamed >= 0 && streamed <= c.layers, "at most all layers are streamed");
  embedding_ = (host_embedding_ ? host : device).take<bf16>(c.vocab * c.hidden, "weights");
  std::array<std::int64_t, 2> most{};
  for (std::int64_t l = 0; l < c.layers; ++l) {
    const std::array bytes{layout(l).bytes(WeightPart::projection), layout(l).bytes(WeightPart::rest)};
    rests_.push_back(take_parts(bytes, l < first_streamed() ? device : host, "weights"));
    for (std::size_t i = 0; i < most.size(); ++i) most[i] = std::max(most[i], bytes[i]);
  }
  // As large for every number of streamed layers, so that more of them never take more of the device.
  for (std::int64_t i = 0; i < std::min(streamed, kSlots); ++i)
    slots_[static_cast<std::size_t>(i)] = take_parts(most, device, "weight slots");
  for (const auto of : kMatrices) {
    if (std::ranges::none_of(formats_->layouts(), [&](const LayerLayout& one) { return expands(one, of); })) continue;
    const std::int64_t count = elements(formats_->tensors(), of);
    expanded_[0].*of = device.take<bf16>(count, "expanded weights");
    // Look-ahead needs the next layer's projection beside this one's.
    expanded_[1].*of = of == &LayerWeights::qkv ? device.take<bf16>(count, "expanded weights") : expanded_[0].*of;
  }
  if (!device.counting())
    for (std::int64_t l = 0; l < c.layers; ++l) {
      layers_.push_back(expanded_[static_cast<std::size_t>(l % 2)]);
      layout(l).point(parts(l), layers_.back());
    }
  final_norm_ = device.take<bf16>(c.hidden, "weights");
  head_ = c.tied_embeddings ? embedding_ : device.take<bf16>(c.vocab * c.hidden, "weights");
  staging_ = host.take_bytes(WeightLoader::kStagingBytes, "weight staging");
}

const Weights::Parts& Weights::parts(std::int64_t l) const {
  if (l < first_streamed()) return rests_[static_cast<std::size_t>(l)];
  return slots_[static_cast<std::size_t>((l - first_streamed()) % kSlots)];
}

CopyArgs Weights::copy_of(std::int64_t n, WeightPart part) const {
  const std::int64_t l = first_streamed() + n;
  const auto i = static_cast<std::size_t>(part);
  return {.dst = parts(l)[i],
          .src = rests_[static_cast<std::size_t>(l)][i],
          .width = layout(l).bytes(part),
          .kind = CopyKind::host_to_device};
}

void Weights::expand(Stream& stream, std::int64_t l, WeightPart part) const {
  const std::byte* from = parts(l)[static_cast<std::size_t>(part)];
  for (const Expansion& e : layout(l).expansions(part)) {
    bf16* to = layer(l).*e.of + e.at;
    if (e.format.type == PackedType::none) stream.copy({.dst = to, .src = from + e.from, .width = e.rows * e.cols * 2});
    else
      stream.launch(ExpandArgs{.packed = from + e.from, .out = to, .format = e.format, .rows = e.rows, .cols = e.cols});
  }
}

std::int64_t Weights::Source::count() const {
  std::int64_t count = 1;
  for (std::int64_t d : shape) count *= d;
  return count;
}

std::vector<Weights::Source> Weights::sources() const {
  const ModelConfig& c = config_;
  const std::vector<LayerTensor>& tensors = formats_->tensors();
  const auto bytes = [](bf16* at) { return reinterpret_cast<std::byte*>(at); };
  std::vector<Source> all{{"model.embed_tokens.weight",
                           {c.vocab, c.hidden},
                           bytes(embedding_),
                           host_embedding_,
                           bytes(host_embedding_ ? layers_.back().gate_up : embedding_),
                           {}},
                          {"model.norm.weight", {c.hidden}, bytes(final_norm_), false, bytes(final_norm_), {}}};
  if (!c.tied_embeddings) all.push_back({"lm_head.weight", {c.vocab, c.hidden}, bytes(head_), false, bytes(head_), {}});
  for (std::int64_t l = 0; l < c.layers; ++l)
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const LayerLayout::Place& place = layout(l).place(i);
      const auto part = static_cast<std::size_t>(place.part);
      all.push_back({fmt::format("model.layers.{}.{}", l, tensors[i].name), tensors[i].shape,
                     rests_[static_cast<std::size_t>(l)][part] + place.offset, l >= first_streamed(),
                     parts(l)[part] + place.offset, place.format});
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
    loader.add(*readers[i], {wanted[i].at, wanted[i].on_host, wanted[i].format.type != PackedType::none});
  loader.finish();
}

void Weights::randomize(Device& device, Stream& stream) const {
  const auto sent = device.make_event();
  std::uint64_t seed = 0;
  for (const Source& source : sources()) {
    if (source.format.type == PackedType::none) {
      randomize(stream, source, ++seed);
      continue;
    }
    randomize_packed(stream, source, ++seed);
    stream.record(*sent);
    device.host_wait(*sent, {"random_weights_sent"});  // staging_ is written anew
  }
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
    std::byte *at = source.at + 2 * done, *to = source.on_host ? source.room : at;
    stream.launch(RandomFillArgs{.out = to,
                                 .type = DType::bf16,
                                 .count = n,
                                 .seed = seed + (static_cast<std::uint64_t>(piece) << 32),
                                 .mean = vector && !bias ? 1.0f : 0.0f,
                                 .spread = vector ? 0.0f : spread});
    if (source.on_host) stream.copy({.dst = at, .src = to, .width = n * 2, .kind = CopyKind::device_to_host});
  }
}

void Weights::randomize_packed(Stream& stream, const Source& source, std::uint64_t seed) const {
  constexpr std::int64_t kPattern = 1 << 20;  // bytes that are made; the rest repeats them
  const std::int64_t cols = source.shape.back(), all = source.count() / cols;
  const std::int64_t bytes = packed_row_bytes(source.format, cols);
  const std::int64_t some = std::clamp<std::int64_t>(kPattern / bytes, 1, all);
  std::mt19937_64 random(seed);
  for (std::int64_t row = 0; row < some; ++row)
    fill_packed_row(staging_ + row * bytes, source.format, cols, std::sqrt(3.0f / static_cast<float>(cols)), random);
  for (std::int64_t row = 0; row < all; row += some) {
    const std::int64_t width = std::min(some, all - row) * bytes;
    std::byte* to = source.at + row * bytes;
    if (source.on_host) std::memcpy(to, staging_, static_cast<std::size_t>(width));
    else stream.copy({.dst = to, .src = staging_, .width = width, .kind = CopyKind::host_to_device});
  }
}

std::int64_t layer_weight_bytes(const ModelConfig& c) {
  std::int64_t count = 0;
  for (const LayerTensor& tensor : layer_tensors(c)) count += tensor.rows() * tensor.cols();
  return 2 * count;
}

std::int64_t layer_weight_bytes(const ModelConfig& c, std::int64_t tokens) {
  if (c.experts == 0) return layer_weight_bytes(c);
  const double missed = 1 - static_cast<double>(c.experts_per_token) / static_cast<double>(c.experts);
  const double unread = static_cast<double>(c.experts) * std::pow(missed, static_cast<double>(tokens));
  return layer_weight_bytes(c) - static_cast<std::int64_t>(unread * 6 * static_cast<double>(c.hidden * c.intermediate));
}

RestBytes layers_at_rest(const ModelConfig& c, const WeightFormats* formats, std::int64_t first, std::int64_t last) {
  const auto plain = formats == nullptr ? std::make_unique<const WeightFormats>(c) : nullptr;
  if (plain) formats = plain.get();
  RestBytes all;
  for (std::int64_t l = first; l < last; ++l)
    for (const WeightPart part : kWeightParts) {
      const LayerLayout& layout = formats->layout(l);
      all.at_rest += layout.bytes(part);
      for (const Expansion& e : layout.expansions(part)) {
        all.expanded_from += e.rows * packed_row_bytes(e.format, e.cols);
        all.expanded_to += e.rows * e.cols * 2;
      }
    }
  return all;
}

}  // namespace longhaul
