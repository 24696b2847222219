// longhaul bench: what it counts is what moved, and every format says the same; and runs of a geometry.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "apps/bench_output.h"
#include "kernels/base/error.h"
#include "kernels/cpu/cpu_device.h"
#include "paths.h"
#include "runtime/engine/bench_case.h"
#include "runtime/engine/replay.h"
#include "runtime/model/geometry.h"
#include "runtime/plan/step_bytes.h"
#include "tests/support/command.h"

namespace longhaul {
namespace {

using nlohmann::json;
using namespace test;

const std::string kShape =
    "hidden = 32\nlayers = 4\nq_heads = 4\nkv_heads = 2\nhead_dim = 32\nintermediate = 48\nvocab = 64\n"
    "max_position = 1024\n";

/// Records of a CSV text with quoted fields.
std::vector<std::vector<std::string>> parse_csv(const std::string& text) {
  std::vector<std::vector<std::string>> records{{""}};
  bool inside = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"' && inside && i + 1 < text.size() && text[i + 1] == '"') records.back().back() += text[i++];
    else if (text[i] == '"') inside = !inside;
    else if (text[i] == ',' && !inside) records.back().emplace_back();
    else if (text[i] == '\n' && !inside) records.push_back({""});
    else records.back().back() += text[i];
  }
  records.pop_back();
  return records;
}

std::vector<json> parse_lines(const std::string& text) {
  std::istringstream in(text);
  std::vector<json> all;
  for (std::string line; std::getline(in, line);) all.push_back(json::parse(line));
  return all;
}

std::int64_t count(const std::string& text, const std::string& what) {
  std::int64_t found = 0;
  for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++found;
  return found;
}

TEST_CASE("bench: every format reads back", "[bench]") {
  const BenchRow rows[] = {{{"name", "a \"b\", c"}, {"count", 3}, {"rate", 0.1}, {"none", nullptr}},
                           {{"name", "it's | this\n"}, {"count", -7}, {"rate", 2e-9}, {"none", 1.5}}};
  auto print = [&](const char* format) {
    BenchOutput output(bench_format(format));
    std::string text;
    for (const BenchRow& row : rows) text += output.row(row);
    return text + output.end();
  };
  const json array = json::parse(print("json"));
  const auto lines = parse_lines(print("jsonl"));
  const auto csv = parse_csv(print("csv"));
  REQUIRE(array.size() == 2);
  REQUIRE(lines.size() == 2);
  REQUIRE(csv.size() == 3);
  CHECK(csv[0] == std::vector<std::string>{"name", "count", "rate", "none"});
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(array[i] == json(rows[i]));
    CHECK(lines[i] == json(rows[i]));
    CHECK(csv[i + 1][0] == rows[i].at("name").get<std::string>());
    CHECK(std::stoll(csv[i + 1][1]) == rows[i].at("count").get<std::int64_t>());
    CHECK(std::stod(csv[i + 1][2]) == rows[i].at("rate").get<double>());
  }
  CHECK(csv[1][3].empty());
  CHECK(std::stod(csv[2][3]) == 1.5);
  const std::string sql = print("sql");
  CHECK_THAT(sql, contains("name TEXT") && contains("count INTEGER") && contains("rate REAL") &&
                      contains("INSERT INTO bench (name, count, rate, none) VALUES ('a \"b\", c', 3, 0.1, NULL);") &&
                      contains("'it''s | this\n'"));
  CHECK(count(sql, "CREATE TABLE") == 1);
  CHECK(json::parse(BenchOutput(BenchFormat::json).end()).empty());
  CHECK_THROWS_AS(bench_format("xml"), UserError);
}

TEST_CASE("bench: labels, means and deviations", "[bench]") {
  CHECK(BenchCase{.prompt = 512}.label() == "pp512");
  CHECK(BenchCase{.generated = 128}.label() == "tg128");
  CHECK(BenchCase{.generated = 128, .depth = 262144}.label() == "tg128 @ d262144");
  BenchResult result;
  result.tokens_per_second = {2, 4, 9};
  CHECK(result.mean() == 5);
  CHECK(result.deviation() == Approx(std::sqrt(13.0)));
  result.tokens_per_second = {2};
  CHECK(result.deviation() == 0);
}

struct Measured {
  BenchResult result;
  EngineOptions options;
};

