// Tokenizers other than byte-level ones, and the older files that hold one.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/base/error.h"
#include "paths.h"
#include "runtime/tokenizer/base64.h"
#include "runtime/tokenizer/bpe.h"
#include "runtime/tokenizer/normalizer.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/utf8.h"
#include "tests/support/catch.h"
#include "tests/support/scratch_dir.h"

using namespace longhaul;
using nlohmann::json;

namespace {

using Ids = std::vector<std::int32_t>;
namespace fs = std::filesystem;
const fs::path kData = fs::path(LONGHAUL_SOURCE_DIR) / "tests/data";

struct Folder {
  void put(const std::string& name, const std::string& text) const { std::ofstream(path / name) << text; }
  test::ScratchDir own;
  fs::path path = own.path();
};

json read(const fs::path& file) {
  std::ifstream in(file);
  return json::parse(in);
}

std::vector<std::string> hard_texts() {
  std::ifstream in(kData / "longbook-tokenizer/longbook.jsonl");
  std::vector<std::string> texts;
  for (std::string line; std::getline(in, line);) texts.push_back(json::parse(line)["text"]);
  return texts;
}

std::string refusal(const fs::path& folder) {
  try {
    const Tokenizer tokenizer(folder);
  } catch (const UserError& error) {
    CHECK(error.code == Exit::bad_model);
    CHECK(std::string(error.what()).find('\n') == std::string::npos);
    return error.what();
  }
  return "";
}

Tokenizer variant_of(const json& base, const json& change) {
  const Folder folder;
  json document = base;
  for (const auto& [key, value] : change.items()) {
    if (key == "model") document[key].update(value);
    else document[key] = value;
  }
  folder.put("tokenizer.json", document.dump());
  return Tokenizer(folder.path);
}

// The spelling of a token in a byte-level vocabulary as its bytes in base64.
std::string base64_of(const std::string& spelling) {
  const std::string bytes = bytes_of_spelling(spelling).value();
  return to_base64(std::vector<std::uint8_t>(bytes.begin(), bytes.end()));
}

}  // namespace

// small_tokenizers.json: made and recorded by make_tokenizers.py, with tokenizers 0.23.3.
TEST_CASE("byte fallback, normalizers, Metaspace and decoders as Hugging Face tokenizers has them") {
  const json small = read(kData / "small_tokenizers.json");
  for (const json& variant : small["variants"]) {
    const Tokenizer tokenizer = variant_of(small["base"], variant["set"]);
    INFO(variant["set"].dump());
    for (const json& line : variant["cases"]) {
      const auto text = line["text"].get<std::string>();
      INFO(text);
      CHECK(tokenizer.encode(text, true) == line["ids"].get<Ids>());
    }
    for (const json& line : variant["decoded"]) {
      const auto ids = line["ids"].get<Ids>();
      CHECK(replace_invalid_utf8(tokenizer.decode(ids, false)) == line["text"].get<std::string>());
      StreamDecoder stream(tokenizer);
      std::string streamed;
      for (const std::int32_t id : ids) streamed += stream.push(id);
      CHECK(streamed + stream.finish() == tokenizer.decode(ids));
    }
  }
}

TEST_CASE("a guarded document adds no control token to a tokenizer with a normalizer") {
  const json small = read(kData / "small_tokenizers.json");
  for (const json& variant : small["variants"]) {
    const Tokenizer tokenizer = variant_of(small["base"], variant["set"]);
    for (const json& line : variant["cases"]) {
      const auto text = line["text"].get<std::string>();
      INFO(text);
      const std::string guarded = tokenizer.guard(text);
      const Ids ids = tokenizer.encode(guarded, false);
      CHECK(std::none_of(ids.begin(), ids.end(), [](std::int32_t id) { return id == 1 || id == 2 || id == 700; }));
      if (guarded == text) CHECK(ids == tokenizer.encode(text, false));
    }
  }
}

