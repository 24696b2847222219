// Law 13, and the rules of style a reader can hold the project to: folders are layers, CUDA stays in kernels/cuda,
// files stay short, every launch goes through the wrapper. tests/CMakeLists.txt compiles each header alone.
#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "paths.h"
#include "tests/support/catch.h"

namespace {

namespace fs = std::filesystem;
constexpr std::array<std::string_view, 4> kLayers{"apps", "runtime", "offload", "kernels"};  // arrows point right
const std::string kLaunch(3, '<');                                                           // not in this file either
const std::string kTestCase = "TEST_CASE(\"";

std::optional<std::size_t> layer_of(std::string_view path) {
  auto found = std::find(kLayers.begin(), kLayers.end(), path.substr(0, path.find('/')));
  if (found == kLayers.end()) return std::nullopt;
  return found - kLayers.begin();
}

bool starts_with_any(std::string_view text, std::initializer_list<std::string_view> starts) {
  return std::any_of(starts.begin(), starts.end(), [&](std::string_view s) { return text.starts_with(s); });
}

/// The quote and the name of the include that `line` holds; empty when there is none.
std::pair<char, std::string> include_in(const std::string& line) {
  auto at = line.find_first_not_of(" \t");
  if (at == line.npos || line[at] != '#') return {};
  at = line.find_first_not_of(" \t", at + 1);
  if (at == line.npos || line.compare(at, 7, "include") != 0) return {};
  auto begin = line.find_first_of("<\"", at), end = line.find_first_of(">\"", begin + 1);
  if (begin == line.npos || end == line.npos) return {};
  return {line[begin], line.substr(begin + 1, end - begin - 1)};
}

/// What is wrong with the file at `path` (relative to the project) that holds `text`.
std::vector<std::string> faults(const std::string& path, const std::string& text) {
  std::vector<std::string> found;
  auto layer = layer_of(path);
  bool cuda = path.starts_with("kernels/cuda/");
  std::istringstream lines(text);
  std::int64_t count = 0;
  for (std::string line; std::getline(lines, line);) {
    ++count;
    auto fault = [&](const std::string& what) { found.push_back(path + ":" + std::to_string(count) + ": " + what); };
    if (line.find(kLaunch) != std::string::npos && !path.starts_with("kernels/cuda/launch."))
      fault("a launch outside of the wrapper");
    // CTest keeps names in lists: such a name would be cut, and its pieces would pass by matching no test.
    if (auto at = line.find(kTestCase); at != line.npos) {
      at += kTestCase.size();
      if (line.substr(at, line.find('"', at) - at).find_first_of("[];") != line.npos)
        fault("a test name with [, ] or ;");
    }
    auto [quote, included] = include_in(line);
    if (!cuda && starts_with_any(included, {"cuda", "cublas", "cub/", "thrust/", "cooperative_groups", "cutlass/",
                                            "cute/", "nccl", "nvtx", "mma.h", "driver_types.h", "vector_types.h"}))
      fault("a CUDA header outside of kernels/cuda: " + included);
    if (quote != '"' || !layer) continue;
    auto target = layer_of(included);
    if (!target) fault("not a path from the project's root: " + included);
    else if (*target < *layer) fault("an include that points left: " + included);
    if (path.starts_with("kernels/base/") && target && !included.starts_with("kernels/base/"))
      fault("base/ stands on nothing: " + included);
  }
  if (count > 400) found.push_back(path + ": " + std::to_string(count) + " lines");
  return found;
}

}  // namespace

TEST_CASE("every source file keeps to its layer", "[layering]") {
  const fs::path root = LONGHAUL_SOURCE_DIR;
  std::size_t files = 0;
  for (const char* folder : {"apps", "runtime", "offload", "kernels", "tests", "bench"}) {
    if (!fs::exists(root / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      std::string extension = entry.path().extension().string();
      if (extension != ".h" && extension != ".cc" && extension != ".cu" && extension != ".cuh") continue;
      std::ostringstream text;
      text << std::ifstream(entry.path()).rdbuf();
      for (const auto& fault : faults(fs::relative(entry.path(), root).generic_string(), text.str())) FAIL_CHECK(fault);
      ++files;
    }
  }
  CHECK(files > 20);
}

TEST_CASE("the layering rules see what they are for", "[layering]") {
  CHECK(faults("runtime/a.h", "#include \"offload/b.h\"\n#include <vector>\n").empty());
  CHECK(faults("tests/a.cc", "#include \"apps/b.h\"\n").empty());
  CHECK(faults("kernels/cuda/a.cu", "#include <cuda_runtime.h>\n").empty());

  CHECK(faults("offload/a.cc", "#include \"runtime/b.h\"\n").size() == 1);
  CHECK(faults("kernels/a.cc", "  # include \"offload/b.h\"\n").size() == 1);
  CHECK(faults("kernels/a.cc", "#include \"device.h\"\n").size() == 1);
  CHECK(faults("kernels/base/a.cc", "#include \"kernels/device.h\"\n").size() == 1);
  CHECK(faults("kernels/device.cc", "#include <cuda_runtime.h>\n").size() == 1);
  CHECK(faults("tests/a.cc", "#include <cuda/std/span>\n").size() == 1);
  CHECK(faults("kernels/cuda/a.cu", "  f" + kLaunch + "1, 1>>>(x);\n").size() == 1);
  CHECK(faults("tests/a.cc", kTestCase + "a; b\") {\n").size() == 1);
  CHECK(faults("runtime/a.cc", std::string(400, '\n')).empty());
  CHECK(faults("runtime/a.cc", std::string(401, '\n')).size() == 1);
}
