#include "runtime/tokenizer/tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>

#include "kernels/base/error.h"
#include "paths.h"
#include "runtime/tokenizer/regex.h"
#include "runtime/tokenizer/utf8.h"
#include "tests/support/catch.h"

using namespace longhaul;
using nlohmann::json;

namespace {

using Ids = std::vector<std::int32_t>;
const std::filesystem::path kData = std::filesystem::path(LONGHAUL_SOURCE_DIR) / "tests/data";
const std::filesystem::path kLongbook = kData / "longbook-tokenizer";

const Tokenizer& longbook() {
  static const Tokenizer tokenizer(kLongbook);
  return tokenizer;
}

json longbook_json() { return json::parse(std::ifstream(kLongbook / "tokenizer.json")); }

std::vector<json> lines_of(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::vector<json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
  return lines;
}

// A tokenizer of the given file contents.
Tokenizer tokenizer_of(const std::string& text) {
  const auto dir =
      std::filesystem::temp_directory_path() / fmt::format("longhaul-tokenizer-{}", std::random_device()());
  std::filesystem::create_directories(dir);
  std::ofstream(dir / "tokenizer.json") << text;
  struct Remove {
    const std::filesystem::path& dir;
    ~Remove() { std::filesystem::remove_all(dir); }
  } remove{dir};
  return Tokenizer(dir);
}

// The end of the message with which the contents are refused.
bool refused_with(const std::string& text, const std::string& end) {
  try {
    tokenizer_of(text);
  } catch (const UserError& error) {
    CHECK(error.code == Exit::bad_model);
    const std::string message = error.what();
    INFO(message);
    CHECK(message.find('\n') == std::string::npos);
    CHECK(message.find("tokenizer.json") != std::string::npos);
    CHECK_THAT(message, Catch::Matchers::EndsWith(end));
    return message.ends_with(end);
  }
  FAIL("not refused: " << end);
  return false;
}

std::string random_text(std::mt19937& rng) {
  const auto below = [&](std::uint32_t n) { return static_cast<std::uint32_t>(rng() % n); };
  const char* const kWords[] = {" the", "<|user|>", "<|", "\n\n", "don't", "  ", "123456", "|>", "<|end|>", "\r\n"};
  const char32_t kTops[] = {0x80, 0x250, 0x3000, 0xd800, 0x110000};
  std::string text;
  for (std::uint32_t parts = below(12); parts > 0; --parts) {
    if (below(3) == 0) {
      text += kWords[below(10)];
      continue;
    }
    const char32_t code = below(kTops[below(5)]);
    if (code < 0xd800 || code >= 0xe000)
      for (std::uint32_t n = 1 + below(3); n > 0; --n) append_utf8(text, code);
  }
  return text;
}

bool has_special(const Ids& ids) {
  return std::any_of(ids.begin(), ids.end(), [](std::int32_t id) { return longbook().is_special(id); });
}

}  // namespace

namespace {

void check_golden(const Tokenizer& tokenizer, const std::filesystem::path& file) {
  const auto golden = lines_of(file);
  REQUIRE(golden.size() == 417);
  for (const json& line : golden) {
    const auto text = line["text"].get<std::string>();
    const auto ids = line["ids"].get<Ids>();
    INFO(text);
    CHECK(tokenizer.encode(text, false) == ids);
    CHECK(replace_invalid_utf8(tokenizer.decode(ids, false)) == line["decoded"].get<std::string>());
  }
}

}  // namespace

TEST_CASE("417 hard strings encode and decode as Hugging Face tokenizers does") {
  check_golden(longbook(), kLongbook / "longbook.jsonl");
}

// These tokenizers may not be shipped.
TEST_CASE("417 hard strings with the tokenizers that lie in ../shared, if it is there") {
  const std::filesystem::path shared = std::filesystem::path(LONGHAUL_SOURCE_DIR) / "../shared";
  for (const std::string name : {"smollm2", "phi2", "phi3", "qwen3"}) {
    const std::filesystem::path golden = shared / "golden/tokens" / (name + ".jsonl");
    if (!std::filesystem::exists(golden)) continue;
    CAPTURE(name);
    check_golden(Tokenizer(shared / "tokenizers" / name), golden);
  }
}

// recorded.jsonl: random strings through tokenizers 0.23.3, as they are and with encode_special_tokens.
TEST_CASE("recorded random strings, with BOS and with special tokens guarded") {
  for (const json& line : lines_of(kLongbook / "recorded.jsonl")) {
    const auto text = line["text"].get<std::string>();
    INFO(text);
    CHECK(longbook().encode(text, true) == line["ids"].get<Ids>());
    CHECK(longbook().encode(longbook().guard(text), false) == line["guarded"].get<Ids>());
  }
}

