#include "apps/eval/report.h"

#include <cmath>

#include "apps/eval/statistics.h"
#include "apps/eval/step_stats.h"
#include "kernels/base/error.h"
#include "runtime/batch/progress.h"

namespace longhaul::eval {
namespace {

struct Gathered {
  std::vector<Item> items;
  std::vector<HeadSums> steps;
  double attended = 0;
};

Gathered gather(const Cell& cell, std::size_t documents, const Records& records) {
  Gathered all;
  for (std::size_t i = 0; i < documents; ++i) {
    const Group* group = records.find(cell.key, static_cast<std::int64_t>(i));
    check(group != nullptr, "every document has been answered");
    all.items.insert(all.items.end(), group->items.begin(), group->items.end());
    all.attended += group->attended / static_cast<double>(documents);
    if (!group->steps.is_null()) add_json(group->steps, all.steps);
  }
  return all;
}

double attended_of(const Gathered& all) {
  double rows = 0, attended = 0;
  for (const HeadSums& sums : all.steps) {
    rows += sums.rows;
    attended += sums.attended;
  }
  return rows > 0 ? attended / rows : all.attended;
}

std::string interval(double value, const Interval& range, bool sign) {
  if (std::isnan(value)) return "-";
  return sign ? fmt::format("{:+.4f} ({:+.4f} to {:+.4f})", value, range.low, range.high)
              : fmt::format("{:.4f} ({:.4f} to {:.4f})", value, range.low, range.high);
}

}  // namespace

std::string format_length(std::int64_t tokens) {
  if (tokens == 0) return "-";
  return tokens % 1024 == 0 ? fmt::format("{}K", tokens / 1024) : fmt::format("{}", tokens);
}

std::string results_head() {
  return "| task | length | policy | share | labels | dims | score | against dense (95 %) | ratio (95 %) | items | "
         "attended |\n|---|---:|---|---:|---|---:|---:|---:|---:|---:|---:|\n";
}

std::string results_rows(const Task& task, std::int64_t length, const std::vector<Document>& documents,
                         const std::vector<Cell>& cells, const Records& records, std::int64_t seed) {
  std::string rows;
  const Gathered dense = gather(cells[0], documents.size(), records);
  for (const Cell& cell : cells) {
    const Gathered all = gather(cell, documents.size(), records);
    const Variant& v = cell.variant;
    std::string difference = "-", ratio = "-";
    if (&cell != &cells[0]) {
      const Comparison c = compare(dense.items, all.items, task.perplexity, seed);
      difference = interval(c.difference, c.difference_95, true);
      ratio = interval(c.ratio, c.ratio_95, false);
    }
    double weight = 0;  // tokens for perplexity, else items
    for (const Item& item : all.items) weight += item.weight;
    rows += fmt::format("| {} | {} | {} | {} | {} | {} | {:.4f} | {} | {} | {} | {:.4f} |\n", task.name,
                        format_length(length), v.name, v.share, v.labels, v.label_dims,
                        score_of(all.items, task.perplexity), difference, ratio,
                        with_commas(std::llround(weight)) + (task.perplexity ? " tokens" : ""), attended_of(all));
  }
  return rows;
}

std::string step_tables(const Task& task, std::int64_t length, const std::vector<Document>& documents,
                        const std::vector<Cell>& cells, const Records& records, const ModelConfig& config,
                        DType activations) {
  std::string tables;
  for (const Cell& cell : cells) {
    const Gathered all = gather(cell, documents.size(), records);
    if (all.steps.empty()) continue;
    const Variant& v = cell.variant;
    const std::int64_t bytes = row_bytes(v.policy.kv_dtype, config.head_dim, activations);
    tables += fmt::format("\n{} {}: {}, share {}, labels {}, dims {}\n\n{}", task.name, format_length(length), v.name,
                          v.share, v.labels, v.label_dims, step_table(all.steps, config.layers, bytes));
  }
  return tables;
}

}  // namespace longhaul::eval
