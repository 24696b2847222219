#include "runtime/labels/label_bases.h"

#include <algorithm>
#include <span>

namespace longhaul {
namespace {

/// A map that picks `channels`, to [channels, head_dim] floats that are 0.
void pick(std::span<const std::int32_t> channels, std::int64_t head_dim, float* map) {
  for (std::size_t i = 0; i < channels.size(); ++i) map[static_cast<std::int64_t>(i) * head_dim + channels[i]] = 1;
}

}  // namespace

LabelBases bases(const ChannelFile& file, Labels labels, std::int64_t dims) {
  check(labels != Labels::document && labels != Labels::exact, "bases: labels come from a channel file");
  auto need = [&](std::size_t have) {
    if (have == 0)
      throw UserError(Exit::usage, "{}: holds nothing for labels = \"{}\"; longhaul calibrate makes a file that does",
                      file.where, name_of(labels));
    if (static_cast<std::int64_t>(have) < dims)
      throw UserError(Exit::usage, "{}: holds {} dimensions for labels = \"{}\", fewer than the {} of label_dims",
                      file.where, have, name_of(labels), dims);
  };
  const std::int64_t d = file.shape.head_dim, map = dims * d;
  LabelBases out{dims, std::vector<float>(file.heads.size() * static_cast<std::size_t>(2 * map))};
  float* to = out.maps.data();
  for (const HeadChannels& head : file.heads) {
    if (labels == Labels::fitted) {
      need(static_cast<std::size_t>(file.fitted_dims));
      std::copy_n(head.key_map.begin(), map, to);
      std::copy_n(head.query_map.begin(), map, to + map);
    } else {
      const std::vector<std::int32_t>& ranking = head.rankings.at(ranking_of(labels));
      need(ranking.size());
      for (float* half : {to, to + map}) pick(std::span(ranking).first(static_cast<std::size_t>(dims)), d, half);
    }
    to += 2 * map;
  }
  return out;
}

LabelBases exact_bases(const ModelConfig& c) {
  const std::int64_t d = c.head_dim, count = c.layers * c.kv_heads * 2;
  LabelBases out{d, std::vector<float>(static_cast<std::size_t>(count * d * d))};
  for (std::int64_t m = 0; m < count; ++m)
    for (std::int64_t i = 0; i < d; ++i) out.maps[static_cast<std::size_t>(m * d * d + i * d + i)] = 1;
  return out;
}

}  // namespace longhaul
