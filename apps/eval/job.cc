#include "apps/eval/job.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "apps/eval/evaluation.h"
#include "apps/eval/report.h"
#include "apps/eval/task.h"
#include "apps/labels.h"
#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "runtime/checkpoint/fingerprint.h"

namespace longhaul::eval {
namespace {

/// A task at one length.
struct Stage {
  const Task* task;
  std::int64_t length;
  std::vector<Document> documents;
  std::vector<Cell> cells;
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
std::vector<Stage> stages_of(const EvalOptions& o, std::int64_t context) {
  if (o.task.empty()) throw UserError(Exit::usage, "--task is required; see longhaul eval --help");
  std::vector<std::int64_t> lengths;
  for (const std::string& text : o.lengths) {
    lengths.push_back(parse_count("--lengths", text));
    if (lengths.back() > context) throw UserError(Exit::usage, "--lengths {}: the context is {} tokens", text, context);
  }
  std::vector<Stage> stages;
  std::string reads_data, reads_texts;
  bool used = false;
  for (const std::string& name : o.task) {
    const Task& task = find_task(name);
    if (std::ranges::any_of(stages, [&](const Stage& stage) { return stage.task == &task; })) continue;
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
      stages.push_back({&task, length, {}, {}});
  }
  if (!o.data.empty() && reads_data.empty()) throw UserError(Exit::usage, "--data: none of the tasks reads it");
  if (!o.texts.empty() && reads_texts.empty()) throw UserError(Exit::usage, "--texts: none of the tasks reads them");
  if (!lengths.empty() && !used) throw UserError(Exit::usage, "--lengths: none of the tasks has a length");
  return stages;
}

Grid grid_of(const EvalOptions& o) {
  Grid grid = o.grid;
  grid.sets = policy_sets(o.set);
  return grid;
}

TaskInput task_input(const EvalOptions& o, const ModelFiles& model, const Library& texts) {
  TaskInput input{.model = model, .chat = chat_frame(model), .texts = texts, .data = o.data};
  if (o.documents == "all") input.all = true;
  else if (!o.documents.empty()) input.documents = parse_count("--documents", o.documents);
  input.questions = o.questions;
  input.seed = o.seed;
  input.tail = parse_count("--tail", o.tail);
  input.mode = o.mode == "every" ? Mode::every : Mode::decode;
  return input;
}

std::uint64_t data_fingerprint(const std::vector<Stage>& stages) {
  // Of the documents themselves: whatever changes them makes other results.
  std::uint64_t hash = hash64("");
  auto add = [&](const std::vector<std::int32_t>& ids) {
    hash = hash64({reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(std::int32_t)}, hash);
  };
  for (const Stage& stage : stages)
    for (const Document& document : stage.documents) {
      add(document.prompt);
      for (const Question& question : document.questions) {
        add(question.ask);
        add(question.answer);
      }
    }
  return hash;
}

/// Not as memory allows: records of one job may be made under any budget.
std::int64_t prefill_chunk(const EvalOptions& o) {
  constexpr std::int64_t kGpu = 4096;
  return o.prefill_chunk.value_or(named_cuda_device(o.device) ? kGpu : EngineOptions{}.prefill_chunk);
}

Records::Json settings_of(const EvalOptions& o, const ModelFiles& model, const std::vector<Stage>& stages,
                          const std::vector<Variant>& variants, const std::vector<std::uint64_t>& bases) {
  Records::Json lengths = Records::Json::array(), policies = Records::Json::array();
  for (const Stage& stage : stages) lengths.push_back(fmt::format("{} {}", stage.task->name, stage.length));
  for (std::size_t i = 0; i < variants.size(); ++i)
    policies.push_back(fmt::format("{}; labels {:016x}", print_policy(variants[i].policy), bases[i]));
  return {{"model", model.name},
          {"weights", weights_fingerprint(model.config, model.weights)},
          {"activations", o.activations},
          {"prefill-chunk", prefill_chunk(o)},
          {"tasks", lengths},
          {"mode", o.mode},
          {"tail", o.tail},
          {"questions", o.questions ? Records::Json(*o.questions) : Records::Json()},
          {"documents", o.documents},
          {"seed", o.seed},
          {"stats", o.stats},
          {"documents' tokens", fmt::format("{:016x}", data_fingerprint(stages))},
          {"policies", policies}};
}

/// Everything that can be wrong is found before the results file is made.
struct Job {
  std::vector<Stage> stages;
  std::vector<Variant> variants;
  std::vector<std::shared_ptr<const LabelBases>> bases;
  Records::Json settings;
};

Job prepare(const EvalOptions& o, const ModelFiles& model) {
  Job job{.stages = stages_of(o, context(o, model.config)), .variants = make_variants(grid_of(o))};
  std::vector<std::uint64_t> bases;
  for (const Variant& variant : job.variants) {
    check_policy(variant.policy, model.config);
    job.bases.push_back(label_bases(o, variant.policy, model));
    const LabelBases* maps = job.bases.back().get();
    bases.push_back(
        !maps ? 0 : hash64({reinterpret_cast<const char*>(maps->maps.data()), maps->maps.size() * sizeof(float)}));
  }
  const Library texts(o.texts, model.tokenizer);
  TaskInput input = task_input(o, model, texts);
  for (Stage& stage : job.stages) {
    input.length = stage.length;
    stage.documents = stage.task->make(input);
    for (const Document& document : stage.documents)
      if (document.rows() > context(o, model.config))
        throw UserError(Exit::usage, "{}: needs {} tokens, the context is {}; cut it with --lengths, or leave it out",
                        document.name, document.rows(), context(o, model.config));
    for (std::size_t i = 0; i < job.variants.size(); ++i) {
      const Variant& v = job.variants[i];
      const std::string key =
          fmt::format("{} {} {} {}", stage.task->name, stage.length, print_policy(v.policy), bases[i]);
      Records::Json labels{
          {"task", stage.task->name}, {"length", stage.length}, {"policy", v.name}, {"share", v.share}};
      labels.update(Records::Json{{"labels", v.labels}, {"label_dims", v.label_dims}});
      stage.cells.push_back({v, job.bases[i], fmt::format("{:016x}", hash64(key)), std::move(labels)});
    }
  }
  job.settings = settings_of(o, model, job.stages, job.variants, bases);
  return job;
}

}  // namespace

void evaluate(const EvalOptions& o) {
  if (o.output.empty()) throw UserError(Exit::usage, "--output is required; see longhaul eval --help");
  stages_of(o, std::int64_t{1} << 40);  // a mistake in the flags is better told before the model's files are read
  make_variants(grid_of(o));
  const ModelFiles model(o.model, chat_options(o));
  const Job job = prepare(o, model);
  Records records(o.output, job.settings);
  const Budget limits = budget(o);
  std::unique_ptr<Device> device = open_device(o, limits.device);
  EvalProgress progress(::isatty(STDERR_FILENO) == 1);
  std::int64_t documents = 0, answers = 0;
  for (const Stage& stage : job.stages) {
    documents += static_cast<std::int64_t>(stage.documents.size());
    answers += static_cast<std::int64_t>(stage.documents.size() * stage.cells.size());
  }
  spdlog::info("{}; {} documents for {} policies; {} of {} answers are there already", device->describe(), documents,
               job.variants.size(), records.resumed(), answers);
  progress.expect(answers - records.resumed());
  EngineOptions engine;
  engine.activations = activations(o);
  engine.prefill_chunk = prefill_chunk(o);
  const Evaluation evaluation{model, *device, limits, engine, o.stats, records, progress};
  std::string table = results_head(), steps;
  for (const Stage& stage : job.stages) {
    progress.task(fmt::format("{} {}", stage.task->name, format_length(stage.length)));
    evaluation.run(stage.documents, stage.cells);
    table += results_rows(*stage.task, stage.length, stage.documents, stage.cells, records, o.seed);
    steps +=
        step_tables(*stage.task, stage.length, stage.documents, stage.cells, records, model.config, engine.activations);
  }
  progress.clear();
  say(table + steps);
}

}  // namespace longhaul::eval
