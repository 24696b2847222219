// longhaul batch: many documents in, one JSONL record each out.
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <iostream>
#include <map>
#include <memory>

#include "apps/batch_settings.h"
#include "apps/ended.h"
#include "apps/events.h"
#include "apps/options.h"
#include "apps/verbs.h"
#include "kernels/base/bytes.h"
#include "kernels/base/host_memory.h"
#include "kernels/base/memory_groups.h"
#include "runtime/batch/job.h"
#include "runtime/batch/stop_signals.h"
#include "runtime/tokenizer/utf8.h"

namespace longhaul {
namespace {

constexpr std::int64_t kDefaultSessions = 8;

struct BatchOptions : Options {
  std::vector<std::string> input;
  std::string output, instruction = "Summarize the document.", prompt_file;
  std::string order = "longest", on_overflow = "error", progress = "text";
  std::optional<std::int64_t> batch_size;
  double prefill_share = JobOptions{}.prefill_share;
  bool print = false, fresh = false, retry_errors = false;
};

/// The CPU device's as --cpu-link has it, another's as it was measured.
LinkRates link_rates(const BatchOptions& o, const std::optional<MachineProfile>& machine) {
  if (!cuda_ordinal(o.device) && o.cpu_link > 0) return {.h2d = o.cpu_link * 1e9, .d2h = o.cpu_link * 1e9};
  if (!machine) return {};
  return {.h2d = machine->link.h2d_GBps * 1e9, .d2h = machine->link.d2h_GBps * 1e9};
}

/// Loads the model, answers what is ready and returns the report.
JobReport answer_all(const BatchOptions& o, const ModelFiles& model, BatchJob& job, BatchOutput& output,
                     BatchJournal& journal, Progress& progress, Progress::Clock::time_point start) {
  const std::int64_t peak_before = peak_resident_bytes();
  Budget limits = budget(o);
  if (o.host_memory && peak_before > limits.host)
    throw UserError(Exit::plan_does_not_fit,
                    "reading the documents took {} of host memory, and available are {}; give more --host-memory, or "
                    "fewer documents at a time",
                    format_bytes(peak_before), format_bytes(limits.host));
  std::int64_t sessions = std::min(o.batch_size.value_or(kDefaultSessions), job.ready());
  auto load_start = Progress::Clock::now();
  const std::optional<MachineProfile> machine = machine_profile(o);
  EngineOptions options = engine_options(o, model, limits, job.longest(), sessions, {}, job.shared_rest(),
                                         std::make_shared<const std::vector<std::int64_t>>(job.lengths()));
  std::unique_ptr<Device> device = open_device(o.device, limits.device, o.cpu_link, machine);
  Engine engine(
      *device, model.config, model.weights, options,
      [&](std::int64_t done, std::int64_t total) {
        progress.pinning(done, total);
        stop_if_asked();
      },
      [&](std::int64_t done, std::int64_t total) {
        progress.loading(done, total);
        stop_if_asked();
      });
  progress.clear();
  double load_seconds = seconds_since(load_start);
  std::int64_t load_h2d_bytes = device->counters().h2d_bytes;
  const auto [longest, shortest] = together(model.config, options);
  const std::string fit = longest == shortest
                              ? std::to_string(longest)
                              : fmt::format("{} of the longest or {} of the shortest", longest, shortest);
  spdlog::info("{}; {} documents, {} together; policy {}; planned: device {} of {}, host {} of {}", device->describe(),
               job.ready(), fit, options.policy.name, format_bytes(engine.plan().device_bytes),
               format_bytes(limits.device), format_bytes(engine.plan().host_bytes), format_bytes(limits.host));
  spdlog::info("kv cache: {}", describe_streaming(model.config, options, limits));
  spdlog::info("weights: {}", describe_placement(model.config, options));
  const auto trace = record_trace(o, model.name, engine);
  output.start();
  job.record_failures(output);
  job.run(engine, output, journal);
  if (trace) trace->finish();
  JobStats stats = job.stats();
  stats.load_seconds = load_seconds;
  stats.load_h2d_bytes = load_h2d_bytes;
  stats.wall_seconds = seconds_since(start);
  stats.resumed = output.recorded() - stats.documents;
  stats.wanted_sessions = sessions;
  stats.peak_before = peak_before;
  return report(stats, engine, limits, link_rates(o, machine));
}

std::map<std::string, Overflow> overflows() {
  std::map<std::string, Overflow> names;
  for (const Overflow how : {Overflow::error, Overflow::truncate_middle, Overflow::truncate_left, Overflow::map_reduce})
    names[name_of(how)] = how;
  return names;
}
const std::map<std::string, Progress::Form> kForms{
    {"text", Progress::Form::text}, {"jsonl", Progress::Form::jsonl}, {"none", Progress::Form::none}};

PromptFrame frame_of(const BatchOptions& o) {
  if (o.prompt_file.empty()) return instruction_frame(o.instruction);
  try {
    return template_frame(read_document(o.prompt_file), "--prompt-file " + o.prompt_file);
  } catch (const DocumentError& e) {
    throw UserError(Exit::io, "--prompt-file {}", e.what());
  }
}

JobOptions job_options(const BatchOptions& o, const ModelFiles& model) {
  return {.frame = frame_of(o),
          .sampling = sampling_params(o, model.generation),
          .max_tokens = max_tokens(o, model.generation),
          .context = context(o, model.config),
          .together = o.batch_size.value_or(kDefaultSessions),
          .share_unit = share_unit(o),
          .overflow = overflows().at(o.on_overflow),
          .order = o.order == "input" ? Order::input : Order::longest,
          .prefill_share = o.prefill_share};
}

Exit answer_inputs(const BatchOptions& o, BatchOutput& output) {
  auto start = Progress::Clock::now();
  std::vector<BatchRequest> requests = list_requests(o.input, output.own_files());
  ModelFiles model(o.model, chat_options(o));
  Progress progress(
      {stderr, ::isatty(STDERR_FILENO) == 1, static_cast<std::int64_t>(requests.size()), kForms.at(o.progress)});
  auto print = [&](const BatchRequest& request, const Answer& answer) {
    progress.clear();
    if (o.print) say(fmt::format("--- {}\n{}\n\n", printable(request.custom_id), answer.text));
  };
  const JobOptions options = job_options(o, model);
  const Manifest asked = batch_manifest(o, model, options);
  const BatchOutput::Resume resume{.fresh = o.fresh, .retry_errors = o.retry_errors};
  output.expect(asked, resume);
  BatchJournal journal(output.file(), asked.job(), [] { return oom_kills(); });
  if (o.fresh || o.retry_errors) journal.ask_again();
  journal.start();
  BatchJob job(model, std::move(requests), options, progress, print);
  job.read(journal);
  try {
    output.match(asked.of_inputs(job.keys()), job.keys(), resume);
  } catch (const UserError& e) {
    const std::string unread = job.given_up_unread();
    if (unread.empty()) throw;
    throw UserError(e.code,
                    "{}; {} was not read, because the process ended twice in reading it: --retry-errors reads it",
                    e.what(), unread);
  }
  progress.resumed(output.recorded());
  if (output.recorded() > 0)
    spdlog::info("{} of {} documents are in {} already", output.recorded(), output.inputs(), o.output);
  job.prepare(output, journal);
  JobReport told;
  if (job.ready() > 0) {
    told = answer_all(o, model, job, output, journal, progress, start);
  } else {
    output.start();
    job.record_failures(output);
  }
  output.finish();
  journal.finish();
  progress.clear();
  progress.left(0);
  Progress::Json end{{"answered", output.recorded() - output.failed()}, {"failed", output.failed()}};
  end.update(told.facts);
  progress.event("end", end);
  if (o.progress == "text") std::cerr << told.table;
  return output.failed() > 0 ? Exit::failed_documents : Exit::ok;
}

Exit batch(const BatchOptions& o) {
  if (o.input.empty()) throw UserError(Exit::usage, "--input is required; see longhaul batch --help");
  if (o.output.empty()) throw UserError(Exit::usage, "--output is required; see longhaul batch --help");
  check_text("--instruction", o.instruction);
  constexpr unsigned kGrace = 25;  // seconds
  const std::string again = o.fresh ? "the same command without --fresh" : "the same command";
  const std::string stopped = fmt::format("stopped; {} goes on from the records that are there", again);
  watch_stop_signals(kGrace, o.progress == "jsonl" ? error_event(stopped) : "longhaul: " + stopped + '\n');
  BatchOutput output(o.output);
  try {
    return answer_inputs(o, output);
  } catch (const Stopped& stopped) {
    const std::string done = output.inputs() > 0 ? fmt::format("{} of {} documents are in {}: ", output.recorded(),
                                                               output.inputs(), o.output)
                                                 : std::string();
    throw UserError(static_cast<Exit>(128 + stopped.signal), "stopped by {}; {}{} goes on from there",
                    stop_name(stopped.signal), done, again);
  }
}

}  // namespace

void register_batch(CLI::App& app, Exit& exit) {
  auto o = std::make_shared<BatchOptions>();
  CLI::App* verb = app.add_subcommand(
      "batch",
      "Answer many documents; one JSONL record each.\n\n"
      "  longhaul batch --model MODEL --input reports/ --output summaries.jsonl\n"
      "  longhaul batch --model MODEL --input 'papers/**/*.pdf' --output out.jsonl --instruction \"List the claims.\"\n"
      "  longhaul batch --model MODEL --input requests.jsonl --output answers.jsonl --max-tokens 256\n\n"
      "Interrupted, killed or out of disk: give the same command again, and it goes on where it was. A bad document "
      "is\n"
      "an error record, the others go on, and the exit code is 1.");
  verb->add_option("--input", o->input,
                   "folders, files (text, Markdown, HTML, PDF), patterns, OpenAI batch files (*.jsonl), or - for stdin")
      ->type_name("PATH");
  verb->add_option("--output", o->output, "where the records go; the same command goes on with what is there")
      ->type_name("FILE");
  CLI::Option* instruction =
      verb->add_option("--instruction", o->instruction, "what follows each document after a blank line")
          ->capture_default_str();
  verb->add_option("--prompt-file", o->prompt_file,
                   "in place of --instruction: a text with {document} where the document goes")
      ->type_name("FILE")
      ->excludes(instruction);
  verb->add_option(
          "--on-overflow", o->on_overflow,
          "what to do with a document that is longer than the context: an error record, cut it (the record says "
          "how much), or summarize its parts and then those summaries")
      ->capture_default_str()
      ->check(CLI::IsMember(overflows()))
      ->type_name("HOW");
  verb->add_option("--batch-size", o->batch_size, "most documents decoded together; 8, or what fits, unless given")
      ->check(between(1, kDecodeTokens))
      ->type_name("N");
  verb->add_option("--order", o->order, "which documents come first: the longest, or as they are given")
      ->capture_default_str()
      ->check(CLI::IsMember({"longest", "input"}))
      ->type_name("ORDER");
  verb->add_option("--prefill-share", o->prefill_share,
                   "share of the time that a document's prefill gets while others decode, and more where few of them "
                   "do; at 1 they wait until it ends")
      ->capture_default_str()
      ->check(between(0.01, 1))
      ->type_name("SHARE");
  verb->add_flag("--fresh", o->fresh, "throw away the records that an earlier job has left in --output");
  verb->add_flag("--retry-errors", o->retry_errors,
                 "ask again what has an error record; those documents may have changed. A document that ends the "
                 "process twice meanwhile, restarts included, is an error until the job has ended");
  verb->add_option("--progress", o->progress,
                   "what stderr tells: lines for people, or JSON events for programs, one a line and nothing else but "
                   "mistakes in the flags")
      ->capture_default_str()
      ->check(CLI::IsMember(kForms))
      ->type_name("FORM");
  verb->add_flag("--print", o->print, "also print each answer to stdout as it completes");
  add_options(*verb, *o);
  verb->footer(
      "A folder's files are read at any depth; their relative paths are the custom_ids. Records are on disk as "
      "documents\n"
      "end, and in input order once all have. Beside FILE are FILE.manifest, which says what job it is, and while "
      "that\n"
      "runs FILE.working, which says what it works on.\n\n"
      "Examples:\n"
      "  longhaul batch --model apps/demo/demo-7m --input reports/ --output summaries.jsonl \\\n"
      "    --gpu-memory 1GiB --policy stream\n"
      "  longhaul batch --model apps/demo/demo-7m --input books/ --output books.jsonl --on-overflow map-reduce\n"
      "  pdftotext report.pdf - | longhaul batch --model apps/demo/demo-7m --input - --output report.jsonl --print");
  verb->callback([verb, o, &exit] {
    try {
      if (!finish_options(*verb, *o)) return;
      if (o->progress == "jsonl") log_as_events();
      exit = batch(*o);
    } catch (const CLI::Error&) {
      throw;
    } catch (...) {
      if (o->progress != "jsonl") throw;
      const Ended ended = ended_by_exception();
      fmt::print(stderr, "{}", error_event(ended.message, ended.exit));
      exit = ended.exit;
    }
  });
}

}  // namespace longhaul
