// The laws of the pipeline (DESIGN.md): what changes where rows live and when they move changes no token.
#include <algorithm>
#include <array>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "offload/edges.h"
#include "offload/layout.h"
#include "runtime/engine/engine_memory.h"
#include "tests/support/catch.h"
#include "tests/support/mutations.h"
#include "tests/support/sanitizer.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

double nmse(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0, reference = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    reference += want[i] * want[i];
  }
  return error / reference;
}

/// Prompts around the ends of blocks, and one that begins inside the first block.
const std::vector<std::int64_t> kPrompts{1, 63, 64, 65, 150};

const std::vector<RowType> kCoded{RowType::int8, RowType::fp8, RowType::int4};

}  // namespace

TEST_CASE("law 1: tile size, window and resident share change no bit") {
  const DType act = GENERATE(DType::bf16, DType::f32);
  const RunResult dense = run_tiny({.policy = "dense", .activations = act, .prompts = kPrompts});
  for (double resident : {0.0, 0.4, 1.0})
    for (std::int64_t tile : {64, 128, 1024})
      for (std::int64_t recent : {64, 192}) {
        CAPTURE(resident, tile, recent, name_of(act));
        CHECK(same(run_tiny({.resident = resident,
                             .tile_rows = tile,
                             .recent_rows = recent,
                             .activations = act,
                             .prompts = kPrompts,
                             .device = {.poison = true}}),
                   dense));
      }
}

TEST_CASE("law 1 for rows of fewer bits, and they do change the result") {
  const RowType type = GENERATE(from_range(kCoded));
  const DType act = type == RowType::fp8 ? DType::f32 : DType::bf16;
  CAPTURE(name_of(type));
  const RunOptions dense{.policy = "dense", .activations = act, .kv_dtype = type, .prompts = kPrompts};
  const RunResult expected = run_tiny(dense);
  for (double resident : {0.0, 0.4, 1.0})
    for (std::int64_t tile : {64, 128})
      for (std::int64_t recent : {64, 192}) {
        CAPTURE(resident, tile, recent);
        RunOptions run{.resident = resident, .tile_rows = tile, .recent_rows = recent, .activations = act};
        run.kv_dtype = type;
        run.prompts = kPrompts;
        run.device.poison = true;
        CHECK(same(run_tiny(run), expected));
      }
  // A prompt is attended as it was computed: its first answer token is the same, the logits after it are not.
  const std::filesystem::path& dir = tiny_model_dir(type);
  RunOptions plain = dense;
  plain.kv_dtype = RowType::act;
  auto device = make_cpu_device();
  Engine engine(*device, load_model_config(dir), Safetensors::open_model(dir), engine_options(plain));
  Session session(0, random_prompt(150, 4), {}, 3, {});
  std::vector<float> logits;
  engine.set_logits_tap([&](std::int64_t rows, const float* values) {
    logits.assign(values + (rows - 1) * engine.config().vocab, values + rows * engine.config().vocab);
  });
  const std::vector<float>& got = expected.logits[4];
  engine.prefill(session);
  CHECK(std::equal(logits.begin(), logits.end(), got.begin()));
  Session* one = &session;
  engine.step({&one, 1});
  const std::vector<float> second(got.begin() + 64, got.begin() + 128);
  CHECK(second != logits);
  CHECK(nmse(second, logits) < (type == RowType::int8 ? 0.01 : 0.3));
}

TEST_CASE("law 4: prefix, staged and recent rows are disjoint and cover all rows") {
  for (std::int64_t capacity : {1, 64, 100, 640})
    for (double resident : {0.0, 0.1, 0.5, 0.9, 1.0})
      for (std::int64_t recent : {64, 128, 256}) {
        const KvLayout layout =
            make_layout({.name = "", .tile_rows = 128, .recent_rows = recent}, resident, 0, 1, capacity);
        std::int64_t before = 0;
        for (std::int64_t n = 1; n <= layout.capacity; ++n) {
          CAPTURE(capacity, resident, recent, n);
          const std::int64_t prefix = std::min(n, layout.prefix_rows);
          const std::int64_t window = std::min(n, layout.window_begin(n));
          REQUIRE(prefix <= window);                             // staged rows are [prefix, window)
          REQUIRE((prefix == n || window < n));                  // the newest row is on the device
          REQUIRE((window % kAttendBlock == 0 || window == n));  // pieces start at attend blocks
          REQUIRE((layout.all_resident() || n - window <= layout.ring_rows || window == prefix));
          REQUIRE((prefix == n || n - window <= layout.ring_rows));
          REQUIRE(window >= before);  // rows never come back into the window
          before = window == n ? 0 : window;
        }
      }
}

