#include "kernels/cpu/top_rows.h"

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>

#include "kernels/base/bytes.h"
#include "kernels/cpu/simd/simd.h"
#include "kernels/sampling.h"

namespace longhaul::cpu {
namespace {

constexpr std::int64_t kBins = 2048;
constexpr std::array<int, kKeyDigits> kShifts{21, 10, 0}, kBits{11, 11, 10};  // the highest digit first

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
  std::uint64_t* masses = masses_.empty() ? nullptr : &masses_[chunk * kBins];
  std::fill_n(counts, kBins, 0);
  if (masses) std::fill_n(masses, kBins, 0);
  const int shift = kShifts[digit], before = digit == 0 ? 0 : kShifts[digit - 1];
  const std::uint32_t mask = (1u << kBits[digit]) - 1;
  for (std::int64_t r = std::max(o_.first, chunk * o_.chunk); r < chunk_end(chunk); ++r) {
    const std::uint32_t key = o_.keys[r];
    if (key < o_.lowest || (digit > 0 && key >> before != threshold_)) continue;
    ++counts[key >> shift & mask];
    if (masses) masses[key >> shift & mask] += units(key);
  }
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
  std::int64_t bin = kBins;
  while (--bin >= 0) {
    std::int64_t rows = 0;
    std::uint64_t mass = 0;
    for (std::int64_t c = 0; c < chunks_; ++c) rows += counts_[c * kBins + bin];
    if (!masses_.empty())
      for (std::int64_t c = 0; c < chunks_; ++c) mass += masses_[c * kBins + bin];
    if (rows >= rows_wanted_ || mass >= units_wanted_) break;
    rows_wanted_ -= rows;
    units_wanted_ -= mass;
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
