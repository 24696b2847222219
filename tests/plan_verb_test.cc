// longhaul plan and what is under it: planned is what runs, what is said to fit fits, predictions follow the bytes.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <thread>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/cuda_device.h"
#include "paths.h"
#include "runtime/engine/engine.h"
#include "runtime/model/capacity.h"
#include "runtime/model/geometry.h"
#include "runtime/model/weights.h"
#include "runtime/plan/step_bytes.h"
#include "tests/support/command.h"
#include "tests/support/sanitizer.h"

namespace longhaul {
namespace {

using nlohmann::json;
using namespace test;

constexpr std::int64_t kMiB = std::int64_t{1} << 20;

const std::string kModel = LONGHAUL_SOURCE_DIR "/apps/demo/demo-7m";
/// A shape whose plans are large enough for budgets to matter, and whose runs are quick.
const std::string kTiny =
    "hidden = 64\nlayers = 4\nq_heads = 4\nkv_heads = 2\nhead_dim = 32\nintermediate = 128\nvocab = 256\n"
    "max_position = 8192\n";

ModelConfig tiny() { return parse_geometry(kTiny, "tiny").config; }

EngineOptions wanted(const std::string& policy, std::int64_t rows, std::int64_t sessions = 1) {
  return {.policy = load_policy(policy), .max_len = rows, .max_sessions = sessions};
}

const MachineProfile kMachine{
    .device = "m",
    .link = {.h2d_GBps = 50, .d2h_GBps = 50, .zero_copy_scattered = 8e7},
    .rates = {.copy_GBps = 4000, .product_TFLOPs = 700, .attention_TFLOPs = 600, .pin_GiBps = 20}};

TEST_CASE("what is said to fit fits, and one more does not", "[plan]") {
  const ModelConfig config = tiny();
  const std::string policy = GENERATE("offload", "stream", "dense", "sparse-resident");
  const Budget budget{.device = 12 * kMiB, .host = 24 * kMiB};
  const Capacity found = capacity(config, wanted(policy, 4096), budget, {});
  CAPTURE(policy, found.longest_context, found.largest_batch);
  REQUIRE(found.longest_context >= 4096);
  REQUIRE(found.largest_batch >= 1);
  CHECK(fit_to_budget(config, wanted(policy, found.longest_context), budget).max_sessions == 1);
  CHECK_THROWS_AS(fit_to_budget(config, wanted(policy, found.longest_context + 64), budget), UserError);
  CHECK(fit_to_budget(config, wanted(policy, 4096, 64), budget).max_sessions == found.largest_batch);
  CHECK(found.memory.device_bytes <= budget.device);
  CHECK_FALSE(found.prediction);
}

TEST_CASE("planned is what an engine takes", "[plan]") {
  const ScratchDir dir;
  dir.write("tiny.toml", kTiny);
  const Outcome outcome = run_command(dir,
                                      "plan --json --device cpu --geometry tiny.toml --max-model-len 2K --batch-size 3 "
                                      "--gpu-memory 9MiB --host-memory 1GiB");
  REQUIRE(outcome.exit == 0);
  const json plan = json::parse(outcome.out);
  const EngineOptions fitted =
      fit_to_budget(tiny(), wanted("offload", 2048, 3), {.device = 9 * kMiB, .host = std::int64_t{1} << 30});
  const auto device = make_cpu_device({.budget = 9 * kMiB});
  const Engine engine(*device, tiny(), fitted);
  CHECK(plan.at("device").at("bytes") == device->used_bytes());
  CHECK(plan.at("host").at("bytes") == engine.plan().host_bytes);
  CHECK(plan.at("sessions") == fitted.max_sessions);
  std::int64_t sum = 0;
  for (const json& item : plan.at("device").at("items")) sum += item.at("bytes").get<std::int64_t>();
  CHECK(sum == plan.at("device").at("bytes"));
}

TEST_CASE("a process takes what was planned: never more, and at most 64 MiB or 5 % less", "[plan]") {
  if (test::kSanitizer) return;
  const ScratchDir dir;
  dir.write("small.toml",
            "hidden = 256\nlayers = 6\nq_heads = 4\nkv_heads = 2\nhead_dim = 64\nintermediate = 512\nvocab = 4096\n"
            "max_position = 65536\n");
  const std::string place = " --geometry small.toml --device cpu --host-memory 1GiB --profile none ";
  for (const char* policy : {"dense", "stream", "offload"})
    for (const auto& [context, device] : {std::pair{1024, "256MiB"}, {4096, "256MiB"}, {4096, "40MiB"}}) {
      const std::string flags = place + "--policy " + policy + " --gpu-memory " + device;
      const Outcome planned = run_command(dir, fmt::format("plan --json --max-model-len {}{}", context, flags));
      CAPTURE(policy, context, device);
      if (planned.exit == 4) {  // dense in 40 MiB
        CHECK(policy == std::string("dense"));
        continue;
      }
      REQUIRE(planned.exit == 0);
      const json plan = json::parse(planned.out);
      const std::int64_t bytes = plan.at("device").at("bytes").get<std::int64_t>() +
                                 plan.at("host").at("bytes").get<std::int64_t>() +
                                 plan.at("program_bytes").get<std::int64_t>();
      const Outcome run =
          run_command(dir, fmt::format("run --prompt-tokens {} --max-tokens 8 --log-level off{}", context - 8, flags));
      REQUIRE(run.exit == 0);
      CHECK(run.peak_bytes <= bytes);
      // Fits have a share for each core, whether a small model's need it or not.
      const std::int64_t cores = std::max(2u, std::thread::hardware_concurrency());
      CHECK(run.peak_bytes >= bytes - std::max((64 + 16 * (cores - 2)) * kMiB, bytes / 20));
    }
}

TEST_CASE("plan: every shipped budget, for every shipped geometry", "[plan][numbers]") {
  const ScratchDir dir;
  auto files = [](const char* folder) {
    std::vector<std::filesystem::path> all;
    for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(LONGHAUL_SOURCE_DIR) / folder))
      all.push_back(entry.path());
    return all;
  };
  auto bytes_of = [](const std::filesystem::path& budget, const std::string& place) {
    const std::string text = text_of(budget), key = "\n" + place + "-memory = \"";
    const std::size_t at = text.find(key) + key.size();
    return parse_bytes(text.substr(at, text.find('"', at) - at));
  };
  int planned = 0;
  for (const auto& budget : files("config/budgets")) {
    // One that names a model is for that.
    const bool own_model = text_of(budget).find("\nmodel = ") != std::string::npos;
    const std::string with = "plan --json --device cpu --profile none --max-model-len auto --config " + budget.string();
    for (const auto& geometry : files("config/geometries")) {
      const std::string shape =
          own_model ? " --model " + kModel : fmt::format(" --geometry {}", geometry.stem().string());
      const Outcome outcome = run_command(dir, with + shape);
      CAPTURE(budget.string(), shape);
      if (outcome.exit == 4) {  // the weights alone are more
        const ModelConfig config = load_geometry(geometry.stem().string()).config;
        CHECK_THAT(outcome.err, contains("no context fits"));
        CHECK(10 * config.layers * layer_weight_bytes(config) >
              9 * (bytes_of(budget, "gpu") + bytes_of(budget, "host")));
        continue;
      }
      REQUIRE(outcome.exit == 0);
      const json plan = json::parse(outcome.out), &room = plan.at("budget");
      CHECK(plan.at("device").at("bytes") <= room.at("device_bytes"));
      CHECK(plan.at("host").at("bytes").get<std::int64_t>() + plan.at("program_bytes").get<std::int64_t>() <=
            room.at("host_bytes").get<std::int64_t>());
      CHECK(plan.at("context") >= std::min(plan.at("model_context").get<std::int64_t>(), std::int64_t{4000}));
      ++planned;
      if (own_model) break;
    }
  }
  CHECK(planned >= 30);
}

