// Safetensors files and sharded sets: round trips, a table of damaged ones with their messages, and mutations.
#include "runtime/checkpoint/safetensors.h"

#include <cstring>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>

#include "kernels/base/error.h"
#include "tests/support/catch.h"
#include "tests/support/complaint.h"
#include "tests/support/scratch_dir.h"

namespace longhaul {
namespace {

using nlohmann::json;
using test::complaint;
using test::ScratchDir;

std::string file_of(std::string_view header, std::string_view data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(header.size() >> (8 * i));
  return bytes.append(header).append(data);
}

std::string count_up(std::size_t bytes, int from = 0) {
  std::string data;
  for (std::size_t i = 0; i < bytes; ++i) data += static_cast<char>(from + static_cast<int>(i));
  return data;
}

json entry(const char* dtype, std::vector<std::int64_t> shape, std::int64_t begin, std::int64_t end) {
  return {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {begin, end}}};
}

/// Two tensors: "a" BF16 [2, 3] and "b" F32 [2], 20 bytes of data.
json good_header() { return {{"a", entry("BF16", {2, 3}, 0, 12)}, {"b", entry("F32", {2}, 12, 20)}}; }

std::string data_of(const Safetensors& set, const std::string& name) {
  const TensorInfo& info = set.tensors().at(name);
  std::string out(static_cast<std::size_t>(info.bytes), '?');
  set.read(info, 0, info.bytes, reinterpret_cast<std::byte*>(out.data()));
  return out;
}

/// The message of the UserError with that code, or "no error".
struct BadFile {
  const char* what;
  std::string bytes;
  std::string message;
};

/// `good_header` with one key of tensor "b" replaced.
std::string with_b(const char* key, const json& value) {
  json header = good_header();
  header["b"][key] = value;
  return file_of(header.dump(), count_up(20));
}

std::vector<BadFile> bad_files() {
  const std::string good = file_of(good_header().dump(), count_up(20));
  const std::string header = good_header().dump();
  const auto text = [](const std::string& text) { return file_of(text, count_up(20)); };
  return {
      {"empty", "", "0 bytes are no safetensors file"},
      {"shorter than its length", good.substr(0, 7), "7 bytes are no safetensors file"},
      {"truncated header", good.substr(0, 40), "truncated: the header has"},
      {"truncated data", good.substr(0, good.size() - 5),
       "truncated: tensor \"b\" ends 5 bytes past the end of the file"},
      {"longer than its data", good + "x", "1 bytes after the last tensor"},
      {"absurd header length", std::string(8, '\x7f') + good, "not a safetensors file"},
      {"Git LFS pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 20\n",
       "is a Git LFS pointer, not the weights: run `git lfs pull`"},
      {"HTML saved as weights", "\n <!doctype html><html><head><title>Sign in</title></head></html>",
       "is a web page, not the weights: download the file itself"},
      {"header past our limit", std::string("\x01\x12\x7a\0\0\0\0\0", 8) + "{}",
       "a header of 8000001 bytes (the limit is 8000000): not a safetensors file"},
      {"header not JSON", text("{\"a\": nope}"), "header: not valid JSON: at line 1, column 8"},
      {"header not an object", text("[1]"), "the header does not begin with {"},
      {"duplicate tensor", text("{\"a\": {}, \"a\": {}}"), "the key \"a\" appears twice"},
      {"duplicate key in a tensor", text(R"({"a": {"dtype": "U8", "dtype": "U8"}})"),
       "the key \"dtype\" appears twice"},
      {"entry not an object", text(R"({"a": 3})"), "tensor \"a\": expected a JSON object, found number"},
      {"unknown dtype", with_b("dtype", "F7"), "tensor \"b\": \"dtype\" is \"F7\"; expected BF16"},
      {"unknown key", with_b("stride", 1), "tensor \"b\": the key \"stride\" is unknown"},
      {"shape of strings", with_b("shape", {"2"}),
       "tensor \"b\": \"shape\" is [\"2\"]; expected a list of whole numbers"},
      {"negative shape", with_b("shape", {-2, -1}), "tensor \"b\": \"shape\" is [-2,-1]"},
      {"shape mismatch", with_b("shape", {3}), "tensor \"b\": F32 [3] takes 12 bytes, but data_offsets give it 8"},
      {"overflow", with_b("shape", {1LL << 40, 1LL << 40}),
       "tensor \"b\": the shape [1099511627776, 1099511627776] is too"},
      {"shape whose product is 0 in 64 bits", with_b("shape", {1LL << 32, 1LL << 32}), "is too large for any file"},
      {"too many dimensions", with_b("shape", std::vector<int>(17, 1)), "expected a list of whole numbers, at most 16"},
      {"zero and huge", with_b("shape", {0, INT64_MAX}),
       "tensor \"b\": F32 [0, 9223372036854775807] takes 0 bytes, but data_offsets give it 8"},
      {"shape past int64", with_b("shape", {18446744073709551615u}),
       "tensor \"b\": \"shape\" is [18446744073709551615]"},
      {"no offsets", with_b("data_offsets", nullptr), "tensor \"b\": the key \"data_offsets\" is missing"},
      {"backwards", with_b("data_offsets", {20, 12}),
       "tensor \"b\": \"data_offsets\" is [20,12]; expected [begin, end]"},
      {"overlap", with_b("data_offsets", {8, 16}), "tensor \"b\" overlaps tensor \"a\""},
      {"hole", with_b("data_offsets", {16, 24}), "a hole of 4 bytes between tensor \"a\" and tensor \"b\""},
      {"far away", with_b("data_offsets", {INT64_MAX - 8, INT64_MAX}), "a hole of"},
      {"no tensors but data", text("{}"), "20 bytes after the last tensor"},
      {"metadata of numbers", text(R"({"__metadata__": {"step": 3}})"), "__metadata__: \"step\" must be a string"},
  };
}

/// A set of two shards: "a" in one.safetensors, "b" in two.safetensors.
void write_shards(const ScratchDir& dir) {
  dir.write("one.safetensors", file_of(json{{"a", entry("BF16", {2, 3}, 0, 12)}}.dump(), count_up(12)));
  dir.write("two.safetensors", file_of(json{{"b", entry("F32", {2}, 0, 8)}}.dump(), count_up(8, 100)));
}

json good_index() {
  return {{"metadata", {{"total_size", 20}}}, {"weight_map", {{"a", "one.safetensors"}, {"b", "two.safetensors"}}}};
}

}  // namespace