TEST_CASE("law 5: random delays on every stream change no token") {
  const RowType type = GENERATE(RowType::act, RowType::int8);
  const RunOptions plain{.resident = 0.3, .kv_dtype = type, .prompts = {120, 70}, .steps = 20};
  const RunResult expected = run_tiny(plain);
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    RunOptions delayed = plain;
    delayed.device = {.delays = {{.stream = "", .microseconds = 200, .random = true}}, .poison = true, .seed = seed};
    CAPTURE(seed, name_of(type));
    CHECK(same(run_tiny(delayed), expected));
    CHECK(same(run_tiny(away(delayed)), expected));
  }
}

TEST_CASE("law 6: dropping any single wait makes the output wrong") {
  const RowType type = GENERATE(RowType::act, RowType::int8);
  // A prompt with rows in its window only, so that nothing but kPrefillStored holds its first step back; one that
  // streams at once; one that decodes a whole block and more, so that the window's ring turns over; and one that
  // attends listed rows, some prefetched, some missed. In f32 one wrong row shows.
  // The first attends what was foretold, so that look-ahead without its edges shows in that alone: two selections at
  // once would write where neither may. And nothing of it is missed, so that kRowsAttended alone holds its rows back.
  std::vector<RunOptions> runs{
      {.policy = "published-offload",
       .sets = {"rows=48", "window=8", "label_dims=8", "dense_layers=[0]"},
       .cache = 1.0,
       .activations = DType::f32,
       .prompts = {200},
       .steps = 4,
       .device = {.poison = true}},
      {.activations = DType::f32, .prompts = {40}, .steps = 2, .device = {.poison = true}},
      {.activations = DType::f32, .prompts = {120}, .steps = 4, .device = {.poison = true}},
      {.activations = DType::f32, .prompts = {62}, .steps = 70, .device = {.poison = true}},
      {.policy = "offload",
       .sets = {"rows=48", "window=8", "label_dims=8", "eager_layers=[0]", "look_ahead=hidden"},
       .cache = 0.5,
       .activations = DType::f32,
       .prompts = {300},
       .steps = 6,
       .device = {.poison = true}},
      // And labels that are made while the next layer is computed.
      {.policy = "sparse-resident",
       .sets = {"rows=48", "window=8", "label_dims=8"},
       .activations = DType::f32,
       .layers_held = 2,
       .prompts = {300},
       .steps = 2,
       .device = {.poison = true}}};
  for (RunOptions& run : runs) run.kv_dtype = type;
  const Mutations mutations(runs, {{.stream = "compute", .microseconds = 150},
                                   {.stream = "aside", .microseconds = 1500},
                                   {.stream = "labels", .microseconds = 1500},
                                   {.stream = "fetch", .microseconds = 1500},
                                   {.stream = "store", .microseconds = 20000}});
  CHECK(mutations.all_right(""));
  if (kThreadSanitizer) return;  // a dropped wait is the very race that it reports
  for (const Edge& edge : edge::kAll) {
    if (of_placement(edge)) continue;
    CAPTURE(edge.name, name_of(type));
    CHECK(!mutations.all_right(edge.name));
  }
}

