#include "apps/bench_output.h"

#include <array>
#include <utility>
#include <vector>

#include "kernels/base/error.h"

namespace longhaul {
namespace {

constexpr std::array<std::pair<const char*, BenchFormat>, 5> kFormats{{{"md", BenchFormat::md},
                                                                       {"csv", BenchFormat::csv},
                                                                       {"json", BenchFormat::json},
                                                                       {"jsonl", BenchFormat::jsonl},
                                                                       {"sql", BenchFormat::sql}}};

/// A value as a table or a CSV file has it.
std::string plain(const BenchRow& value) {
  if (value.is_null()) return "";
  if (value.is_string()) return value.get<std::string>();
  return value.dump();
}

/// In `quote`s, those inside doubled.
std::string quoted(const std::string& text, char quote) {
  std::string out(1, quote);
  for (const char c : text) out.append(c == quote ? 2 : 1, c);
  out.push_back(quote);
  return out;
}

std::string joined(const BenchRow& row, const char* between, const auto& cell) {
  std::vector<std::string> cells;
  for (const auto& [key, value] : row.items()) cells.push_back(cell(key, value));
  return fmt::format("{}", fmt::join(cells, between));
}

std::string csv_row(const BenchRow& row) {
  return joined(row, ",", [](const std::string&, const BenchRow& v) { return quoted(plain(v), '"'); });
}

std::string csv_head(const BenchRow& row) {
  return joined(row, ",", [](const std::string& key, const BenchRow&) { return key; });
}

std::string sql_head(const BenchRow& row) {
  auto column = [](const std::string& key, const BenchRow& v) {
    return fmt::format("  {} {}", key, v.is_string() ? "TEXT" : v.is_number_integer() ? "INTEGER" : "REAL");
  };
  return fmt::format("CREATE TABLE IF NOT EXISTS bench (\n{}\n);\n", joined(row, ",\n", column));
}

std::string sql_row(const BenchRow& row) {
  auto name = [](const std::string& key, const BenchRow&) { return key; };
  auto value = [](const std::string&, const BenchRow& v) {
    if (v.is_null()) return std::string("NULL");
    return v.is_string() ? quoted(v.get<std::string>(), '\'') : v.dump();
  };
  return fmt::format("INSERT INTO bench ({}) VALUES ({});\n", joined(row, ", ", name), joined(row, ", ", value));
}

/// What people compare; the other formats have everything.
std::string md_cells(const BenchRow& r) {
  auto number = [&](const char* key, const char* form) {
    const BenchRow& value = r.at(key);
    return value.is_null() ? std::string("-") : fmt::format(fmt::runtime(form), value.get<double>());
  };
  return fmt::format("| {} | {} | {} | {} | {} | {:.2f} ± {:.2f} | {} | {} | {} | {} | {} |\n", plain(r.at("model")),
                     r.at("synthetic").get<std::string>(), plain(r.at("policy")), plain(r.at("batch")),
                     plain(r.at("test")), r.at("avg_ts").get<double>(), r.at("stddev_ts").get<double>(),
                     number("ttft_ms", "{:.1f}"), number("tpot_ms", "{:.2f}"), number("h2d_gibps", "{:.2f}"),
                     number("overlap_pct", "{:.0f}"), number("hit_rate", "{:.3f}"));
}

constexpr const char* kMdHead =
    "| model | synthetic | policy | batch | test | tokens/s | TTFT ms | TPOT ms | link GiB/s | overlap % | hit rate |\n"
    "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";

}  // namespace

BenchFormat bench_format(const std::string& name) {
  for (const auto& [known, format] : kFormats)
    if (name == known) return format;
  throw UserError(Exit::usage, "--output {}: unknown; known: md, csv, json, jsonl, sql", name);
}

std::string BenchOutput::row(const BenchRow& row) {
  const bool first = !std::exchange(begun_, true);
  switch (format_) {
    case BenchFormat::md:
      return fmt::format("{}{}", first ? kMdHead : "", md_cells(row));
    case BenchFormat::csv:
      return first ? fmt::format("{}\n{}\n", csv_head(row), csv_row(row)) : fmt::format("{}\n", csv_row(row));
    case BenchFormat::json:
      return fmt::format("{}  {}", first ? "[\n" : ",\n", row.dump());
    case BenchFormat::jsonl:
      return fmt::format("{}\n", row.dump());
    case BenchFormat::sql:
      return fmt::format("{}{}", first ? sql_head(row) : "", sql_row(row));
  }
  return {};
}

std::string BenchOutput::end() const {
  if (format_ != BenchFormat::json) return {};
  return begun_ ? "\n]\n" : "[]\n";
}

}  // namespace longhaul
