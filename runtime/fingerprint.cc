#include "runtime/fingerprint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <span>

namespace longhaul {
namespace {

constexpr std::int64_t kPieces = 16, kPieceBytes = 256;

class Fnv1a {
 public:
  void add(std::span<const std::byte> bytes) {
    for (std::byte b : bytes) hash_ = (hash_ ^ static_cast<std::uint64_t>(b)) * 0x100000001b3u;
  }
  void add(const std::string& text) { add(std::as_bytes(std::span(text))); }
  std::string hex() const { return fmt::format("{:016x}", hash_); }

 private:
  std::uint64_t hash_ = 0xcbf29ce484222325u;
};

/// Not beside the weights but computed from them or from config.json, and absent from some copies.
bool is_derived(const std::string& name, const ModelConfig& config) {
  return name.ends_with("rotary_emb.inv_freq") || (config.tied_embeddings && name == "lm_head.weight");
}

}  // namespace

std::string weights_fingerprint(const ModelConfig& c, const Safetensors& weights) {
  Fnv1a hash;
  const RopeConfig& rope = c.rope;
  hash.add(fmt::format("{} {} {} {} {} {} {} {} {} {} {} {} {}\n", c.hidden, c.layers, c.q_heads, c.kv_heads,
                       c.head_dim, c.intermediate, c.vocab, static_cast<int>(rope.type), rope.theta, rope.factor,
                       rope.low_freq_factor, rope.high_freq_factor, rope.original_max_position));
  for (const auto& [name, info] : weights.tensors()) {
    if (is_derived(name, c)) continue;
    hash.add(fmt::format("{} {} {}\n", name, info.dtype, fmt::join(info.shape, " ")));
    const std::int64_t last = std::max<std::int64_t>(info.bytes - kPieceBytes, 0);
    for (std::int64_t i = 0, end = 0; i < kPieces && end < info.bytes; ++i) {
      const std::int64_t begin = std::max(end, last * i / (kPieces - 1));
      std::array<std::byte, kPieceBytes> piece;
      const std::int64_t bytes = std::min(kPieceBytes, info.bytes - begin);
      weights.read(info, begin, bytes, piece.data());
      hash.add(std::span(piece).first(static_cast<std::size_t>(bytes)));
      end = begin + bytes;
    }
  }
  return hash.hex();
}

}  // namespace longhaul
