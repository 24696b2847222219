// longhaul eval: how much accuracy a policy costs, against dense attention on the same documents.
#include <memory>

#include "apps/eval/job.h"
#include "apps/eval/task.h"
#include "apps/verbs.h"

namespace longhaul {
namespace {

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
  auto o = std::make_shared<eval::EvalOptions>();
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
  many("--kv-dtype", o->grid.kv_dtypes,
       "types that KV rows are kept in: bf16 (as activations are), int8, fp8, int4; the policy's unless given",
       "TYPE,...")
      ->check(CLI::IsMember({"bf16", "int8", "fp8", "int4"}));
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
  add_chat_options(*verb, *o);
  add_model_options(*verb, *o, "longest document that is taken; the model's context unless given");
  verb->footer(footer());
  verb->callback([verb, o] {
    if (finish_options(*verb, *o)) eval::evaluate(*o);
  });
}

}  // namespace longhaul