TEST_CASE("A safetensors file round trips", "[safetensors]") {
  ScratchDir dir;
  json header = good_header();
  header["__metadata__"] = {{"format", "pt"}};
  header["empty"] = entry("I64", {0, 4}, 12, 12);
  const auto path = dir.write("model.safetensors", file_of(header.dump() + "   ", count_up(20)));
  auto opened = Safetensors::open_model(dir.path());
  const Safetensors set = std::move(opened);
  CHECK(set.metadata() == std::map<std::string, std::string>{{"format", "pt"}});
  REQUIRE(set.tensors().size() == 3);
  CHECK(set.tensors().at("a").shape == std::vector<std::int64_t>{2, 3});
  CHECK(set.tensors().at("b").dtype == "F32");
  CHECK(data_of(set, "a") == count_up(12));
  CHECK(data_of(set, "b") == count_up(8, 12));
  CHECK(data_of(set, "empty").empty());
  std::byte part[3];
  set.read(set.tensors().at("b"), 2, 3, part);
  CHECK(std::memcmp(part, "\x0e\x0f\x10", 3) == 0);
  CHECK_THROWS_AS(set.read(set.tensors().at("b"), 6, 3, part), std::logic_error);

  CHECK(&set.expect("a", "BF16", {2, 3}) == &set.tensors().at("a"));
  CHECK_THAT(complaint([&] {
               set.expect("a", "F32", {2, 3});
             }),
             test::contains("model.safetensors: tensor \"a\" is BF16 [2, 3]; expected F32 [2, 3]"));
  CHECK_THAT(complaint([&] { set.expect("b", "F32", {2, 1}); }), test::contains("is F32 [2]; expected F32 [2, 1]"));
  CHECK_THAT(complaint([&] { set.expect("lm_head.weight", "BF16", {2}); }),
             test::contains("model.safetensors: tensor \"lm_head.weight\" is missing"));

  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  CHECK_THAT(complaint([&] { data_of(set, "b"); }, Exit::io), test::contains("must not change while it is read"));
}

TEST_CASE("A damaged safetensors file says what is wrong, in one line", "[safetensors]") {
  ScratchDir dir;
  for (const BadFile& bad : bad_files()) {
    INFO(bad.what);
    const auto path = dir.write("model.safetensors", bad.bytes);
    const std::string message = complaint([&] { Safetensors::open_file(path); });
    CHECK_THAT(message, test::contains(path.string()));
    CHECK_THAT(message, test::contains(bad.message));
  }
  CHECK_THAT(complaint([&] { Safetensors::open_file(dir.path() / "none.safetensors"); }, Exit::io),
             test::contains("none.safetensors: cannot open: No such file"));
  CHECK_THAT(complaint([&] { Safetensors::open_file(dir.path()); }), test::contains("is a folder, not a file"));
}

