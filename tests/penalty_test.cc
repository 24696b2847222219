// The repetition penalty in the engine: what a step samples is what transformers' processor makes of the logits and the
// tokens so far, whatever slot a session has, what was there before, and who else steps.
#include <algorithm>
#include <array>
#include <set>

#include "kernels/cpu/ops.h"
#include "paths.h"
#include "runtime/checkpoint/json_file.h"
#include "tests/support/catch.h"
#include "tests/support/tiny_model.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

/// The token after `tokens`: every id among them is made less likely once, then all are sampled without a penalty.
std::int32_t expected(std::span<const float> logits, std::span<const std::int32_t> tokens, SampleParams params) {
  std::vector<float> scores(logits.begin(), logits.end());
  for (const std::int32_t id : std::set(tokens.begin(), tokens.end())) {
    float& score = scores[static_cast<std::size_t>(id)];
    const double penalty = params.repetition_penalty;
    score = static_cast<float>(score < 0 ? score * penalty : score / penalty);
  }
  params.repetition_penalty = 1;
  std::int32_t out = -7;
  cpu::sample({scores.data(), &params, &out, 1, std::ssize(scores)});
  return out;
}

/// An engine all of whose sampled tokens are held against that.
class Checked {
 public:
  Checked(Device& device, const EngineOptions& options)
      : engine(device, load_model_config(tiny_model_dir()), Safetensors::open_model(tiny_model_dir()), options) {
    engine.set_logits_tap([this](std::int64_t rows, const float* logits) {
      const std::int64_t vocab = engine.config().vocab;
      logits_.assign(logits, logits + rows * vocab);
    });
  }

  void prefill(Session& session) {
    engine.prefill(session);
    const auto vocab = static_cast<std::size_t>(engine.config().vocab);
    check(session, std::span(logits_).last(vocab), 0);
  }
  void step(const std::vector<Session*>& sessions) {
    engine.step(sessions);
    const auto vocab = static_cast<std::size_t>(engine.config().vocab);
    for (std::size_t i = 0; i < sessions.size(); ++i)
      check(*sessions[i], std::span(logits_).subspan(i * vocab, vocab), sessions[i]->answer_size() - 1);
  }

  Engine engine;

 private:
  static void check(const Session& session, std::span<const float> logits, std::int64_t step) {
    SampleParams params = session.next_sampling();
    params.step = static_cast<std::uint64_t>(step);
    const auto before = std::span(session.tokens()).first(session.tokens().size() - 1);
    CAPTURE(session.slot(), session.prompt_size(), step, params.repetition_penalty);
    CHECK(session.tokens().back() == expected(logits, before, params));
  }
  std::vector<float> logits_;
};

Session session_of(std::int64_t slot, std::int64_t prompt, float penalty, float temperature = 0) {
  return Session(slot, random_prompt(prompt, static_cast<std::uint64_t>(prompt)),
                 {.temperature = temperature, .top_k = 20, .repetition_penalty = penalty, .seed = 5}, 200, {});
}

std::vector<std::int32_t> answer_of(const Session& session) {
  return {session.tokens().begin() + session.prompt_size(), session.tokens().end()};
}

}  // namespace

TEST_CASE("a penalised answer is the reference's, in every slot, batch and slot used again") {
  const bool slow = GENERATE(false, true);
  auto device = make_cpu_device({.poison = true});
  if (slow) device = make_cpu_device({.delays = {{.stream = "", .microseconds = 200, .random = true}}, .poison = true});
  Checked checked(*device, engine_options({.resident = 0.3, .prompts = {90, 90, 90, 90}, .steps = 70}));
  std::vector<Session> all{session_of(2, 70, 1.05f), session_of(0, 3, 1), session_of(3, 40, 1.3f, 0.8f),
                           session_of(1, 33, 0.6f)};
  for (Session& session : all) checked.prefill(session);
  for (int i = 0; i < 25; ++i) checked.step({&all[0], &all[1], &all[2], &all[3]});
  for (int i = 0; i < 10; ++i) checked.step({&all[3], &all[0]});
  // Where others were: the penalty is for what this session has alone.
  Session small = session_of(2, 2, 1.5f), plain = session_of(3, 12, 1);
  checked.prefill(small);
  checked.prefill(plain);
  for (int i = 0; i < 20; ++i) checked.step({&plain, &small, &all[1]});
}

TEST_CASE("a penalty changes answers, and one of 1 none") {
  auto device = make_cpu_device();
  Engine engine(*device, load_model_config(tiny_model_dir()), Safetensors::open_model(tiny_model_dir()),
                engine_options({.prompts = {50, 50}, .steps = 40}));
  auto answer = [&](float penalty, bool beside) {
    Session session = session_of(0, 50, penalty), other = session_of(1, 30, 1.2f);
    engine.prefill(session);
    if (beside) engine.prefill(other);
    for (int i = 0; i < 30; ++i) beside ? engine.step(std::array{&other, &session}) : engine.step(std::array{&session});
    return answer_of(session);
  };
  Session never(0, random_prompt(50, 50), {}, 31, {});
  engine.prefill(never);
  while (!never.done()) engine.step(std::array{&never});
  CHECK(answer(1, false) == answer_of(never));
  CHECK(answer(1, true) == answer_of(never));
  CHECK(answer(1.3f, false) != answer_of(never));
  CHECK(answer(1.3f, true) == answer(1.3f, false));
}

