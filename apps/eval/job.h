// One run of `longhaul eval`: from its flags to documents, cells and tables.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "apps/eval/cell.h"
#include "apps/options.h"

namespace longhaul::eval {

struct EvalOptions : Options {
  EvalOptions() { policy = "dense"; }

  std::vector<std::string> task, lengths, texts, data, set;
  Grid grid{.policies = {"offload"}};
  std::string output, documents, mode = "decode", tail = "1K";
  std::optional<std::int64_t> questions;
  bool stats = false;
};

/// Evaluates and prints the tables. Throws UserError; the results file is made when nothing else can be wrong.
void evaluate(const EvalOptions& options);

}  // namespace longhaul::eval
