#include "runtime/labels/find_channels.h"

#include "kernels/base/file.h"
#include "runtime/checkpoint/fingerprint.h"
#include "runtime/shipped_channels.h"  // generated from config/channels

namespace longhaul {
namespace {

constexpr std::uintmax_t kMostBytes = 256 << 20;  // the largest models' files take a tenth

ChannelFile read(const std::filesystem::path& path, const std::string& where, const ModelConfig& config,
                 const Checkpoint& weights, Exit exit) {
  std::error_code failed;
  const auto status = std::filesystem::status(path, failed);
  if (!std::filesystem::exists(status)) throw UserError(exit, "{}: no such file", where);
  if (!std::filesystem::is_regular_file(status)) throw UserError(exit, "{}: is not a regular file", where);
  if (const auto bytes = std::filesystem::file_size(path, failed); bytes > kMostBytes)
    throw UserError(exit, "{}: {} bytes, more than the {} that such a file may have", where, bytes, kMostBytes);
  return parse_channels(read_file(path), where, shape_of(config), weights_fingerprint(config, weights), exit);
}

}  // namespace

std::optional<ChannelFile> find_channels(const std::filesystem::path& model_dir, const ModelConfig& config,
                                         const Checkpoint& weights, const std::string& file) {
  if (!file.empty()) return read(file, "--channels " + file, config, weights, Exit::usage);
  const auto beside = model_dir / "channels.json";
  std::error_code unknown;
  if (std::filesystem::exists(beside, unknown)) return read(beside, beside.string(), config, weights, Exit::bad_model);
  if constexpr (!kShippedChannels.empty()) {
    const std::string fingerprint = weights_fingerprint(config, weights);
    for (const ShippedChannels& shipped : kShippedChannels)
      if (shipped.fingerprint == fingerprint)
        return parse_channels(shipped.text, fmt::format("channels shipped for {}", shipped.name), shape_of(config),
                              fingerprint, Exit::internal);
  }
  return std::nullopt;
}

std::vector<std::string> shipped_channels() {
  std::vector<std::string> names;
  for (const ShippedChannels& shipped : kShippedChannels) names.emplace_back(shipped.name);
  return names;
}

}  // namespace longhaul