TEST_CASE("a penalty takes a step no bytes and no wait") {
  auto device = make_cpu_device();
  Engine engine(*device, load_model_config(tiny_model_dir()), Safetensors::open_model(tiny_model_dir()),
                engine_options({.policy = "dense", .prompts = {50}, .steps = 40}));
  auto cost = [&](float penalty) {
    Session session = session_of(0, 50, penalty);
    engine.prefill(session);
    const DeviceCounters before = device->counters();
    for (int i = 0; i < 10; ++i) engine.step(std::array{&session});
    const DeviceCounters after = device->counters();
    return std::array{after.h2d_bytes - before.h2d_bytes, after.d2h_bytes - before.d2h_bytes,
                      after.launches - before.launches, after.host_waits - before.host_waits};
  };
  CHECK(cost(1.1f) == cost(1));
}

TEST_CASE("forced tokens and a session taken back are penalised for what is there") {
  auto device = make_cpu_device({.poison = true});
  Checked checked(*device, engine_options({.policy = "dense", .prompts = {60, 60}, .steps = 40}));
  Session session = session_of(1, 20, 1.4f), other = session_of(0, 60, 1.2f);
  checked.prefill(session);
  checked.prefill(other);
  for (std::int32_t forced = 0; forced < 8; ++forced) {  // what was sampled in their place is not penalised
    session.force(forced * 7);
    checked.step({&session, &other});
  }
  for (const std::int64_t rows : {std::int64_t{24}, session.prompt_size()}) {
    checked.engine.rewind(session, rows, 3);
    checked.engine.rewind(session, rows, 5);
    for (int i = 0; i < 6; ++i) checked.step({&other, &session});
  }
}

TEST_CASE("a session that adopts a prefill is penalised for its prompt") {
  auto device = make_cpu_device({.poison = true});
  RunOptions o{.policy = "dense", .probes = {.adoptable = true}, .prompts = {60, 60}, .steps = 40};
  Checked from(*device, engine_options(o));
  o.policy = "sparse-resident";
  o.sets = {"min_rows=16", "label_dims=8", "sinks=2", "window=8"};
  o.probes = {};
  Checked to(*device, engine_options(o));
  Session source = session_of(0, 60, 1.1f), session = session_of(1, 60, 1.5f);
  from.prefill(source);
  to.engine.adopt(session, from.engine, source);
  CHECK(answer_of(session) == answer_of(source));
  for (int i = 0; i < 10; ++i) to.step({&session});
}

TEST_CASE("prompts that begin alike have their own penalties") {
  RunOptions o{.prompts = {170, 157, 180}, .steps = 20};
  EngineOptions options = engine_options(o);
  options.shared_rest = 400;
  auto device = make_cpu_device({.poison = true});
  Engine engine(*device, load_model_config(tiny_model_dir()), Safetensors::open_model(tiny_model_dir()), options);
  auto answers = [&](bool together) {
    std::vector<Session> sessions;
    std::vector<Session*> all;
    for (std::int64_t i = 0; i < 3; ++i) {
      auto prompt = random_prompt(150, 1);
      const auto own = random_prompt(o.prompts[static_cast<std::size_t>(i)] - 150, static_cast<std::uint64_t>(10 + i));
      prompt.insert(prompt.end(), own.begin(), own.end());
      sessions.emplace_back(2 - i, prompt, SampleParams{.repetition_penalty = std::array{1.2f, 1.0f, 0.8f}[i]},
                            o.steps + 1, std::vector<std::int32_t>{});
    }
    for (Session& session : sessions) all.push_back(&session);
    REQUIRE(engine.shared_rows(all) == 144);
    if (together) engine.prefill(all);
    else
      for (Session* session : all) engine.prefill(*session);
    for (std::int64_t i = 0; i < o.steps; ++i) engine.step(all);
    std::vector<std::vector<std::int32_t>> tokens;
    for (const Session& session : sessions) tokens.push_back(session.tokens());
    return tokens;
  };
  CHECK(answers(true) == answers(false));
}

TEST_CASE("penalised answers are those of transformers") {
  const std::filesystem::path data = LONGHAUL_SOURCE_DIR "/tests/data";
  const auto cases = read_json_file(data / "repetition_penalty.json");
  REQUIRE(cases.size() == 9);
  for (const auto& one : cases) {
    const auto dir = data / "families" / one["family"].get<std::string>();
    const auto prompt = one["prompt"].get<std::vector<std::int32_t>>();
    const auto answer = one["answer"].get<std::vector<std::int32_t>>();
    for (const char* policy : {"dense", "stream"}) {
      auto device = make_cpu_device({.poison = true});
      Engine engine(*device, load_model_config(dir), Safetensors::open_model(dir),
                    engine_options({.policy = policy,
                                    .activations = DType::f32,
                                    .prompts = {std::ssize(prompt)},
                                    .steps = std::ssize(answer)}));
      Session session(0, prompt, {.repetition_penalty = one["penalty"].get<float>()}, std::ssize(answer), {});
      engine.prefill(session);
      while (!session.done()) engine.step(std::array{&session});
      CAPTURE(dir.filename().string(), one["penalty"].get<float>(), policy);
      CHECK(answer_of(session) == answer);
    }
  }
}
