// Documents that are too long: cut to what fits, or split into parts that fit. Tokens are counted by several rules.
#include "runtime/batch/overflow.h"

#include <algorithm>

#include "runtime/tokenizer/tokenizer.h"
#include "tests/support/catch.h"
#include "tests/support/random.h"

namespace longhaul {
namespace {

using test::contains;

/// Words, accents, lines, and now and then a word longer than any place to break.
std::string made_text(test::Random& random, std::int64_t words) {
  std::string text;
  for (std::int64_t i = 0; i < words; ++i) {
    const std::int64_t letters = random.integer(0, 40) == 0 ? 600 : random.integer(1, 9);
    for (std::int64_t n = 0; n < letters; ++n) text += random.integer(0, 5) == 0 ? "\xc3\xa9" : "w";
    text += random.integer(0, 9) == 0 ? "\n\n" : " ";
  }
  return text;
}

/// Frames of some tokens around a token for every few bytes.
std::vector<PromptTokens> counters() {
  return {[](const std::string& t) { return std::ssize(t) + 10; },
          [](const std::string& t) { return std::ssize(t) / 5 + 3; },
          [](const std::string& t) { return std::count(t.begin(), t.end(), ' ') * 2 + std::ssize(t) / 50 + 7; }};
}

std::string without_blanks(std::string text) {
  std::erase_if(text, [](char c) { return c == ' ' || c == '\n'; });
  return text;
}

TEST_CASE("a cut document fits, uses most of the room, and is beginning and end") {
  test::Random random(1);
  for (const PromptTokens& tokens : counters())
    for (int i = 0; i < 40; ++i) {
      const std::string text = made_text(random, random.integer(60, 600));
      const std::int64_t limit = random.integer(tokens("[...]") + 20, tokens(text) - 1);
      for (const Overflow how : {Overflow::truncate_middle, Overflow::truncate_left}) {
        const std::string kept = cut_to_fit(text, how, limit, tokens);
        REQUIRE(tokens(kept) <= limit);
        REQUIRE(find_invalid_utf8(kept) == std::string::npos);
        const std::size_t mark = kept.find(kCutMark);
        REQUIRE(mark != std::string::npos);
        const std::string head = without_blanks(kept.substr(0, mark)), tail = without_blanks(kept.substr(mark + 5));
        const std::string all = without_blanks(text);
        CHECK(all.starts_with(head));
        CHECK(all.ends_with(tail));
        if (how == Overflow::truncate_left) CHECK(head.empty());
        // A 16th at each cut, and what a search step may miss.
        CHECK(tokens(kept) + tokens("") + limit / 4 >= limit);
      }
    }
}

TEST_CASE("a document that cannot be cut to fit gives nothing") {
  const PromptTokens tokens = counters()[0];
  CHECK(cut_to_fit(std::string(100, 'w'), Overflow::truncate_middle, 12, tokens).empty());
  CHECK(split_to_fit(std::string(100, 'w'), 10, tokens).empty());
}

TEST_CASE("parts fit, are few, and together they are the document") {
  test::Random random(2);
  for (const PromptTokens& tokens : counters())
    for (int i = 0; i < 40; ++i) {
      const std::string text = made_text(random, random.integer(100, 600));
      const std::int64_t frame = tokens(""), all = tokens(text) - frame;
      const std::int64_t limit = frame + random.integer(all / 6 + 1, all + 10);
      const auto parts = split_to_fit(text, limit, tokens);
      REQUIRE_FALSE(parts.empty());
      std::string together;
      for (const std::string& part : parts) {
        CHECK(tokens(part) <= limit);
        CHECK(find_invalid_utf8(part) == std::string::npos);
        together += part;
      }
      CHECK(without_blanks(together) == without_blanks(text));
      CHECK(std::ssize(parts) <= 4 * ((all + limit - frame - 1) / (limit - frame)));
      if (tokens(text) <= limit) CHECK(parts.size() == 1);
    }
}

}  // namespace
}  // namespace longhaul
