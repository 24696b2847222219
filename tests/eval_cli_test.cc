// `longhaul eval` as a user meets it: tables on a small trained model, going on after an interruption, refusals.
#include <nlohmann/json.hpp>

#include "paths.h"
#include "tests/support/command.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using namespace test;

const std::string kModel = "--model " LONGHAUL_SOURCE_DIR "/apps/demo/demo-7m ";
const std::string kTexts = "--texts " LONGHAUL_SOURCE_DIR "/apps/demo/documents ";
const std::string kEval = "eval --log-level warn " + kModel;

/// Cells of the table's row that begins with these.
std::vector<std::string> row_of(const std::string& table, const std::string& task, const std::string& policy) {
  std::istringstream lines(table);
  for (std::string line; std::getline(lines, line);) {
    std::vector<std::string> cells;
    std::istringstream parts(line);
    for (std::string cell; std::getline(parts, cell, '|');)
      cells.push_back(cell.size() > 2 ? cell.substr(1, cell.size() - 2) : cell);
    if (cells.size() > 11 && cells[1] == task && cells[3] == policy) return cells;
  }
  return std::vector<std::string>(12);
}

TEST_CASE("eval: the small model finds needles densely, and a window loses them") {
  ScratchDir dir;
  const Outcome outcome =
      run_command(dir, kEval + kTexts +
                           "--task needle,lines,digest --lengths 1K --documents 2 --questions 5 --policies "
                           "streaming-llm,offload --shares 256 -o out.jsonl");
  REQUIRE(outcome.exit == 0);
  // Nothing but how far it is, where it takes longer than five seconds.
  CHECK(outcome.err.find("warning") == std::string::npos);
  CHECK(outcome.err.find("error") == std::string::npos);
  for (const char* task : {"needle", "lines", "digest"}) {
    INFO(task);
    const double dense = std::stod(row_of(outcome.out, task, "dense")[7]);
    const double window = std::stod(row_of(outcome.out, task, "streaming-llm")[7]);
    const double labels = std::stod(row_of(outcome.out, task, "offload")[7]);
    CHECK(dense >= 0.9);
    CHECK(window <= dense - 0.3);
    CHECK(labels > window);
  }
  CHECK(row_of(outcome.out, "needle", "dense")[10] == "10");
  std::istringstream lines(text_of(dir.path() / "out.jsonl"));
  std::size_t records = 0;
  for (std::string line; std::getline(lines, line); ++records) CHECK(nlohmann::json::parse(line).is_object());
  CHECK(records > 1 + 3 * (10 + 10));
}

TEST_CASE("eval: with a budget of every row selection changes nothing") {
  ScratchDir dir;
  const Outcome outcome = run_command(dir, kEval + kTexts +
                                               "--task perplexity --lengths 1K --tail 128 --documents 2 --policies "
                                               "sparse-resident --shares 1 --stats -o out.jsonl");
  REQUIRE(outcome.exit == 0);
  const std::vector<std::string> dense = row_of(outcome.out, "perplexity", "dense");
  const std::vector<std::string> labels = row_of(outcome.out, "perplexity", "sparse-resident");
  CHECK(labels[7] == dense[7]);
  CHECK(labels[9] == "1.0000 (1.0000 to 1.0000)");
  CHECK(labels[10] == "256 tokens");
  CHECK(std::stod(dense[7]) > 5);
  CHECK(std::stod(dense[7]) < 60);
}

TEST_CASE("eval: types of rows are policies beside each other, dense ones too") {
  ScratchDir dir;
  const Outcome outcome =
      run_command(dir, kEval + kTexts +
                           "--task perplexity --lengths 1K --tail 64 --documents 2 --policies "
                           "dense,sparse-resident --shares 128 --kv-dtype bf16,int8,int4 -o o.jsonl");
  REQUIRE(outcome.exit == 0);
  const double dense = std::stod(row_of(outcome.out, "perplexity", "dense")[7]);
  for (const char* policy : {"dense, int8 rows", "dense, int4 rows", "sparse-resident", "sparse-resident, int8 rows",
                             "sparse-resident, int4 rows"}) {
    const std::vector<std::string> row = row_of(outcome.out, "perplexity", policy);
    CAPTURE(policy, row[7]);
    CHECK(std::stod(row[7]) != dense);
    CHECK(std::abs(std::stod(row[7]) / dense - 1) < 0.2);
  }
  CHECK(std::abs(std::stod(row_of(outcome.out, "perplexity", "dense, int8 rows")[7]) / dense - 1) < 0.01);
  CHECK(std::count(outcome.out.begin(), outcome.out.end(), '\n') == 2 + 6);
}

