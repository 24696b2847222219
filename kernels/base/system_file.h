// The small files of proc/ and sys/, as the kernel writes them. What is absent or is not what is looked for is no
// error.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace longhaul {

/// The number after the word `key`, or the first word where `key` is empty; none for another word or a missing file.
std::optional<std::int64_t> number_in(const std::filesystem::path& file, std::string_view key = {});
/// The first line, without its end; empty for a missing file.
std::string first_line(const std::filesystem::path& file);
/// What follows `key` and a colon in the first line that begins so, without blanks around it; empty where there is
/// none.
std::string value_in(const std::filesystem::path& file, std::string_view key);

}  // namespace longhaul