TEST_CASE("a step's bytes, counted by hand", "[plan]") {
  const ModelConfig c = tiny();
  constexpr std::int64_t kRow = 2 * 32 * 2, kHeads = 2, kLayers = 4;
  const std::int64_t layer = 64 * (2 * 4 + 2 * 2) * 32 + 3 * 64 * 128;
  EngineOptions dense = wanted("dense", 4096, 2);
  dense.resident = 1;
  const StepBytes all = step_bytes(c, dense, 4096);
  CHECK(all.weights == 2 * (kLayers * (layer + 2 * 64) + 64 + 256 * 64));
  CHECK(all.attended == 2 * kLayers * kHeads * 4096 * kRow);
  CHECK(all.labels + all.look_ahead + all.streamed + all.listed_rows == 0);

  const StepBytes streamed = step_bytes(c, wanted("stream", 4096), 4096);
  CHECK(streamed.attended == kLayers * kHeads * 4096 * kRow);
  CHECK(streamed.streamed == kLayers * kHeads * (4096 - 128) * kRow);  // but for the recent window

  const StepBytes listed = step_bytes(c, wanted("offload", 4096), 4096);
  CHECK(listed.attended == kLayers * kHeads * 256 * kRow);
  CHECK(listed.listed_rows == kLayers * kHeads * 256);
  CHECK(listed.labels == kLayers * kHeads * 4096 * 32 / 2);
  CHECK(listed.look_ahead == listed.labels / 2);  // layers 0 and 1 are eager
  CHECK(listed.streamed == 0);
}

