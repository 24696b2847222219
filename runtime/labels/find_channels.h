// Which channel file serves a model.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/labels/channel_file.h"

namespace longhaul {

/// `file` where it is given; else channels.json in the model's folder; else the one of config/channels (compiled in)
/// that was made for these weights; else none. `where` of the result says which. Throws UserError, usage for `file`
/// and bad_model for the folder's, when the first that is there cannot be used.
std::optional<ChannelFile> find_channels(const std::filesystem::path& model_dir, const ModelConfig& config,
                                         const Checkpoint& weights, const std::string& file = {});

/// Names of config/channels.
std::vector<std::string> shipped_channels();

}  // namespace longhaul
