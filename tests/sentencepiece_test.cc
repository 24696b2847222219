// tokenizer.model: cut into words and cached, a text gives what the SentencePiece library makes of the whole.
#include <sentencepiece_processor.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "kernels/base/file.h"
#include "paths.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tests/support/catch.h"
#include "tests/support/complaint.h"
#include "tests/support/scratch_dir.h"

namespace longhaul {
namespace {

using test::complaint;
using test::contains;
using test::ScratchDir;
using Ids = std::vector<std::int32_t>;

const std::filesystem::path kModel = std::filesystem::path(LONGHAUL_SOURCE_DIR) / "tests/data/sentencepiece";

// Protobuf, as far as these files need it.
std::string varint(std::uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out += static_cast<char>(value);
}
std::string number(std::uint64_t field, std::uint64_t value) { return varint(field << 3) + varint(value); }
std::string bytes(std::uint64_t field, const std::string& value) {
  return varint(field << 3 | 2) + varint(value.size()) + value;
}
std::string piece(const std::string& text, float score, int kind) {
  const std::string raw(reinterpret_cast<const char*>(&score), sizeof score);
  return bytes(1, bytes(1, text) + varint(2 << 3 | 5) + raw + number(3, static_cast<std::uint64_t>(kind)));
}
enum Kind { normal = 1, unknown, control, user_defined, unused, byte };

struct Settings {
  bool prefix = true, collapse = false, fallback = false;
};
std::string settings(const Settings& s) {
  return bytes(2, number(3, 2) + number(35, s.fallback)) + bytes(3, number(3, s.prefix) + number(4, s.collapse));
}

/// What the library itself makes of all of `text`.
Ids whole(const std::string& model, const std::string& text) {
  sentencepiece::SentencePieceProcessor library;
  REQUIRE(library.LoadFromSerializedProto(model).ok());
  std::vector<int> ids;
  REQUIRE(library.Encode(text, &ids).ok());
  return {ids.begin(), ids.end()};
}

Ids cut(const std::string& model, const std::string& text) {
  ScratchDir dir;
  dir.write("tokenizer.model", model);
  return Tokenizer(dir.path()).encode(text, false);
}

class Random {
 public:
  explicit Random(std::uint32_t seed) : rng_(seed) {}
  std::size_t below(std::size_t n) { return rng_() % n; }
  template <class List>
  std::string text(const List& parts, std::size_t most) {
    std::string out;
    for (std::size_t n = below(most + 1); n > 0; --n) out += parts[below(std::size(parts))];
    return out;
  }

