// The published format: {"model.layers.N.self_attn.S_proj": [ranking of head 0, ...], ...} with S of q, k, qk.
#include <algorithm>
#include <charconv>
#include <numeric>

#include "runtime/checkpoint/json_file.h"
#include "runtime/labels/channel_parts.h"

namespace longhaul {
namespace {

using nlohmann::json;
using Ordered = nlohmann::ordered_json;

constexpr std::string_view kBefore = "model.layers.", kBetween = ".self_attn.", kAfter = "_proj";
constexpr std::size_t kPublished = 3;  // the first of kRankings

struct Place {
  std::int64_t layer;
  std::size_t ranking;
};

/// None: not a key of the format.
std::optional<Place> parse_key(std::string_view key) {
  if (!key.starts_with(kBefore) || !key.ends_with(kAfter)) return std::nullopt;
  key.remove_prefix(kBefore.size()), key.remove_suffix(kAfter.size());
  Place place;
  auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), place.layer);
  if (error != std::errc{} || place.layer < 0) return std::nullopt;
  key.remove_prefix(static_cast<std::size_t>(end - key.data()));
  if (!key.starts_with(kBetween)) return std::nullopt;
  key.remove_prefix(kBetween.size());
  place.ranking = static_cast<std::size_t>(std::find(kRankings.begin(), kRankings.end(), key) - kRankings.begin());
  if (place.ranking >= kPublished) return std::nullopt;
  return place;
}

/// One ranking of the channels by the sum of their ranks; where a list ends early, the others share the rank after it.
std::vector<std::int32_t> by_rank_sum(const std::vector<std::vector<std::int32_t>>& lists, std::int64_t head_dim) {
  if (lists.size() == 1) return lists[0];
  std::vector<std::int64_t> sum(static_cast<std::size_t>(head_dim));
  std::size_t shortest = static_cast<std::size_t>(head_dim);
  for (const auto& list : lists) {
    std::vector<std::int64_t> rank(sum.size(), static_cast<std::int64_t>(list.size()));
    for (std::size_t i = 0; i < list.size(); ++i)
      rank[static_cast<std::size_t>(list[i])] = static_cast<std::int64_t>(i);
    for (std::size_t c = 0; c < sum.size(); ++c) sum[c] += rank[c];
    shortest = std::min(shortest, list.size());
  }
  std::vector<std::int32_t> order(sum.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return sum[static_cast<std::size_t>(a)] < sum[static_cast<std::size_t>(b)];
  });
  order.resize(shortest);
  return order;
}

}  // namespace

ChannelFile read_published(const json& root, const std::string& where, const ModelShape& shape, Exit exit) {
  ChannelFile file{.where = where, .shape = shape};
  if (!root.is_object()) throw UserError(exit, "{}: expected a JSON object, found {}", where, root.type_name());
  file.heads.resize(static_cast<std::size_t>(shape.layers * shape.kv_heads));
  for (const auto& [key, value] : root.items()) {
    const auto place = parse_key(key);
    if (!place)
      throw UserError(exit,
                      "{}: the key {} is unknown; expected \"format\", or model.layers.N.self_attn.{{q,k,qk}}_proj",
                      where, quoted(key));
    if (place->layer >= shape.layers)
      throw UserError(exit, "{}: made for another model: it has a layer {}, this model's are 0 to {}", where,
                      place->layer, shape.layers - 1);
    const auto count = value.is_array() ? static_cast<std::int64_t>(value.size()) : 0;
    if (count != shape.q_heads && count != shape.kv_heads)
      throw UserError(exit, "{}: {} is not a list of rankings for this model's {} query heads or {} KV heads", where,
                      key, shape.q_heads, shape.kv_heads);
    const std::int64_t group = count / shape.kv_heads;
    for (std::int64_t h = 0; h < shape.kv_heads; ++h) {
      std::vector<std::vector<std::int32_t>> lists;
      for (std::int64_t i = h * group; i < (h + 1) * group; ++i)
        lists.push_back(read_ranking(value[static_cast<std::size_t>(i)], shape.head_dim,
                                     fmt::format("{}: {}, head {}", where, key, i), exit));
      HeadChannels& head = file.heads[static_cast<std::size_t>(place->layer * shape.kv_heads + h)];
      head.rankings[place->ranking] = by_rank_sum(lists, shape.head_dim);
    }
  }
  return file;
}

std::string print_published(const ChannelFile& file) {
  const ModelShape& s = file.shape;
  Ordered root = Ordered::object();
  for (std::int64_t l = 0; l < s.layers; ++l)
    for (std::size_t r = 0; r < kPublished; ++r) {
      const std::int64_t heads = r == ranking_of(Labels::k) ? s.kv_heads : s.q_heads;
      Ordered lists = Ordered::array();
      for (std::int64_t h = 0; h < heads; ++h)
        lists.push_back(file.heads[static_cast<std::size_t>(l * s.kv_heads + h * s.kv_heads / heads)].rankings[r]);
      root[fmt::format("{}{}{}{}{}", kBefore, l, kBetween, kRankings[r], kAfter)] = std::move(lists);
    }
  return root.dump();
}

}  // namespace longhaul
