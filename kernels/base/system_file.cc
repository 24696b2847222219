#include "kernels/base/system_file.h"

#include <fstream>

namespace longhaul {

std::optional<std::int64_t> number_in(const std::filesystem::path& file, std::string_view key) {
  std::ifstream in(file);
  std::int64_t number;
  for (std::string word; !key.empty() && word != key;)
    if (!(in >> word)) return std::nullopt;
  if (in >> number) return number;
  return std::nullopt;
}

std::string first_line(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

std::string value_in(const std::filesystem::path& file, std::string_view key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(key)) continue;
    const auto colon = line.find_first_not_of(" \t", key.size());
    if (colon == std::string::npos || line[colon] != ':') continue;
    const auto begin = line.find_first_not_of(" \t", colon + 1), end = line.find_last_not_of(" \t\r");
    return begin == std::string::npos ? std::string() : line.substr(begin, end - begin + 1);
  }
  return {};
}

}  // namespace longhaul
