// config.json files for tests, and what reading them says.
#pragma once
#include <filesystem>
#include <string>

#include "paths.h"
#include "runtime/checkpoint/json_file.h"
#include "runtime/model/model_config.h"
#include "tests/support/catch.h"
#include "tests/support/complaint.h"
#include "tests/support/scratch_dir.h"

namespace longhaul::test {

inline const std::filesystem::path kFamilies = std::filesystem::path(LONGHAUL_SOURCE_DIR) / "tests/data/families";

inline ModelConfig load(const nlohmann::json& config) {
  ScratchDir dir;
  dir.write("config.json", config.dump());
  return load_model_config(dir.path());
}

/// One line with that in it.
inline bool has(const std::string& text, const std::string& part) {
  UNSCOPED_INFO(text);
  return text.find(part) != std::string::npos && text.find('\n') == std::string::npos;
}

}  // namespace longhaul::test