TEST_CASE("long runs through a tokenizer without pre-tokenizer take n log n time and no stack") {
  const json small = read(kData / "small_tokenizers.json");
  const Tokenizer tokenizer = variant_of(small["base"], json::object());
  for (const char* part : {"a", " ", "\n", "日", "the "}) {
    std::string run;
    for (int i = 0; i < 1 << 19; ++i) run += part;
    CHECK(tokenizer.decode(tokenizer.encode(run + "x", false)) == run + "x");
  }
}

TEST_CASE("normal forms keep canonical order in long runs of marks") {
  std::string marks = "a";
  for (int i = 0; i < 1 << 18; ++i) marks += i % 2 ? "\u0323" : "\u0307";  // below, above
  const std::string composed = unicode_normal_form(marks, false, true);
  CHECK(composed.starts_with("\u1ea1\u0323"));
  CHECK(composed.ends_with("\u0307\u0307"));
  CHECK(unicode_normal_form("ab\u0301c \u1100\u1161\u11a8", false, true) == "ab\u0301c \uac01");
  CHECK(unicode_normal_form("e\u0301\u212b", false, true) == "\u00e9\u00c5");
  CHECK(unicode_normal_form("\ufb01", true, true) == "fi");
}

// sentencepiece/: made and recorded by make_tokenizers.py, with SentencePiece 0.2.
TEST_CASE("tokenizer.model gives what SentencePiece gives, and control tokens from outside") {
  const Tokenizer tokenizer(kData / "sentencepiece");
  for (const json& line : read(kData / "sentencepiece/cases.json")) {
    const auto text = line["text"].get<std::string>();
    INFO(text);
    const Ids ids = tokenizer.encode(text, false);
    CHECK(ids == line["ids"].get<Ids>());
    CHECK(replace_invalid_utf8(tokenizer.decode(ids, false)) == line["decoded"].get<std::string>());
  }
  CHECK(tokenizer.encode("a", true).front() == 1);
  const std::string spelled = "</s><|x|><s>";
  CHECK(tokenizer.encode(spelled, false) == Ids{2, *tokenizer.id_of("<|x|>"), 1});
  const Ids plain = tokenizer.encode(tokenizer.guard(spelled), false);
  CHECK(plain.size() > 3);
  CHECK(std::none_of(plain.begin(), plain.end(),
                     [&](std::int32_t id) { return id < 3 || id == tokenizer.id_of("<|x|>"); }));
  CHECK(tokenizer.decode(plain) == spelled);
}