TEST_CASE("A sharded set reads as one", "[safetensors]") {
  ScratchDir dir;
  write_shards(dir);
  dir.write("model.safetensors.index.json", good_index().dump());
  const auto set = Safetensors::open_model(dir.path());
  REQUIRE(set.tensors().size() == 2);
  CHECK(data_of(set, "a") == count_up(12));
  CHECK(data_of(set, "b") == count_up(8, 100));
  CHECK_THAT(complaint([&] { set.expect("c", "F32", {1}); }),
             test::contains(dir.path().string() + ": tensor \"c\" is missing"));

  // Beside an index the single file wins, as in the reference.
  dir.write("model.safetensors", file_of(json{{"c", entry("U8", {1}, 0, 1)}}.dump(), "x"));
  CHECK(Safetensors::open_model(dir.path()).tensors().contains("c"));
}

TEST_CASE("A sharded set that does not fit its index is refused", "[safetensors]") {
  ScratchDir dir;
  const auto with = [&](const json& index) {
    dir.write("model.safetensors.index.json", index.dump());
    return complaint([&] { Safetensors::open_model(dir.path()); });
  };
  CHECK_THAT(complaint([&] { Safetensors::open_model(dir.path()); }), test::contains("neither model.safetensors nor"));
  write_shards(dir);
  json index = good_index();
  CHECK(with(index) == "no error");
  index["weight_map"]["b"] = "three.safetensors";
  CHECK_THAT(with(index), test::contains("index.json: the shard \"three.safetensors\" is missing"));
  for (const json& outside : {json("../two.safetensors"), json("/two.safetensors"), json(".."), json(""), json(3)}) {
    index["weight_map"]["b"] = outside;
    CHECK_THAT(with(index),
               test::contains("tensor \"b\" is in") && test::contains("expected a file name in the same folder"));
  }
  index["weight_map"]["b"] = "one.safetensors";
  CHECK_THAT(with(index), test::contains("tensor \"b\" is not in \"one.safetensors\""));
  index = good_index();
  index["weight_map"]["c"] = "two.safetensors";
  CHECK_THAT(with(index), test::contains("tensor \"c\" is not in \"two.safetensors\""));
  index = good_index();
  index["metadata"]["total_size"] = 21;
  CHECK(with(index) == "no error");  // advice only
  CHECK_THAT(with({{"metadata", json::object()}}), test::contains("weight_map must be an object"));

  const json both{{"a", entry("U8", {1}, 0, 1)}, {"b", entry("U8", {1}, 1, 2)}};
  dir.write("two.safetensors", file_of(both.dump(), "xy"));
  CHECK_THAT(with(good_index()), test::contains("two.safetensors: tensor \"a\" is also in one.safetensors"));
  const json extra{{"b", entry("U8", {1}, 0, 1)}, {"z", entry("U8", {1}, 1, 2)}};
  dir.write("two.safetensors", file_of(extra.dump(), "xy"));
  CHECK_THAT(with(good_index()), test::contains("tensor \"z\" of two.safetensors is not in the weight_map"));
}

TEST_CASE("Mutations of a file open or are refused, never worse", "[safetensors]") {
  json header = good_header();
  header["__metadata__"] = {{"format", "pt"}};
  const std::string good = file_of(header.dump(), count_up(20));
  const std::string pieces[] = {"{",
                                "}",
                                "[",
                                "]",
                                "\"",
                                ",",
                                ":",
                                "0",
                                "-1",
                                "99999999999999999999",
                                "1e400",
                                "null",
                                "\\u0000",
                                "\xff",
                                std::string(1, '\0'),
                                "\"a\"",
                                "\"dtype\":\"I8\",",
                                "12",
                                "20"};
  ScratchDir dir;
  std::mt19937 random(7);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  int opened = 0, refused = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string bytes = good;
    for (std::size_t edits = 1 + below(3); edits > 0 && !bytes.empty(); --edits) {
      const std::size_t at = below(bytes.size());
      switch (below(4)) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.insert(at, pieces[below(std::size(pieces))]);
          break;
        case 2:
          bytes.erase(at, 1 + below(4));
          break;
        default:
          bytes.resize(1 + at);
          break;
      }
    }
    // Half of them keep an honest header length, so that the damage reaches the parser.
    if (round % 2 == 0 && bytes.size() > 28) {
      const std::uint64_t length = bytes.size() - 28;
      std::memcpy(bytes.data(), &length, 8);
    }
    const auto path = dir.write("m.safetensors", bytes);
    const std::string message = complaint([&] {
      const auto set = Safetensors::open_file(path);
      for (const auto& [name, info] : set.tensors()) data_of(set, name);
    });
    ++(message == "no error" ? opened : refused);
  }
  CHECK(opened > 20);  // data bytes changed, spaces added
  CHECK(refused > 2000);
}

}  // namespace longhaul
