#include "apps/eval/task.h"

#include <array>

#include "kernels/base/error.h"

namespace longhaul::eval {
namespace {

constexpr std::array kTasks{
    Task{.name = "perplexity",
         .about = "any text, cut to windows of LENGTH tokens: exp of the mean loss of the last --tail tokens",
         .takes_texts = true,
         .has_length = true,
         .perplexity = true,
         .make = make_perplexity},
    Task{.name = "needle",
         .about = "numbers hidden between the paragraphs of a book, asked for one by one",
         .takes_texts = true,
         .has_length = true,
         .make = make_needles},
    Task{.name = "lines",
         .about = "LongEval: the number in one of many lines; made, or LongEval's own file by --data",
         .takes_data = true,
         .has_length = true,
         .make = make_lines},
    Task{.name = "digest",
         .about = "title, author, headings and notes of a document; each line of the digest is an item",
         .takes_texts = true,
         .has_length = true,
         .make = make_digests},
    Task{.name = "kvretrieval",
         .about = "Lost in the Middle: the value of a key in a JSON object; made, or its own file by --data",
         .takes_data = true,
         .has_length = true,
         .make = make_kv_retrieval},
    Task{.name = "mmlu",
         .about = "multiple choice after five examples: SUBJECT_dev.csv and SUBJECT_test.csv of --data",
         .takes_data = true,
         .needs_data = true,
         .make = make_mmlu},
    Task{.name = "longbench",
         .about = "LongBench v1 records, with dataset2prompt.json and dataset2maxlen.json in the folder --data",
         .takes_data = true,
         .needs_data = true,
         .has_length = true,
         .cuts_data = true,
         .make = make_longbench},
    Task{.name = "niah-single",
         .about = "RULER: one number in repeated noise",
         .has_length = true,
         .make = make_niah_single},
    Task{.name = "niah-multikey",
         .about = "RULER: one number in a document that is all needles",
         .has_length = true,
         .make = make_niah_multikey},
    Task{.name = "variable-tracking",
         .about = "RULER: all variables that got one value through assignments",
         .has_length = true,
         .make = make_variable_tracking},
    Task{.name = "frequent-words",
         .about = "RULER: the three words that appear most",
         .has_length = true,
         .make = make_frequent_words},
};

}  // namespace

std::span<const Task> tasks() { return kTasks; }

const Task& find_task(const std::string& name) {
  std::string known;
  for (const Task& task : kTasks) {
    if (task.name == name) return task;
    known += (known.empty() ? "" : ", ") + std::string(task.name);
  }
  throw UserError(Exit::usage, "--task '{}' is unknown; known: {}", name, known);
}

}  // namespace longhaul::eval
