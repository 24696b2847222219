// An engine without files: random weights, sessions filled with random rows, selections replayed; and the checksum of
// the host store.
#include <algorithm>

#include "kernels/base/error.h"
#include "runtime/model/geometry.h"
#include "tests/support/catch.h"
#include "tests/support/sanitizer.h"
#include "tests/support/tiny_model.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

const ModelConfig kShape =
    parse_geometry(
        "hidden = 32\nlayers = 4\nq_heads = 4\nkv_heads = 2\nhead_dim = 32\nintermediate = 48\nvocab = 64\n"
        "max_position = 4096\n",
        "tiny")
        .config;

EngineOptions options_of(const std::string& policy, const std::vector<std::string>& sets, double cache = 0) {
  return {.policy = load_policy(policy, sets),
          .max_len = 700,
          .max_sessions = 2,
          .prefill_chunk = 96,
          .resident = policy == "sparse-resident" || policy == "dense" ? 1.0 : 0.0,
          .cache = cache};
}

Session session_of(std::int64_t slot, std::int64_t rows) {
  return {slot, random_prompt(rows, static_cast<std::uint64_t>(slot + 1)), {}, 100, {}};
}

/// Tokens of both sessions after a fill of 600 and `shorter` rows and 40 steps; `look` sees each step's lists.
std::vector<std::vector<std::int32_t>> filled_run(const EngineOptions& options, const StepTap& look = {},
                                                  RowCounts* counts = nullptr, std::int64_t shorter = 300) {
  auto device = make_cpu_device({.poison = true});
  Engine engine(*device, kShape, options);
  if (look) engine.set_step_tap(look);
  Session a = session_of(0, 600), b = session_of(1, shorter);
  engine.fill(a);
  engine.fill(b);
  Session* both[] = {&a, &b};
  for (int i = 0; i < 40; ++i) engine.step(both);
  if (counts != nullptr) *counts = engine.row_counts();
  return {a.tokens(), b.tokens()};
}

const std::vector<std::string> kSmall{"rows=48", "window=8", "label_dims=8"};

}  // namespace

TEST_CASE("a filled session is one that placement does not change") {
  const auto expected = filled_run(options_of("sparse-resident", kSmall));
  CHECK(expected[0].size() == 641);
  CHECK(std::ranges::all_of(expected[0], [](std::int32_t id) { return id >= 0 && id < 64; }));
  for (double cache : {0.0, 1.0, 4.0}) CHECK(filled_run(options_of("offload", kSmall, cache)) == expected);
  const auto dense = filled_run(options_of("dense", {}));
  CHECK(filled_run(options_of("stream", {})) == dense);
  CHECK(dense != expected);
}

TEST_CASE("random weights are the same wherever they are, and a prefill with them") {
  // An embedding table of several pieces.
  const ModelConfig shape = parse_geometry(
                                "hidden = 32\nlayers = 4\nq_heads = 4\nkv_heads = 2\nhead_dim = 16\nintermediate = 48\n"
                                "vocab = 250\nmax_position = 4096\n",
                                "tiny")
                                .config;
  auto answer = [&](std::int64_t streamed, bool spill, bool host_embedding) {
    auto device = make_cpu_device({.poison = true});
    EngineOptions options = options_of("stream", {});
    options.streamed_layers = streamed;
    options.spill_hidden = spill;
    options.host_embedding = host_embedding;
    Engine engine(*device, shape, options);
    Session session(0, random_prompt(300, 3, 250), {}, 20, {});
    engine.prefill(session);
    Session* one = &session;
    for (int i = 0; i < 19; ++i) engine.step({&one, 1});
    return session.tokens();
  };
  const auto expected = answer(0, false, false);
  for (std::int64_t streamed : {0, 1, 3, 4})
    for (bool moved : {false, true}) CHECK(answer(streamed, moved, moved) == expected);
}

TEST_CASE("replayed steps attend the recorded rows, and count as their reuse is") {
  EngineOptions options = options_of("offload", kSmall, 4);
  options.probes.lists = true;
  auto recording = std::make_shared<Replay>();
  recording->steps = 30, recording->layers = 4, recording->heads = 2, recording->stride = 40;
  for (std::int32_t list = 0; list < 30 * 4 * 2; ++list) {  // rows that stay for a while
    for (std::int32_t i = 0; i < 40; ++i) recording->rows.push_back(70 + 5 * i + (list / 8 + i) / 25);
    recording->counts.push_back(40);
  }
  std::int64_t checked = 0;
  const StepTap look = [&](const StepProbe& probe, std::span<Session* const> sessions) {
    for (std::int64_t i = 0; i < probe.sessions * probe.layers * probe.kv_heads; ++i) {
      const Session& session = *sessions[static_cast<std::size_t>(i / (probe.layers * probe.kv_heads))];
      const std::int32_t* rows = probe.rows + i * probe.stride;
      REQUIRE(probe.counts[i] == 48);  // 4 sinks, 36 recorded, a window of 8
      const std::int64_t step = session.rows() % 60, at = step < 30 ? step : 59 - step;
      for (std::int32_t j = 0; j < 36; ++j) REQUIRE(rows[4 + j] == 70 + 5 * j + (at + j) / 25);
      ++checked;
    }
  };
  options.replay = recording;
  RowCounts counts;
  filled_run(options, look, &counts);
  CHECK(checked == 40 * 2 * 4 * 2);
  CHECK(counts.cache_hits > counts.missed * 20);

  // Without reuse nothing that is kept is asked for again, and what is foretold decides what is missed. A step lists
  // every third row, so that all are listed in three steps, and the resident set holds those of one.
  for (float recall : {0.0f, 1.0f}) {
    auto never = std::make_shared<Replay>();
    never->recall = recall;
    options =
        options_of("offload", {"rows=200", "window=8", "label_dims=8", "eager_layers=[0]", "look_ahead=hidden"}, 1);
    options.replay = never;
    filled_run(options, {}, &counts, 600);
    CAPTURE(recall, counts.staged_hits, counts.missed);
    CHECK(counts.cache_hits == 0);
    if (recall == 0) CHECK(counts.staged_hits * 4 < counts.missed);  // a row whose next is listed, too, is given right
    else CHECK(static_cast<double>(counts.staged_hits) == Approx(counts.missed * 3.0).epsilon(0.03));  // but of layer 0
  }
}

TEST_CASE("the host store's checksum tells what has arrived from what has not") {
  const RowType type = GENERATE(RowType::act, RowType::int8);
  for (const char* policy : {"stream", "offload"}) {
    EngineOptions options = options_of(policy, policy == std::string("offload") ? kSmall : std::vector<std::string>{});
    options.probes.checksums = true;
    options.policy.kv_dtype = type;
    for (const char* dropped : {"", "chunk_written"}) {
      if (test::kThreadSanitizer && *dropped != 0) continue;
      CpuDeviceOptions machine{.poison = true};
      machine.drop_wait = dropped;
      if (*dropped != 0) machine.delays = {{.stream = "compute", .microseconds = 300}};
      auto device = make_cpu_device(machine);
      Engine engine(*device, kShape, options);
      Session session = session_of(1, 600);
      engine.prefill(session);
      CAPTURE(policy, dropped, name_of(type));
      if (*dropped == 0) CHECK(engine.layers_not_stored(session) == 0);
      else CHECK(engine.layers_not_stored(session) > 0);
    }
  }
}
