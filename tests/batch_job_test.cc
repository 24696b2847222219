// How a batch spends its time: what is done for good early on, and what it says it may still take.
#include "runtime/batch/job.h"

#include <map>
#include <set>

#include "kernels/cpu/cpu_device.h"
#include "paths.h"
#include "runtime/batch/pace.h"
#include "runtime/engine/prefill_work.h"
#include "runtime/model/geometry.h"
#include "tests/support/batch_files.h"
#include "tests/support/catch.h"
#include "tests/support/tiny_model.h"

namespace longhaul {
namespace {

using namespace test;

TEST_CASE("a run that ends after 15 % of its work has ended a document for good", "[batch]") {
  const ScratchDir dir;
  std::filesystem::create_directory(dir.path() / "docs");
  for (int i = 1; i <= 12; ++i) dir.write("docs/" + std::to_string(i), document("The Road", 3 * i));
  const ModelFiles model(LONGHAUL_SOURCE_DIR "/apps/demo/demo-7m");
  Progress progress({.form = Progress::Form::none});
  JobStats first;
  const BatchJob* running = nullptr;
  const Order order = GENERATE(Order::longest, Order::input);
  BatchJob job(model, list_requests({(dir.path() / "docs").string()}),
               {.frame = instruction_frame("Why?"), .sampling = {}, .max_tokens = 6, .context = 4096, .order = order},
               progress, [&](const BatchRequest&, const Answer&) {
                 if (first.prompt_tokens == 0) first = running->stats();
               });
  running = &job;
  BatchOutput output(dir.path() / "out");
  BatchJournal journal(output.file(), "job", [] { return 0; });
  journal.start();
  job.read(journal);
  output.match(Manifest({}, {}, job.keys()), job.keys(), {});
  job.prepare(output, journal);
  REQUIRE(job.ready() == 12);
  const auto device = make_cpu_device();
  Engine engine(*device, model.config, model.weights,
                {.policy = load_policy("dense"), .max_len = job.longest(), .max_sessions = 4, .resident = 1});
  output.start();
  job.run(engine, output, journal);
  const JobStats& all = job.stats();
  CHECK(all.documents == 12);
  // Of prompts and of answers, so that it holds at any speed of either; a prompt's work grows faster than its tokens.
  CHECK(static_cast<double>(first.prompt_tokens) <= 0.15 * static_cast<double>(all.prompt_tokens));
  CHECK(static_cast<double>(first.decoded_tokens) <= 0.15 * static_cast<double>(all.decoded_tokens));
}

TEST_CASE("documents that wait for room in the host store are answered as if there were enough", "[batch]") {
  const ScratchDir dir;
  std::filesystem::create_directory(dir.path() / "docs");
  const std::vector<int> sentences{60, 5, 50, 8, 3, 20, 4};
  for (std::size_t i = 0; i < sentences.size(); ++i)
    dir.write("docs/" + std::to_string(i), document("The Road " + std::to_string(i), sentences[i]));
  const ModelFiles model(LONGHAUL_SOURCE_DIR "/apps/demo/demo-7m");
  const Order order = GENERATE(Order::longest, Order::input);
  auto answers = [&](std::int64_t store_rows) {
    Progress progress({.form = Progress::Form::none});
    std::map<std::string, std::string> texts;
    BatchJob job(
        model, list_requests({(dir.path() / "docs").string()}),
        {.frame = instruction_frame("Why?"), .sampling = {}, .max_tokens = 12, .context = 4096, .order = order},
        progress, [&](const BatchRequest& request, const Answer& answer) { texts[request.custom_id] = answer.text; });
    BatchOutput output(dir.path() / ("out-" + std::to_string(store_rows)));
    BatchJournal journal(output.file(), "job", [] { return 0; });
    journal.start();
    job.read(journal);
    output.match(Manifest({}, {}, job.keys()), job.keys(), {});
    job.prepare(output, journal);
    const EngineOptions options{.policy = load_policy("stream", {"recent_rows=64"}),
                                .max_len = job.longest(),
                                .max_sessions = 4,
                                .lengths = std::make_shared<const std::vector<std::int64_t>>(job.lengths()),
                                .store_rows = store_rows,
                                .prefill_chunk = 64};
    CHECK((together(model.config, options).longest < 4) == (store_rows > 0));
    const auto device = make_cpu_device();
    Engine engine(*device, model.config, model.weights, options);
    output.start();
    job.run(engine, output, journal);
    return texts;
  };
  const auto expected = answers(0);
  CHECK(expected.size() == sentences.size());
  CHECK(answers(EngineOptions::kLeastStore) == expected);
}

TEST_CASE("what a prefill has done is told as its arithmetic, which grows with the square of the prompt", "[batch]") {
  const auto device = make_cpu_device();
  const RunOptions run{.prefill_chunk = 16, .prompts = {400}, .steps = 4};
  const ModelConfig config = load_model_config(tiny_model_dir());
  Engine engine(*device, config, Safetensors::open_model(tiny_model_dir()), engine_options(run));
  std::set<double> known;
  double sum = 0;
  for (std::int64_t l = 0; l < config.layers; ++l)
    for (std::int64_t at = 0; at < 400; at += 16) known.insert(sum += chunk_work(config, l, at, 16));
  Session session(0, random_prompt(400, 3), {}, 4, {});
  double before = 0;
  int told = 0;
  engine.prefill(session, [&](const PrefillProgress& p) {
    CHECK(p.total == Approx(prompt_work(config, 400)));
    CHECK(known.contains(p.done));
    CHECK(p.done >= before);
    before = p.done;
    ++told;
  });
  CHECK(before == sum);
  CHECK(told > 20);
}

/// A machine that does products and attention at rates of its own.
struct Machine {
  ModelConfig config = load_geometry("llama-3.1-8b").config;
  double products = 700e12, attention = 700e12;

