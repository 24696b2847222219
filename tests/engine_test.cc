#include <fstream>

#include "tests/support/catch.h"
#include "tests/support/tiny_model.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

/// The answer to one prompt with this sampling.
std::vector<std::int32_t> answer(Engine& engine, const SampleParams& sampling, std::int64_t tokens) {
  Session session(0, random_prompt(50, 3), sampling, tokens, {});
  engine.prefill(session);
  Session* one = &session;
  while (!session.done()) engine.step({&one, 1});
  return {session.tokens().begin() + session.prompt_size(), session.tokens().end()};
}

}  // namespace

TEST_CASE("a seed fixes the answer, and another seed gives another") {
  auto device = make_cpu_device();
  Engine engine(*device, load_model_config(tiny_model_dir()), Safetensors::open_model(tiny_model_dir()),
                engine_options({.prompts = {50}, .steps = 40}));
  const SampleParams warm{.temperature = 1, .seed = 1}, other{.temperature = 1, .seed = 2};
  CHECK(answer(engine, warm, 30) == answer(engine, warm, 30));
  CHECK(answer(engine, warm, 30) != answer(engine, other, 30));
  CHECK(answer(engine, warm, 30).size() == 30);
}

TEST_CASE("an end token ends the session as stop, the budget of tokens as length") {
  auto device = make_cpu_device();
  Engine engine(*device, load_model_config(tiny_model_dir()), Safetensors::open_model(tiny_model_dir()),
                engine_options({.prompts = {50}, .steps = 40}));
  const auto tokens = answer(engine, {}, 8);
  Session session(0, random_prompt(50, 3), {}, 8, {tokens[2]});
  engine.prefill(session);
  Session* one = &session;
  while (!session.done()) engine.step({&one, 1});
  CHECK(session.finish() == Finish::stop);
  CHECK(session.tokens().back() == tokens[2]);
  CHECK(session.answer_size() <= 3);
}

TEST_CASE("logits that are not finite end the session without a token") {
  TempDir dir;
  write_tiny_model(dir.path(), {}, 7);
  {
    std::fstream file(dir.path() / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-2, std::ios::end);  // the last weight
    file.write("\xff\xff", 2);      // NaN in bf16
  }
  auto device = make_cpu_device();
  Engine engine(*device, load_model_config(dir.path()), Safetensors::open_model(dir.path()),
                engine_options({.prompts = {50}, .steps = 4}));
  Session session(0, random_prompt(50, 3), {}, 4, {});
  engine.prefill(session);
  CHECK(session.finish() == Finish::not_finite);
  CHECK(session.answer_size() == 0);
  CHECK(not_finite_message(session).find("after 50 tokens") != std::string::npos);
}

TEST_CASE("an answer does not depend on what the slot held before") {
  auto device = make_cpu_device({.poison = true});
  Engine engine(*device, load_model_config(tiny_model_dir()), Safetensors::open_model(tiny_model_dir()),
                engine_options({.prompts = {300}, .steps = 40}));
  const auto fresh = answer(engine, {}, 40);
  Session longer(0, random_prompt(300, 9), {}, 40, {});
  engine.prefill(longer);
  Session* one = &longer;
  for (int i = 0; i < 30; ++i) engine.step({&one, 1});
  CHECK(answer(engine, {}, 40) == fresh);
}
