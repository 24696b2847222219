// longhaul batch: many documents in, one JSONL record each out.
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <iostream>
#include <memory>

#include "apps/options.h"
#include "apps/verbs.h"
#include "kernels/base/bytes.h"
#include "runtime/batch_job.h"
#include "runtime/utf8.h"

namespace longhaul {
namespace {

constexpr std::int64_t kDefaultSessions = 8;

struct BatchOptions : Options {
  std::vector<std::string> input;
  std::string output, instruction = "Summarize the document.";
  std::optional<std::int64_t> batch_size;
  bool print = false;
};

/// Loads the model, answers what is ready and returns the report.
std::string answer_all(const BatchOptions& o, const ModelFiles& model, BatchJob& job, Progress& progress,
                       Progress::Clock::time_point start) {
  Budget limits = budget(o);
  std::int64_t sessions = std::min(o.batch_size.value_or(kDefaultSessions), job.ready());
  auto load_start = Progress::Clock::now();
  std::unique_ptr<Device> device = open_device(o, limits.device);
  EngineOptions options = engine_options(o, model, limits, job.longest(), sessions);
  Engine engine(*device, model.config, model.weights, options,
                [&](std::int64_t done, std::int64_t total) { progress.pinning(done, total); });
  progress.clear();
  double load_seconds = seconds_since(load_start);
  std::int64_t load_h2d_bytes = device->counters().h2d_bytes;
  spdlog::info("{}; {} documents, {} together; policy {}; planned: device {} of {}, host {} of {}", device->describe(),
               job.ready(), options.max_sessions, options.policy.name, format_bytes(engine.plan().device_bytes),
               format_bytes(limits.device), format_bytes(engine.plan().host_bytes), format_bytes(limits.host));
  spdlog::info("kv cache: {}", describe_streaming(model.config, options, limits));
  spdlog::info("weights: {}", describe_placement(model.config, options));
  const auto trace = record_trace(o, model.name, engine);
  job.record_failures();
  job.run(engine);
  if (trace) trace->finish();
  JobStats stats = job.stats();
  stats.load_seconds = load_seconds;
  stats.load_h2d_bytes = load_h2d_bytes;
  stats.wall_seconds = seconds_since(start);
  return report(stats, engine, limits);
}

Exit batch(const BatchOptions& o) {
  auto start = Progress::Clock::now();
  if (o.input.empty()) throw UserError(Exit::usage, "--input is required; see longhaul batch --help");
  if (o.output.empty()) throw UserError(Exit::usage, "--output is required; see longhaul batch --help");
  check_text("--instruction", o.instruction);
  std::vector<BatchRequest> requests = list_requests(o.input);
  BatchOutput output(o.output);
  ModelFiles model(o.model);
  Progress progress({stderr, ::isatty(STDERR_FILENO) == 1, static_cast<std::int64_t>(requests.size())});
  auto print = [&](const BatchRequest& request, const Answer& answer) {
    progress.clear();
    if (o.print) say(fmt::format("--- {}\n{}\n\n", printable(request.custom_id), answer.text));
  };
  JobOptions job_options{o.instruction, sampling_params(o, model.generation), max_tokens(o, model.generation),
                         context(o, model.config)};
  BatchJob job(model, std::move(requests), job_options, output, progress, print);
  std::string table;
  if (job.ready() > 0) table = answer_all(o, model, job, progress, start);
  else job.record_failures();
  output.finish();
  progress.clear();
  std::cerr << table;
  return job.stats().failed > 0 ? Exit::failed_documents : Exit::ok;
}

}  // namespace

void register_batch(CLI::App& app, Exit& exit) {
  auto o = std::make_shared<BatchOptions>();
  CLI::App* verb = app.add_subcommand("batch", "Answer many documents; one JSONL record each");
  verb->add_option("--input", o->input, "folders, text files, or OpenAI batch files (*.jsonl)")->type_name("PATH");
  verb->add_option("--output", o->output, "where the records go; must not exist")->type_name("FILE");
  verb->add_option("--instruction", o->instruction, "what follows each document after a blank line")
      ->capture_default_str();
  verb->add_option("--batch-size", o->batch_size, "most documents decoded together; 8, or what fits, unless given")
      ->check(between(1, kDecodeTokens))
      ->type_name("N");
  verb->add_flag("--print", o->print, "also print each answer to stdout as it completes");
  add_options(*verb, *o);
  verb->footer(
      "A folder's files are read at any depth; their relative paths are the custom_ids. A byte order mark and "
      "trailing\n"
      "whitespace are no part of a document. A bad document becomes an error record and the others go on (exit 1).\n\n"
      "Examples:\n"
      "  longhaul batch --model apps/demo/demo-7m --input reports/ --output summaries.jsonl\n"
      "  longhaul batch --model apps/demo/demo-7m --input requests.jsonl --output answers.jsonl --max-tokens 256\n"
      "  longhaul batch --model apps/demo/demo-7m --input reports/ --output summaries.jsonl \\\n"
      "    --gpu-memory 80MiB --policy stream");
  verb->callback([verb, o, &exit] {
    if (finish_options(*verb, *o)) exit = batch(*o);
  });
}

}  // namespace longhaul