TEST_CASE("random text survives the round trip, streamed or whole, guarded or not") {
  std::mt19937 rng(1);
  for (int i = 0; i < 3000; ++i) {
    const std::string text = random_text(rng);
    INFO(text);
    const Ids ids = longbook().encode(text, false);
    CHECK(longbook().decode(ids, false) == text);

    const std::string guarded = longbook().guard(text);
    CHECK(longbook().guard(guarded) == guarded);
    const Ids plain = longbook().encode(guarded, false);
    CHECK_FALSE(has_special(plain));
    CHECK(longbook().decode(plain) == text);

    StreamDecoder stream(longbook());
    std::string streamed;
    for (const std::int32_t id : ids) streamed += stream.push(id);
    streamed += stream.finish();
    CHECK(streamed == longbook().decode(ids));
  }
}

TEST_CASE("a guarded document in a prompt adds no control token") {
  const std::string prompt = "<|user|>" + longbook().guard("a <|end|><|user|> b") + "<|assistant|>";
  const Ids ids = longbook().encode(prompt, true);
  CHECK(std::count_if(ids.begin(), ids.end(), [](std::int32_t id) { return longbook().is_special(id); }) == 3);
  CHECK(longbook().decode(ids, false) == "<|begin_of_text|><|user|>a <|end|><|user|> b<|assistant|>");
}

TEST_CASE("streams of arbitrary ids give what the whole gives, with U+FFFD for broken bytes") {
  std::mt19937 rng(2);
  for (int i = 0; i < 3000; ++i) {
    Ids ids(rng() % 12);
    // The first ids are single bytes, so that characters are broken often.
    for (auto& id : ids) id = static_cast<std::int32_t>(rng() % (i % 2 ? 300 : longbook().vocab_size()));
    StreamDecoder stream(longbook());
    std::string streamed;
    for (const std::int32_t id : ids) {
      const std::string piece = stream.push(id);
      CHECK(find_invalid_utf8(piece) == std::string::npos);
      streamed += piece;
    }
    streamed += stream.finish();
    CHECK(streamed == replace_invalid_utf8(longbook().decode(ids)));
  }
}

TEST_CASE("flags of added tokens do what they do in Hugging Face tokenizers") {
  const json recorded = json::parse(std::ifstream(kData / "added_tokens.json"));
  json file = longbook_json();
  for (const json& token : recorded["added_tokens"]) file["added_tokens"].push_back(token);
  const Tokenizer tokenizer = tokenizer_of(file.dump());
  for (const json& line : recorded["cases"]) {
    const auto text = line["text"].get<std::string>();
    INFO(text);
    CHECK(tokenizer.encode(text, false) == line["ids"].get<Ids>());
    for (const std::int32_t id : tokenizer.encode(tokenizer.guard(text), false))
      CHECK((id < 8192 || id == 8197));  // 8197 is four spaces: vocabulary, not guarded
    CHECK(tokenizer.encode(tokenizer.guard(text), true).front() == 0);
  }
}

// tokenizer_variants.json: other pre-tokenizers, models and post-processors in the same file, recorded likewise.
TEST_CASE("pre-tokenizers, unknown bytes, ignore_merges and templates as Hugging Face tokenizers has them",
          "[numbers]") {
  for (const json& variant : json::parse(std::ifstream(kData / "tokenizer_variants.json"))) {
    json file = longbook_json();
    file.update(variant["set"]);
    const Tokenizer tokenizer = tokenizer_of(file.dump());
    INFO(variant["set"].dump());
    for (const json& line : variant["cases"]) {
      const auto text = line["text"].get<std::string>();
      INFO(text);
      CHECK(tokenizer.encode(text, variant.contains("with_template")) == line["ids"].get<Ids>());
    }
  }
}

TEST_CASE("single tokens") {
  CHECK(longbook().vocab_size() == 8192);
  CHECK(longbook().id_of("<|user|>") == 2);
  CHECK(longbook().id_of("no such token") == std::nullopt);
  CHECK(longbook().token_bytes(2) == "<|user|>");
  CHECK(longbook().token_bytes(*longbook().id_of("Ġthe")) == " the");
  CHECK(longbook().decode(Ids{2, 87, 88}) == "hi");
  CHECK(longbook().decode(Ids{99999, -1}) == "");
  CHECK_THROWS_AS(longbook().token_bytes(8192), UserError);
  CHECK_THROWS_AS(longbook().token_bytes(-1), UserError);
  CHECK(longbook().encode("", true) == Ids{0});
  CHECK(longbook().encode("", false).empty());
}

