#include "apps/eval/scores.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "kernels/base/error.h"
#include "runtime/tokenizer/utf8.h"

namespace longhaul::eval {
namespace {

using Words = std::vector<std::string>;

std::string lowered(std::string_view text) {
  std::string low(text);
  for (char& c : low)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return low;
}

bool is_space(char c) { return std::strchr(" \t\n\r\v\f", c) != nullptr && c != '\0'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

Words split_words(std::string_view text) {
  Words words;
  for (std::size_t at = 0; at < text.size();) {
    if (is_space(text[at])) {
      ++at;
      continue;
    }
    std::size_t end = at;
    while (end < text.size() && !is_space(text[end])) ++end;
    words.emplace_back(text.substr(at, end - at));
    at = end;
  }
  return words;
}

Words numbers_in(std::string_view text) {
  Words numbers;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (!is_digit(text[at])) continue;
    std::size_t end = at;
    while (end < text.size() && is_digit(text[end])) ++end;
    numbers.emplace_back(text.substr(at, end - at));
    at = end;
  }
  return numbers;
}

/// The share of `numbers` that are `wanted`.
double share_of(const Words& numbers, std::string_view wanted) {
  if (numbers.empty()) return 0;
  return static_cast<double>(std::ranges::count(numbers, wanted)) / static_cast<double>(numbers.size());
}

Words normalized(std::string_view text) {
  std::string kept;
  for (char c : lowered(text))
    if (std::strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", c) == nullptr) kept += c;
  Words words = split_words(kept);
  std::erase_if(words, [](const std::string& word) { return word == "a" || word == "an" || word == "the"; });
  return words;
}

/// Sentences as the package rouge cuts them: at every full stop; empty ones are left out, blank ones are not.
std::vector<Words> sentences_of(std::string_view text) {
  std::vector<Words> sentences;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find('.', at), text.size());
    if (end > at) {
      sentences.push_back(split_words(text.substr(at, end - at)));
      if (sentences.back().empty()) sentences.back().emplace_back();  // "".split(" ") is one empty word
    }
    at = end + 1;
  }
  return sentences;
}

/// Adds the words of one longest common subsequence, the one that the package walks back along.
void add_common(const Words& x, const Words& y, std::set<std::string>& common) {
  const std::size_t width = y.size() + 1;
  std::vector<std::int32_t> table((x.size() + 1) * width);
  for (std::size_t i = 1; i <= x.size(); ++i)
    for (std::size_t j = 1; j <= y.size(); ++j)
      table[i * width + j] = x[i - 1] == y[j - 1] ? table[(i - 1) * width + j - 1] + 1
                                                  : std::max(table[(i - 1) * width + j], table[i * width + j - 1]);
  for (std::size_t i = x.size(), j = y.size(); i > 0 && j > 0;) {
    if (x[i - 1] == y[j - 1]) {
      common.insert(x[i - 1]);
      --i, --j;
    } else if (table[(i - 1) * width + j] > table[i * width + j - 1]) {
      --i;
    } else {
      --j;
    }
  }
}

std::size_t distinct(const std::vector<Words>& sentences) {
  std::set<std::string> words;
  for (const Words& sentence : sentences) words.insert(sentence.begin(), sentence.end());
  return words.size();
}

std::u32string characters(std::string_view text) {
  std::u32string out;
  for (std::size_t at = 0; at < text.size();) {
    const auto lead = static_cast<unsigned char>(text[at]);
    const std::size_t bytes = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    char32_t c = 0;
    for (std::size_t i = at; i < std::min(at + bytes, text.size()); ++i)
      c = c << 8 | static_cast<unsigned char>(text[i]);
    out += c;
    at += bytes;
  }
  return out;
}

}  // namespace

double last_number_score(std::string_view text, std::int64_t wanted) {
  const Words numbers = numbers_in(text);
  if (numbers.empty()) return 0;
  std::string last = numbers.back();
  last.erase(0, std::min(last.find_first_not_of('0'), last.size() - 1));  // as a number: 007 is 7
  return last == std::to_string(wanted);
}

double contains_score(std::string_view text, std::string_view answer) {
  return lowered(text).find(lowered(answer)) != std::string::npos;
}

double recall_score(std::string_view text, const std::vector<std::string>& answers) {
  double found = 0;
  for (const std::string& answer : answers) found += contains_score(text, answer);
  return found / static_cast<double>(answers.size());
}

double qa_f1_score(std::string_view text, std::string_view answer) {
  const Words predicted = normalized(text), wanted = normalized(answer);
  std::map<std::string, std::int64_t> left;
  for (const std::string& word : wanted) ++left[word];
  double same = 0;
  for (const std::string& word : predicted) same += left[word]-- > 0;
  if (same == 0) return 0;
  const double precision = same / static_cast<double>(predicted.size());
  const double recall = same / static_cast<double>(wanted.size());
  return 2 * precision * recall / (precision + recall);
}

double rouge_l_score(std::string_view text, std::string_view answer) {
  const std::vector<Words> predicted = sentences_of(text), wanted = sentences_of(answer);
  if (predicted.empty() || wanted.empty()) return 0;
  std::set<std::string> common;
  for (const Words& reference : wanted)
    for (const Words& sentence : predicted) add_common(reference, sentence, common);
  const double recall = static_cast<double>(common.size()) / static_cast<double>(distinct(wanted));
  const double precision = static_cast<double>(common.size()) / static_cast<double>(distinct(predicted));
  return 2 * (precision * recall / (precision + recall + 1e-8));
}

double classification_score(std::string_view text, std::string_view answer, const std::vector<std::string>& classes) {
  Words found;
  for (const std::string& name : classes)
    if (text.find(name) != std::string_view::npos) found.push_back(name);
  // As published: the list shrinks while it is walked, so the name after a removed one is passed over.
  for (std::size_t i = 0; i < found.size(); ++i) {
    const std::string name = found[i];
    if (answer.find(name) != std::string_view::npos && name != answer) found.erase(std::ranges::find(found, name));
  }
  if (std::ranges::find(found, answer) == found.end()) return 0;
  return 1.0 / static_cast<double>(found.size());
}

double retrieval_score(std::string_view text, std::string_view answer, std::string_view mark) {
  const std::size_t at = answer.find(mark);
  const Words wanted = at == std::string_view::npos ? Words{} : numbers_in(answer.substr(at + mark.size()));
  return wanted.empty() ? 0 : share_of(numbers_in(text), wanted[0]);
}

double count_score(std::string_view text, std::string_view answer) { return share_of(numbers_in(text), answer); }

double code_similarity_score(std::string_view text, std::string_view answer) {
  text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
  std::string_view line;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view one = text.substr(at, end - at);
    at = end + 1;
    if (one.find_first_of("`#") != std::string_view::npos || one.find("//") != std::string_view::npos) continue;
    line = one;
    break;
  }
  if (line.empty() || answer.empty()) return 0;
  const std::u32string a = characters(line), b = characters(answer);
  std::vector<std::int64_t> above(b.size() + 1), row(b.size() + 1);
  for (char32_t c : a) {
    for (std::size_t j = 1; j <= b.size(); ++j)
      row[j] = c == b[j - 1] ? above[j - 1] + 1 : std::max(above[j], row[j - 1]);
    std::swap(above, row);
  }
  return std::nearbyint(200.0 * static_cast<double>(above.back()) / static_cast<double>(a.size() + b.size())) / 100;
}

}  // namespace longhaul::eval
