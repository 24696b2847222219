// Four tasks after RULER (Hsieh et al. 2024, arXiv 2404.06654), in its words: answers are generated after its answer
// prefix, and the share of the wanted words that appear counts.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "apps/eval/make.h"
#include "apps/eval/scores.h"
#include "kernels/base/error.h"

namespace longhaul::eval {
namespace {

constexpr std::int64_t kQuestions = 10;

struct Asked {
  std::string question, prefix;  // the prefix begins the answer
  std::vector<std::string> answers;
};

Document make_document(const TaskInput& input, const std::string& text, const std::vector<Asked>& asked,
                       std::int64_t max_tokens) {
  std::vector<std::string> questions;
  for (const Asked& one : asked) questions.push_back(one.question);
  SplitPrompt split = split_prompt(input.model, input.chat, text, questions);
  Document document{.name = {}, .prompt = std::move(split.prompt)};
  for (std::size_t i = 0; i < asked.size(); ++i) {
    Question question{.ask = std::move(split.asks[i]), .judge = Judge::generated, .max_tokens = max_tokens};
    const auto prefix = input.model.tokenizer.encode(input.model.tokenizer.guard(asked[i].prefix), false);
    question.ask.insert(question.ask.end(), prefix.begin(), prefix.end());
    question.score = [answers = asked[i].answers](const std::string& got) { return recall_score(got, answers); };
    question.complete = [answers = asked[i].answers](const std::string& got) {
      return recall_score(got, answers) == 1;
    };
    document.questions.push_back(std::move(question));
  }
  return document;
}

Asked ask_number(const std::string& key, const std::string& number) {
  return {fmt::format("\nWhat is the special magic number for {} mentioned in the provided text?", key),
          fmt::format(" The special magic number for {} mentioned in the provided text is", key),
          {number}};
}

constexpr const char* kNeedleHead =
    "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you about the "
    "number afterwards.\n";
constexpr const char* kNoise =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

std::string needle_line(const std::string& key, const std::string& number) {
  return fmt::format("One of the special magic numbers for {} is: {}.", key, number);
}

Document make_single(const TaskInput& input, std::int64_t index, std::int64_t body) {
  Random random(input.seed, fmt::format("niah-single {} {}", input.length, index));
  const std::string key = make_keys(1, random)[0], number = std::to_string(random.between(1000000, 9999999));
  const double depth = random.uniform();
  const std::int64_t sentence = count_tokens(input.model.tokenizer, std::string(kNoise) + "\n");
  std::vector<std::string> lines(static_cast<std::size_t>(std::max<std::int64_t>(body / sentence, 1)), kNoise);
  const auto at = static_cast<std::ptrdiff_t>(depth * static_cast<double>(lines.size()));
  lines.insert(lines.begin() + at, needle_line(key, number));
  return make_document(input, kNeedleHead + join(lines, "\n"), {ask_number(key, number)}, 128);
}

Document make_multikey(const TaskInput& input, std::int64_t index, std::int64_t body) {
  Random random(input.seed, fmt::format("niah-multikey {} {}", input.length, index));
  const std::int64_t most = input.length / 12 + 1;  // at least twelve tokens a needle
  const std::vector<std::string> keys = make_keys(most, random), numbers = make_numbers(most, 1000000, 9999999, random);
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    std::string line = needle_line(keys[i], numbers[i]);
    body -= count_tokens(input.model.tokenizer, line + "\n");
    if (body < 0) break;
    lines.push_back(std::move(line));
  }
  const auto count = static_cast<std::int64_t>(lines.size()), wanted = input.questions.value_or(kQuestions);
  if (count < wanted)
    throw UserError(Exit::usage, "--questions {}: a document of {} tokens has {} needles", wanted, input.length, count);
  Random choice(input.seed, fmt::format("niah-multikey {} {} questions", input.length, index));
  std::vector<Asked> asked;
  for (std::int64_t i : choice.sample(count, wanted))
    asked.push_back(ask_number(keys[static_cast<std::size_t>(i)], numbers[static_cast<std::size_t>(i)]));
  return make_document(input, kNeedleHead + join(lines, "\n"), asked, 128);
}

/// `hops` assignments from a number, variable to variable, between lines of noise.
Document make_tracking(const TaskInput& input, std::int64_t index, std::int64_t body) {
  constexpr std::int64_t kHops = 4;
  Random random(input.seed, fmt::format("variable-tracking {} {}", input.length, index));
  std::vector<std::string> names;
  for (std::set<std::string> used; static_cast<std::int64_t>(names.size()) <= kHops;) {
    std::string name;
    for (int i = 0; i < 5; ++i) name += static_cast<char>('A' + random.below(26));
    if (used.insert(name).second) names.push_back(std::move(name));
  }
  const std::string value = std::to_string(random.between(10000, 99999));
  std::vector<std::string> chain{fmt::format("VAR {} = {}", names[0], value)};
  for (std::size_t i = 1; i < names.size(); ++i)
    chain.push_back(fmt::format("VAR {} = VAR {} ", names[i], names[i - 1]));
  const std::int64_t sentence = count_tokens(input.model.tokenizer, std::string(kNoise) + "\n");
  const std::vector<std::string> noise(static_cast<std::size_t>(std::max<std::int64_t>(body / sentence, 2)), kNoise);
  const std::string text = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n" +
                           join(put_between(noise, chain, random), "\n");
  const Asked asked{
      fmt::format("\nQuestion: Find all variables that are assigned the value {} in the text above.", value),
      fmt::format(" Answer: According to the chain(s) of variable assignment in the text above, {} variables are "
                  "assigned the value {}, they are: ",
                  names.size(), value),
      names};
  return make_document(input, text, {asked}, 48);
}

/// Made-up words whose frequencies follow a zeta law of exponent 2; the most frequent "word" is the noise "...".
Document make_frequent(const TaskInput& input, std::int64_t index, std::int64_t body) {
  constexpr double kExponent = 2.0;
  constexpr std::int64_t kWords = 300, kWanted = 3;
  Random random(input.seed, fmt::format("frequent-words {} {}", input.length, index));
  std::vector<std::string> words{"..."};
  for (std::set<std::string> used; static_cast<std::int64_t>(words.size()) < kWords;) {
    std::string word;
    for (int i = 0; i < 6; ++i) word += static_cast<char>('a' + random.below(26));
    if (used.insert(word).second) words.push_back(std::move(word));
  }
  double zeta = 0;
  for (std::int64_t i = 1; i <= kWords; ++i) zeta += std::pow(static_cast<double>(i), -kExponent);
  // Words by rank until the text is full; at least one of each of those that count.
  std::vector<std::string> text;
  double average = 0;
  for (std::int64_t i = 0; i < kWords; ++i)
    average += static_cast<double>(count_tokens(input.model.tokenizer, " " + words[static_cast<std::size_t>(i)])) *
               std::pow(static_cast<double>(i + 1), -kExponent) / zeta;
  const double total = static_cast<double>(body) / average;
  for (std::int64_t i = 0; i < kWords; ++i)
    text.insert(text.end(),
                static_cast<std::size_t>(std::floor(total * std::pow(static_cast<double>(i + 1), -kExponent) / zeta)),
                words[static_cast<std::size_t>(i)]);
  random.shuffle(text);
  const Asked asked{
      "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the three most frequently "
      "appeared words in the above coded text?",
      " Answer: According to the coded text above, the three most frequently appeared words are:",
      {words.begin() + 1, words.begin() + 1 + kWanted}};
  return make_document(input,
                       "Read the following coded text and track the frequency of each coded word. Find the three most "
                       "frequently appeared coded words. " +
                           join(text, " "),
                       {asked}, 50);
}

std::vector<Document> make_all(const TaskInput& input, const char* task,
                               Document (*make)(const TaskInput&, std::int64_t, std::int64_t)) {
  need_length(input, task);
  std::vector<Document> documents;
  for (std::int64_t i = 0; i < wanted_documents(input, kQuestions); ++i)
    documents.push_back(fit_document(input.length, [&](std::int64_t body) { return make(input, i, body); }));
  return documents;
}

}  // namespace

std::vector<Document> make_niah_single(const TaskInput& input) { return make_all(input, "niah-single", make_single); }
std::vector<Document> make_niah_multikey(const TaskInput& input) {
  return make_all(input, "niah-multikey", make_multikey);
}
std::vector<Document> make_variable_tracking(const TaskInput& input) {
  return make_all(input, "variable-tracking", make_tracking);
}
std::vector<Document> make_frequent_words(const TaskInput& input) {
  return make_all(input, "frequent-words", make_frequent);
}

}  // namespace longhaul::eval
