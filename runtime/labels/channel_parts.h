// What both channel file formats are read with: for channel_file.cc and published_channels.cc.
#pragma once
#include <nlohmann/json.hpp>

#include "runtime/labels/channel_file.h"

namespace longhaul {

/// A ranking of distinct channels, at least one.
std::vector<std::int32_t> read_ranking(const nlohmann::json& list, std::int64_t head_dim, const std::string& where,
                                       Exit exit);
/// Throws where a statistic that some head has is missing in another.
void check_complete(const ChannelFile& file, Exit exit);
/// `root` is an object in the published format.
ChannelFile read_published(const nlohmann::json& root, const std::string& where, const ModelShape& shape, Exit exit);

}  // namespace longhaul
