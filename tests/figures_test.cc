#include "bench/figures.h"

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>

#include "bench/bounds.h"
#include "kernels/base/error.h"
#include "kernels/base/file.h"
#include "tests/support/catch.h"
#include "tests/support/scratch_dir.h"

using namespace longhaul;
using namespace longhaul::bench;

namespace {

std::vector<nlohmann::json> lines_of(const std::string& file) {
  std::vector<nlohmann::json> lines;
  std::istringstream text(read_file(file));
  for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

}  // namespace

TEST_CASE("a figure is one line of its device's file, and the newest counts") {
  const test::ScratchDir dir;
  const std::string folder = (dir.path() / "results").string();
  Figures::Origin origin{"bench_cuda_figures --figures a", "abc123",
                         "NVIDIA H200 (139.80 GiB, compute capability 9.0)"};
  {
    Figures figures(folder, origin, {});
    figures.add(figure("a", 3, "GB/s", 4, "first"));
    figures.add(figure("b", 1, "x", 2, "other"));
    CHECK(figures.file() == folder + "/h200.jsonl");
  }
  origin.commit = "def456";
  Figures later(folder, origin, {"a", "c"});
  CHECK(later.wants("a"));
  CHECK_FALSE(later.wants("b"));
  CHECK(later.wants_any({"b", "c"}));
  later.add(figure("a", 8, "GB/s", 4, "second"));
  later.add(figure("b", 9, "x", 2, "not wanted"));
  const auto lines = lines_of(later.file());
  REQUIRE(lines.size() == 2);
  CHECK(lines[0] == nlohmann::json{{"name", "a"},
                                   {"value", 8.0},
                                   {"unit", "GB/s"},
                                   {"bound", 4.0},
                                   {"ratio", 2.0},
                                   {"setting", "second"},
                                   {"command", origin.command},
                                   {"commit", "def456"},
                                   {"device", origin.device}});
  CHECK(lines[1]["value"] == 1.0);
  CHECK(lines[1]["commit"] == "abc123");
  CHECK(later.missing() == std::vector<std::string>{"c"});
  CHECK_THROWS_AS(later.add(figure("c", 1, "x", 0, "no bound")), std::logic_error);
  CHECK(lines_of(later.file()).size() == 2);
}

TEST_CASE("a results file that holds something else is not overwritten") {
  const test::ScratchDir dir;
  dir.write("h100.jsonl", "{\"name\":\"a\"}\nnotes\n");
  Figures figures(dir.path().string(), {"", "", "NVIDIA H100 80GB HBM3 (79.18 GiB)"}, {});
  CHECK_THROWS_AS(figures.add(figure("a", 1, "x", 1, "")), UserError);
  CHECK(read_file((dir.path() / "h100.jsonl").string()) == "{\"name\":\"a\"}\nnotes\n");
}

TEST_CASE("results are filed by the device's name") {
  CHECK(results_name("NVIDIA H200 (139.80 GiB)") == "h200");
  CHECK(results_name("NVIDIA H100 PCIe (79.18 GiB)") == "h100");
  CHECK(results_name("CPU (2 threads)") == "cpu");
  CHECK(results_name("NVIDIA GeForce RTX 4090 (23.99 GiB)") == "nvidia-geforce-rtx-4090");
}

TEST_CASE("a figure's command is what a shell reads as the same arguments") {
  const char* const plain[] = {"/root/gpu/bench_cuda_figures", "--sections", "step", "--set", "policy.share=1/16"};
  CHECK(command_line(plain) == "bench_cuda_figures --sections step --set policy.share=1/16");
  const std::vector<std::string> words{
      "27m with 1/16: 0.895 at 128K", "it's", "$HOME `id`", "~/a*", "", "a\\b\"c", "x\ny"};
  std::vector<const char*> arguments{"printf", "%s|"};
  std::string expected;
  for (const std::string& word : words) arguments.push_back(word.c_str()), expected += word + "|";
  const test::ScratchDir dir;
  const std::string out = (dir.path() / "out").string();
  REQUIRE(std::system((command_line(arguments) + " >'" + out + "'").c_str()) == 0);
  CHECK(read_file(out) == expected);
}

TEST_CASE("a step must bring the listed rows that were not on the device, foretold or not") {
  const Peaks peaks{.copy = 1000, .link = 10};
  StepRun run{.times = {.rows = 100, .hits = 60, .staged = 25, .missed = 5, .h2d_bytes = 450},
              .bytes = {.weights = 700, .labels = 100, .attended = 200, .streamed = 40, .listed_rows = 100},
              .row_bytes = 8};
  const StepBound bound = step_bound(run, peaks);
  CHECK(bound.device == 1000);
  CHECK(bound.link == 40 + (25 + 5) * 8);
  CHECK(bound.seconds == 28);
  CHECK(bound.text == "the bound: 1000 bytes of device memory, 280 over the link (450 came)");
  run.times.staged = run.times.missed = 0;
  run.bytes.streamed = 0;
  CHECK(step_bound(run, peaks).seconds == 1);
}
