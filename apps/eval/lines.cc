// LongEval's lines. Made ones are in the words that the two small models know; records of LongEval's own files are
// asked as they are, and a greedy answer's last number counts, as published.
#include <algorithm>

#include "apps/eval/data_file.h"
#include "apps/eval/make.h"
#include "apps/eval/scores.h"
#include "kernels/base/error.h"

namespace longhaul::eval {
namespace {

constexpr std::int64_t kQuestions = 25;
constexpr std::int64_t kAnswerTokens = 48;

Document make_one(const TaskInput& input, std::int64_t index, std::int64_t body) {
  Random random(input.seed, fmt::format("lines {} {}", input.length, index));
  const std::int64_t questions = input.questions.value_or(kQuestions);
  // At least twelve tokens a line: more keys than lines.
  const std::int64_t most = std::min<std::int64_t>(input.length / 12 + 1, 45000);
  const std::vector<std::string> keys = make_keys(most, random), numbers = make_numbers(most, 10000, 99999, random);
  std::string text;
  std::int64_t lines = 0;
  for (; lines < most; ++lines) {
    const auto i = static_cast<std::size_t>(lines);
    const std::string line = fmt::format("line {}: REGISTER_CONTENT is <{}>\n", keys[i], numbers[i]);
    body -= count_tokens(input.model.tokenizer, line);
    if (body < 0) break;
    text += line;
  }
  if (lines < questions)
    throw UserError(Exit::usage, "--questions {}: a document of {} tokens has {} lines", questions, input.length,
                    lines);
  std::vector<std::string> asked, answers;
  Random choice(input.seed, fmt::format("lines {} {} questions", input.length, index));
  for (std::int64_t i : choice.sample(lines, questions)) {
    asked.push_back(
        fmt::format("\nTell me what is the <REGISTER_CONTENT> in line {}?", keys[static_cast<std::size_t>(i)]));
    answers.push_back(numbers[static_cast<std::size_t>(i)]);
  }
  return exact_document(input, text, asked, answers);
}

std::vector<Document> read_records(const TaskInput& input) {
  std::vector<Document> documents;
  for (const std::string& file : input.data)
    read_json_lines(file, [&](const nlohmann::json& line, const std::string& where) {
      if (input.documents && static_cast<std::int64_t>(documents.size()) >= *input.documents) return;
      const std::string prompt = text_field(line, "prompt", where);
      const auto number = line.find("expected_number");
      if (number == line.end() || !number->is_number_integer())
        throw UserError(Exit::io, "{}: the key \"expected_number\" must be a whole number", where);
      const std::size_t cut = prompt.rfind("\nNow the record is over");
      if (cut == std::string::npos)
        throw UserError(Exit::io, "{}: the prompt has no line 'Now the record is over'", where);
      SplitPrompt split = split_prompt(input.model, input.chat, prompt.substr(0, cut), {prompt.substr(cut)});
      Question question{.ask = std::move(split.asks[0]), .judge = Judge::generated, .max_tokens = kAnswerTokens};
      question.score = [wanted = number->get<std::int64_t>()](const std::string& text) {
        return last_number_score(text, wanted);
      };
      documents.push_back({where, std::move(split.prompt), {std::move(question)}});
    });
  return documents;
}

}  // namespace

std::vector<Document> make_lines(const TaskInput& input) {
  if (!input.data.empty()) return read_records(input);
  need_length(input, "lines without --data");
  std::vector<Document> documents;
  for (std::int64_t i = 0; i < wanted_documents(input); ++i)
    documents.push_back(fit_document(input.length, [&](std::int64_t body) { return make_one(input, i, body); }));
  return documents;
}

}  // namespace longhaul::eval
