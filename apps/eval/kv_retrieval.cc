// Key-value retrieval in the words of Lost in the Middle (Liu et al. 2023): its own records by --data, or made ones
// with many questions to a document.
#include <algorithm>

#include "apps/eval/data_file.h"
#include "apps/eval/make.h"
#include "apps/eval/scores.h"
#include "kernels/base/error.h"

namespace longhaul::eval {
namespace {

constexpr std::int64_t kQuestions = 25;
constexpr std::int64_t kAnswerTokens = 100;  // as published

using Pairs = std::vector<std::pair<std::string, std::string>>;

std::string document_text(const Pairs& pairs) {
  std::string text = "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n";
  for (std::size_t i = 0; i < pairs.size(); ++i)
    text += fmt::format("{}\"{}\": \"{}\"{}", i == 0 ? "{" : " ", pairs[i].first, pairs[i].second,
                        i + 1 < pairs.size() ? ",\n" : "}");
  return text;
}

Document make_document(const TaskInput& input, const Pairs& pairs, const std::vector<std::int64_t>& asked) {
  std::vector<std::string> questions;
  for (std::int64_t i : asked)
    questions.push_back(fmt::format("\n\nKey: \"{}\"\nCorresponding value:", pairs[static_cast<std::size_t>(i)].first));
  SplitPrompt split = split_prompt(input.model, input.chat, document_text(pairs), questions);
  Document document{.name = {}, .prompt = std::move(split.prompt)};
  for (std::size_t i = 0; i < asked.size(); ++i) {
    const std::string& value = pairs[static_cast<std::size_t>(asked[i])].second;
    Question question{.ask = std::move(split.asks[i]), .judge = Judge::generated, .max_tokens = kAnswerTokens};
    question.score = [value](const std::string& text) { return contains_score(text, value); };
    question.complete = [value](const std::string& text) { return contains_score(text, value) > 0; };
    document.questions.push_back(std::move(question));
  }
  return document;
}

std::string make_uuid(Random& random) {
  std::string uuid;
  for (int digits : {8, 4, 4, 4, 12}) {
    if (!uuid.empty()) uuid += '-';
    for (int i = 0; i < digits; ++i) uuid += "0123456789abcdef"[random.below(16)];
  }
  return uuid;
}

Document make_one(const TaskInput& input, std::int64_t index, std::int64_t body) {
  Random random(input.seed, fmt::format("kvretrieval {} {}", input.length, index));
  const std::int64_t questions = input.questions.value_or(kQuestions);
  Pairs pairs;
  while (true) {
    std::pair<std::string, std::string> pair(make_uuid(random), make_uuid(random));
    body -= count_tokens(input.model.tokenizer, fmt::format(" \"{}\": \"{}\",\n", pair.first, pair.second));
    if (body < 0) break;
    pairs.push_back(std::move(pair));
  }
  const auto count = static_cast<std::int64_t>(pairs.size());
  if (count < questions)
    throw UserError(Exit::usage, "--questions {}: a document of {} tokens has {} keys", questions, input.length, count);
  Random choice(input.seed, fmt::format("kvretrieval {} {} questions", input.length, index));
  return make_document(input, pairs, choice.sample(count, questions));
}

Document read_record(const TaskInput& input, const nlohmann::json& line, const std::string& where) {
  Pairs pairs;
  const auto records = line.find("ordered_kv_records");
  bool good = records != line.end() && records->is_array();
  for (std::size_t i = 0; good && i < records->size(); ++i) {
    const nlohmann::json& one = (*records)[i];
    good = one.is_array() && one.size() == 2 && one[0].is_string() && one[1].is_string();
    if (good) pairs.emplace_back(one[0].get<std::string>(), one[1].get<std::string>());
  }
  if (!good) throw UserError(Exit::io, "{}: the key \"ordered_kv_records\" must be a list of pairs of texts", where);
  const std::string key = text_field(line, "key", where), value = text_field(line, "value", where);
  const auto found = std::ranges::find(pairs, std::pair(key, value));
  if (found == pairs.end()) throw UserError(Exit::io, "{}: key and value are not among the records", where);
  Document document = make_document(input, pairs, {found - pairs.begin()});
  document.name = where;
  return document;
}

}  // namespace

std::vector<Document> make_kv_retrieval(const TaskInput& input) {
  std::vector<Document> documents;
  for (const std::string& file : input.data)
    read_json_lines(file, [&](const nlohmann::json& line, const std::string& where) {
      if (!input.documents || static_cast<std::int64_t>(documents.size()) < *input.documents)
        documents.push_back(read_record(input, line, where));
    });
  if (!input.data.empty()) return documents;
  need_length(input, "kvretrieval without --data");
  for (std::int64_t i = 0; i < wanted_documents(input); ++i)
    documents.push_back(fit_document(input.length, [&](std::int64_t body) { return make_one(input, i, body); }));
  return documents;
}

}  // namespace longhaul::eval
