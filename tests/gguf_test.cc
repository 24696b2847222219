// GGUF files: a table of damaged ones with their messages, and mutations.
#include "runtime/checkpoint/gguf.h"

#include <limits>
#include <random>

#include "kernels/base/error.h"
#include "kernels/base/file.h"
#include "paths.h"
#include "tests/support/catch.h"
#include "tests/support/complaint.h"
#include "tests/support/gguf_file.h"
#include "tests/support/scratch_dir.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::complaint;
using test::contains;
using test::GgufFile;
using test::little_endian;
using test::ScratchDir;

const fs::path kData = fs::path(LONGHAUL_SOURCE_DIR) / "tests/data";

constexpr std::uint32_t kF32 = 0, kQ8_0 = 8, kQ4_K = 12;

/// Two tensors: "a" F32 [3], 12 bytes, and "b" Q8_0 [2, 32], 68 bytes at 32.
GgufFile good_file() {
  return {.metadata = {{"general.architecture", "llama"}},
          .tensors = {{"a", {3}, kF32, 0, 12}, {"b", {32, 2}, kQ8_0, 32, 68}}};
}

std::string opened(const ScratchDir& dir, const std::string& bytes) {
  const fs::path path = dir.write("m.gguf", bytes);
  const std::string message = complaint([&] { Gguf::open_file(path); });
  if (message != "no error") CHECK_THAT(message, contains(path.string() + ": "));
  return message;
}

template <class Change>
std::string changed(const Change& change) {
  GgufFile file = good_file();
  change(file);
  return file.bytes();
}

}  // namespace

TEST_CASE("A GGUF file opens with its metadata and tensors", "[gguf]") {
  ScratchDir dir;
  GgufFile file = good_file();
  file.metadata["n"] = 7;
  file.metadata["x"] = 0.5;
  file.metadata["yes"] = true;
  file.metadata["list"] = {"one", "two"};
  for (const std::uint32_t version : {2, 3}) {
    file.version = version;
    const auto gguf = Gguf::open_file(dir.write("m.gguf", file.bytes()));
    CHECK(gguf.metadata()["n"] == 7);
    CHECK(gguf.metadata()["x"] == 0.5);
    CHECK(gguf.metadata()["yes"] == true);
    CHECK(gguf.metadata()["list"] == json::array({"one", "two"}));
    CHECK(gguf.tensors().at("a").shape == std::vector<std::int64_t>{3});
    CHECK(gguf.tensors().at("b").shape == std::vector<std::int64_t>{2, 32});
    CHECK(gguf.tensors().at("b").dtype == "Q8_0");
    CHECK(gguf.tensors().at("b").bytes == 68);
  }
  CHECK(opened(dir, file.bytes() + std::string(28, '\0')) == "no error");  // padded at its end
}