  double seconds(std::int64_t tokens) const {
    const double linear = static_cast<double>(config.layers * tokens) * linear_work(config);
    return linear / products + (prompt_work(config, tokens) - linear) / attention;
  }
};

TEST_CASE("what is left of a job is known within 15 % from its first, short document on", "[batch]") {
  Machine machine;
  machine.attention *= GENERATE(1.0, 0.87, 1.15);
  const std::vector<std::int64_t> prompts{2048, 262144, 131072, 65536, 32768, 8192};
  constexpr double kAnswers = 6 * 100, kStep = 0.005;
  double total = kStep * kAnswers, all_work = 0, all_tokens = 0;
  for (const std::int64_t prompt : prompts) {
    total += machine.seconds(prompt);
    all_work += prompt_work(machine.config, prompt);
    all_tokens += static_cast<double>(prompt);
  }
  Pace pace;
  CHECK_FALSE(pace.seconds_for(all_work, kAnswers));
  double now = 0, answered = 0, by_tokens = 0;
  for (const std::int64_t prompt : prompts) {
    for (const int parts : {4, 2, 1}) {  // a quarter, half and all of it
      if (pace.tokens == 0) continue;    // how long a step takes is known once the first document is answered
      const double past = machine.seconds(prompt / parts);
      const Pace here{.work = pace.work + prompt_work(machine.config, prompt / parts),
                      .prefill_seconds = pace.prefill_seconds + past,
                      .tokens = pace.tokens,
                      .decode_seconds = pace.decode_seconds};
      CHECK(*here.seconds_for(all_work - here.work, kAnswers - answered) == Approx(total - now - past).epsilon(0.15));
    }
    now += machine.seconds(prompt) + 100 * kStep;
    pace.work += prompt_work(machine.config, prompt);
    pace.prefill_seconds += machine.seconds(prompt);
    pace.tokens += 100;
    pace.decode_seconds += 100 * kStep;
    answered += 100;
    if (by_tokens == 0) by_tokens = pace.prefill_seconds / 2048 * (all_tokens - 2048) + kStep * (kAnswers - answered);
  }
  CHECK(by_tokens < 0.5 * total);  // a model that knows tokens alone is far off
}

}  // namespace
}  // namespace longhaul