TEST_CASE("law 7: the plan is the use, byte for byte") {
  const RowType type = GENERATE(RowType::act, RowType::int8, RowType::fp8, RowType::int4);
  const ModelConfig config = load_model_config(tiny_model_dir(type));
  const Checkpoint weights = Safetensors::open_model(tiny_model_dir(type));
  const bool moved = GENERATE(false, true);
  for (double resident : {0.0, 0.5, 1.0})
    for (std::int64_t sessions : {1, 3}) {
      RunOptions run{.resident = resident,
                     .kv_dtype = type,
                     .prompts = std::vector<std::int64_t>(static_cast<std::size_t>(sessions), 200)};
      const EngineOptions options = engine_options(moved ? away(run) : run);
      const MemoryPlan plan = plan_memory(config, options);
      CAPTURE(resident, sessions, name_of(type));
      for (const auto& [items, name, rows] :
           {std::tuple(&plan.host, "kv host store",
                       make_layout(options.policy, resident, 0, 1, options.max_len).host_rows()),
            {&plan.device, "kv resident prefix",
             make_layout(options.policy, resident, 0, 1, options.max_len).prefix_rows}}) {
        const auto item = std::ranges::find(*items, name, &Arena::Item::name);
        REQUIRE(item != items->end());
        CHECK(item->bytes == sessions * config.layers * config.kv_heads * rows *
                                 row_bytes(type, config.head_dim, options.activations));
      }
      auto device = make_cpu_device({.budget = plan.device_bytes});  // not a byte more
      Engine engine(*device, config, weights, options);
      std::vector<Session> all;
      for (std::int64_t i = 0; i < sessions; ++i)
        all.emplace_back(i, random_prompt(200, 1), SampleParams{}, 20, std::vector<std::int32_t>{});
      for (Session& s : all) engine.prefill(s);
      CHECK(device->used_bytes() == plan.device_bytes);
      CHECK(device->peak_bytes() == plan.device_bytes);
      auto short_device = make_cpu_device({.budget = plan.device_bytes - 1});
      CHECK_THROWS_AS(Engine(*short_device, config, weights, options), OutOfMemory);
    }
}

TEST_CASE("law 9: prefill of n + 1 tokens equals prefill of n and a decode step") {
  const bool moved = GENERATE(false, true);
  for (std::int64_t n : {1, 63, 64, 129}) {
    RunOptions options{.activations = DType::f32, .prompts = {n}, .steps = 1};
    if (moved) options = away(options);
    const RunResult stepped = run_tiny(options);

    auto device = make_cpu_device();
    const ModelConfig config = load_model_config(tiny_model_dir());
    EngineOptions eo = engine_options(options);
    Engine engine(*device, config, Safetensors::open_model(tiny_model_dir()), eo);
    std::vector<std::int32_t> longer(stepped.tokens[0].begin(), stepped.tokens[0].begin() + n + 1);
    Session session(0, longer, {}, 1, {});
    std::vector<float> last;
    engine.set_logits_tap([&](std::int64_t rows, const float* logits) {
      last.assign(logits + (rows - 1) * config.vocab, logits + rows * config.vocab);
    });
    engine.prefill(session);
    CAPTURE(n);
    CHECK(nmse(last, {stepped.logits[0].begin() + config.vocab, stepped.logits[0].end()}) < 1e-10);
    CHECK(session.tokens().back() == stepped.tokens[0].back());
  }
}

TEST_CASE("law 10: a batch of sessions equals single runs") {
  for (const char* policy : {"dense", "stream"}) {
    RunOptions options{.policy = policy, .resident = 0.3, .prompts = {150, 1, 64, 97, 30}, .steps = 80};
    options.kv_dtype = GENERATE(RowType::act, RowType::int4);
    options.together = false;
    const RunResult single = run_tiny(options);
    options.together = true;
    options.device.poison = true;
    for (bool scattered : {false, true}) {
      options.scattered = scattered;
      CAPTURE(policy, scattered);
      CHECK(same(run_tiny(options), single));
      CHECK(same(run_tiny(away(options)), single));
    }
  }
}

TEST_CASE("law 11: one host wait per decode step") {
  auto device = make_cpu_device();
  RunOptions options{.resident = 0.2, .prompts = {150, 90}, .steps = 40};
  if (GENERATE(false, true)) options = away(options);
  Engine engine(*device, load_model_config(tiny_model_dir()), Safetensors::open_model(tiny_model_dir()),
                engine_options(options));
  Session a(0, random_prompt(150, 1), {}, 41, {}), b(1, random_prompt(90, 2), {}, 41, {});
  engine.prefill(a);
  engine.prefill(b);
  const std::int64_t before = device->counters().host_waits;
  Session* both[] = {&a, &b};
  for (int i = 0; i < 40; ++i) engine.step(both);
  CHECK(device->counters().host_waits - before == 40);
}

