// Offline calibration: runs whole texts through a model and turns the moments of its keys and queries into a channel
// file.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "runtime/checkpoint/model_files.h"
#include "runtime/engine/engine.h"
#include "runtime/labels/channel_file.h"

namespace longhaul {

inline constexpr std::int64_t kCalibrationTokens = 512;  // in all texts together, at least

struct CalibrationDocument {
  std::string name;
  std::vector<std::int32_t> ids;
};

/// A text as the model reads it, without a chat template; nothing in it makes a special token. At most `most` tokens.
CalibrationDocument calibration_document(const ModelFiles& model, std::string name, const std::string& text,
                                         std::int64_t most);

/// A share in [0, 1] of a document is done; 0 once at its start, 1 once at its end.
using CalibrationReport = std::function<void(const CalibrationDocument& document, double share)>;

/// `engine` runs `model`, attends every row, has probes.moments and room for the longest document, and has prefilled
/// nothing. Throws UserError: io when the texts are too short together, bad_model when a layer's keys or queries are
/// not finite. The same texts give the same file on the same kind of machine.
ChannelFile calibrate(Engine& engine, const ModelFiles& model, const std::vector<CalibrationDocument>& documents,
                      const CalibrationReport& report = {});

/// Throws as calibrate() does for texts that are too short: to be told before a model is loaded.
void check_calibration(const std::vector<CalibrationDocument>& documents);

}  // namespace longhaul
