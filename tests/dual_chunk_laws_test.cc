// Dual-chunk attention through the whole runtime: the laws on sessions on both sides of a chunk's border, and on those
// that cross one. Numbers are golden_test's: qwen2_dual_chunk.
#include "apps/golden.h"
#include "kernels/base/bytes.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/families.h"
#include "tests/support/mutations.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

constexpr DualChunks kDual{.rows = 256, .reach = 320, .trained = 280};
const std::vector<std::string> kSmall{"rows=48", "window=8", "label_dims=8"};

/// In chunks 0, 1 and 2, the first crossing into chunk 1 and the second into 2.
RunOptions run_of(const std::string& policy, const std::vector<std::string>& sets = {}) {
  return {.policy = policy,
          .sets = sets,
          .activations = DType::f32,
          .dual_chunks = kDual,
          .prompts = {230, 500, 600},
          .steps = 40,
          .device = {.poison = true}};
}

std::vector<std::string> eager() {
  std::vector<std::string> sets = kSmall;
  sets.push_back("eager_layers=[0]");
  return sets;
}

}  // namespace

TEST_CASE("dual-chunk law 1: placement changes no bit, and it is not plain attention") {
  const RowType type = GENERATE(RowType::act, RowType::int8, RowType::fp8, RowType::int4);
  const DType act = GENERATE(DType::bf16, DType::f32);
  CAPTURE(name_of(type), name_of(act));
  RunOptions run = run_of("dense");
  run.kv_dtype = type, run.activations = act;
  const RunResult expected = run_tiny(run);
  RunOptions plain = run;
  plain.dual_chunks = {};
  CHECK(!same(run_tiny(plain), expected));
  run.policy = "stream";
  for (double resident : {0.0, 0.4, 1.0})
    for (std::int64_t tile : {64, 320}) {
      run.resident = resident, run.tile_rows = tile;
      CAPTURE(resident, tile);
      CHECK(same(run_tiny(run), expected));
    }
  run.recent_rows = 320;
  CHECK(same(run_tiny(away(run)), expected));
}

TEST_CASE("dual-chunk: sessions that cannot outgrow a chunk are plain ones, bit for bit") {
  RunOptions run = run_of("offload", eager());
  run.dual_chunks.trained = 0;
  run.prompts = {200, 100};
  run.steps = 55;  // 256 rows
  RunOptions plain = run;
  plain.dual_chunks = {};
  CHECK(same(run_tiny(run), run_tiny(plain)));
  CHECK(plan_memory(model_config(run), engine_options(run)).device_bytes ==
        plan_memory(model_config(plain), engine_options(plain)).device_bytes);
  run.steps = plain.steps = 60;  // 261: another shape, and the first chunk's bits are those of plain attention
  CHECK(kv_shape(model_config(run), engine_options(run)).chunk == 256);
  run.policy = plain.policy = "stream";
  run.sets = plain.sets = {};
  const RunResult got = run_tiny(run), want = run_tiny(plain);
  const std::int64_t vocab = model_config(run).vocab, first = 56 * vocab;  // of logits of rows up to 256
  CHECK(std::equal(want.logits[0].begin(), want.logits[0].begin() + first, got.logits[0].begin()));
  CHECK(got.logits[0] != want.logits[0]);
}

TEST_CASE("dual-chunk law 2: selecting all rows is dense attention, under every policy") {
  const DType act = GENERATE(DType::bf16, DType::f32);
  RunOptions run = run_of("dense");
  run.activations = act;
  const RunResult expected = run_tiny(run);
  for (const char* policy : {"offload", "sparse-resident", "on-demand", "oracle", "streaming-llm", "h2o"})
    for (double cache : {0.0, 2.0}) {
      run.policy = policy;
      run.sets = {"rows=4096"};
      run.cache = cache;
      CAPTURE(policy, cache, name_of(act));
      CHECK(same(run_tiny(run), expected));
    }
  run.policy = "published-offload";
  run.sets = {"rows=4096", "eager_layers=[0]"};
  CHECK(same(run_tiny(run), expected));
}

TEST_CASE("dual-chunk law 3: prediction, prefetch and the resident set change no token") {
  const RowType type = GENERATE(RowType::act, RowType::int8);
  RunOptions run = run_of("sparse-resident", kSmall);
  run.kv_dtype = type;
  const RunResult expected = run_tiny(run);
  RunOptions dense = run_of("dense");
  dense.kv_dtype = type;
  CHECK(!same(run_tiny(dense), expected));
  for (double cache : {0.0, 0.3, 2.0}) {
    CAPTURE(cache, name_of(type));
    RunOptions moved = run_of("offload", eager());
    moved.kv_dtype = type, moved.cache = cache;
    CHECK(same(run_tiny(moved), expected));
    RunOptions blind = moved;
    blind.policy = "on-demand", blind.sets = kSmall;
    CHECK(same(run_tiny(blind), expected));
    RunOptions noisy = moved;
    noisy.probes.noise = true;
    CHECK(same(run_tiny(noisy), expected));
    RunOptions partly = moved;
    partly.resident = 0.4;
    CHECK(same(run_tiny(partly), expected));
    CHECK(same(run_tiny(away(moved)), expected));
  }
}