TEST_CASE("predictions follow bytes and arithmetic", "[plan]") {
  const ModelConfig llama = load_geometry("llama-3.1-8b").config;
  constexpr std::int64_t kRows = 256 << 10;
  EngineOptions stream = wanted("stream", kRows);
  const Prediction streamed = predict(llama, stream, kRows, kMachine);
  // 34.3 GB over a link of 50 GB/s; see "Bytes of a step" in DESIGN.md.
  CHECK(streamed.link_bytes == Approx(34.3e9).epsilon(0.01));
  CHECK(streamed.step_seconds == Approx(34.3 / 50).epsilon(0.01));
  CHECK(streamed.tokens_per_second == Approx(1 / streamed.step_seconds));
  // 3.7e15 of products and 1.8e16 of attention.
  CHECK(streamed.prefill_seconds == Approx(3.66e15 / 700e12 + 1.8e16 / 600e12).epsilon(0.02));

  EngineOptions offload = wanted("offload", kRows);
  double before = 0;
  for (double cache : {0.0, 0.5, 1.0, 3.0, 8.0}) {
    offload.cache = cache;
    const Prediction p = predict(llama, offload, kRows, kMachine);
    CHECK(p.hit_rate == assumed_hit_rate(cache));
    CHECK(p.link_bytes == Approx((1 - p.hit_rate) * 32 * 8 * 16384 * 512.0));
    CHECK(p.hit_rate >= before);
    CHECK(p.step_seconds >= p.device_seconds);
    before = p.hit_rate;
  }
  CHECK(assumed_hit_rate(1) == 0.73);
  CHECK(assumed_hit_rate(100) == assumed_hit_rate(4));

  // Without look-ahead, what is missed is waited for.
  EngineOptions on_demand = wanted("on-demand", kRows);
  const Prediction waits = predict(llama, on_demand, kRows, kMachine);
  CHECK(waits.step_seconds == Approx(waits.device_seconds + waits.link_seconds));

  // Where steps are tried both ways, the shorter one.
  EngineOptions ahead = offload;
  ahead.policy.look_ahead = LookAhead::hidden;
  for (double cache : {0.0, 1.0, 8.0}) {
    on_demand.cache = offload.cache = ahead.cache = cache;
    const double never = predict(llama, on_demand, kRows, kMachine).step_seconds;
    const double always = predict(llama, ahead, kRows, kMachine).step_seconds;
    CHECK(predict(llama, offload, kRows, kMachine).step_seconds == Approx(std::min(never, always)));
  }
}

TEST_CASE("plan: a table, its JSON, and predictions from a profile", "[plan]") {
  const ScratchDir dir;
  write_machine_profile(dir.path() / "m.json", kMachine);
  const std::string far = "plan --geometry llama-3.1-8b --max-model-len 256K --gpu-memory 24GiB --host-memory 64GiB ";
  const Outcome blind = run_command(dir, far + "--profile none");
  CHECK(blind.exit == 0);
  CHECK_THAT(blind.out, contains("synthetic weights") && contains("kv host store") && contains("fits at most") &&
                            contains("no machine profile: run longhaul doctor") && contains("1 GiB more") &&
                            contains("resident set slots"));
  CHECK(blind.out.find("predicted") == blind.out.rfind("predicted"));  // the item "predicted queries" alone

  const json plan = json::parse(run_command(dir, far + "--profile m.json --json").out);
  CHECK(plan.at("synthetic") == true);
  CHECK(plan.at("context") == 256 << 10);
  CHECK(plan.at("model_context") == 128 << 10);
  CHECK(plan.at("machine") == "m");
  CHECK(plan.at("attended_rows") == 16384);
  CHECK(plan.at("predicted").at("prefill_seconds") > 10);
  CHECK(plan.at("predicted").at("decode_tokens_per_second") > 10);
  CHECK(plan.at("with_1_gib_more").at("resident_set_slots") > plan.at("resident_set_slots"));
  CHECK(plan.at("with_1_gib_more").at("longest_context") >= plan.at("longest_context"));

  // Both budgets given: a CUDA plan needs no CUDA device, and counts what its libraries keep.
  const json cuda = json::parse(run_command(dir, far + "--device cuda --profile none --json").out);
  CHECK(cuda.at("device_kind") == "cuda");
  CHECK(cuda.at("budget").at("library_bytes") == kCudaContextBytes + kCudaWorkspaceBytes);
  CHECK(cuda.at("predicted").is_null());
}

