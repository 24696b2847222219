// longhaul eval: how much accuracy a policy costs, against dense attention on the same documents.
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "apps/eval/data_file.h"
#include "apps/eval/evaluation.h"
#include "apps/eval/report.h"
#include "apps/eval/task.h"
#include "apps/labels.h"
#include "apps/options.h"
#include "apps/verbs.h"
#include "kernels/base/bytes.h"
#include "runtime/fingerprint.h"

namespace longhaul {
namespace {

using eval::Records;

struct EvalOptions : Options {
  EvalOptions() { policy = "dense"; }

  std::vector<std::string> task, lengths, texts, data, set;
  eval::Grid grid{.policies = {"offload"}};
  std::string output, documents, mode = "decode", tail = "1K";
  std::optional<std::int64_t> questions;
  bool stats = false;
};

/// A task at one length.
struct Part {
  const eval::Task* task;
  std::int64_t length;
  std::vector<eval::Document> documents;
  std::vector<eval::Cell> cells;
};

std::int64_t parse_count(const char* flag, const std::string& text) {
  try {
    const std::int64_t count = parse_tokens(text);
    if (count >= 1) return count;
  } catch (const UserError&) {
  }
  throw UserError(Exit::usage, "{} '{}': expected a number from 1", flag, text);
}

/// Tasks with their lengths; refuses what has no meaning for them.
std::vector<Part> parts_of(const EvalOptions& o, std::int64_t context) {
  if (o.task.empty()) throw UserError(Exit::usage, "--task is required; see longhaul eval --help");
  std::vector<std::int64_t> lengths;
  for (const std::string& text : o.lengths) {
    lengths.push_back(parse_count("--lengths", text));
    if (lengths.back() > context) throw UserError(Exit::usage, "--lengths {}: the context is {} tokens", text, context);
  }
  std::vector<Part> parts;
  std::string reads_data, reads_texts;
  bool used = false;
  for (const std::string& name : o.task) {
    const eval::Task& task = eval::find_task(name);
    if (std::ranges::any_of(parts, [&](const Part& part) { return part.task == &task; })) continue;
    if (task.takes_texts && o.texts.empty())
      throw UserError(Exit::usage, "--texts is required for {}; see longhaul eval --help", name);
    if (task.needs_data && o.data.empty())
      throw UserError(Exit::usage, "--data is required for {}; see longhaul eval --help", name);
    if (task.takes_data && !o.data.empty()) {
      if (!reads_data.empty())
        throw UserError(Exit::usage, "--data: {} and {} both read it; evaluate one at a time", reads_data, name);
      reads_data = name;
    }
    if (task.takes_texts) reads_texts = name;
    const bool has_length = task.has_length && (task.cuts_data || !task.takes_data || o.data.empty());
    if (has_length && lengths.empty() && !task.cuts_data)
      throw UserError(Exit::usage, "--lengths is required for {}; see longhaul eval --help", name);
    used = used || has_length;
    for (std::int64_t length : has_length && !lengths.empty() ? lengths : std::vector<std::int64_t>{0})
      parts.push_back({&task, length, {}, {}});
  }
  if (!o.data.empty() && reads_data.empty()) throw UserError(Exit::usage, "--data: none of the tasks reads it");
  if (!o.texts.empty() && reads_texts.empty()) throw UserError(Exit::usage, "--texts: none of the tasks reads them");
  if (!lengths.empty() && !used) throw UserError(Exit::usage, "--lengths: none of the tasks has a length");
  return parts;
}

eval::Grid grid_of(const EvalOptions& o) {
  eval::Grid grid = o.grid;
  for (const std::string& set : o.set) {
    if (!set.starts_with("policy.")) throw UserError(Exit::usage, "--set {}: expected policy.KEY=VALUE", set);
    grid.sets.push_back(set.substr(7));
  }
  return grid;
}

eval::TaskInput task_input(const EvalOptions& o, const ModelFiles& model, const eval::Library& texts) {
  eval::TaskInput input{.model = model, .chat = eval::chat_frame(model), .texts = texts, .data = o.data};
  if (o.documents == "all") input.all = true;
  else if (!o.documents.empty()) input.documents = parse_count("--documents", o.documents);
  input.questions = o.questions;
  input.seed = o.seed;
  input.tail = parse_count("--tail", o.tail);
  input.mode = o.mode == "every" ? eval::Mode::every : eval::Mode::decode;
  return input;
}

std::uint64_t data_fingerprint(const std::vector<Part>& parts) {
  // Of the documents themselves: whatever changes them makes other results.
  std::uint64_t hash = eval::hash64("");
  auto add = [&](const std::vector<std::int32_t>& ids) {
    hash = eval::hash64({reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(std::int32_t)}, hash);
  };
  for (const Part& part : parts)
    for (const eval::Document& document : part.documents) {
      add(document.prompt);
      for (const eval::Question& question : document.questions) {
        add(question.ask);
        add(question.answer);
      }
    }
  return hash;
}

Records::Json settings_of(const EvalOptions& o, const ModelFiles& model, const std::vector<Part>& parts,
                          const std::vector<eval::Variant>& variants, const std::vector<std::uint64_t>& bases) {
  Records::Json lengths = Records::Json::array(), policies = Records::Json::array();
  for (const Part& part : parts) lengths.push_back(fmt::format("{} {}", part.task->name, part.length));
  for (std::size_t i = 0; i < variants.size(); ++i)
    policies.push_back(fmt::format("{}; labels {:016x}", print_policy(variants[i].policy), bases[i]));
  return {{"model", model.name},
          {"weights", weights_fingerprint(model.config, model.weights)},
          {"activations", o.activations},
          {"prefill-chunk", o.prefill_chunk},
          {"tasks", lengths},
          {"mode", o.mode},
          {"tail", o.tail},
          {"questions", o.questions ? Records::Json(*o.questions) : Records::Json()},
          {"documents", o.documents},
          {"seed", o.seed},
          {"stats", o.stats},
          {"documents' tokens", fmt::format("{:016x}", data_fingerprint(parts))},
          {"policies", policies}};
}

/// Everything that can be wrong is found before the results file is made.
struct Job {
  std::vector<Part> parts;
  std::vector<eval::Variant> variants;
  std::vector<std::shared_ptr<const LabelBases>> bases;
  Records::Json settings;
};

Job prepare(const EvalOptions& o, const ModelFiles& model) {
  Job job{.parts = parts_of(o, context(o, model.config)), .variants = eval::make_variants(grid_of(o))};
  std::vector<std::uint64_t> bases;
  for (const eval::Variant& variant : job.variants) {
    job.bases.push_back(label_bases(o, variant.policy, model));
    const LabelBases* maps = job.bases.back().get();
    bases.push_back(
        !maps ? 0
              : eval::hash64({reinterpret_cast<const char*>(maps->maps.data()), maps->maps.size() * sizeof(float)}));
  }
  const eval::Library texts(o.texts, model.tokenizer);
  eval::TaskInput input = task_input(o, model, texts);
  for (Part& part : job.parts) {
    input.length = part.length;
    part.documents = part.task->make(input);
    for (const eval::Document& document : part.documents)
      if (document.rows() > context(o, model.config))
        throw UserError(Exit::usage, "{}: needs {} tokens, the context is {}; cut it with --lengths, or leave it out",
                        document.name, document.rows(), context(o, model.config));
    for (std::size_t i = 0; i < job.variants.size(); ++i) {
      const eval::Variant& v = job.variants[i];
      const std::string key =
          fmt::format("{} {} {} {}", part.task->name, part.length, print_policy(v.policy), bases[i]);
      Records::Json labels{{"task", part.task->name}, {"length", part.length}, {"policy", v.name}, {"share", v.share}};
      labels.update(Records::Json{{"labels", v.labels}, {"label_dims", v.label_dims}});
      part.cells.push_back({v, job.bases[i], fmt::format("{:016x}", eval::hash64(key)), std::move(labels)});
    }
  }
  job.settings = settings_of(o, model, job.parts, job.variants, bases);
  return job;
}

void evaluate(const EvalOptions& o) {
  if (o.output.empty()) throw UserError(Exit::usage, "--output is required; see longhaul eval --help");
  parts_of(o, std::int64_t{1} << 40);  // a mistake in the flags is better told before the model's files are read
  eval::make_variants(grid_of(o));
  const ModelFiles model(o.model);
  const Job job = prepare(o, model);
  Records records(o.output, job.settings);
  const Budget limits = budget(o);
  std::unique_ptr<Device> device = open_device(o.device, limits.device, o.cpu_link);
  eval::EvalProgress progress(::isatty(STDERR_FILENO) == 1);
  std::int64_t documents = 0, answers = 0;
  for (const Part& part : job.parts) {
    documents += static_cast<std::int64_t>(part.documents.size());
    answers += static_cast<std::int64_t>(part.documents.size() * part.cells.size());
  }
  spdlog::info("{}; {} documents for {} policies; {} of {} answers are there already", device->describe(), documents,
               job.variants.size(), records.resumed(), answers);
  progress.expect(answers - records.resumed());
  EngineOptions engine;
  engine.activations = o.activations == "f32" ? DType::f32 : DType::bf16;
  engine.prefill_chunk = o.prefill_chunk;
  const eval::Evaluation evaluation{model, *device, limits, engine, o.stats, records, progress};
  std::string table = eval::results_head(), steps;
  for (const Part& part : job.parts) {
    progress.task(fmt::format("{} {}", part.task->name, eval::format_length(part.length)));
    evaluation.run(part.documents, part.cells);
    table += eval::results_rows(*part.task, part.length, part.documents, part.cells, records, o.seed);
    steps += eval::step_tables(*part.task, part.length, part.documents, part.cells, records, model.config,
                               engine.activations);
  }
  progress.clear();
  say(table + steps);
}

std::string footer() {
  std::string text = "Tasks:\n";
  for (const eval::Task& task : eval::tasks()) text += fmt::format("  {:<18} {}\n", task.name, task.about);
  return text +
         "\nEvery document is prefilled once, densely; each policy goes on from there, and dense does beside it on "
         "the\n"
         "same items. Questions to one document are branches from its end, read token by token under the policy. Where "
         "\n"
         "rows live changes no token, so all rows are on the device here. Answers that are known to the token are "
         "right\n"
         "when greedy decoding would give them. Intervals: the middle 95 % of a bootstrap over items, paired with "
         "dense.\n"
         "`attended`: share of rows that a token attends, over all layers; min_rows holds below 16 times as many "
         "rows.\n"
         "\nPerplexity of WikiText-2 by its usual protocol: --task perplexity --mode every --documents all, the raw "
         "text\n"
         "tokenized whole and cut to windows of LENGTH that do not overlap.\n"
         "\nThe same command again goes on where it was interrupted.\n\n"
         "Examples:\n"
         "  longhaul eval --model apps/demo/demo-7m --task needle,lines,digest --lengths 4K,16K --texts books/ \\\n"
         "    --policies offload,streaming-llm,h2o,oracle --shares 1/16,1/32 -o needles.jsonl\n"
         "  longhaul eval --model apps/demo/demo-7m --task perplexity --lengths 4K --texts books/ --documents 12 \\\n"
         "    --policies sparse-resident --label-dims 8,16,32 --labels document,qk --stats -o perplexity.jsonl\n"
         "  longhaul eval --model MODEL --task longbench --lengths 32K --data LongBench/ -o longbench.jsonl\n"
         "  longhaul eval --model MODEL --task mmlu --data mmlu/ --set policy.min_rows=64 --shares 1/16 -o mmlu.jsonl";
}

}  // namespace

void register_eval(CLI::App& app) {
  auto o = std::make_shared<EvalOptions>();
  CLI::App* verb = app.add_subcommand("eval", "Measure what policies cost in accuracy, against dense attention");
  auto many = [&](const char* flag, std::vector<std::string>& out, const char* help, const char* kind) {
    return verb->add_option(flag, out, help)->delimiter(',')->type_name(kind);
  };
  many("--task", o->task, "what to evaluate; see below", "TASK,...");
  many("--lengths", o->lengths, "tokens of a document with its longest question and answer", "TOKENS,...");
  many("--policies", o->grid.policies, "shipped policies' names, or TOML files; dense is always evaluated beside",
       "NAME|FILE,...")
      ->capture_default_str();
  many("--shares", o->grid.shares,
       "share of the rows that a token attends, or a number of rows; the policy's unless given", "SHARE,...");
  many("--label-dims", o->grid.label_dims, "dimensions of a label, or a share of head_dim; the policy's unless given",
       "N,...");
  many("--labels", o->grid.labels, "where labels come from: document, fitted, q, k, qk, abs, rms, pairs", "KIND,...");
  verb->add_option("--set", o->set, "policy.KEY=VALUE: for every policy that selects")->type_name("KEY=VALUE");
  verb->add_option("--channels", o->channels,
                   "channel file for labels that are not fitted to the document; channels.json in the model's folder, "
                   "or a shipped one, unless given")
      ->type_name("FILE");
  verb->add_option("--texts", o->texts, "text files, or folders of *.txt, that documents are cut from")
      ->type_name("FILE|DIR");
  verb->add_option("--data", o->data, "an evaluation set in the format it is published in")->type_name("FILE|DIR");
  verb->add_option("--documents", o->documents,
                   "how many; 4 to 10 made ones, or all of --data, unless given; all: every window of the texts")
      ->type_name("N|all");
  verb->add_option("--questions", o->questions, "questions to each document, where a task has several")
      ->check(between(1, 1e6))
      ->type_name("N");
  verb->add_option("--mode", o->mode,
                   "of perplexity; decode: dense prefill, then the tail under the policy; every: all but 256 tokens")
      ->capture_default_str()
      ->check(CLI::IsMember({"decode", "every"}));
  verb->add_option("--tail", o->tail, "tokens that mode decode scores")->capture_default_str()->type_name("TOKENS");
  verb->add_option("--seed", o->seed, "of documents, questions and intervals")
      ->capture_default_str()
      ->check(between(0, 1e15));
  verb->add_flag("--stats", o->stats, "also measure, layer by layer, what decode steps select and how good that is");
  verb->add_option("-o,--output", o->output, "JSONL of all items, each on disk as it is answered")->type_name("FILE");
  add_model_options(*verb, *o, "longest document that is taken; the model's context unless given");
  verb->footer(footer());
  verb->callback([verb, o] {
    if (finish_options(*verb, *o)) evaluate(*o);
  });
}

}  // namespace longhaul
