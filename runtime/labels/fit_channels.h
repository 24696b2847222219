// From the moments of a model's keys and queries (MomentsArgs) to rankings of channels and a fitted basis.
#pragma once
#include <cstdint>
#include <span>

#include "runtime/labels/channel_file.h"

namespace longhaul {

/// Dimensions of the fitted basis that files hold: more than that gains nothing over the channels themselves.
inline constexpr std::int64_t kFittedDims = 32;

/// Of one layer and KV head. `sums` has moment_doubles(head_dim) numbers, not all of them zero tokens; `group`: query
/// heads that were summed. Equal statistics: the lower channel first.
///   q, k, qk  mean of |q|, of |k|, of |q k| at the same position (channel_file.h says how the published ones differ)
///   abs       mean of |q| times mean of |k|
///   rms       RMS of q times RMS of centred k: a mean of the keys adds the same to every score
///   pairs     rms summed over c and c + head_dim / 2, which RoPE turns together; both stand next to each other
/// The fitted basis of r dimensions makes the mean square of q k - (query_map q) (key_map k) over all queries and
/// centred keys least, among all bases of r dimensions.
HeadChannels fit_channels(std::span<const double> sums, std::int64_t head_dim, std::int64_t group);

/// True when every sum is finite.
bool all_finite(std::span<const double> sums);

}  // namespace longhaul
