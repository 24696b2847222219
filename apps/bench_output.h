// The lines of longhaul bench in the formats that other tools read: md, csv, json, jsonl, sql.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "runtime/engine/bench_case.h"

namespace longhaul {

/// A result with all that it depends on, in columns; null where a figure does not apply.
using BenchRow = nlohmann::ordered_json;

enum class BenchFormat { md, csv, json, jsonl, sql };
/// Throws UserError{usage} for an unknown name.
BenchFormat bench_format(const std::string& name);

/// Text for stdout: before the first row, for each row as it comes, after the last. All rows have the same columns.
class BenchOutput {
 public:
  explicit BenchOutput(BenchFormat format) : format_(format) {}
  std::string row(const BenchRow& row);
  std::string end() const;

 private:
  BenchFormat format_;
  bool begun_ = false;
};

}  // namespace longhaul
