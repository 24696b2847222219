// What a system sets against pinning memory. `root` is where proc/ and sys/ lie; tests bring their own.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>

namespace longhaul {

/// Bytes that this process may lock (RLIMIT_MEMLOCK, the soft limit); none: no limit, or the system does not tell.
std::optional<std::int64_t> memlock_limit(const std::filesystem::path& root = "/");
/// The Windows Subsystem for Linux, where a driver pins about half of the memory.
bool under_wsl(const std::filesystem::path& root = "/");

}  // namespace longhaul
