// Needles in a book, in the words that the two small models know: many to a document, so that many questions share one
// prefill.
#include <algorithm>

#include "apps/eval/make.h"
#include "kernels/base/error.h"

namespace longhaul::eval {
namespace {

constexpr std::int64_t kQuestions = 25;

Document make_one(const TaskInput& input, std::int64_t index, std::int64_t questions, std::int64_t body) {
  Random random(input.seed, fmt::format("needle {} {}", input.length, index));
  const std::vector<std::string> keys = make_keys(questions, random);
  const std::vector<std::string> answers = make_numbers(questions, 1000000, 9999999, random);
  std::vector<std::string> needles, asked;
  std::int64_t tokens = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    needles.push_back(fmt::format("The special magic number for {} is: {}.", keys[i], answers[i]));
    asked.push_back(fmt::format("\n\nWhat is the special magic number for {}?", keys[i]));
    tokens += count_tokens(input.model.tokenizer, needles.back() + "\n\n");
  }
  if (tokens > input.length / 2)
    throw UserError(Exit::usage, "--questions {}: the needles take {} of the {} tokens; ask at most {}", questions,
                    tokens, input.length, questions * input.length / 2 / tokens);
  // The order of the questions is not that of the places.
  std::vector<std::string> placed = needles;
  random.shuffle(placed);
  body = std::max<std::int64_t>(body - tokens, 1);
  const std::vector<std::string> paragraphs = input.texts.excerpt(input.texts.pick(body, false, random), body, random);
  return exact_document(input, join(put_between(paragraphs, placed, random), "\n\n"), asked, answers);
}

}  // namespace

std::vector<Document> make_needles(const TaskInput& input) {
  need_length(input, "needle");
  std::vector<Document> documents;
  for (std::int64_t i = 0; i < wanted_documents(input); ++i)
    documents.push_back(fit_document(input.length, [&](std::int64_t body) {
      return make_one(input, i, input.questions.value_or(kQuestions), body);
    }));
  return documents;
}

}  // namespace longhaul::eval
