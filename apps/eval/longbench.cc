// LongBench v1: published prompts, truncation in the middle, greedy answers of the published length, published scores.
#include <algorithm>
#include <filesystem>
#include <map>

#include "apps/eval/data_file.h"
#include "apps/eval/longbench.h"
#include "apps/eval/make.h"
#include "apps/eval/scores.h"
#include "kernels/base/error.h"
#include "runtime/checkpoint/json_file.h"

namespace longhaul::eval {
namespace {

namespace fs = std::filesystem;

enum class Metric : std::uint8_t { f1, rouge, classification, retrieval, retrieval_zh, count, code, needs_words };

const std::map<std::string, Metric, std::less<>> kMetrics{{"narrativeqa", Metric::f1},
                                                          {"qasper", Metric::f1},
                                                          {"multifieldqa_en", Metric::f1},
                                                          {"multifieldqa_zh", Metric::needs_words},
                                                          {"hotpotqa", Metric::f1},
                                                          {"2wikimqa", Metric::f1},
                                                          {"musique", Metric::f1},
                                                          {"dureader", Metric::needs_words},
                                                          {"gov_report", Metric::rouge},
                                                          {"qmsum", Metric::rouge},
                                                          {"multi_news", Metric::rouge},
                                                          {"vcsum", Metric::needs_words},
                                                          {"trec", Metric::classification},
                                                          {"triviaqa", Metric::f1},
                                                          {"samsum", Metric::rouge},
                                                          {"lsht", Metric::classification},
                                                          {"passage_retrieval_en", Metric::retrieval},
                                                          {"passage_count", Metric::count},
                                                          {"passage_retrieval_zh", Metric::retrieval_zh},
                                                          {"lcc", Metric::code},
                                                          {"repobench-p", Metric::code}};

bool any_of(const std::string& name, std::initializer_list<const char*> names) {
  return std::ranges::find(names, name) != names.end();
}

/// Few-shot and code sets are asked without the chat template.
bool is_plain(const std::string& dataset) {
  return any_of(dataset, {"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"});
}
/// Of these only the first line of an answer counts.
bool is_one_line(const std::string& dataset) { return any_of(dataset, {"trec", "triviaqa", "samsum", "lsht"}); }

double score_one(Metric metric, const std::string& text, const std::string& answer,
                 const std::vector<std::string>& classes) {
  switch (metric) {
    case Metric::f1:
      return qa_f1_score(text, answer);
    case Metric::rouge:
      return rouge_l_score(text, answer);
    case Metric::classification:
      return classification_score(text, answer, classes);
    case Metric::retrieval:
      return retrieval_score(text, answer, "Paragraph ");
    case Metric::retrieval_zh:
      return retrieval_score(text, answer, "段落");
    case Metric::count:
      return count_score(text, answer);
    case Metric::code:
      return code_similarity_score(text, answer);
    case Metric::needs_words:
      break;
  }
  check(false, "a metric of a dataset that is evaluated");
  return 0;
}

struct Files {
  nlohmann::json prompts, lengths;
  std::vector<std::string> records;
};

Files find_files(const TaskInput& input) {
  Files files;
  fs::path folder;
  for (const std::string& path : input.data) {
    std::error_code error;
    if (!fs::exists(path, error)) throw UserError(Exit::io, "--data {}: no such file or folder", path);
    const bool is_folder = fs::is_directory(path, error);
    if (folder.empty()) folder = is_folder ? fs::path(path) : fs::path(path).parent_path();
    if (!is_folder) {
      files.records.push_back(path);
      continue;
    }
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(path))
      if (entry.path().extension() == ".jsonl") found.push_back(entry.path().string());
    std::ranges::sort(found);
    files.records.insert(files.records.end(), found.begin(), found.end());
  }
  files.prompts = read_json_file(folder / "dataset2prompt.json", 1 << 20, Exit::io);
  files.lengths = read_json_file(folder / "dataset2maxlen.json", 1 << 20, Exit::io);
  if (files.records.empty())
    throw UserError(Exit::io, "--data {}: the folder holds no .jsonl records of LongBench", folder.string());
  return files;
}

Document make_record(const TaskInput& input, const Files& files, const nlohmann::json& line, const std::string& where) {
  const std::string dataset = text_field(line, "dataset", where);
  const std::string name = dataset.ends_with("_e") ? dataset.substr(0, dataset.size() - 2) : dataset;
  const auto metric = kMetrics.find(name);
  if (metric == kMetrics.end()) throw UserError(Exit::io, "{}: the dataset '{}' is unknown", where, dataset);
  if (metric->second == Metric::needs_words)
    throw UserError(Exit::io, "{}: scoring '{}' needs Chinese words told apart, which longhaul cannot do", where,
                    dataset);
  const std::string pattern = text_field(files.prompts, name.c_str(), "dataset2prompt.json");
  const auto length = files.lengths.find(name);
  if (length == files.lengths.end() || !length->is_number_integer())
    throw UserError(Exit::io, "dataset2maxlen.json: the key \"{}\" must be a whole number", name);
  const auto max_tokens = length->get<std::int64_t>();
  if (max_tokens < 1 || (input.length > 0 && input.length <= max_tokens + 64))
    throw UserError(Exit::usage, "--lengths {}: answers of {} take {} tokens", input.length, dataset, max_tokens);

  const std::string prompt = fill_prompt(pattern, text_field(line, "context", where), text_field(line, "input", where));
  const ChatFrame frame = is_plain(name) ? plain_frame() : input.chat;
  const ChatFrame& outer = frame;
  // The template's own tokens count too: what is left for the text is found by measuring the empty message.
  const SplitPrompt empty = split_prompt(input.model, outer, "", {"x"});
  const auto framing = static_cast<std::int64_t>(empty.prompt.size() + empty.asks[0].size()) - 1;
  std::vector<std::int32_t> ids;
  for (std::int64_t room = input.length - max_tokens - framing, attempt = 0; attempt < 3; ++attempt, room -= 4) {
    const std::string cut = input.length > 0 ? cut_middle(input.model.tokenizer, prompt, room) : prompt;
    const SplitPrompt split = split_prompt(input.model, outer, cut, {""});
    ids = split.prompt;
    ids.insert(ids.end(), split.asks[0].begin(), split.asks[0].end());
    // Text cut apart and put together again may take a few tokens more.
    if (input.length == 0 || static_cast<std::int64_t>(ids.size()) + max_tokens <= input.length) break;
  }

  Question question{.ask = {ids.back()}, .judge = Judge::generated, .max_tokens = max_tokens, .name = dataset};
  ids.pop_back();
  if (name == "samsum") question.stop = {input.model.tokenizer.encode("\n", false).back()};
  const std::vector<std::string> answers = texts_field(line, "answers", where);
  std::vector<std::string> classes;
  if (metric->second == Metric::classification) classes = texts_field(line, "all_classes", where);
  question.score = [metric = metric->second, one_line = is_one_line(name), answers, classes](const std::string& text) {
    std::string counted = text;
    if (one_line) {
      counted.erase(0, counted.find_first_not_of('\n'));
      counted.resize(std::min(counted.find('\n'), counted.size()));
    }
    double best = 0;
    for (const std::string& answer : answers) best = std::max(best, score_one(metric, counted, answer, classes));
    return best;
  };
  Document document{.name = where, .prompt = std::move(ids)};
  document.questions.push_back(std::move(question));
  return document;
}

}  // namespace