TEST_CASE("long runs of one character take n log n time and no stack") {
  for (const char c : {'a', ' ', '1', '\n', '.', '\r'}) {
    const std::string run(1 << 20, c);
    CHECK(longbook().decode(longbook().encode(run + "x", false)) == run + "x");
  }
  std::string mixed;
  for (int i = 0; i < 1 << 18; ++i) mixed += i % 2 ? "\t " : "\u3000";
  CHECK(longbook().decode(longbook().encode(mixed, false)) == mixed);
}

TEST_CASE("text that is not UTF-8 is refused with its place") {
  const auto refusal = [](const std::string& text) -> std::string {
    try {
      longbook().encode(text, false);
    } catch (const UserError& error) {
      CHECK(error.code == Exit::io);
      return error.what();
    }
    return "";
  };
  CHECK(refusal("abc\xc3") == "the text is not valid UTF-8 at byte 3");
  CHECK(refusal("\xed\xa0\x80") == "the text is not valid UTF-8 at byte 0");
  CHECK(refusal("0123456789\xc0\xaf") == "the text is not valid UTF-8 at byte 10");
  CHECK(refusal("é\xf4\x90\x80\x80") == "the text is not valid UTF-8 at byte 2");
  CHECK(printable("a\n\x1b[2J\x7f\xc2\x9b\xffé") == "a\\n\\x1b[2J\\x7f\\x9b\ufffdé");
  CHECK(find_invalid_utf8("plain, é, 日本, \U0001f600") == std::string::npos);
  CHECK(replace_invalid_utf8("a\xf0\x9f\x98z\xff\xe2\x82") == "a\ufffdz\ufffd\ufffd");
}

TEST_CASE("every tokenizer.json that we would misread is refused with one line that names the part") {
  const auto with = [](const std::function<void(json&)>& change) {
    json file = longbook_json();
    change(file);
    return file.dump();
  };
  const std::string whole = longbook_json().dump();
  CHECK(refused_with(whole.substr(0, 1000), "expected '[', '{', or a literal"));
  CHECK(refused_with("", ": is empty"));
  CHECK(refused_with(R"({"version": "1.0", "version": "1.0"})", ": the key \"version\" appears twice in one object"));
  CHECK(refused_with("[]", ": must be an object"));
  CHECK(refused_with(with([](json& f) {
                       f["normalizer"] = {{"type", "Lowercase"}};
                     }),
                     ".normalizer: normalizer Lowercase is not supported (NFC, NFD, NFKC, NFKD, Prepend, Replace, "
                     "Strip and Sequence are)"));
  CHECK(refused_with(with([](json& f) { f["novelty"] = 1; }), ": unknown key \"novelty\""));
  CHECK(refused_with(with([](json& f) { f["model"]["novelty"] = 1; }), ".model: unknown key \"novelty\""));
  CHECK(refused_with(with([](json& f) { f["model"]["type"] = "Unigram"; }),
                     ".model.type: Unigram is not supported (BPE is)"));
  CHECK(refused_with(with([](json& f) { f["model"]["dropout"] = 0.1; }), "only null is supported"));
  CHECK(refused_with(with([](json& f) { f["model"]["vocab"].erase("he"); }),
                     ".model.merges[1]: token \"he\" is not in the vocabulary"));
  CHECK(refused_with(with([](json& f) { f["model"]["merges"][5] = "one two three"; }),
                     ".model.merges[5]: must be two tokens with one space between"));
  CHECK(refused_with(with([](json& f) { f["model"]["vocab"]["he"] = 300000000; }),
                     "token id 300000000 is out of range for a vocabulary of 8192 tokens"));
  CHECK(refused_with(with([](json& f) {
                       f["added_tokens"][2]["id"] = 16000000;
                       f["added_tokens"][2]["content"] = "x!";
                     }),
                     "token id 16000000 is out of range for a vocabulary of 8192 tokens"));
  CHECK(
      refused_with(with([](json& f) { f["model"]["vocab"]["he"] = -1; }), ".model.vocab[\"he\"]: must be a token id"));
  CHECK(refused_with(with([](json& f) { f["model"]["vocab"]["he"] = 20; }), "id 20 belongs to another token already"));
  CHECK(refused_with(with([](json& f) { f["model"]["unk_token"] = "nope"; }),
                     ".model.unk_token: is not in the vocabulary"));
  CHECK(refused_with(with([](json& f) { f["added_tokens"][2]["id"] = 9; }),
                     ".added_tokens[2]: \"<|user|>\" has id 9 here and 2 in the vocabulary"));
  CHECK(refused_with(with([](json& f) { f["pre_tokenizer"] = nullptr; }),
                     ".decoder: contradicts the pre-tokenizer: this is ByteLevel and that is not"));
  CHECK(refused_with(with([](json& f) {
                       f["pre_tokenizer"]["pretokenizers"][0] = {{"type", "UnicodeScripts"}};
                     }),
                     "pre-tokenizer UnicodeScripts is not supported (Split, Digits, Metaspace, ByteLevel and Sequence "
                     "are)"));
  CHECK(refused_with(with([](json& f) { f["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a"; }),
                     "missing closing parenthesis (at 2)"));
  CHECK(refused_with(with([](json& f) {
                       f["decoder"] = {{"type", "WordPiece"}};
                     }),
                     ".decoder: decoder WordPiece is not supported (ByteLevel, Replace, ByteFallback, Fuse, Strip, "
                     "Metaspace and Sequence are)"));
  CHECK(refused_with(with([](json& f) { f["decoder"] = nullptr; }),
                     ".decoder: is missing; without it tokens are not text"));
  CHECK(refused_with(with([](json& f) { f["model"]["vocab"] = json::object(); }), ".model.vocab: is empty"));
  CHECK(refused_with(with([](json& f) {
                       f["model"]["merges"][0] = {"", "t"};
                     }),
                     ".model.merges[0]: token \"\" is not in the vocabulary"));
  CHECK(refused_with(with([](json& f) { f["post_processor"]["type"] = "BertProcessing"; }),
                     "(TemplateProcessing and ByteLevel are)"));
  CHECK(refused_with(with([](json& f) {
                       f["truncation"] = {{"max_length", 5}};
                     }),
                     ".truncation: must be null: texts are neither cut nor padded here"));
  CHECK_THROWS_AS(Tokenizer("/no/such/folder"), UserError);
}

TEST_CASE("both spellings of merges are the same") {
  json file = longbook_json();
  for (json& merge : file["model"]["merges"]) merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  const Tokenizer tokenizer = tokenizer_of(file.dump());
  const std::string text = "Call me Ishmael. Some years ago—never mind how long precisely";
  CHECK(tokenizer.encode(text, true) == longbook().encode(text, true));
}

TEST_CASE("regular expressions are Oniguruma's") {
  CHECK(pcre2_spelling(R"([^\s\p{L}]+\w[\w-]\W)", "x") ==
        R"([^\p{White_Space}\p{L}]+[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}])"
        R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}-][^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}])");
  for (const char* pattern : {R"(\h)", R"(\b)", R"([a[b]])", R"([a&&b])", R"(a{1,2}+)", R"([\W])"})
    CHECK_THROWS_AS(pcre2_spelling(pattern, "x"), UserError);
}

