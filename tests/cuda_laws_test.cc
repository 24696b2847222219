// The laws of the pipeline (DESIGN.md) with the CUDA device. Operators split their work by where rows are, so results
// agree to rounding, and with the tokens forced the lists of rows agree as sets. Of law 6 the edges that order rows and
// weights: without those that order lists a GPU may read anywhere, which ends the process.
#include "tests/support/compare.h"
#include "tests/support/cuda_rig.h"
#include "tests/support/delayed_device.h"
#include "tests/support/mutations.h"
#include "tests/support/tiny_model.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

constexpr double kRounding = 1e-10;  // of squares: 1e-5

const std::vector<std::string> kSmall{"rows=48", "window=8", "label_dims=8"};
const std::vector<std::int64_t> kPrompts{300, 40, 170};

RunOptions selecting(const char* policy, double cache, std::vector<std::string> more = {}) {
  RunOptions run{.policy = policy, .sets = kSmall, .cache = cache, .activations = DType::f32, .prompts = kPrompts};
  run.sets.insert(run.sets.end(), more.begin(), more.end());
  run.steps = 60;
  run.probes.lists = true;
  return run;
}

std::vector<double> doubles(std::span<const float> values) { return {values.begin(), values.end()}; }

std::unique_ptr<Device> device() { return make_cuda_device(0, std::int64_t{1} << 30); }
RunResult on_cuda(const RunOptions& run, const RunResult* forced = nullptr) { return run_tiny(*device(), run, forced); }

/// Of the session whose logits differ most.
double error_of(const RunResult& got, const RunResult& want) {
  double most = 0;
  for (std::size_t i = 0; i < want.logits.size(); ++i) {
    const double error = nmse(doubles(got.logits[i]), doubles(want.logits[i]));
    most = error <= most ? most : error;  // NaN counts
  }
  return most;
}

void check_alike(const RunResult& got, const RunResult& want) {
  CHECK(got.tokens == want.tokens);
  if (!want.lists.empty()) CHECK(got.lists == want.lists);
  CHECK(error_of(got, want) <= kRounding);
}

}  // namespace

TEST_CASE("cuda: law 1: tile size, window and resident share change nothing", "[cuda][engine]") {
  if (cuda_rig() == nullptr) return;
  RunOptions run{.policy = "dense", .activations = DType::f32, .prompts = {1, 63, 64, 65, 150}};
  const RunResult dense = on_cuda(run);
  run.policy = "stream";
  for (double resident : {0.0, 0.4, 1.0})
    for (std::int64_t tile : {64, 128, 1024})
      for (std::int64_t recent : {64, 192}) {
        run.resident = resident, run.tile_rows = tile, run.recent_rows = recent;
        CAPTURE(resident, tile, recent);
        check_alike(on_cuda(run, &dense), dense);
      }
}

TEST_CASE("cuda: law 2: selecting at least as many rows as there are is dense", "[cuda][engine]") {
  if (cuda_rig() == nullptr) return;
  for (RowType type : {RowType::act, RowType::int8, RowType::fp8, RowType::int4}) {
    RunOptions run{.policy = "dense", .activations = DType::f32, .kv_dtype = type, .prompts = {1, 63, 150}};
    run.steps = 80;
    const RunResult dense = on_cuda(run);
    for (const char* policy : {"offload", "sparse-resident", "on-demand", "oracle", "streaming-llm", "h2o"})
      for (double cache : {0.0, 2.0}) {
        run.policy = policy, run.sets = {"rows=4096"}, run.cache = cache;
        CAPTURE(policy, cache, name_of(type));
        check_alike(on_cuda(run, &dense), dense);
      }
  }
}

