// What is evaluated: documents that are prefilled once, and questions that each go on from the document's end.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace longhaul::eval {

enum class Judge : std::uint8_t {
  exact,       // under teacher forcing: a part is right when each of its tokens is the likeliest, as greedy would say
  likelihood,  // under teacher forcing: a part's negative log-likelihood
  choice,      // the likeliest of `answer`'s tokens after the question
  generated,   // greedy text, scored by `score`
};

/// Tokens [begin, end) of an answer: one item of the results, or with scored = false only forced through.
struct Part {
  std::int64_t begin, end;
  std::string name;
  bool scored = true;
};

struct Question {
  std::vector<std::int32_t> ask;  // forced through; at least one
  Judge judge = Judge::exact;
  std::vector<std::int32_t> answer;                 // the tokens; for a choice: the candidates
  std::vector<Part> parts;                          // of `answer`, in order, covering it (exact, likelihood)
  std::int64_t right = 0;                           // of a choice
  std::int64_t max_tokens = 0;                      // generated: the longest text
  std::vector<std::int32_t> stop;                   // generated: tokens that end it, beside the model's own
  std::function<double(const std::string&)> score;  // generated: in [0, 1]
  std::function<bool(const std::string&)>
      complete;      // generated: whether nothing more can change the score; may be empty
  std::string name;  // of its item where it has no parts

  /// Rows that it may add to the document's.
  std::int64_t rows() const {
    const auto asked = static_cast<std::int64_t>(ask.size());
    if (judge == Judge::choice) return asked;
    return asked + (judge == Judge::generated ? max_tokens : static_cast<std::int64_t>(answer.size()));
  }
};

struct Document {
  std::string name;
  std::vector<std::int32_t> prompt;
  std::vector<Question> questions;

  std::int64_t rows() const {
    std::int64_t most = 0;
    for (const Question& question : questions) most = std::max(most, question.rows());
    return static_cast<std::int64_t>(prompt.size()) + most;
  }
};

/// One item's result: score and 1, or the negative log-likelihood and its number of tokens.
struct Item {
  std::string name;
  double sum = 0, weight = 1;
  std::string text = {};  // what was generated, for the records
};

}  // namespace longhaul::eval
