#include "kernels/base/pinning_limits.h"

#include <algorithm>
#include <cctype>
#include <fstream>
#include <sstream>
#include <string>

#include "kernels/base/system_file.h"

namespace longhaul {

std::optional<std::int64_t> memlock_limit(const std::filesystem::path& root) {
  constexpr std::string_view kLine = "Max locked memory";
  std::ifstream in(root / "proc/self/limits");
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(kLine)) continue;
    std::istringstream numbers(line.substr(kLine.size()));
    if (std::int64_t soft; numbers >> soft) return soft;
  }
  return std::nullopt;
}

bool under_wsl(const std::filesystem::path& root) {
  std::string release = first_line(root / "proc/sys/kernel/osrelease");
  std::ranges::transform(release, release.begin(), [](unsigned char c) { return std::tolower(c); });
  return release.find("microsoft") != std::string::npos;
}

}  // namespace longhaul