TEST_CASE("cuda: law 3: prediction, prefetch and the resident set change no list", "[cuda][engine]") {
  if (cuda_rig() == nullptr) return;
  for (RowType type : {RowType::act, RowType::int8, RowType::fp8, RowType::int4}) {
    RunOptions resident = selecting("sparse-resident", 0);
    resident.kv_dtype = type;
    const RunResult want = on_cuda(resident);
    REQUIRE(!want.lists.empty());
    for (double cache : {0.0, 0.3, 1.0, 4.0}) {
      std::vector<RunOptions> runs{selecting("offload", cache, {"eager_layers=[0]"}), selecting("on-demand", cache),
                                   selecting("offload", cache, {"look_ahead=hidden"})};
      runs.push_back(runs[2]), runs.back().probes.noise = true;
      runs.push_back(runs[2]), runs.back().resident = 0.4;
      runs.push_back(away(runs[2]));
      runs.push_back(runs[0]), runs.back().layers_held = 2;
      for (std::size_t i = 0; i < runs.size(); ++i) {
        runs[i].kv_dtype = type;
        CAPTURE(cache, i, name_of(type));
        check_alike(on_cuda(runs[i], &want), want);
      }
    }
  }
}

TEST_CASE("cuda: comparison policies give the same wherever rows are", "[cuda][engine]") {
  if (cuda_rig() == nullptr) return;
  for (const char* policy : {"streaming-llm", "h2o", "oracle", "published-offload"}) {
    RunOptions here = selecting(policy, 0);
    here.sets = {"rows=48"};
    if (policy == std::string("published-offload")) here.sets.push_back("eager_layers=[0]");
    here.resident = 1;
    RunOptions away = here;
    away.resident = 0, away.cache = 1;
    const RunResult want = on_cuda(here);
    CAPTURE(policy);
    check_alike(on_cuda(away, &want), want);
  }
}

TEST_CASE("cuda: law 5: random delays on every stream, and one slow stream, change nothing", "[cuda][engine]") {
  if (cuda_rig() == nullptr) return;
  const std::vector<RunOptions> runs{
      {.policy = "stream", .resident = 0.3, .activations = DType::f32, .prompts = {120, 70}, .steps = 20},
      selecting("offload", 0.5, {"look_ahead=hidden"}),
      selecting("on-demand", 1.5),
      selecting("published-offload", 1, {"eager_layers=[0]"})};
  for (std::size_t i = 0; i < runs.size(); ++i)
    for (bool moved : {false, true}) {
      RunOptions run = moved ? away(runs[i]) : runs[i];
      run.steps = 20;
      run.layers_held = moved ? 2 : 1;
      const RunResult want = on_cuda(run);
      std::vector<Delays> delays;
      for (std::uint64_t seed = 1; seed <= 2; ++seed) delays.push_back({.seed = seed});
      for (const char* stream : {"compute", "fetch", "store", "aside", "labels", "weights"})
        delays.push_back({.stream = stream, .most = 12, .seed = 4});
      for (const Delays& late : delays) {
        DelayedDevice slow(device(), late);
        CAPTURE(i, moved, late.stream, late.seed);
        check_alike(run_tiny(slow, run, &want), want);
      }
    }
}

TEST_CASE("cuda: law 6: without a wait for rows or weights the output is wrong", "[cuda][engine]") {
  if (cuda_rig() == nullptr) return;
  const RunOptions stream{.policy = "stream", .activations = DType::f32, .prompts = {120}, .steps = 4};
  RunOptions within_window = stream;
  within_window.prompts = {40};
  const RunOptions ahead = selecting("published-offload", 1, {"dense_layers=[0]"});
  struct Mutation {
    Edge edge;
    const char* late;
    RunOptions run;
  };
  for (const Mutation& m : {Mutation{edge::kTileReady, "fetch", stream},
                            {edge::kTileFree, "compute", stream},
                            {edge::kPrefillStored, "store", within_window},
                            {edge::kChunkWritten, "compute", stream},
                            {edge::kLayerFree, "store", stream},
                            {edge::kMissesLanded, "fetch", selecting("on-demand", 0.5)},
                            {edge::kPrefetchLanded, "fetch", ahead},
                            {edge::kWeightsLanded, "weights", away(stream)},
                            {edge::kWeightsFree, "compute", away(stream)},
                            {edge::kHiddenLanded, "fetch", away(stream)},
                            {edge::kHiddenWritten, "compute", away(stream)}}) {
    RunOptions run = m.run;
    run.steps = 4;
    const RunResult want = on_cuda(run);
    CAPTURE(m.edge.name);
    const auto right = [&](const std::string& drop) {
      DelayedDevice slow(device(), {.stream = m.late, .most = 40, .seed = 5, .drop = drop});
      try {
        return error_of(run_tiny(slow, run, &want), want) <= kRounding;
      } catch (const std::exception&) {
        return false;  // what was sampled is no token
      }
    };
    CHECK(right(""));
    CHECK(!right(std::string(m.edge.name)));
  }
}

