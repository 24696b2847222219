// What offline calibration knows of a model's keys and queries: for every layer and KV head rankings of single channels
// and a fitted basis. A value; files hold it in our format, or the rankings alone in the one that Double Sparsity
// (arXiv 2408.07092) publishes.
//
// The published statistics (config/offline_calibration.py of andy-yang-1/DoubleSparse), per head and channel:
//   q_proj   mean of |q| over tokens, of the projection's output: before RoPE; a list for each query head
//   k_proj   mean of |k|, likewise before RoPE; a list for each KV head
//   qk_proj  mean of |q k| at the same position, after RoPE; a list for each query head. A slip there keeps only the
//            last block of 512 tokens
// over the Pile's validation texts in blocks of 512 tokens. Channels are in the order of the projection's rows, where
// RoPE turns channel c together with c + head_dim / 2. Ours are all taken after RoPE, for labels are taken there, over
// whole documents, and summed over the query heads of a group, for a group shares its labels.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/error.h"
#include "offload/policy.h"
#include "runtime/model/model_config.h"

namespace longhaul {

/// The statistics that rank single channels: the values of Labels from q to pairs, in this order.
inline constexpr std::array<std::string_view, 6> kRankings{"q", "k", "qk", "abs", "rms", "pairs"};
constexpr std::size_t ranking_of(Labels labels) {
  return static_cast<std::size_t>(labels) - static_cast<std::size_t>(Labels::q);
}

struct ModelShape {
  std::int64_t layers, q_heads, kv_heads, head_dim;
  bool operator==(const ModelShape&) const = default;
};
ModelShape shape_of(const ModelConfig& config);

/// Of one layer and KV head.
struct HeadChannels {
  std::array<std::vector<std::int32_t>, kRankings.size()> rankings;  // best channel first; empty: not known
  /// [fitted_dims, head_dim], the best dimension first, so that the first r rows are the best basis of r dimensions;
  /// rounded to bf16, as files hold them.
  std::vector<float> key_map, query_map;
  bool operator==(const HeadChannels&) const = default;
};

struct CalibrationText {
  std::string name;
  std::int64_t tokens;
  bool operator==(const CalibrationText&) const = default;
};

struct ChannelFile {
  std::string where;        // it came from, for messages
  std::string model;        // name of the model's folder; empty: not known
  std::string fingerprint;  // weights_fingerprint; empty: not known
  ModelShape shape{};
  std::vector<CalibrationText> texts;
  std::int64_t fitted_dims = 0;     // 0: no basis
  std::vector<HeadChannels> heads;  // [layers, kv_heads]
};

/// Either format. Throws UserError{exit}, one line that begins with `where`, for anything but a complete file for this
/// model; `fingerprint` is its weights'.
///
/// Published lists of the query heads become one for their KV head: channels by the sum of their ranks in the group's
/// lists, equal sums by the lower channel. A statistic may also have its lists for the other kind of heads (files that
/// repeat the keys for each query head exist): their number tells.
ChannelFile parse_channels(std::string_view text, const std::string& where, const ModelShape& shape,
                           const std::string& fingerprint, Exit exit = Exit::usage);

/// Our format: JSON in one line, the same bytes for the same value.
std::string print_channels(const ChannelFile& file);
/// The published format. A group's ranking is given for each of its query heads; the statistics that have no place
/// there are left out.
std::string print_published(const ChannelFile& file);

}  // namespace longhaul
