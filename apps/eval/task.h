// The tasks of `longhaul eval`: each makes documents with questions whose answers are known.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "apps/eval/chat.h"
#include "apps/eval/document.h"
#include "apps/eval/library.h"

namespace longhaul::eval {

/// decode: only the tail is decoded under the policy; every: all tokens but the first 256.
enum class Mode : std::uint8_t { decode, every };

struct TaskInput {
  const ModelFiles& model;
  ChatFrame chat;
  const Library& texts;
  std::vector<std::string> data;          // files or folders of a public set
  std::int64_t length = 0;                // tokens of a document, its longest question and answer; 0: as they come
  std::optional<std::int64_t> documents;  // at most so many; none: the task's default
  bool all = false;                       // every document that texts or data give
  std::optional<std::int64_t> questions;  // of each document; none: the task's default
  std::int64_t seed = 0, tail = 1024;
  Mode mode = Mode::decode;
};

struct Task {
  const char* name;
  const char* about;
  bool takes_texts;  // needs --texts
  bool takes_data;   // can read --data
  bool needs_data;   // and cannot do without
  bool has_length;   // makes documents of a given length; with data only where cuts_data
  bool cuts_data;    // cuts the documents of --data to the length
  bool perplexity;   // the score is exp(mean negative log-likelihood), the lower the better
  std::vector<Document> (*make)(const TaskInput& input);
};

std::span<const Task> tasks();
/// Throws UserError{usage} listing the known.
const Task& find_task(const std::string& name);

std::vector<Document> make_perplexity(const TaskInput& input);
std::vector<Document> make_needles(const TaskInput& input);
std::vector<Document> make_lines(const TaskInput& input);
std::vector<Document> make_digests(const TaskInput& input);
std::vector<Document> make_kv_retrieval(const TaskInput& input);
std::vector<Document> make_mmlu(const TaskInput& input);
std::vector<Document> make_longbench(const TaskInput& input);
std::vector<Document> make_niah_single(const TaskInput& input);
std::vector<Document> make_niah_multikey(const TaskInput& input);
std::vector<Document> make_variable_tracking(const TaskInput& input);
std::vector<Document> make_frequent_words(const TaskInput& input);

}  // namespace longhaul::eval