TEST_CASE("cuda: law 9: prefill of n + 1 tokens is prefill of n and a decode step", "[cuda][engine]") {
  if (cuda_rig() == nullptr) return;
  for (bool moved : {false, true})
    for (std::int64_t n : {1, 63, 64, 129}) {
      RunOptions run{.activations = DType::f32, .prompts = {n}, .steps = 1};
      if (moved) run = away(run);
      const RunResult stepped = on_cuda(run);
      auto cuda = device();
      Engine engine(*cuda, model_config(run), Safetensors::open_model(model_dir(run)), engine_options(run));
      const auto vocab = static_cast<std::size_t>(engine.config().vocab);
      const std::vector<std::int32_t> longer(stepped.tokens[0].begin(), stepped.tokens[0].begin() + n + 1);
      Session session(0, longer, {}, 1, {});
      std::vector<double> last;
      engine.set_logits_tap([&](std::int64_t rows, const float* logits) {
        const float* end = logits + rows * engine.config().vocab;
        last.assign(end - vocab, end);
      });
      engine.prefill(session);
      CAPTURE(moved, n);
      CHECK(nmse(last, doubles(std::span(stepped.logits[0]).subspan(vocab))) <= kRounding);
      CHECK(session.tokens().back() == stepped.tokens[0].back());
    }
}

TEST_CASE("cuda: law 10: a batch of sessions equals single runs", "[cuda][engine]") {
  if (cuda_rig() == nullptr) return;
  for (const char* policy : {"dense", "stream", "offload", "published-offload", "h2o"}) {
    RunOptions run{.policy = policy, .cache = 1, .activations = DType::f32, .prompts = {150, 1, 64, 297, 30}};
    run.steps = 60;
    if (policy != std::string("dense") && policy != std::string("stream")) run.sets = {"rows=48"};
    run.together = false;
    const RunResult single = on_cuda(run);
    run.together = true;
    for (bool scattered : {false, true}) {
      run.scattered = scattered;
      CAPTURE(policy, scattered);
      check_alike(on_cuda(run, &single), single);
    }
  }
}

TEST_CASE("cuda: laws 7 and 11 for selection: the plan is the use, and one host wait a step", "[cuda][engine]") {
  if (cuda_rig() == nullptr) return;
  const std::int64_t reserved = device()->used_bytes();
  for (const char* policy : {"offload", "published-offload", "oracle", "h2o", "sparse-resident"})
    for (std::int64_t streamed : {0, 2}) {
      RunOptions run = selecting(policy, 1.25);
      run.sets = {"rows=48"};
      run.prompts = {300};
      run.probes = {};
      run.streamed_layers = streamed, run.spill_hidden = streamed > 0, run.layers_held = streamed > 0 ? 2 : 1;
      const EngineOptions options = engine_options(run);
      const MemoryPlan plan = plan_memory(model_config(run), options);
      auto cuda = make_cuda_device(0, reserved + plan.device_bytes);
      Engine engine(*cuda, model_config(run), Safetensors::open_model(model_dir(run)), options);
      Session session(0, random_prompt(300, 1), {}, 50, {});
      engine.prefill(session);
      const std::int64_t before = cuda->counters().host_waits;
      Session* one = &session;
      for (int i = 0; i < 40; ++i) engine.step({&one, 1});
      CAPTURE(policy, streamed);
      CHECK(cuda->counters().host_waits - before == 40);
      CHECK(cuda->peak_bytes() == reserved + plan.device_bytes);
    }
}
