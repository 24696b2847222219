// The record file of a batch: records as OpenAI has them, on disk as they complete, in input order at the end.
#include "runtime/batch_output.h"

#include <sys/stat.h>

#include <iterator>
#include <sstream>
#include <utility>

#include "kernels/base/error.h"
#include "tests/support/catch.h"
#include "tests/support/scratch_dir.h"

namespace longhaul {
namespace {

using test::contains;
using test::ScratchDir;

std::string text_of(const std::filesystem::path& file) {
  std::ostringstream text;
  text << std::ifstream(file, std::ios::binary).rdbuf();
  return text.str();
}

std::vector<std::string> custom_ids(const std::filesystem::path& file) {
  std::istringstream lines(text_of(file));
  std::vector<std::string> ids;
  for (std::string line; std::getline(lines, line);) ids.push_back(nlohmann::json::parse(line).at("custom_id"));
  return ids;
}

std::pair<Exit, std::string> refusal(const std::string& file) {
  try {
    BatchOutput output(file);
  } catch (const UserError& e) {
    return {e.code, e.what()};
  }
  return {Exit::ok, ""};
}

TEST_CASE("an answer's record has the fields of an OpenAI batch response") {
  auto record = answer_record(3, "doc", {"text", "demo", "stop", 10, 4});
  CHECK(record.at("custom_id") == "doc");
  CHECK(record.at("error").is_null());
  CHECK(record.at("id").get<std::string>().starts_with("batch_req_"));
  CHECK(record == answer_record(3, "doc", {"text", "demo", "stop", 10, 4}));
  auto& response = record.at("response");
  CHECK(response.at("status_code") == 200);
  CHECK(response.at("request_id").get<std::string>().starts_with("req_"));
  auto& body = response.at("body");
  CHECK(body.at("object") == "chat.completion");
  CHECK(body.at("model") == "demo");
  CHECK(body.at("created").get<std::int64_t>() > 0);
  auto choice = nlohmann::json::parse(
      R"({"index": 0, "message": {"role": "assistant", "content": "text"}, "finish_reason": "stop", "logprobs": null})");
  CHECK(nlohmann::json(body.at("choices")) == nlohmann::json::array({choice}));
  CHECK(nlohmann::json(body.at("usage")) ==
        nlohmann::json{{"prompt_tokens", 10}, {"completion_tokens", 4}, {"total_tokens", 14}});
}

TEST_CASE("a failure's record has a null response") {
  auto record = failure_record(0, "doc", {"invalid_utf8", "at byte 3"});
  CHECK(record.at("response").is_null());
  CHECK(record.at("error") == nlohmann::ordered_json{{"code", "invalid_utf8"}, {"message", "at byte 3"}});
}

TEST_CASE("records are on disk at once, in input order after finish") {
  ScratchDir dir;
  auto file = dir.path() / "out.jsonl";
  {
    BatchOutput output(file);
    output.append(2, failure_record(2, "c", {"x", "line\nbreak"}));
    CHECK(custom_ids(file) == std::vector<std::string>{"c"});
    output.append(0, failure_record(0, "a", {"x", "y"}));
    output.append(1, failure_record(1, "b", {"x", "y"}));
    CHECK(custom_ids(file) == std::vector<std::string>{"c", "a", "b"});
    output.finish();
    CHECK(custom_ids(file) == std::vector<std::string>{"a", "b", "c"});
  }
  CHECK(custom_ids(file).size() == 3);
  CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) == 1);
}

TEST_CASE("a name that is not UTF-8 still makes a record") {
  ScratchDir dir;
  BatchOutput output(dir.path() / "out");
  output.append(0, failure_record(0, "a\xff", {"x", "y"}));
  CHECK(custom_ids(dir.path() / "out") == std::vector<std::string>{"a\xef\xbf\xbd"});
}

TEST_CASE("an output that is not this job's is refused and left alone") {
  ScratchDir dir;
  auto [exit, words] = refusal(dir.write("old", "mine\n").string());
  CHECK(exit == Exit::usage);
  CHECK_THAT(words, contains("exists and is not this job's"));
  CHECK(text_of(dir.path() / "old") == "mine\n");
  CHECK(refusal(dir.path().string()).first == Exit::usage);
  CHECK(refusal("/dev/null").first == Exit::usage);
  ::mkfifo((dir.path() / "pipe").c_str(), 0600);
  std::filesystem::create_symlink(dir.path() / "pipe", dir.path() / "link");
  CHECK(refusal((dir.path() / "link").string()).first == Exit::usage);
  CHECK(std::filesystem::is_symlink(dir.path() / "link"));
  CHECK(refusal((dir.path() / "absent/out").string()).first == Exit::io);
}

TEST_CASE("a job that never began leaves no file, and takes an empty one") {
  ScratchDir dir;
  { BatchOutput output(dir.path() / "new"); }
  CHECK_FALSE(std::filesystem::exists(dir.path() / "new"));
  CHECK(refusal(dir.write("empty", "").string()).first == Exit::ok);
  CHECK(std::filesystem::exists(dir.path() / "empty"));
}

TEST_CASE("what the job did not make it does not remove") {
  ScratchDir dir;
  auto pipe = dir.path() / "pipe", link = dir.path() / "link", target = dir.path() / "target";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(refusal(pipe.string()).first == Exit::usage);
  CHECK(std::filesystem::exists(pipe));
  std::filesystem::create_symlink(pipe, link);
  CHECK(refusal(link.string()).first == Exit::usage);
  CHECK(std::filesystem::exists(link));
  std::filesystem::remove(link);

  std::filesystem::create_symlink(target, link);  // to nothing yet
  { BatchOutput output(link); }
  CHECK(std::filesystem::is_symlink(link));
  CHECK_FALSE(std::filesystem::exists(target));
  {
    BatchOutput output(dir.path() / "new");
    std::filesystem::remove(dir.path() / "new");
    dir.write("new", "another's");
  }
  CHECK(text_of(dir.path() / "new") == "another's");
}

TEST_CASE("finish takes no name that is in use, and keeps the mode") {
  ScratchDir dir;
  auto file = dir.path() / "out";
  dir.write("out.ordered", "mine");
  dir.write("out", "");
  std::filesystem::permissions(file, std::filesystem::perms{0640});
  BatchOutput output(file);
  output.append(1, failure_record(1, "b", {"x", "y"}));
  output.append(0, failure_record(0, "a", {"x", "y"}));
  output.finish();
  CHECK(custom_ids(file) == std::vector<std::string>{"a", "b"});
  CHECK(std::filesystem::status(file).permissions() == std::filesystem::perms{0640});
  CHECK(text_of(dir.path() / "out.ordered") == "mine");
  CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) == 2);
}

TEST_CASE("an output that another job writes is locked") {
  ScratchDir dir;
  BatchOutput output(dir.path() / "out");
  CHECK(refusal((dir.path() / "out").string()).first == Exit::locked);
}

TEST_CASE("finish replaces the file that a link names, not the link") {
  ScratchDir dir;
  dir.write("real", "");
  std::filesystem::create_symlink(dir.path() / "real", dir.path() / "link");
  BatchOutput output(dir.path() / "link");
  output.append(1, failure_record(1, "b", {"x", "y"}));
  output.append(0, failure_record(0, "a", {"x", "y"}));
  output.finish();
  CHECK(std::filesystem::is_symlink(dir.path() / "link"));
  CHECK(custom_ids(dir.path() / "real") == std::vector<std::string>{"a", "b"});
}

}  // namespace
}  // namespace longhaul
