// What the samplers of all devices share, so that they draw the same token: the order of candidates, their weights and
// the draw. Integers throughout: a sum is the same in whatever order it is added up. constexpr, so that device code can
// call it.
#pragma once
#include <bit>
#include <cstdint>

namespace longhaul::sampling {

/// Candidates in a total order, higher is better: higher logit, then lower id. Not for NaN.
constexpr std::uint64_t rank(float logit, std::int64_t id) {
  const auto bits = std::bit_cast<std::uint32_t>(logit + 0.0f);  // -0 is 0
  const std::uint32_t order = bits >> 31 ? ~bits : bits | 0x80000000u;
  return std::uint64_t{order} << 32 | (0xffffffffu - static_cast<std::uint32_t>(id));
}
constexpr std::int32_t id_of(std::uint64_t rank) {
  return static_cast<std::int32_t>(0xffffffffu - static_cast<std::uint32_t>(rank));
}

constexpr float logit_of(std::uint64_t rank) {
  const auto order = static_cast<std::uint32_t>(rank >> 32);
  return std::bit_cast<float>(order >> 31 ? order & 0x7fffffffu : ~order);
}

/// exp(x) for x <= 0 in units of 2^-40, good to nine digits; what is below a unit is 0.
constexpr std::uint64_t exp_units(float x) {
  if (!(x > -28.0f)) return 0;
  // exp(x) = 2^-t = 2^(1 - f) / 2^(k + 1), where t = k + f; t and f in units of 2^-32.
  constexpr std::uint64_t kLog2e = 0xb8aa3b295c17f0bc;  // in units of 2^-63
  const auto fixed = static_cast<std::uint64_t>(-static_cast<double>(x) * 0x1p32);
  const auto t = static_cast<std::uint64_t>(static_cast<unsigned __int128>(fixed) * kLog2e >> 63);
  const std::uint64_t g = (std::uint64_t{1} << 32) - (t & 0xffffffffu);
  constexpr std::uint32_t kTaylor[] = {1073741824, 744261118, 257941248, 59597083, 10327387, 1431680,
                                       165394,     16377,     1419,      109,      8};  // ln(2)^i / i! * 2^30
  std::uint64_t y = 0;
  for (int i = 10; i >= 0; --i) y = kTaylor[i] + (y * g >> 32);
  return y << 10 >> ((t >> 32) + 1);
}

/// The logit of a token that is there already, as transformers has it: less likely for a penalty above 1.
constexpr float penalised(float logit, float penalty) { return logit < 0 ? logit * penalty : logit / penalty; }

/// A candidate's share of the draw, at most 2^40: `highest` is the row's highest logit.
constexpr std::uint64_t weight(float logit, float highest, float temperature) {
  return exp_units(logit == highest ? 0.0f : (logit - highest) / temperature);
}

/// The mass that top_p asks for, of `total`: at least 1, so that something is kept.
constexpr std::uint64_t mass_needed(float top_p, std::uint64_t total) {
  const double want = static_cast<double>(top_p) * static_cast<double>(total);
  if (!(want > 1)) return 1;
  const auto whole = static_cast<std::uint64_t>(want);
  const std::uint64_t need = static_cast<double>(whole) < want ? whole + 1 : whole;
  return need < total ? need : total;
}

/// splitmix64's finalizer (Steele, Lea and Flood, OOPSLA 2014).
constexpr std::uint64_t mix(std::uint64_t z) {
  z += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// In [0, total): a counter-based generator. The candidate drawn is the first by id at which the sum of weights exceeds
/// it.
constexpr std::uint64_t draw(std::uint64_t seed, std::uint64_t step, std::uint64_t total) {
  return static_cast<std::uint64_t>(static_cast<unsigned __int128>(mix(mix(seed) ^ mix(~step))) * total >> 64);
}

}  // namespace longhaul::sampling
