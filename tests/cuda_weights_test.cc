// Streamed weights and spilled hidden states on a CUDA device: steps as they are enqueued, recorded and replayed. All
// look ahead: which rows come late decides what is added up first, and here bits are compared.
#include "runtime/model/geometry.h"
#include "tests/support/cuda_rig.h"
#include "tests/support/tiny_model.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

/// Answers by steps that nothing taps, so that they are recorded and replayed.
std::vector<std::vector<std::int32_t>> answers(Device& device, const ModelConfig& config, const EngineOptions& options,
                                               const std::vector<std::int64_t>& prompts, int steps) {
  Engine engine(device, config, options);
  std::vector<Session> sessions;
  std::vector<Session*> all;
  for (std::int64_t i = 0; i < std::ssize(prompts); ++i)
    sessions.emplace_back(
        i, random_prompt(prompts[static_cast<std::size_t>(i)], static_cast<std::uint64_t>(i), config.vocab),
        SampleParams{}, steps + 1, std::vector<std::int32_t>{});
  for (Session& session : sessions) {
    engine.prefill(session);
    all.push_back(&session);
  }
  for (int i = 0; i < steps; ++i) engine.step(all);
  std::vector<std::vector<std::int32_t>> tokens;
  for (const Session& session : sessions) tokens.push_back(session.tokens());
  return tokens;
}

/// The second prompt is prefilled between steps of the first session, then both decode.
std::vector<std::vector<std::int32_t>> answers_by_turns(Device& device, const ModelConfig& config,
                                                        const EngineOptions& options) {
  constexpr int kSteps = 60;
  Engine engine(device, config, options);
  Session first(0, random_prompt(700, 1, config.vocab), {}, kSteps, {});
  Session second(1, random_prompt(1500, 2, config.vocab), {}, kSteps, {});
  Session *one = &first, *both[] = {&first, &second};
  engine.prefill(first);
  engine.begin_prefill({both + 1, 1});
  while (engine.prefilling()) {
    engine.advance_prefill(1);
    if (!first.done()) engine.step({&one, 1});
  }
  while (!first.done()) engine.step(both);
  while (!second.done()) engine.step({both + 1, 1});
  return {first.tokens(), second.tokens()};
}

}  // namespace

TEST_CASE("cuda: streamed weights and spilled hidden states change no bit", "[cuda][engine]") {
  if (cuda_rig() == nullptr) return;
  for (const char* policy : {"dense", "stream", "offload"}) {
    RunOptions options{.policy = policy, .activations = DType::f32, .prompts = {1, 64, 150, 300}, .steps = 70};
    if (policy == std::string("offload"))
      options.sets = {"rows=48", "window=8", "label_dims=8", "look_ahead=hidden"}, options.cache = 1;
    auto plain = make_cuda_device(0, std::int64_t{1} << 30);
    const RunResult want = run_tiny(*plain, options, nullptr);
    for (std::int64_t streamed : {1, 2, 3}) {
      options.streamed_layers = streamed;
      options.spill_hidden = streamed != 2;
      auto device = make_cuda_device(0, std::int64_t{1} << 30);
      const RunResult got = run_tiny(*device, options, &want);
      for (std::size_t i = 0; i < options.prompts.size(); ++i) {
        CAPTURE(policy, streamed, options.prompts[i]);
        CHECK(got.logits[i] == want.logits[i]);
      }
    }
  }
}

TEST_CASE("cuda: weights that take time to come change no token, recorded or not", "[cuda][engine]") {
  if (cuda_rig() == nullptr) return;
  // 36 MiB a layer: more than half a millisecond on the link, many times what its compute takes.
  const ModelConfig config = parse_geometry(
                                 "hidden = 1024\nlayers = 7\nq_heads = 16\nkv_heads = 4\nhead_dim = 64\n"
                                 "intermediate = 5120\nvocab = 4000\nmax_position = 8192\n",
                                 "small")
                                 .config;
  for (const char* policy : {"sparse-resident", "offload", "published-offload", "stream"}) {
    std::vector<std::string> sets;
    if (policy != std::string("stream")) sets = {"rows=128", "window=8"};
    if (policy == std::string("offload")) sets.push_back("look_ahead=hidden");
    EngineOptions options{.policy = load_policy(policy, sets),
                          .max_len = 1700,
                          .max_sessions = 2,
                          .prefill_chunk = 256,
                          .resident = policy == std::string("sparse-resident") ? 1.0 : 0.0,
                          .cache = 1};
    auto device = make_cuda_device(0, std::int64_t{2} << 30);
    const auto expected = answers(*device, config, options, {1500, 700}, 40);
    for (std::int64_t streamed : {1, 2, 3, 6, 7})
      for (bool recorded : {true, false}) {
        options.streamed_layers = streamed;
        options.spill_hidden = options.host_embedding = recorded;
        options.replay_steps = recorded;
        CAPTURE(policy, streamed, recorded);
        CHECK(answers(*device, config, options, {1500, 700}, 40) == expected);
      }
  }
}

TEST_CASE("cuda: steps between a prefill's chunks, recorded or not, change no token", "[cuda][engine]") {
  if (cuda_rig() == nullptr) return;
  const Geometry geometry = parse_geometry(
      "hidden = 512\nlayers = 5\nq_heads = 8\nkv_heads = 2\nhead_dim = 64\nintermediate = 1024\nvocab = 4000\n"
      "max_position = 8192\nweights = \"int4\"\n",
      "small");
  for (const char* policy : {"sparse-resident", "offload", "stream"})
    for (bool packed : {false, true}) {
      std::vector<std::string> sets;
      if (policy != std::string("stream")) sets = {"rows=128", "window=8"};
      if (policy == std::string("offload")) sets.push_back("look_ahead=hidden");
      EngineOptions options{.policy = load_policy(policy, sets),
                            .max_len = 1700,
                            .max_sessions = 2,
                            .prefill_chunk = 256,
                            .resident = policy == std::string("sparse-resident") ? 1.0 : 0.0,
                            .cache = 1};
      options.formats = geometry.formats;
      options.packed = packed;
      options.replay_steps = false;
      auto device = make_cuda_device(0, std::int64_t{2} << 30);
      const auto expected = answers_by_turns(*device, geometry.config, options);
      for (std::int64_t streamed : {0, 2, 5})
        for (bool recorded : {true, false}) {
          options.streamed_layers = streamed;
          options.replay_steps = recorded;
          options.layers_held = recorded ? 2 : 1;
          CAPTURE(policy, packed, streamed, recorded);
          CHECK(answers_by_turns(*device, geometry.config, options) == expected);
        }
    }
}
