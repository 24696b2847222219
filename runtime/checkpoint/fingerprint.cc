#include "runtime/checkpoint/fingerprint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>

#include "kernels/base/hash.h"

namespace longhaul {
namespace {

constexpr std::int64_t kPieces = 16, kPieceBytes = 256;

}  // namespace

std::string weights_fingerprint(const ModelConfig& c, const Checkpoint& checkpoint) {
  const TensorFiles& weights = checkpoint.files();
  std::uint64_t hash = hash64("");
  const RopeConfig& rope = c.rope;
  hash = hash64(fmt::format("{} {} {} {} {} {} {} {} {} {} {} {} {}\n", c.hidden, c.layers, c.q_heads, c.kv_heads,
                            c.head_dim, c.intermediate, c.vocab, static_cast<int>(rope.type), rope.theta, rope.factor,
                            rope.low_freq_factor, rope.high_freq_factor, rope.original_max_position),
                hash);
  if (rope.type == RopeType::yarn || rope.type == RopeType::longrope)
    hash = hash64(fmt::format("{} {} {} {} {} {}\n", rope.attention_factor, rope.beta_fast, rope.beta_slow,
                              rope.truncate, fmt::join(rope.short_factors, " "), fmt::join(rope.long_factors, " ")),
                  hash);
  auto bits = [](const std::vector<bool>& layers) {
    std::string text;
    for (const bool layer : layers) text += layer ? '1' : '0';
    return text;
  };
  if (c.experts > 0 || c.window > 0 || !c.still.empty())
    hash = hash64(fmt::format("{} {} {} {} {}\n", c.experts_per_token, c.normalised_routes, c.window, bits(c.windowed),
                              bits(c.still)),
                  hash);
  if (const DualChunks& dual = c.dual_chunks; dual.rows > 0)
    hash = hash64(fmt::format("{} {} {}\n", dual.rows, dual.reach, dual.trained), hash);
  for (const auto& [name, info] : weights.tensors()) {
    if (is_derived(name, c)) continue;
    hash = hash64(fmt::format("{} {} {}\n", name, info.dtype, fmt::join(info.shape, " ")), hash);
    const std::int64_t last = std::max<std::int64_t>(info.bytes - kPieceBytes, 0);
    for (std::int64_t i = 0, end = 0; i < kPieces && end < info.bytes; ++i) {
      const std::int64_t begin = std::max(end, last * i / (kPieces - 1));
      std::array<std::byte, kPieceBytes> piece;
      const std::int64_t bytes = std::min(kPieceBytes, info.bytes - begin);
      weights.read(info, begin, bytes, piece.data());
      hash = hash64({reinterpret_cast<const char*>(piece.data()), static_cast<std::size_t>(bytes)}, hash);
      end = begin + bytes;
    }
  }
  return fmt::format("{:016x}", hash);
}

}  // namespace longhaul