TEST_CASE("dual-chunk law 3 for the policies that select otherwise, and without a tail") {
  for (const char* policy : {"h2o", "streaming-llm", "oracle", "published-offload", "offload"}) {
    RunOptions run = run_of(policy, {"rows=48"});
    if (std::string(policy) == "published-offload") run.sets.push_back("eager_layers=[0]");
    if (std::string(policy) == "offload") run.sets.push_back("tail=none");
    run.resident = 1;
    const RunResult expected = run_tiny(run);
    run.resident = 0;
    for (double cache : {0.0, 1.0}) {
      run.cache = cache;
      CAPTURE(policy, cache);
      CHECK(same(run_tiny(run), expected));
    }
  }
}

TEST_CASE("dual-chunk law 5: random delays change no token") {
  RunOptions run = run_of("offload", eager());
  run.cache = 1;
  const RunResult expected = run_tiny(run);
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    RunOptions delayed = away(run);
    delayed.device = {.delays = {{.stream = "", .microseconds = 200, .random = true}}, .poison = true, .seed = seed};
    CHECK(same(run_tiny(delayed), expected));
  }
}

TEST_CASE("dual-chunk law 7: the plan is the use, byte for byte") {
  const std::string policy = GENERATE("stream", "offload", "published-offload", "h2o");
  RunOptions run = run_of(policy);
  run.steps = 4;
  for (const RunOptions& one : {run, away(run)}) {
    const MemoryPlan plan = plan_memory(model_config(one), engine_options(one));
    auto device = make_cpu_device({.budget = plan.device_bytes});  // not a byte more
    run_tiny(*device, one);
    CHECK(device->peak_bytes() == plan.device_bytes);
  }
}

TEST_CASE("dual-chunk law 9: prefill of n + 1 tokens equals prefill of n and a decode step, over a border, too") {
  for (std::int64_t n : {255, 256, 257, 511, 512, 700}) {
    CAPTURE(n);
    RunOptions run = run_of("dense");
    run.dual_chunks.trained = 0;  // a longer prompt has another temperature
    run.prompts = {n};
    run.steps = 1;
    const RunResult stepped = run_tiny(run);
    auto device = make_cpu_device();
    const ModelConfig config = model_config(run);
    Engine engine(*device, config, Safetensors::open_model(model_dir(run)), engine_options(run));
    Session session(0, {stepped.tokens[0].begin(), stepped.tokens[0].begin() + n + 1}, {}, 1, {});
    std::vector<double> logits;
    engine.set_logits_tap([&](std::int64_t rows, const float* values) {
      logits.assign(values + (rows - 1) * config.vocab, values + rows * config.vocab);
    });
    engine.prefill(session);
    const std::vector<double> got(stepped.logits[0].begin() + config.vocab, stepped.logits[0].end());
    CHECK(nmse(got, logits) <= 1e-10);
  }
}

TEST_CASE("dual-chunk: a session that has crossed a border selects the rows of one prefilled to beyond it") {
  // By exact labels and in the first layer, where what has been decoded leaves the keys that a prefill does.
  constexpr std::int64_t kBefore = 240, kBeyond = 290;
  RunOptions run = run_of("oracle", {"rows=48"});
  run.dual_chunks.trained = 0;
  run.prompts = {kBeyond};
  run.probes.lists = true;
  const ModelConfig config = model_config(run);
  const std::vector<std::int32_t> tokens = random_prompt(kBeyond + 8, 5);
  auto rows_of = [&](std::int64_t prompt) {
    auto device = make_cpu_device();
    Engine engine(*device, config, Safetensors::open_model(model_dir(run)), engine_options(run));
    std::vector<std::vector<std::int32_t>> lists;
    Session session(0, {tokens.begin(), tokens.begin() + prompt}, {}, 100, {}), *one = &session;
    engine.set_step_tap([&](const StepProbe& probe, std::span<Session* const>) {
      if (session.rows() <= kBeyond) return;
      for (std::int64_t h = 0; h < config.kv_heads; ++h)
        lists.emplace_back(probe.rows + h * probe.stride, probe.rows + h * probe.stride + probe.counts[h]);
    });
    engine.prefill(session);
    while (session.rows() < kBeyond + 7) {
      session.force(tokens[static_cast<std::size_t>(session.rows())]);
      engine.step({&one, 1});
    }
    return lists;
  };
  const auto crossed = rows_of(kBefore);
  CHECK(crossed.size() == static_cast<std::size_t>(7 * config.kv_heads));
  CHECK(crossed == rows_of(kBeyond));
}

