// What decode steps selected, summed over the steps of one document: how much attention the selection kept, how well
// the next layer was foretold, and what a resident set of some sizes would have saved.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/engine/engine.h"

namespace longhaul::eval {

/// Exact LRU over row numbers: who is kept when each step uses a set of rows.
class LruRows {
 public:
  LruRows(std::int64_t rows, std::int64_t slots);
  /// Forgets everything; `slots` stays.
  void clear();
  bool holds(std::int32_t row) const { return held_[static_cast<std::size_t>(row)]; }
  /// Marks a row as used now and keeps it, in place of the one used least recently.
  void use(std::int32_t row);

 private:
  void unlink(std::int32_t row);
  void push_front(std::int32_t row);

  std::int64_t slots_, size_ = 0;
  std::vector<std::int32_t> older_, newer_;  // a ring of the held rows through the sentinel at the end
  std::vector<bool> held_;
};

struct HeadSums {
  double steps = 0, mass = 0, best = 0, recall = 0;                      // of selections
  double predicted_steps = 0, predicted_mass = 0, predicted_recall = 0;  // of look-ahead
  double cosine_steps = 0, cosine = 0;
  double attended = 0, rows = 0;  // rows attended, and there
  double reusable = 0;            // attended rows that are neither sinks nor recent
  double hits[3] = {0, 0, 0};     // of these, held by a resident set of k, 2k and 4k rows
};

class StepStats {
 public:
  static constexpr int kMultiples[3] = {1, 2, 4};

  /// `max_len`: most rows of the session.
  StepStats(const ModelConfig& config, const KvPolicy& policy, std::int64_t max_len);
  /// Another question: what was resident does not count for it.
  void restart();
  /// Adds what session `index` of the step selected, which has `rows` rows, the new one included.
  void add(const StepProbe& probe, std::int64_t index, std::int64_t rows);

  /// [layers][kv heads] of every sum.
  nlohmann::ordered_json to_json() const;
  const std::vector<HeadSums>& sums() const { return sums_; }

 private:
  std::int64_t layers_, kv_heads_, sinks_, recent_;
  std::vector<HeadSums> sums_;  // [layers, kv_heads]
  std::vector<LruRows> lru_;    // [layers, kv_heads, 3]
};

/// The sums of several documents' records. Throws UserError{usage} for a record of another shape.
void add_json(const nlohmann::json& record, std::vector<HeadSums>& sums);

/// A Markdown table by layer, and the mean over the layers from the third, which can be foretold. `row_bytes`: of K and
/// V.
std::string step_table(const std::vector<HeadSums>& sums, std::int64_t layers, std::int64_t row_bytes);

}  // namespace longhaul::eval