TEST_CASE("stream moves the bytes that its layout says, and dense none") {
  const RowType type = GENERATE(RowType::act, RowType::int8, RowType::fp8, RowType::int4);
  const std::filesystem::path& dir = tiny_model_dir(type);
  const ModelConfig s = load_model_config(dir);
  for (double resident : {0.0, 1.0}) {
    auto device = make_cpu_device();
    const EngineOptions eo = engine_options({.resident = resident, .kv_dtype = type, .prompts = {200}, .steps = 10});
    Engine engine(*device, s, Safetensors::open_model(dir), eo);
    Session session(0, random_prompt(200, 1), {}, 11, {});
    engine.prefill(session);
    const std::int64_t before = device->counters().h2d_bytes;
    Session* one = &session;
    engine.step({&one, 1});
    const KvLayout layout = make_layout(eo.policy, resident, 0, 1, eo.max_len);
    const std::int64_t rows =
        std::min(layout.window_begin(201), std::int64_t{201}) - std::min(layout.prefix_rows, std::int64_t{201});
    const auto input = static_cast<std::int64_t>(4 + 4 + sizeof(SampleParams) + sizeof(StepSpan));  // 4: id, position
    CHECK(device->counters().h2d_bytes - before ==
          rows * s.layers * s.kv_heads * row_bytes(type, s.head_dim, DType::bf16) + input);
  }
}

TEST_CASE("fit_to_budget fills the device and says what is missing") {
  const ModelConfig config = load_model_config(tiny_model_dir());
  EngineOptions options = engine_options({.prompts = {2000, 2000}});
  options.policy.resident.reset();  // auto
  EngineOptions all = fit_to_budget(config, options, {std::int64_t{1} << 40, std::int64_t{1} << 40});
  CHECK(all.resident == 1.0);
  const std::int64_t full = plan_memory(config, all).device_bytes;
  std::int64_t last = 0;
  for (std::int64_t budget = full; budget > 0; budget -= full / 16) {
    try {
      const EngineOptions fitted = fit_to_budget(config, options, {budget, std::int64_t{1} << 40});
      const MemoryPlan plan = plan_memory(config, fitted);
      CAPTURE(budget, fitted.resident, fitted.max_sessions);
      CHECK(plan.device_bytes <= budget);
      EngineOptions more = fitted;  // one more block of resident rows would not fit
      more.resident += 64.0 / static_cast<double>(round_up(options.max_len, 64));
      if (more.resident < 1) CHECK(plan_memory(config, more).device_bytes > budget);
      last = budget;
    } catch (const UserError& e) {
      CHECK(e.code == Exit::plan_does_not_fit);
      CHECK(std::string(e.what()).find("longest context") + std::string(e.what()).find("no context") > 0);
      CHECK(std::string(e.what()).find('\n') == std::string::npos);
    }
  }
  CHECK(last > 0);
}

TEST_CASE("how many sessions the plan allows changes no bit of a prefill") {
  const RunResult alone = run_tiny({.prefill_chunk = 8, .prompts = {100}, .steps = 5});
  RunOptions many{.prefill_chunk = 8, .prompts = std::vector<std::int64_t>(30, 100), .steps = 5};
  const RunResult batch = run_tiny(many);
  CHECK(batch.logits[0] == alone.logits[0]);
}

TEST_CASE("law 10 holds for the largest batch, and a larger one is refused") {
  RunOptions options{.prompts = std::vector<std::int64_t>(kDecodeTokens, 20), .steps = 6};
  const RunResult batch = run_tiny(options);
  options.together = false;
  CHECK(same(batch, run_tiny(options)));
  options.prompts.push_back(20);
  CHECK_THROWS(run_tiny(options));
}

TEST_CASE("what is wholly resident takes no buffers for streaming") {
  const ModelConfig config = load_model_config(tiny_model_dir());
  EngineOptions options = engine_options({.policy = "dense", .prompts = {500}});
  options.policy.recent_rows = 1 << 20;  // more than there is to keep
  for (const Arena::Item& item : plan_memory(config, options).device)
    if (item.name == "kv prefill buffer" || item.name == "kv recent window") CHECK(item.bytes == 0);
  options.resident = 0.5;
  for (const Arena::Item& item : plan_memory(config, options).device)
    if (item.name == "kv recent window") CHECK(item.bytes <= plan_memory(config, options).host_bytes);
}