std::string fill_prompt(const std::string& pattern, const std::string& context, const std::string& question) {
  std::string text;
  for (std::size_t at = 0; at < pattern.size();) {
    const std::string_view rest = std::string_view(pattern).substr(at);
    if (rest.starts_with("{context}")) {
      text += context;
      at += 9;
    } else if (rest.starts_with("{input}")) {
      text += question;
      at += 7;
    } else {
      text += pattern[at++];
    }
  }
  return text;
}

std::string cut_middle(const Tokenizer& tokenizer, const std::string& text, std::int64_t tokens) {
  const std::vector<std::int32_t> ids = tokenizer.encode(tokenizer.guard(text), false);
  if (static_cast<std::int64_t>(ids.size()) <= tokens) return text;
  const auto half = static_cast<std::size_t>(tokens / 2);
  const std::string bytes = tokenizer.decode(std::span(ids).first(half)) + tokenizer.decode(std::span(ids).last(half));
  return replace_invalid_utf8(bytes);
}

std::vector<Document> make_longbench(const TaskInput& input) {
  const Files files = find_files(input);
  std::vector<Document> documents;
  for (const std::string& file : files.records) {
    std::int64_t of_file = 0;
    read_json_lines(file, [&](const nlohmann::json& line, const std::string& where) {
      if (!input.documents || of_file++ < *input.documents) documents.push_back(make_record(input, files, line, where));
    });
  }
  return documents;
}

}  // namespace longhaul::eval
