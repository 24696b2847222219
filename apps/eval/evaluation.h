// Runs one task at one length: each document is prefilled once by a dense engine, then every variant's engine adopts it
// and answers its questions.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "apps/eval/cell.h"
#include "apps/eval/document.h"
#include "apps/eval/progress.h"
#include "apps/eval/records.h"
#include "runtime/checkpoint/model_files.h"
#include "runtime/engine/engine.h"

namespace longhaul::eval {

/// One column of the grid at one task and length.
struct Cell {
  Variant variant;
  std::shared_ptr<const LabelBases> bases;  // where its labels come from a file
  std::string key;                          // in the records
  Records::Json labels;                     // likewise, for people
};

struct Evaluation {
  const ModelFiles& model;
  Device& device;
  Budget budget;
  EngineOptions engine;  // activations and prefill chunk
  bool steps;            // record what decode steps selected
  Records& records;
  EvalProgress& progress;

  /// Answers what the records lack. The first cell is the dense one. Throws UserError{plan_does_not_fit}.
  void run(const std::vector<Document>& documents, const std::vector<Cell>& cells) const;

 private:
  struct Batch;
  EngineOptions options_of(const Cell& cell, std::int64_t max_len, std::int64_t sessions) const;
  EngineOptions dense_options(const std::vector<Cell>& cells, std::int64_t max_len, std::int64_t sessions) const;
  std::int64_t sessions_that_fit(const std::vector<Cell>& cells, std::int64_t max_len, std::int64_t wanted) const;
  void run_cell(const Batch& batch, const Cell& cell, Engine* dense) const;
  void answer(const Batch& batch, const Cell& cell, Engine& engine, std::vector<Session>& sessions,
              const std::vector<std::size_t>& pending) const;
};

}  // namespace longhaul::eval
