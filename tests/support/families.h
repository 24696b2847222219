// The golden models of tests/data/families.
#pragma once
#include <filesystem>
#include <string>

#include "paths.h"

namespace longhaul::test {

/// Where they were when this was built; else, on a machine that the programs were carried to, below the current folder.
inline std::filesystem::path family_dir(const std::string& name) {
  const std::filesystem::path below = std::filesystem::path("tests/data/families") / name;
  const std::filesystem::path built = LONGHAUL_SOURCE_DIR / below;
  return std::filesystem::exists(built) ? built : below;
}

}  // namespace longhaul::test
