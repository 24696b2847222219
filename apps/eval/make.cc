#include "apps/eval/make.h"

#include <algorithm>
#include <iterator>
#include <unordered_set>

#include "apps/eval/words.h"
#include "kernels/base/error.h"

namespace longhaul::eval {

Document fit_document(std::int64_t length, const std::function<Document(std::int64_t body)>& make) {
  std::optional<Document> best;
  std::int64_t body = length - 64, last = 0;
  for (int attempt = 0; attempt < 6 && body > 0; ++attempt) {
    Document document = make(body);
    const std::int64_t rows = last = document.rows(), over = rows - length;
    if (over <= 0 && (!best || rows > best->rows())) best = std::move(document);
    if (over <= 0 && -over <= length / 200) break;
    body -= over > 0 ? over + 1 + 8 * attempt : over;  // more each time: what is made may grow in leaps
  }
  if (!best)
    throw UserError(Exit::usage, "--lengths {}: too short for what a document must hold (about {} tokens)", length,
                    last);
  return *std::move(best);
}

std::vector<std::string> make_keys(std::int64_t count, Random& random) {
  constexpr auto nouns = static_cast<std::int64_t>(std::size(kNouns));
  constexpr auto all = static_cast<std::int64_t>(std::size(kAdjectives)) * nouns;
  std::vector<std::string> keys;
  if (count <= all) {
    for (std::int64_t i : random.sample(all, count))
      keys.push_back(fmt::format("{}-{}", kAdjectives[i / nouns], kNouns[i % nouns]));
    return keys;
  }
  // More than there are pairs (very long documents): with a second noun each is a new word.
  for (std::int64_t i = 0; i < count; ++i)
    keys.push_back(fmt::format("{}-{}-{}", kAdjectives[i / nouns % std::size(kAdjectives)], kNouns[i % nouns],
                               kNouns[i / all % nouns]));
  random.shuffle(keys);
  return keys;
}

std::vector<std::string> make_numbers(std::int64_t count, std::int64_t low, std::int64_t high, Random& random) {
  std::vector<std::string> numbers;
  for (std::unordered_set<std::int64_t> used; static_cast<std::int64_t>(numbers.size()) < count;)
    if (const std::int64_t number = random.between(low, high); used.insert(number).second)
      numbers.push_back(std::to_string(number));
  return numbers;
}

std::vector<std::string> put_between(const std::vector<std::string>& paragraphs,
                                     const std::vector<std::string>& inserts, Random& random) {
  std::vector<std::int64_t> behind;
  const auto gaps = static_cast<std::int64_t>(paragraphs.size()) - 1;
  for (std::size_t i = 0; i < inserts.size(); ++i) behind.push_back(random.below(std::max<std::int64_t>(gaps, 1)));
  std::ranges::sort(behind);
  std::vector<std::string> all;
  std::size_t next = 0;
  for (std::size_t i = 0; i < paragraphs.size(); ++i) {
    all.push_back(paragraphs[i]);
    for (; next < inserts.size() && behind[next] == static_cast<std::int64_t>(i); ++next) all.push_back(inserts[next]);
  }
  return all;
}

std::string join(const std::vector<std::string>& parts, std::string_view between) {
  return fmt::format("{}", fmt::join(parts, between));
}

std::int64_t wanted_documents(const TaskInput& input, std::int64_t unless_given) {
  if (input.all) throw UserError(Exit::usage, "--documents all: a task that makes its documents needs a number");
  return input.documents.value_or(unless_given);
}

void need_length(const TaskInput& input, const char* task) {
  if (input.length == 0) throw UserError(Exit::usage, "--lengths is required for {}", task);
}

Document exact_document(const TaskInput& input, const std::string& text, const std::vector<std::string>& questions,
                        const std::vector<std::string>& answers) {
  SplitPrompt split = split_prompt(input.model, input.chat, text, questions);
  Document document{.name = {}, .prompt = std::move(split.prompt)};
  for (std::size_t i = 0; i < questions.size(); ++i) {
    Question question{.ask = std::move(split.asks[i]), .answer = answer_tokens(input.model, input.chat, answers[i])};
    question.parts = {{0, static_cast<std::int64_t>(question.answer.size()), {}}};
    document.questions.push_back(std::move(question));
  }
  return document;
}

}  // namespace longhaul::eval