TEST_CASE("A damaged GGUF file says what is wrong, in one line", "[gguf]") {
  ScratchDir dir;
  const std::string good = good_file().bytes();
  const auto bad = [&](const std::string& bytes, const std::string& message) {
    CHECK_THAT(opened(dir, bytes), contains(message));
  };
  bad("", "0 bytes are no GGUF file");
  bad(good.substr(0, 23), "23 bytes are no GGUF file");
  bad("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 20\n", "is a Git LFS pointer, not the weights");
  bad("<!DOCTYPE html>\n<html><body>Access denied</body></html>", "is a web page, not the weights");
  bad(changed([](auto& f) { f.magic = "GGML"; }), "does not begin with GGUF");
  bad(changed([](auto& f) { f.version = 1; }), "GGUF version 1 is not supported; 2 and 3 are");
  bad(changed([](auto& f) { f.version = 0x03000000; }), "is not supported (it is big-endian)");
  bad(changed([](auto& f) { f.more_tensors = ~0ull - 5; }), "the number of tensors is 18446744073709551612");
  bad(changed([](auto& f) { f.more_tensors = 900'000; }), "the number of tensors is 900002 at byte 8, more than");
  bad(changed([](auto& f) { f.more_keys = 1ull << 63; }), "the number of keys is 9223372036854775809");
  bad(changed([](auto& f) { f.more_keys = 50'000; }), "the number of keys is 50001 at byte 16, more than");
  const std::string one_key = GgufFile{.metadata = {{"some.key", 7}}}.head();
  bad(one_key.substr(0, one_key.size() - 2), "truncated: the file ends in a value");
  bad(good.substr(0, good.size() - 5), "truncated: tensor \"b\" ends 5 bytes past the end of the file");
  bad(good + std::string(64, 'x'), "bytes after the last tensor");
  bad(changed([](auto& f) { f.metadata["general.alignment"] = 24; }),
      "general.alignment is 24; expected a power of 2 from 8");
  bad(changed([](auto& f) { f.metadata["general.alignment"] = 0; }), "general.alignment is 0");
  bad(changed([](auto& f) { f.metadata["general.alignment"] = 1u << 31; }), "general.alignment is 2147483648");

  const auto key = [](const std::string& bytes) {
    return changed([&](auto& f) {
      f.keys_before = bytes;
      f.more_keys = 1;
    });
  };
  const std::string k = test::gguf_string("k");
  bad(key(little_endian(~0ull)), "a key's length is 18446744073709551615");
  bad(key(little_endian(60'000ull)), "a key's length is 60000 at byte 24, more than");
  bad(key(test::gguf_string("general.architecture") + little_endian(4u) + little_endian(1u)),
      "key \"general.architecture\": appears twice");
  bad(key(k + little_endian(13u)), "key \"k\": unknown value type 13");
  bad(key(k + little_endian(8u) + little_endian(1ull << 40)), "a string's length is 1099511627776");
  bad(key(k + little_endian(9u) + little_endian(4u) + little_endian(1ull << 62)),
      "a list's length is 4611686018427387904");
  bad(key(k + little_endian(9u) + little_endian(9u) + little_endian(1ull)),
      "key \"k\": lists of lists are not supported");
  bad(key(k + little_endian(7u) + "\2"), "key \"k\": 2 is neither true (1) nor false (0)");
  bad(key(k + little_endian(6u) + little_endian(std::numeric_limits<float>::quiet_NaN())),
      "key \"k\": is no finite number");

  const auto tensor = [](const test::GgufTensor& b) { return changed([&](auto& f) { f.tensors[1] = b; }); };
  bad(tensor({"a", {32}, kF32, 32, 128}), "tensor \"a\" is also in m.gguf");
  bad(tensor({"b", {}, kF32, 32, 4}), "tensor \"b\": has 0 dimensions; expected 1 to 4");
  bad(tensor({"b", {1, 1, 1, 1, 1}, kF32, 32, 4}), "tensor \"b\": has 5 dimensions");
  bad(tensor({"b", {0}, kF32, 32, 0}), "tensor \"b\": has a dimension of 0");
  bad(tensor({"b", {~0ull}, kF32, 32, 0}), "tensor \"b\": has a dimension of 18446744073709551615");
  bad(tensor({"b", {1ull << 40, 1ull << 40}, kF32, 32, 0}), "the shape [1099511627776, 1099511627776] is too large");
  bad(tensor({"b", {1ull << 40}, kF32, 32, 0}), "truncated: tensor \"b\" ends");
  bad(tensor({"b", {256}, 13, 32, 176}), "tensor \"b\": is of type Q5_K; supported: F32, F16, BF16, Q8_0, Q4_K, Q6_K");
  bad(tensor({"b", {256}, 99, 32, 176}), "tensor \"b\": is of type 99; supported");
  bad(tensor({"b", {255}, kQ4_K, 32, 144}), "tensor \"b\": rows of 255 values are no whole blocks of Q4_K (256 each)");
  bad(tensor({"b", {32}, kQ8_0, 0, 34}), "tensor \"b\" begins at byte 0 of the data; expected 32");  // overlaps
  bad(tensor({"b", {32}, kQ8_0, 12, 34}), "begins at byte 12 of the data; expected 32");             // unaligned
  bad(tensor({"b", {32}, kQ8_0, 64, 34}), "begins at byte 64 of the data; expected 32");             // a hole
  bad(tensor({"b", {32}, kQ8_0, ~0ull - 31, 34}), "tensor \"b\": offset 18446744073709551584 is past the end");
  bad(changed([](auto& f) { std::swap(f.tensors[0], f.tensors[1]); }), "begins at byte 32 of the data; expected 0");
}

TEST_CASE("Mutations of a GGUF file open or are refused, never worse", "[gguf]") {
  const std::string good = read_file(kData / "quantised/gguf/tiny.gguf").substr(0, 12'000) + std::string(4096, '\0');
  ScratchDir dir;
  std::mt19937 random(11);
  int refused = 0;
  for (int round = 0; round < 600; ++round) {
    std::string bytes = good;
    for (int edits = 1 + static_cast<int>(random() % 3); edits > 0; --edits) {
      const std::size_t at = random() % (round % 3 == 0 ? 1'000 : 9'000);
      if (random() % 4 == 0) bytes.erase(at, 1 + random() % 9);
      else bytes[at] = static_cast<char>(random() % 3 == 0 ? 0xff : random());
    }
    refused += opened(dir, bytes) != "no error";
  }
  CHECK(refused == 600);  // the data is cut off in all of them
}

}  // namespace longhaul
