#include "kernels/cpu/top_rows.h"

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>
#include <span>

#include "kernels/base/bytes.h"
#include "kernels/cpu/simd/simd.h"
#include "kernels/sampling.h"

namespace longhaul::cpu {
namespace {

constexpr std::int64_t kBins = 2048;
constexpr std::array<int, kKeyDigits> kShifts{21, 10, 0}, kBits{11, 11, 10};  // the highest digit first

/// Neighbours often have the same digit; counts in turns do not wait for each other's.
void count_digits(std::span<const std::uint32_t> keys, std::uint32_t lowest, int shift, std::uint32_t mask,
                  std::uint32_t* counts) {
  constexpr std::size_t kTurns = 4;
  std::uint32_t turns[kTurns][kBins];
  std::fill_n(&turns[0][0], kTurns * kBins, 0);
  std::size_t i = 0;
  for (; i + kTurns <= keys.size(); i += kTurns)
    for (std::size_t t = 0; t < kTurns; ++t) turns[t][keys[i + t] >> shift & mask] += keys[i + t] >= lowest;
  for (; i < keys.size(); ++i) turns[0][keys[i] >> shift & mask] += keys[i] >= lowest;
  for (std::int64_t b = 0; b < kBins; ++b) counts[b] = turns[0][b] + turns[1][b] + turns[2][b] + turns[3][b];
}

}  // namespace

float value_of_key(std::uint32_t key) { return std::bit_cast<float>(key >> 31 ? key ^ 0x80000000u : ~key); }

TopRows::TopRows(const Options& o)
    : o_(o),
      chunks_(std::max<std::int64_t>(1, ceil_div(o.rows, o.chunk))),
      rows_wanted_(o.wanted),
      counts_(chunks_ * kBins),
      masses_(o.top_p < 1 ? chunks_ * kBins : 0),
      parts_(chunks_) {}

/// Of 2^40 for all the mass there is. NaN and what is not above 0 weigh nothing.
std::uint64_t TopRows::units(std::uint32_t key) const {
  const double x = value_of_key(key) / o_.mass * 0x1p40;
  return key != 0 && x > 0 ? static_cast<std::uint64_t>(std::min(x, 0x1p40)) : 0;
}

std::int64_t TopRows::chunk_end(std::int64_t chunk) const { return std::min(o_.rows, (chunk + 1) * o_.chunk); }

void TopRows::count(std::int64_t chunk, int digit) {
  if (settled_) return;
  std::uint32_t* counts = &counts_[chunk * kBins];
  const std::int64_t first = std::max(o_.first, chunk * o_.chunk), last = chunk_end(chunk);
  std::vector<std::uint32_t>& left = parts_[chunk].left;
  std::span<const std::uint32_t> keys;
  if (digit == 0) {
    if (first < last) keys = {o_.keys + first, static_cast<std::size_t>(last - first)};
  } else {
    // Few agree with the threshold so far: only those are looked at again.
    const std::uint32_t span = 1u << kShifts[digit - 1], lowest = std::max(threshold_ * span, o_.lowest);
    const std::uint32_t below = lowest - threshold_ * span;
    std::vector<std::uint32_t> some(parts_[chunk].equal);
    if (digit == 1 && first < last) simd().copy_keys(o_.keys + first, last - first, lowest, span - below, some.data());
    if (digit > 1) simd().copy_keys(left.data(), std::ssize(left), lowest, span - below, some.data());
    left.swap(some);
    keys = left;
  }
  count_digits(keys, o_.lowest, kShifts[digit], (1u << kBits[digit]) - 1, counts);
  if (masses_.empty()) return;
  std::uint64_t* masses = &masses_[chunk * kBins];
  std::fill_n(masses, kBins, 0);
  for (std::uint32_t key : keys)
    if (key >= o_.lowest) masses[key >> kShifts[digit] & ((1u << kBits[digit]) - 1)] += units(key);
}

/// What top_p asks of the rows that compete, once their mass has been counted.
void TopRows::want_mass() {
  std::uint64_t given = 0;
  for (std::int64_t r = 0; r < std::min(o_.first, o_.rows); ++r) given += units(o_.keys[r]);
  const std::uint64_t total = std::accumulate(masses_.begin(), masses_.end(), given);
  const std::uint64_t need = sampling::mass_needed(o_.top_p, total);
  units_wanted_ = need > given ? need - given : 0;
}

void TopRows::pick(int digit) {
  if (settled_) return;
  if (digit == 0 && !masses_.empty()) want_mass();
  if (rows_wanted_ <= 0 || units_wanted_ == 0) {
    settled_ = true;
    threshold_ = ~std::uint32_t{0};
    return;
  }
  std::vector<std::int64_t> rows(kBins);
  std::vector<std::uint64_t> mass(kBins);
  for (std::int64_t c = 0; c < chunks_; ++c) {
    for (std::int64_t b = 0; b < kBins; ++b) rows[b] += counts_[c * kBins + b];
    if (masses_.empty()) continue;
    for (std::int64_t b = 0; b < kBins; ++b) mass[b] += masses_[c * kBins + b];
  }
  std::int64_t bin = kBins - 1;
  for (; bin >= 0 && rows[bin] < rows_wanted_ && mass[bin] < units_wanted_; --bin) {
    rows_wanted_ -= rows[bin];
    units_wanted_ -= mass[bin];
  }
  for (std::int64_t c = 0; c < chunks_; ++c) {
    const std::uint32_t* counts = &counts_[c * kBins];
    parts_[c].above += std::accumulate(counts + bin + 1, counts + kBins, std::int64_t{0});
    parts_[c].equal = bin >= 0 ? counts[bin] : 0;
  }
  settled_ = bin < 0;
  threshold_ = settled_ ? o_.lowest : threshold_ << kBits[digit] | static_cast<std::uint32_t>(bin);
}

std::int64_t TopRows::place() {
  std::int64_t equal = rows_wanted_;
  if (!masses_.empty() && !settled_ && units(threshold_) > 0)
    equal = std::min(equal,
                     ceil_div(static_cast<std::int64_t>(units_wanted_), static_cast<std::int64_t>(units(threshold_))));
  std::int64_t end = 0;
  for (Part& part : parts_) {
    part.taken_equal = std::min(equal, part.equal);
    equal -= part.taken_equal;
    part.begin = end;
    end += part.above + part.taken_equal;
  }
  return end;
}

void TopRows::emit(std::int64_t chunk, std::int32_t* out) const {
  const Part& part = parts_[chunk];
  out += part.begin;
  const std::int64_t begin = std::max(o_.first, chunk * o_.chunk), end = chunk_end(chunk);
  if (part.above + part.taken_equal == 0) return;
  if (settled_ || part.taken_equal == part.equal || part.taken_equal == 0) {
    const std::uint32_t lowest = threshold_ + (settled_ || part.taken_equal > 0 ? 0 : 1);
    simd().keep_keys(o_.keys + begin, end - begin, lowest, static_cast<std::int32_t>(begin), out);
    return;
  }
  std::int64_t left = part.taken_equal;
  for (std::int64_t r = begin; r < end; ++r)
    if (o_.keys[r] > threshold_ || (o_.keys[r] == threshold_ && left-- > 0)) *out++ = static_cast<std::int32_t>(r);
}

}  // namespace longhaul::cpu