TEST_CASE("eval: an interrupted evaluation goes on, and other settings are refused") {
  ScratchDir dir;
  const std::string arguments =
      kEval + kTexts + "--task perplexity --lengths 1K --tail 64 --documents 3 --policies streaming-llm --seed 3 ";
  const Outcome whole = run_command(dir, arguments + "-o out.jsonl");
  REQUIRE(whole.exit == 0);
  const std::string records = text_of(dir.path() / "out.jsonl");
  for (const double share : {0.95, 0.6, 0.3}) {
    INFO(share);
    fs::resize_file(dir.path() / "out.jsonl", static_cast<std::uintmax_t>(share * static_cast<double>(records.size())));
    const Outcome again = run_command(dir, arguments + "-o out.jsonl");
    CHECK(again.exit == 0);
    CHECK(again.out == whole.out);
    CHECK(text_of(dir.path() / "out.jsonl").size() == records.size());
  }
  CHECK(run_command(dir, arguments + "-o out.jsonl").out == whole.out);
  check_refused(dir, arguments + "--questions 3 -o out.jsonl", 2, "made with questions = null, not 3");
  check_refused(
      dir,
      kEval + kTexts + "--task perplexity --lengths 1K --tail 64 --documents 3 --policies h2o --seed 3 -o out.jsonl", 2,
      "--output out.jsonl: was made with");
}

TEST_CASE("eval: mistakes are one line") {
  ScratchDir dir;
  dir.write("short.txt", "A few words only.\n");
  dir.write("bad.jsonl", "{\"prompt\": 1}\n");
  dir.write("bad_test.csv", "a,b\n");
  const std::string needle = kEval + kTexts + "--lengths 1K -o out.jsonl ";
  check_refused(dir, needle, 2, "--task is required");
  check_refused(dir, needle + "--task riddles", 2, "known: perplexity, needle");
  check_refused(dir, "eval --task needle -o o.jsonl", 2, "--model is required");
  check_refused(dir, kEval + "--task needle --lengths 1K -o out.jsonl", 2, "--texts is required for needle");
  check_refused(dir, kEval + kTexts + "--task needle -o out.jsonl", 2, "--lengths is required for needle");
  check_refused(dir, kEval + kTexts + "--task needle --lengths 1K", 2, "--output is required");
  check_refused(dir, needle + "--task needle --lengths 64K", 2, "--lengths");
  check_refused(dir, needle + "--task needle --shares 0", 2, "--shares '0'");
  check_refused(dir, needle + "--task needle --questions 0", 2, "--questions");
  check_refused(dir, needle + "--task needle --documents 0", 2, "--documents '0'");
  check_refused(dir, needle + "--task needle --policies fast", 2, "policy 'fast'");
  check_refused(dir, needle + "--task needle --set share=1", 2, "expected policy.KEY=VALUE");
  check_refused(dir, needle + "--task needle --set policy.speed=1", 2, "speed");
  check_refused(dir, needle + "--task needle --set policy.rows=40000", 2, "more than the model's context");
  check_refused(dir, needle + "--task needle --label-dims 65", 2, "more than the model's head_dim");
  check_refused(dir, needle + "--task needle --kv-dtype int8,int3", 2, "int3");
  check_refused(dir, needle + "--task needle --label-dims 0", 2, "--label-dims '0'");
  check_refused(dir, kEval + "--task perplexity --lengths 2K --texts short.txt -o out.jsonl", 2,
                "no text has the 2048");
  check_refused(dir, kEval + "--task perplexity --lengths 2K --texts absent -o out.jsonl", 5, "absent: no such file");
  check_refused(dir, kEval + "--task mmlu -o out.jsonl", 2, "--data is required for mmlu");
  check_refused(dir, kEval + "--task mmlu --data . -o out.jsonl", 5, "bad_");
  check_refused(dir, kEval + "--task lines --data bad.jsonl -o out.jsonl", 5, "bad.jsonl:1: the key \"prompt\"");
  check_refused(dir, kEval + "--task longbench --data . -o out.jsonl", 5, "dataset2prompt.json");
  CHECK_FALSE(fs::exists(dir.path() / "out.jsonl"));
}

}  // namespace
}  // namespace longhaul
