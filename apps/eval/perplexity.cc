// Perplexity of windows of text: each file's tokens whole, cut to windows of LENGTH that do not overlap.
#include <algorithm>

#include "apps/eval/task.h"
#include "kernels/base/error.h"

namespace longhaul::eval {
namespace {

constexpr std::int64_t kBlock = 128;  // tokens of an item: fine enough to pair, coarse enough to be nearly independent
constexpr std::int64_t kDensePart = 256;  // tokens that mode `every` prefills; no policy gives up rows below it
constexpr std::int64_t kDocuments = 4;

struct Window {
  std::int64_t text, index;
};

Document make_window(const Library::Text& text, std::int64_t index, const TaskInput& input) {
  const std::int64_t n = input.length;
  const std::int64_t scored = input.mode == Mode::every ? n - kDensePart - 1 : input.tail;
  const std::int64_t prompt = n - scored - 1;  // the token after it is fed first, so that all scores are decoded
  const auto begin = text.tokens.begin() + index * n;
  Document document{.name = fmt::format("{}:{}", text.name, index), .prompt = {begin, begin + prompt}};
  Question question{.ask = {begin[prompt]}, .judge = Judge::likelihood, .answer = {begin + prompt + 1, begin + n}};
  for (std::int64_t at = 0; at < scored; at += kBlock)
    question.parts.push_back({at, std::min(at + kBlock, scored), fmt::format("{}", prompt + 1 + at)});
  document.questions.push_back(std::move(question));
  return document;
}

}  // namespace

std::vector<Document> make_perplexity(const TaskInput& input) {
  const std::int64_t least = input.mode == Mode::every ? kDensePart + 2 : input.tail + 2;
  if (input.length < least)
    throw UserError(Exit::usage, "--lengths {}: perplexity needs at least {} tokens{}", input.length, least,
                    input.mode == Mode::every ? "" : "; shorten --tail");
  // Round after round one window of each text, so that few documents are of many texts.
  std::vector<std::vector<Window>> of_text;
  std::int64_t longest = 0, total = 0;
  for (std::int64_t i = 0; i < input.texts.size(); ++i) {
    const auto tokens = static_cast<std::int64_t>(input.texts.tokenized(i).tokens.size());
    longest = std::max(longest, tokens);
    total += tokens / input.length;
    of_text.emplace_back();
    for (std::int64_t w = 0; w < tokens / input.length; ++w) of_text.back().push_back({i, w});
    Random random(input.seed, fmt::format("perplexity {} {}", input.length, input.texts.tokenized(i).name));
    if (!input.all) random.shuffle(of_text.back());
  }
  if (total == 0)
    throw UserError(Exit::usage, "--texts: no text has the {} tokens of --lengths; the longest has {}", input.length,
                    longest);
  if (!input.all) {
    Random random(input.seed, fmt::format("perplexity {}", input.length));
    random.shuffle(of_text);
  }
  std::vector<Window> windows;
  if (input.all) {
    for (const auto& text : of_text) windows.insert(windows.end(), text.begin(), text.end());
  } else {
    const std::int64_t wanted = input.documents.value_or(kDocuments);
    if (wanted > total)
      throw UserError(Exit::usage, "--documents {}: the texts have {} windows of {} tokens", wanted, total,
                      input.length);
    for (std::size_t round = 0; static_cast<std::int64_t>(windows.size()) < wanted; ++round)
      for (const auto& text : of_text)
        if (round < text.size() && static_cast<std::int64_t>(windows.size()) < wanted) windows.push_back(text[round]);
  }
  std::vector<Document> documents;
  for (const Window& window : windows)
    documents.push_back(make_window(input.texts.tokenized(window.text), window.index, input));
  return documents;
}

}  // namespace longhaul::eval
