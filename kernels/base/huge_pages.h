// Whether the system gives huge pages to memory that asks for them.
#pragma once
#include <filesystem>
#include <string>

namespace longhaul {

/// transparent_hugepage: "always", "madvise" or "never"; empty where the system does not tell. `root` is where sys/
/// lies.
std::string huge_page_mode(const std::filesystem::path& root = "/");

}  // namespace longhaul
