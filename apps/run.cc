// longhaul run: one prompt, its answer streamed to stdout.
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <array>
#include <memory>

#include "apps/options.h"
#include "apps/verbs.h"
#include "kernels/base/bytes.h"
#include "runtime/batch/job.h"
#include "runtime/engine/timed_sessions.h"

namespace longhaul {
namespace {

struct PromptOptions : Options {
  std::optional<std::string> prompt;
  std::string prompt_file;
  std::optional<std::int64_t> prompt_tokens;  // of a geometry's prompt
};

std::string read_prompt(const PromptOptions& o) {
  if (o.prompt.has_value() == !o.prompt_file.empty())
    throw UserError(Exit::usage, "give one of --prompt and --prompt-file; see longhaul run --help");
  if (!o.prompt) return read_document(o.prompt_file);
  check_text("--prompt", *o.prompt);
  if (is_blank(*o.prompt)) throw UserError(Exit::usage, "--prompt: is empty");
  return *o.prompt;
}

/// Prefill, then steps until the session is done; `say_newest` is called for each token.
void answer(Engine& engine, Session& session, Progress& progress, const std::function<void()>& say_newest) {
  auto tell = [&] {
    if (session.finish() == Finish::not_finite) throw UserError(Exit::bad_model, "{}", not_finite_message(session));
    say_newest();
  };
  auto start = Progress::Clock::now();
  progress.prefill("prompt", session.prompt_size(), 0);
  engine.prefill(
      session, [&](const PrefillProgress& p) { progress.prefill("prompt", session.prompt_size(), p.done / p.total); });
  double prefill = seconds_since(start);
  progress.clear();
  tell();
  start = Progress::Clock::now();
  while (!session.done()) {
    engine.step(std::array{&session});
    tell();
  }
  double decode = seconds_since(start);
  std::int64_t steps = session.answer_size() - 1;
  spdlog::info("prefill {} tokens, {:.1f} tokens/s; decode {} tokens, {:.1f} tokens/s; finish: {}",
               session.prompt_size(), static_cast<double>(session.prompt_size()) / prefill, steps,
               steps > 0 ? static_cast<double>(steps) / decode : 0.0,
               session.finish() == Finish::stop ? "stop" : "length");
}

void stream_answer(Engine& engine, const ModelFiles& model, Session& session, Progress& progress) {
  StreamDecoder decoder(model.tokenizer);
  answer(engine, session, progress, [&] {
    if (session.finish() != Finish::stop) say(decoder.push(session.tokens().back()));
    if (session.done()) say(fmt::format("{}\n", decoder.finish()));
  });
}

/// A shape with random weights answers random tokens with random ones: what counts is how fast, and in how much memory.
void run_geometry(const PromptOptions& o) {
  constexpr std::int64_t kPrompt = 512;
  if (o.prompt || !o.prompt_file.empty() || !o.channels.empty())
    throw UserError(
        Exit::usage,
        "--geometry has neither a tokenizer nor trained weights: give --prompt-tokens in place of --prompt, "
        "--prompt-file and --channels");
  Geometry shape = load_geometry(o.geometry);
  const std::int64_t prompt = o.prompt_tokens.value_or(kPrompt), answer_tokens = max_tokens(o, {});
  // Random weights have no context that they were trained for.
  shape.config.max_position = std::max(shape.config.max_position, prompt + answer_tokens);
  const Budget limits = budget(o);
  const EngineOptions options =
      fit_to_budget(shape.config, wanted_options(o, shape.config, shape.formats, prompt + answer_tokens, 1), limits);
  const std::unique_ptr<Device> device = open_device(o, limits.device);
  Progress progress({stderr, ::isatty(STDERR_FILENO) == 1, 1});
  Engine engine(*device, shape.config, options);
  spdlog::info("{}; synthetic {}; policy {}; kv cache: {}; weights: {}", device->describe(), shape.name,
               options.policy.name, describe_streaming(shape.config, options, limits),
               describe_placement(shape.config, options));
  const auto trace = record_trace(o, shape.name, engine);
  Session session(0, random_tokens(prompt, shape.config.vocab, o.seed), sampling_params(o, {}), answer_tokens, {});
  say(fmt::format("synthetic {}:", shape.name));
  answer(engine, session, progress, [&] { say(fmt::format(" {}", session.tokens().back())); });
  say("\n");
  spdlog::info("{}", describe_rows(engine.row_counts()));
  if (trace) trace->finish();
}

void run(const PromptOptions& o) {
  if (!o.geometry.empty()) return run_geometry(o);
  if (o.prompt_tokens) throw UserError(Exit::usage, "--prompt-tokens is of --geometry; see longhaul run --help");
  std::string prompt = read_prompt(o);
  ModelFiles model(o.model, chat_options(o));
  std::vector<std::int32_t> ids = model.prompt_ids({{"user", prompt}});
  auto length = static_cast<std::int64_t>(ids.size());
  std::int64_t answer = max_tokens(o, model.generation);
  std::int64_t room = context(o, model.config) - length;
  if (room > 0 && answer > room)
    throw UserError(Exit::usage,
                    "--max-tokens {}: the context has {} tokens and the prompt takes {}; at most {} are left", answer,
                    room + length, length, room);
  check_context(length, answer, room + length);
  Budget limits = budget(o);
  EngineOptions options = engine_options(o, model, limits, length + answer, 1);
  std::unique_ptr<Device> device = open_device(o, limits.device);
  Progress progress({stderr, ::isatty(STDERR_FILENO) == 1, 1});
  Engine engine(
      *device, model.config, model.weights, options,
      [&](std::int64_t done, std::int64_t total) { progress.pinning(done, total); },
      [&](std::int64_t done, std::int64_t total) { progress.loading(done, total); });
  progress.clear();
  spdlog::info("{}; policy {}; kv cache: {}; weights: {}", device->describe(), options.policy.name,
               describe_streaming(model.config, options, limits), describe_placement(model.config, options));
  const auto trace = record_trace(o, model.name, engine);
  Session session(0, std::move(ids), sampling_params(o, model.generation), answer, model.eos());
  stream_answer(engine, model, session, progress);
  spdlog::info("{}", describe_rows(engine.row_counts()));
  if (trace) trace->finish();
}

}  // namespace

void register_run(CLI::App& app) {
  auto o = std::make_shared<PromptOptions>();
  CLI::App* verb = app.add_subcommand("run", "Answer one prompt; the text is streamed to stdout");
  verb->add_option("--prompt", o->prompt, "the user's message")->type_name("TEXT");
  verb->add_option("--prompt-file", o->prompt_file, "a file with the user's message")->type_name("FILE");
  add_geometry_option(*verb, *o);
  add_parsed(*verb, "--prompt-tokens", o->prompt_tokens, parse_tokens,
             "of a geometry's prompt, random ones; 512 unless given", "TOKENS");
  add_options(*verb, *o);
  verb->footer(
      "Examples:\n"
      "  longhaul run --model apps/demo/demo-7m --prompt \"Once upon a time\"\n"
      "  longhaul run --model apps/demo/demo-7m --prompt-file report.txt --max-tokens 200 --temperature 0.7 --seed 1\n"
      "  longhaul run --geometry llama-3.1-8b --prompt-tokens 128K --max-tokens 64");
  verb->callback([verb, o] {
    try {
      if (finish_options(*verb, *o)) run(*o);
    } catch (const DocumentError& e) {
      throw UserError(Exit::io, "{}", e.what());
    }
  });
}

}  // namespace longhaul
