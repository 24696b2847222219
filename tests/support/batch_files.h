// What batches are given in tests, and what they leave: documents and records.
#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/scratch_dir.h"

namespace longhaul::test {

inline std::string document(const std::string& title, int sentences) {
  std::string text = title + "\nby A. Writer\n\n";
  for (int i = 0; i < sentences; ++i) text += "The road went over the hill and down to the river again. ";
  return text + "\n\nNote: the copper lantern is kept under the stairs.\n\n";
}

/// The JSON of each line of a text.
inline std::vector<nlohmann::json> json_lines(const std::string& text) {
  std::istringstream in(text);
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

/// The records of a file, without when they were made.
inline std::vector<nlohmann::json> records(const std::filesystem::path& file) {
  std::vector<nlohmann::json> records = json_lines(text_of(file));
  for (nlohmann::json& record : records)
    if (!record["response"].is_null()) record["response"]["body"].erase("created");
  return records;
}

}  // namespace longhaul::test
