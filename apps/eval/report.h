// The tables at the end of an evaluation, in Markdown.
#pragma once
#include <string>
#include <vector>

#include "apps/eval/evaluation.h"
#include "apps/eval/task.h"

namespace longhaul::eval {

std::string results_head();
/// A row for each cell, from the records of all `documents`; dense is the first cell.
std::string results_rows(const Task& task, std::int64_t length, const std::vector<Document>& documents,
                         const std::vector<Cell>& cells, const Records& records, std::int64_t seed);
/// What decode steps selected, a table for each cell that has it; empty where none does.
std::string step_tables(const Task& task, std::int64_t length, const std::vector<Document>& documents,
                        const std::vector<Cell>& cells, const Records& records, const ModelConfig& config,
                        DType activations);

/// 4096 as "4K", 5000 as "5000", 0 as "-".
std::string format_length(std::int64_t tokens);

}  // namespace longhaul::eval