 private:
  std::mt19937 rng_;
};

const char* const kCharacters[] = {"a", "b", "c", "d", "▁", "é"};

/// Pieces that merges make, and pieces that they cannot; scores with ties.
std::string random_model(Random& random, bool with_unused) {
  std::string model = piece("<unk>", 0, unknown) + piece("<s>", 0, control) + piece("</s>", 0, control);
  std::set<std::string> texts;
  for (const char* one : kCharacters)
    if (random.below(4) > 0) texts.insert(one);
  for (std::size_t n = random.below(20); n > 0; --n) {
    std::string text = random.text(kCharacters, 2) + kCharacters[random.below(6)];
    if (random.below(2) == 0 && !texts.empty()) text = *texts.begin() + text;
    texts.insert(text);
  }
  for (const std::string& text : texts)
    model += piece(text, -static_cast<float>(random.below(6)), with_unused && random.below(3) == 0 ? unused : normal);
  return model;
}

}  // namespace

TEST_CASE("any SentencePiece model gives of a cut text what it gives of the whole", "[sentencepiece]") {
  const char* const parts[] = {"a", "b", "c", "d", "é", " ", "  ", "▁", "x", "yz", "aa", " ab", "\n", "ab", "日"};
  Random random(11);
  int compared = 0;
  for (int round = 0; round < 150; ++round) {
    const Settings chosen{.prefix = random.below(2) == 0, .collapse = random.below(3) == 0};
    const std::string model = random_model(random, round % 5 == 0) + settings(chosen);
    ScratchDir dir;
    dir.write("tokenizer.model", model);
    const Tokenizer tokenizer(dir.path());
    for (int i = 0; i < 12; ++i, ++compared) {
      const std::string text = random.text(parts, 40);
      INFO(round << ": " << text);
      REQUIRE(tokenizer.encode(text, false) == whole(model, text));
    }
  }
  CHECK(compared == 1800);
}

TEST_CASE("the carried SentencePiece model gives of a cut text what it gives of the whole", "[sentencepiece]") {
  const std::string carried = read_file(kModel / "tokenizer.model");
  const char* const parts[] = {"the ", " of",   "device", "memory", "▁", "  ", "\n", "\t", "é", "日本",      "token",
                               "12",   "don't", ".",      "\u00a0", "x", "A",  " (", "`",  "|", "\U0001f600"};
  Random random(5);
  for (const Settings& chosen : {Settings{true, false, true}, Settings{true, true, true}, Settings{false, false, true},
                                 Settings{false, true, true}}) {
    const std::string model = carried + settings(chosen);
    ScratchDir dir;
    dir.write("tokenizer.model", model);
    const Tokenizer tokenizer(dir.path());
    std::string all;
    for (int i = 0; i < 200; ++i) {
      const std::string text = random.text(parts, 60);
      all += text;
      INFO(text);
      REQUIRE(tokenizer.encode(text, false) == whole(model, text));
    }
    CHECK(tokenizer.encode(all, false) == whole(model, all));  // long enough for words to come from the cache
  }
}

TEST_CASE("long runs through tokenizer.model take no quadratic time", "[sentencepiece]") {
  const std::string alphabet = piece("<unk>", 0, unknown) + piece("<s>", 0, control) + piece("</s>", 0, control) +
                               piece("a", -1, normal) + piece("aa", -2, normal) + piece("▁", -3, normal);
  const std::string model = alphabet + settings({});
  std::string run;
  for (int i = 0; i < 1 << 18; ++i) run += "\u65e5";
  CHECK(cut(model, "a" + run + "a") == Ids{5, 3, 0, 3});
  CHECK(cut(model, std::string(1 << 18, 'a')).size() == (1 << 17) + 1);
  // Pieces that no merge makes keep the run together: it is refused, for the library takes quadratic time.
  const std::string joined = alphabet + piece("c\u65e5\u65e5d", -1, normal) + settings({});
  CHECK_THAT(complaint([&] { cut(joined, run); }, Exit::io),
             contains("a run of more than 16384 characters that tokenizer.model does not know is not supported"));
  CHECK(cut(joined, run.substr(0, 3 * 1000)) == Ids{5, 0});
}

TEST_CASE("legacy and add_prefix_space say where tokenizer.model gets a space that a text has not", "[sentencepiece]") {
  const std::string model = piece("<unk>", 0, unknown) + piece("<s>", 0, control) + piece("</s>", 0, control) +
                            piece("▁", -1, normal) + piece("a", -2, normal) + settings({});
  const auto encoded = [&](const std::string& config, const std::string& text) {
    ScratchDir dir;
    dir.write("tokenizer.model", model);
    dir.write("tokenizer_config.json", config);
    const Tokenizer tokenizer(dir.path());
    const Ids ids = tokenizer.encode(text, false);
    return ids;
  };
  constexpr int kSpace = 3, kA = 4, kEnd = 2;
  for (const char* config : {"{}", R"({"legacy": true})", R"({"legacy": null})"}) {
    CHECK(encoded(config, "a</s>a") == Ids{kSpace, kA, kEnd, kSpace, kA});
    CHECK(encoded(config, " a") == Ids{kSpace, kSpace, kA});
  }
  // As the Metaspace of transformers' LlamaTokenizer: first, and not where there is a space.
  const std::string repaired = R"({"legacy": false})";
  CHECK(encoded(repaired, "a</s>a") == Ids{kSpace, kA, kEnd, kA});
  CHECK(encoded(repaired, "</s>a") == Ids{kEnd, kA});
  CHECK(encoded(repaired, " a") == Ids{kSpace, kA});
  CHECK(encoded(repaired, "▁a") == Ids{kSpace, kA});
  CHECK(encoded(R"({"add_prefix_space": false, "legacy": false})", "a </s>a") == Ids{kA, kSpace, kEnd, kA});
}

TEST_CASE("what a tokenizer.model asks for and is not done is refused by name", "[sentencepiece]") {
  const std::string pieces = piece("<unk>", 0, unknown) + piece("<s>", 0, control) + piece("a", -1, normal);
  const auto refused = [](const std::string& model) { return complaint([&] { cut(model, "a"); }); };
  CHECK(refused(pieces + settings({})) == "no error");
  CHECK_THAT(refused(pieces), contains("its model_type is not supported (BPE is)"));  // absent: unigram
  CHECK_THAT(refused(pieces + bytes(2, number(3, 1))), contains("its model_type is not supported (BPE is)"));
  CHECK_THAT(refused(pieces + settings({}) + bytes(3, bytes(2, "\4\0\0\0"))),
             contains("has a table of normalizations (precompiled_charsmap), which is not supported"));
  CHECK_THAT(refused(pieces + settings({}) + bytes(3, number(5, 0))), contains("escape_whitespaces false"));
  CHECK_THAT(refused(pieces + settings({}) + bytes(2, number(24, 1))), contains("treat_whitespace_as_suffix"));
  CHECK_THAT(refused(pieces + piece("é", 0, control) + settings({})),
             contains("the control token \"é\" of one character is not supported"));
  CHECK_THAT(refused(pieces + pieces + settings({})), contains("the SentencePiece library refuses it"));
}

}  // namespace longhaul