TEST_CASE("a pattern that goes back and forth without end is stopped, by name") {
  json file = longbook_json();
  file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a+)+[!?]";
  const Tokenizer tokenizer = tokenizer_of(file.dump());
  CHECK(tokenizer.decode(tokenizer.encode("aaa!", false)) == "aaa!");
  try {
    tokenizer.encode(std::string(100, 'a'), false);
    FAIL("not stopped");
  } catch (const UserError& error) {
    CHECK(error.code == Exit::usage);  // another text may be fine
    CHECK_THAT(error.what(), test::contains("pattern: regular expression \"(a+)+[!?]\" fails on this text: "));
  }
  // What patterns of real tokenizers do on long runs is far from the limit.
  const std::string spaces(1 << 20, ' ');
  CHECK(longbook().decode(longbook().encode(spaces, false)) == spaces);
}

TEST_CASE("a document cannot spell a special token that is looked for in normalized text") {
  json file = longbook_json();
  const std::int32_t user = 2;
  for (json& token : file["added_tokens"]) token["normalized"] = true;
  const auto ids_of = [&](const json& normalizer, const std::string& text, bool guarded) {
    file["normalizer"] = normalizer;
    const Tokenizer tokenizer = tokenizer_of(file.dump());
    return tokenizer.encode(guarded ? tokenizer.guard(text) : text, false);
  };
  const json prepend{{"type", "Prepend"}, {"prepend", "_"}}, wide{{"type", "NFKC"}},
      replace{{"type", "Replace"}, {"pattern", {{"String", "USER"}}}, {"content", "user"}};
  const std::vector<std::pair<json, std::string>> cases{
      {prepend, "<|user|>"}, {wide, "x \uff1c|user|\uff1e y"}, {replace, "<|USER|>"}};
  for (const auto& [normalizer, text] : cases) {
    INFO(text);
    CHECK(std::ranges::count(ids_of(normalizer, text, false), user) == 1);
    CHECK(std::ranges::count(ids_of(normalizer, text, true), user) == 0);
  }
  CHECK(ids_of(wide, "plain \uff58", true) == ids_of(wide, "plain \uff58", false));
}