TEST_CASE("vocab.json with merges.txt is what tokenizer.json says in one file") {
  const json whole = read(kData / "longbook-tokenizer/tokenizer.json");
  std::string merges = "#version: 0.2\n";
  for (const json& merge : whole["model"]["merges"])
    merges += merge[0].get<std::string>() + " " + merge[1].get<std::string>() + "\n";
  json added = json::object();
  for (const json& token : whole["added_tokens"]) {
    json entry = token;
    entry.erase("id");
    added[std::to_string(token["id"].get<int>())] = entry;
  }
  const json byte_level{
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  const char* qwen =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  json split = whole["pre_tokenizer"];
  split["pretokenizers"][0]["pattern"]["Regex"] = qwen;
  for (const bool gpt2 : {true, false}) {
    const Folder folder;
    folder.put("vocab.json", whole["model"]["vocab"].dump());
    folder.put("merges.txt", merges);
    folder.put("tokenizer_config.json",
               json{{"tokenizer_class", gpt2 ? "GPT2TokenizerFast" : "Qwen2Tokenizer"}, {"added_tokens_decoder", added}}
                   .dump());
    const Tokenizer parts(folder.path);
    const Tokenizer same = variant_of(
        whole, {{"pre_tokenizer", gpt2 ? byte_level : split}, {"normalizer", gpt2 ? json() : json{{"type", "NFC"}}}});
    for (const std::string& text : hard_texts()) CHECK(parts.encode(text, false) == same.encode(text, false));
    folder.put("tokenizer_config.json", R"({"tokenizer_class": "BertTokenizer"})");
    CHECK(refusal(folder.path).find("tokenizer_class \"BertTokenizer\" are not supported") != std::string::npos);
    fs::remove(folder.path / "merges.txt");
    CHECK_THAT(refusal(folder.path), Catch::Matchers::EndsWith("download the model's tokenizer.json there"));
  }
}

TEST_CASE("ranks in tiktoken's format give what the same merges give") {
  const json whole = read(kData / "longbook-tokenizer/tokenizer.json");
  std::string ranks;
  std::vector<std::pair<int, std::string>> tokens;
  for (const auto& [text, id] : whole["model"]["vocab"].items())
    if (id.get<int>() >= 16) tokens.emplace_back(id.get<int>(), text);
  std::sort(tokens.begin(), tokens.end());
  for (const auto& [id, text] : tokens) ranks += fmt::format("{} {}\n", base64_of(text), id);
  const Folder folder;
  folder.put("cl100k_base.tiktoken", ranks);
  const Tokenizer tokenizer(folder.path), longbook(kData / "longbook-tokenizer");
  for (const std::string& text : hard_texts())
    CHECK(tokenizer.encode(text, false) == longbook.encode(longbook.guard(text), false));
  fs::rename(folder.path / "cl100k_base.tiktoken", folder.path / "mine.tiktoken");
  CHECK(refusal(folder.path).find("do not say how text is cut") != std::string::npos);
  folder.put("mine.tiktoken", ranks + "not a line\n");
  CHECK_THAT(refusal(folder.path), Catch::Matchers::EndsWith(": needs a token in base64 and its rank"));
  folder.put("mine.tiktoken", ranks + "IQ== 99999\n");
  CHECK_THAT(refusal(folder.path), Catch::Matchers::EndsWith("has another rank too"));
}

TEST_CASE("tokenizer files that cannot be used are refused soon, in one line") {
  const Folder folder;
  CHECK_THAT(refusal(folder.path), Catch::Matchers::EndsWith("download the model's tokenizer.json there"));
  folder.put("tokenizer.model", "no model");
  CHECK_THAT(refusal(folder.path),
             Catch::Matchers::EndsWith("tokenizer.model: is no SentencePiece model (nor ranks in tiktoken's format)"));
  folder.put("tokenizer.model", "version https://git-lfs.github.com/spec/v1\n");
  CHECK_THAT(refusal(folder.path), Catch::Matchers::EndsWith("is a Git LFS pointer, not the file: run `git lfs pull`"));
  std::ifstream real(kData / "sentencepiece/tokenizer.model");
  const std::string bytes(std::istreambuf_iterator<char>(real), {});
  std::mt19937 rng(5);
  for (int i = 0; i < 200; ++i) {  // cut and changed: an error or a model, but no crash
    std::string broken = bytes.substr(0, rng() % bytes.size());
    if (!broken.empty()) broken[rng() % broken.size()] = static_cast<char>(rng());
    folder.put("tokenizer.model", broken);
    refusal(folder.path);
  }
  const auto with_merges = [&](const std::string& merges) {
    folder.put("tokenizer.json", R"({"decoder": {"type": "ByteLevel"}, "pre_tokenizer": {"type": "ByteLevel"},
        "model": {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [)" +
                                     merges + "]}}");
    return refusal(folder.path);
  };
  CHECK(with_merges(R"("a b")").empty());
  std::string many;
  for (int i = 0; i < 10'000'000; ++i) many += i == 0 ? "1" : ",1";
  CHECK_THAT(with_merges(many), test::contains("values; at most 4194304 are read"));
  many.clear();
  for (int i = 0; i < 2'200'000; ++i) many += i == 0 ? "1" : ",1";
  CHECK_THAT(with_merges(many), test::contains("has 2200000 merges; at most 2097152 are supported"));
  CHECK_THAT(with_merges(R"(["a", "c"])"), Catch::Matchers::EndsWith("token \"c\" is not in the vocabulary"));
  CHECK_THAT(with_merges(R"(["b", "a"])"), Catch::Matchers::EndsWith("token \"ba\" is not in the vocabulary"));
  CHECK_THAT(with_merges(R"("a b", "\ud800")"), test::contains("not valid JSON"));
}