Measured measure(const std::string& policy, const std::vector<std::string>& sets, const BenchCase& what,
                 std::int64_t sessions, std::shared_ptr<const Replay> replay = nullptr, double link = 0) {
  ModelConfig config = parse_geometry(kShape, "tiny").config;
  EngineOptions options{.policy = load_policy(policy, sets),
                        .max_len = what.rows(),
                        .max_sessions = sessions,
                        .prefill_chunk = 96,
                        .replay = std::move(replay)};
  const auto device = make_cpu_device({.link_bytes_per_second = link});
  Engine engine(*device, config, options);
  return {run_case(engine, what, 2), options};
}

TEST_CASE("bench: what it counts over the link is what a step streams", "[bench]") {
  const BenchCase what{.generated = 5, .depth = 600};
  const auto [result, options] = measure("stream", {"resident=0.0"}, what, 2);
  const ModelConfig config = parse_geometry(kShape, "tiny").config;
  std::int64_t streamed = 0;
  for (std::int64_t step = 0; step < 5; ++step) streamed += step_bytes(config, options, 600 + step + 1).streamed;
  CAPTURE(result.h2d_bytes, streamed);
  CHECK(result.h2d_bytes >= streamed);
  CHECK(result.h2d_bytes < streamed + 5 * 1024);  // tokens, positions, spans
  CHECK(result.tokens_per_second.size() == 2);
  CHECK_FALSE(result.ttft_ms);
  CHECK(result.tpot_ms.value() > 0);
  CHECK(result.itl_p50_ms.value() <= result.itl_p99_ms.value());
  CHECK_FALSE(result.hit_rate);
  CHECK(result.kv_host_bytes > 2 * 600 * 4 * 2 * 128 * 3 / 4);
  CHECK(result.peak_device_bytes > result.kv_device_bytes);
}

TEST_CASE("bench: a slow link is told as stalls", "[bench]") {
  const auto [result, options] = measure("stream", {"resident=0.0"}, {.generated = 3, .depth = 600}, 1, nullptr, 2e7);
  CHECK(result.stall_ms.value() > 3 * 5);  // 0.6 MB a step at 20 MB/s
  CHECK(result.overlap_pct.value() >= 0);
  CHECK(result.overlap_pct.value() < 90);
}

TEST_CASE("bench: the hit rate is of rows that stayed", "[bench]") {
  const std::vector<std::string> sets{"rows=48", "window=8", "label_dims=8"};
  const BenchCase what{.generated = 12, .depth = 600};
  // Rows that never come again: only sinks and window, 12 of 48, and what the first 64 rows add, are here.
  const auto never = measure("offload", sets, what, 1, no_reuse(1)).result;
  CHECK(never.hit_rate.value() >= 12.0 / 48);
  CHECK(never.hit_rate.value() < 0.5);
  // Every row resident: nothing is looked up.
  EngineOptions all{.policy = load_policy("sparse-resident", sets), .max_len = what.rows(), .resident = 1};
  const auto device = make_cpu_device();
  Engine engine(*device, parse_geometry(kShape, "tiny").config, all);
  CHECK(run_case(engine, what, 1).h2d_bytes < 12 * 1024);
}

TEST_CASE("bench: a prefill has a time to its first token", "[bench]") {
  const auto [result, options] = measure("offload", {}, {.prompt = 200}, 2);
  CHECK(result.ttft_ms.value() > 0);
  CHECK_FALSE(result.tpot_ms);
  // Both sessions count, one after the other.
  CHECK(result.mean() == Approx(200 / (result.ttft_ms.value() * 1e-3)).epsilon(0.5));
}

TEST_CASE("bench: of a geometry every line says synthetic", "[bench]") {
  const ScratchDir dir;
  dir.write("g.toml", kShape);
  const std::string bench =
      "bench --log-level warn --profile none --device cpu --geometry g.toml -p 64,100 -d 0,2K -r 2 "
      "--policies offload,stream --batch-size 2 --gpu-memory 64MiB --host-memory 1GiB ";
  const auto rows = parse_lines(run_command(dir, bench + "-n 4 -o jsonl").out);
  REQUIRE(rows.size() == 8);
  for (std::size_t i = 0; i < 8; ++i) {
    const char* labels[] = {"pp64", "pp100", "tg4", "tg4 @ d2048"};
    CHECK(rows[i].at("test") == labels[i % 4]);
    CHECK(rows[i].at("policy") == (i < 4 ? "offload" : "stream"));
    CHECK(rows[i].at("synthetic") == "synthetic weights");
    CHECK(rows[i].at("batch") == 2);
    CHECK(rows[i].at("avg_ts") > 0);
    CHECK(rows[i].at("ttft_ms").is_null() == (i % 4 >= 2));
    CHECK(rows[i].at("link_peak_gibps") > 0);
  }
  const Outcome table = run_command(dir, bench + "--n-gen 0");
  CHECK(table.exit == 0);
  CHECK(table.err.empty());
  CHECK(count(table.out, "\n") == 6);
  CHECK(count(table.out, "synthetic weights") == 4);
  std::istringstream lines(table.out);
  for (std::string line; std::getline(lines, line);) CHECK(count(line, "|") == 12);
}

