// The results file: a line with the settings, then groups of lines, one group for each variant and document. A group is
// written whole and is on disk when append() returns; what an interrupted run left of one is cut off.
#pragma once
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "apps/eval/document.h"
#include "kernels/base/file.h"

namespace longhaul::eval {

/// A variant's answers to one document.
struct Group {
  std::vector<Item> items;
  double attended = 1;   // share of rows
  nlohmann::json steps;  // StepStats::to_json(), or null
};

class Records {
 public:
  using Json = nlohmann::ordered_json;
  /// Opens or makes FILE. Throws UserError{usage} when it holds anything else than these settings' records, naming the
  /// first setting that differs; UserError{io} when it cannot be read or written; UserError{locked} while another job
  /// writes it.
  Records(const std::string& file, const Json& settings);
  Records(Records&&) = delete;

  /// `cell`: a key of task, length and variant. Null: not there yet.
  const Group* find(const std::string& cell, std::int64_t document) const;
  /// `labels`: what people read about the cell, put before each item.
  void append(const std::string& cell, std::int64_t document, const Json& labels, Group group);
  /// Groups that were there when the file was opened.
  std::int64_t resumed() const { return resumed_; }

 private:
  void read(const Json& settings);
  void write(const std::string& text);

  std::string file_;
  Fd fd_;
  std::int64_t size_ = 0, resumed_ = 0;
  std::map<std::pair<std::string, std::int64_t>, Group> groups_;
};

}  // namespace longhaul::eval