TEST_CASE("dual-chunk: the resident set begins with what the prompt's last queries ask for, in each form") {
  RunOptions run = run_of("on-demand", kSmall);
  run.prompts = {540};  // where its two older forms differ
  run.cache = 1;
  const ModelConfig config = model_config(run);
  std::vector<std::int32_t> prompt = random_prompt(540, 4);
  std::fill(prompt.end() - 3, prompt.end(), 7);  // in the first layer a query hardly differs from the one before
  auto device = make_cpu_device({.poison = true});
  EngineOptions options = engine_options(run);
  options.probes.lists = true;
  Engine engine(*device, config, Safetensors::open_model(model_dir(run)), options);
  std::vector<std::int64_t> tally;
  engine.set_step_tap(
      [&](const StepProbe& probe, std::span<Session* const>) { tally.assign(probe.tally, probe.tally + kTally); });
  Session session(0, prompt, {}, 9, {}), *one = &session;
  engine.prefill(session);
  session.force(7);
  engine.step({&one, 1});
  CHECK(tally[kMissed] * 8 < tally[kAttended]);
}

TEST_CASE("dual-chunk law 10: a batch equals single runs, bit for bit, whichever slots they have") {
  const std::string policy = GENERATE("stream", "offload", "h2o");
  CAPTURE(policy);
  RunOptions run = run_of(policy);
  run.prompts = {90, 600, 250, 400, 800};
  if (policy != "stream") run.sets = {"rows=48"};
  const RunResult together = run_tiny(run);
  run.scattered = true;
  CHECK(same(run_tiny(run), together));
  run.together = false;
  CHECK(same(run_tiny(run), together));
}

TEST_CASE("dual-chunk: a long prompt's temperature, in its answer too") {
  const auto dir = family_dir("qwen2_dual_chunk");
  const Golden golden = load_golden(dir / "tempered.safetensors");  // of a prompt of 600 tokens
  ModelConfig config = load_model_config(dir);
  config.dual_chunks.trained = 320;
  const auto tokens = std::ssize(golden.input_ids), prompt = tokens - golden.rows + 1;
  REQUIRE(prompt == 600);
  const std::vector<double> want(golden.logits.begin(), golden.logits.end());
  for (const char* policy : {"dense", "stream", "offload"}) {
    RunOptions run{.policy = policy, .activations = DType::f32, .prompts = {tokens}, .steps = 1};
    if (std::string(policy) == "offload") run.sets = {"rows=1000000"};
    auto device = make_cpu_device({.poison = true});
    Engine engine(*device, config, Safetensors::open_model(dir), engine_options(run));
    Session session(0, {golden.input_ids.begin(), golden.input_ids.begin() + prompt}, {}, tokens, {}), *one = &session;
    std::vector<double> got;
    engine.set_logits_tap([&](std::int64_t rows, const float* logits) {
      if (session.rows() > 0) got.insert(got.end(), logits, logits + config.vocab);
      else got.assign(logits + (rows - 1) * config.vocab, logits + rows * config.vocab);
    });
    engine.prefill(session);
    while (session.rows() < tokens) {
      session.force(golden.input_ids[static_cast<std::size_t>(session.rows())]);
      engine.step({&one, 1});
    }
    CHECK(nmse(got, want) <= 1e-8);
  }
}

TEST_CASE("dual-chunk: a filled session is one that placement does not change") {
  RunOptions run = run_of("sparse-resident", kSmall);
  run.prompts = {600, 300};
  const ModelConfig config = model_config(run);
  auto filled = [&](const RunOptions& o) {
    auto device = make_cpu_device({.poison = true});
    Engine engine(*device, config, engine_options(o));
    std::vector<Session> sessions;
    for (std::int64_t i = 0; i < 2; ++i)
      sessions.emplace_back(i, random_prompt(o.prompts[i], i), SampleParams{}, 50, std::vector<std::int32_t>{});
    for (Session& session : sessions) engine.fill(session);
    Session* both[] = {&sessions[0], &sessions[1]};
    for (int i = 0; i < 30; ++i) engine.step(both);
    return std::pair(sessions[0].tokens(), sessions[1].tokens());
  };
  const auto expected = filled(run);
  CHECK(std::ranges::all_of(expected.first, [](std::int32_t id) { return id >= 0; }));
  RunOptions moved = run_of("offload", eager());
  moved.prompts = run.prompts;
  for (double cache : {0.0, 1.0}) {
    moved.cache = cache;
    CHECK(filled(moved) == expected);
  }
}