TEST_CASE("plan: of a model, its config alone", "[plan]") {
  const ScratchDir dir;
  std::filesystem::create_directory(dir.path() / "m");
  std::filesystem::copy(kModel + "/config.json", dir.path() / "m/config.json");
  const std::string plan = "plan --json --model m/ --device cpu --profile none --host-memory 1GiB ";
  const json whole = json::parse(run_command(dir, plan + "--gpu-memory 84MiB").out);
  CHECK(whole.at("model") == "m");
  CHECK(whole.at("synthetic") == false);
  CHECK(whole.at("context") == 32768);
  const json longest = json::parse(run_command(dir, plan + "--gpu-memory 24MiB --max-model-len auto").out);
  CHECK(longest.at("context") == longest.at("longest_context"));
  CHECK(longest.at("context") < 32768);
  CHECK(json::parse(run_command(dir, plan + "--gpu-memory 1GiB --max-model-len auto").out).at("context") == 32768);
  const json few = json::parse(run_command(dir, plan + "--gpu-memory 84MiB --batch-size 64 --max-model-len 8K").out);
  CHECK(few.at("wanted_sessions") == 64);
  CHECK(few.at("sessions") == few.at("largest_batch"));
  CHECK(few.at("sessions") < 64);
}

TEST_CASE("plan: of a quantised model, how it is stored, too", "[plan]") {
  const ScratchDir dir;
  const std::string plan =
      "plan --json --policy dense --device cpu --profile none --gpu-memory 1GiB --host-memory 1GiB --model ";
  const std::string model = LONGHAUL_SOURCE_DIR "/tests/data/quantised/awq";
  CHECK(json::parse(run_command(dir, plan + model).out).at("weights_packed") == false);
  const json packed = json::parse(run_command(dir, plan + model + " --weight-format packed").out);
  CHECK(packed.at("weights_packed") == true);
  std::filesystem::create_directory(dir.path() / "m");
  std::filesystem::copy(model + "/config.json", dir.path() / "m/config.json");
  CHECK(json::parse(run_command(dir, plan + "m").out).at("weights_packed") == false);

  const std::string shape =
      "plan --json --geometry llama-2-70b-int4 --max-model-len 128K --device cuda --profile none --host-memory 125GiB ";
  const json one_gpu = json::parse(run_command(dir, shape + "--gpu-memory 79GiB").out);
  CHECK(one_gpu.at("weights_packed") == true);
  CHECK(one_gpu.at("weights_streamed_layers") == 0);
  const json bf16 = json::parse(run_command(dir, shape + "--gpu-memory 79GiB --weight-format bf16").out);
  CHECK(bf16.at("weights_packed") == false);
  CHECK(bf16.at("weights_streamed_layers") > 0);
}

TEST_CASE("plan: refusals are one line", "[plan]") {
  const ScratchDir dir;
  dir.write("bad.json", "[]");
  const std::string plan = "plan --model " + kModel + " --device cpu --host-memory 1GiB --profile none ";
  check_refused(dir, plan + "--gpu-memory 30MiB", 4, "the longest context that fits is");
  check_refused(dir, plan + "--gpu-memory 30MiB --policy dense", 4, "or give --gpu-memory");
  check_refused(dir, plan + "--gpu-memory 1MiB --max-model-len auto", 4, "no context fits");
  check_refused(dir, plan + "--gpu-memory 84MiB --max-model-len 64K", 2, "the model's context is 32768 tokens");
  check_refused(dir, plan + "--gpu-memory 84MiB --max-model-len much", 2, "--max-model-len: 'much'");
  check_refused(dir, plan + "--gpu-memory 84MiB --batch-size 65", 2, "65");
  check_refused(dir, plan + "--gpu-memory 84MiB --set policy.rows=40000", 2, "more than the model's context");
  check_refused(dir, plan + "--gpu-memory 84MiB --geometry llama-2-7b", 2, "give one of them");
  check_refused(dir, "plan", 2, "--model is required");
  check_refused(dir, "plan --geometry no-such-shape", 2, "neither a file nor one of the shipped geometries");
  check_refused(dir, "plan --model absent", 3, "absent");
  check_refused(dir, "plan --model " + kModel + " --device tpu", 2, "known: auto, cpu, cuda");
  check_refused(dir, "plan --model " + kModel + " --gpu-memory 1GiB --host-memory 1GiB --profile bad.json", 2,
                "bad.json: expected a JSON object");
}

}  // namespace
}  // namespace longhaul