TEST_CASE("bench: of a model, and under a trace", "[bench]") {
  const ScratchDir dir;
  dir.write("g.toml", kShape);
  const std::string model =
      "--log-level off --profile none --device cpu --model " LONGHAUL_SOURCE_DIR "/apps/demo/demo-7m ";
  const json rows = json::parse(run_command(dir, "bench -o json -p 64 -n 2 -d 600 -r 1 " + model).out);
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].at("synthetic") == "synthetic prompt");
  CHECK(rows[1].at("synthetic") == "synthetic rows");
  CHECK(rows[1].at("model") == "demo-7m");

  const std::string shape = "--log-level off --profile none --device cpu --geometry g.toml --set policy.rows=64 ";
  CHECK(run_command(dir, "run --prompt-tokens 600 --max-tokens 20 --record-trace t --set policy.resident=0.0 " + shape)
            .exit == 0);
  const std::string replayed = "bench -o json -p 0 -n 4 -d 600 -r 1 --set policy.resident=0.0 --trace t " + shape;
  CHECK(json::parse(run_command(dir, replayed).out)[0].at("replay") == "t");
  check_refused(dir, replayed + "--set policy.rows=128", 2, "the policy selects 128");
}

TEST_CASE("bench: mistakes are one line, before anything is measured", "[bench]") {
  const ScratchDir dir;
  dir.write("g.toml", kShape);
  const std::string bench = "bench --log-level off --profile none --device cpu ", shape = bench + "--geometry g.toml ";
  check_refused(dir, bench, 2, "--model is required");
  check_refused(dir, shape + "-o xml", 2, "--output xml: unknown; known: md");
  check_refused(dir, shape + "-p 0 -n 0", 2, "nothing is measured");
  check_refused(dir, shape + "-p many", 2, "--n-prompt: 'many'");
  check_refused(dir, shape + "-d 1.5", 2, "--n-depth: '1.5'");
  check_refused(dir, shape + "-r 0", 2, "-r");
  check_refused(dir, shape + "--policies offload,fast", 2, "policy 'fast'");
  check_refused(dir, shape + "--recall 2", 2, "--recall");
  check_refused(dir, shape + "--trace absent -d 600", 5, "absent");
  check_refused(dir, shape + "-d 64K --policies offload,dense --gpu-memory 60MiB --host-memory 1GiB", 4, "'dense'");
  check_refused(dir, shape + "-d 2K --batch-size 64 --gpu-memory 16MiB --host-memory 1GiB --policies dense", 4,
                "of 64 sessions only");
  check_refused(dir, bench + "--model " LONGHAUL_SOURCE_DIR "/apps/demo/demo-7m -d 64K", 2,
                "the model's context is 32768");
}

TEST_CASE("run: a geometry answers with tokens, the same for the same seed", "[bench]") {
  const ScratchDir dir;
  dir.write("g.toml", kShape);
  const std::string run = "run --log-level off --profile none --device cpu --geometry g.toml --max-tokens 6 ";
  const Outcome first = run_command(dir, run + "--prompt-tokens 2K");
  CHECK(first.exit == 0);
  CHECK(first.out.starts_with("synthetic g: "));
  CHECK(count(first.out, " ") == 7);
  CHECK(run_command(dir, run + "--prompt-tokens 2K").out == first.out);
  CHECK(run_command(dir, run + "--prompt-tokens 2K --seed 1").out != first.out);
  check_refused(dir, run + "--prompt hello", 2, "give --prompt-tokens");
  check_refused(dir, run + "--model m", 2, "give one of them");
  check_refused(dir, run + "--prompt-tokens 2K --gpu-memory 1MiB", 4, "--gpu-memory");
  check_refused(dir, "run --prompt-tokens 8 --prompt x --model " LONGHAUL_SOURCE_DIR "/apps/demo/demo-7m", 2,
                "--prompt-tokens is of --geometry");
}

}  // namespace
}  // namespace longhaul
