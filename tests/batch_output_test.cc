// The record file of a batch: records as OpenAI has them, on disk as they complete, found again by what they answer, in
// input order at the end.
#include "runtime/batch/output.h"

#include <sys/stat.h>

#include <iterator>
#include <sstream>
#include <utility>

#include "kernels/base/error.h"
#include "runtime/batch/journal.h"
#include "tests/support/catch.h"
#include "tests/support/scratch_dir.h"

namespace longhaul {
namespace {

using test::contains;
using test::ScratchDir;
using test::text_of;
using Resume = BatchOutput::Resume;

std::vector<std::string> custom_ids(const std::filesystem::path& file) {
  std::istringstream lines(text_of(file));
  std::vector<std::string> ids;
  for (std::string line; std::getline(lines, line);) ids.push_back(nlohmann::json::parse(line).at("custom_id"));
  return ids;
}

InputKey key(const std::string& custom_id, const std::string& content) {
  return {content_key("text", content), custom_id};
}

const std::vector<InputKey> kInputs{key("a", "A"), key("b", "B"), key("c", "C")};

Manifest manifest_of(const std::vector<InputKey>& inputs, int max_tokens = 8) {
  return Manifest({{"name", "m"}}, {{"max_tokens", max_tokens}}, inputs);
}

/// An output of these inputs, begun.
std::unique_ptr<BatchOutput> begun(const std::filesystem::path& file, const std::vector<InputKey>& inputs = kInputs,
                                   Resume resume = {}, int max_tokens = 8) {
  auto output = std::make_unique<BatchOutput>(file);
  output->match(manifest_of(inputs, max_tokens), inputs, resume);
  output->start();
  return output;
}

std::pair<Exit, std::string> refusal(const std::string& file, const std::vector<InputKey>& inputs = kInputs,
                                     Resume resume = {}, int max_tokens = 8) {
  try {
    BatchOutput output(file);
    output.match(manifest_of(inputs, max_tokens), inputs, resume);
  } catch (const UserError& e) {
    return {e.code, e.what()};
  }
  return {Exit::ok, ""};
}

TEST_CASE("an answer's record has the fields of an OpenAI batch response") {
  const std::string id = record_id(content_key("text", "words"), 0);
  auto record = answer_record(id, "doc", {"text", "demo", "stop", 10, 4});
  CHECK(record.at("custom_id") == "doc");
  CHECK(record.at("error").is_null());
  CHECK(record.at("id") == id);
  auto& response = record.at("response");
  CHECK(response.at("status_code") == 200);
  CHECK(response.at("request_id").get<std::string>().starts_with("req_"));
  auto& body = response.at("body");
  CHECK(body.at("object") == "chat.completion");
  CHECK(body.at("model") == "demo");
  CHECK(body.at("created").get<std::int64_t>() > 0);
  CHECK_FALSE(body.contains("longhaul"));
  auto choice = nlohmann::json::parse(
      R"({"index": 0, "message": {"role": "assistant", "content": "text"}, "finish_reason": "stop", "logprobs": null})");
  CHECK(nlohmann::json(body.at("choices")) == nlohmann::json::array({choice}));
  CHECK(nlohmann::json(body.at("usage")) ==
        nlohmann::json{{"prompt_tokens", 10}, {"completion_tokens", 4}, {"total_tokens", 14}});
}

TEST_CASE("a failure's record has a null response") {
  auto record = failure_record("batch_req_0", "doc", {"invalid_utf8", "at byte 3"});
  CHECK(record.at("response").is_null());
  CHECK(record.at("error") == nlohmann::ordered_json{{"code", "invalid_utf8"}, {"message", "at byte 3"}});
}

TEST_CASE("a record's id tells the content it answers") {
  const std::string content = content_key("text", "words");
  CHECK(content.size() == 32);
  CHECK(content_key("request", "words") != content);
  CHECK(content_of_id(record_id(content, 0)) == content);
  CHECK(content_of_id(record_id(content, 3)) == content);
  CHECK(record_id(content, 0) != record_id(content, 1));
  for (const char* other : {"", "batch_req_", "batch_req_12", "req_0123456789abcdef0123456789abcdef"})
    CHECK(content_of_id(other).empty());
}

TEST_CASE("records are on disk at once, in input order after finish") {
  ScratchDir dir;
  auto file = dir.path() / "out.jsonl";
  {
    auto output = begun(file);
    output->append(2, Failure{"x", "line\nbreak"});
    CHECK(custom_ids(file) == std::vector<std::string>{"c"});
    output->append(0, Failure{"x", "y"});
    output->append(1, Answer{"text", "m", "stop", 1, 1});
    CHECK(custom_ids(file) == std::vector<std::string>{"c", "a", "b"});
    CHECK(output->recorded() == 3);
    CHECK(output->failed() == 2);
    output->finish();
    CHECK(custom_ids(file) == std::vector<std::string>{"a", "b", "c"});
  }
  CHECK(custom_ids(file).size() == 3);
  CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) == 2);  // and its manifest
}

TEST_CASE("a job goes on with the records that are there, whatever their order and that of its inputs") {
  ScratchDir dir;
  auto file = dir.path() / "out";
  begun(file)->append(1, Failure{"x", "y"});
  const std::vector<InputKey> turned{kInputs[1], kInputs[2], kInputs[0]};
  auto output = begun(file, turned);
  CHECK(output->has(0));
  CHECK_FALSE(output->has(1));
  CHECK_FALSE(output->has(2));
  CHECK(output->failed() == 1);
  output->append(2, Failure{"x", "y"});
  output->append(1, Failure{"x", "y"});
  output->finish();
  CHECK(custom_ids(file) == std::vector<std::string>{"b", "c", "a"});
}

TEST_CASE("a document that was renamed keeps its record, under its new name") {
  ScratchDir dir;
  auto file = dir.path() / "out";
  begun(file)->append(1, Failure{"x", "y"});
  auto renamed = kInputs;
  renamed[1].custom_id = "new";
  auto output = begun(file, renamed);
  CHECK(output->has(1));
  output->append(0, Failure{"x", "y"});
  output->append(2, Failure{"x", "y"});
  output->finish();
  CHECK(custom_ids(file) == std::vector<std::string>{"a", "new", "c"});
}

TEST_CASE("the same document twice is two records, told apart by name, then by occurrence") {
  ScratchDir dir;
  auto file = dir.path() / "out";
  const std::vector<InputKey> twins{key("a", "same"), key("b", "same"), key("c", "same")};
  {
    auto output = begun(file, twins);
    output->append(1, Failure{"x", "y"});
    output->append(2, Failure{"x", "y"});
  }
  {
    auto output = begun(file, {twins[2], twins[0], twins[1]});
    CHECK(output->has(0));
    CHECK_FALSE(output->has(1));
    CHECK(output->has(2));
  }
  const std::vector<InputKey> renamed{key("p", "same"), key("b", "same"), key("q", "same")};
  auto output = begun(file, renamed);
  CHECK(output->has(0));
  CHECK(output->has(1));
  CHECK_FALSE(output->has(2));
  output->append(2, Failure{"x", "y"});
  output->finish();
  CHECK(custom_ids(file) == std::vector<std::string>{"p", "b", "q"});
}

TEST_CASE("what a killed process left of a record is cut off") {
  ScratchDir dir;
  auto file = dir.path() / "out";
  begun(file)->append(0, Failure{"x", "y"});
  const std::string whole = text_of(file);
  for (const std::string& torn : {std::string("{"), whole.substr(0, whole.size() - 1), std::string("{\"id\": 3}\n"),
                                  std::string(50, '\0'), std::string("\0\n", 2)}) {
    dir.write("out", whole + torn);
    auto output = begun(file);
    CHECK(output->has(0));
    CHECK(output->recorded() == 1);
    CHECK(text_of(file) == whole);
  }
}

TEST_CASE("records of another job are refused, and --fresh throws them away") {
  ScratchDir dir;
  auto file = dir.path() / "out";
  begun(file)->append(0, Failure{"x", "y"});
  const std::string whole = text_of(file);
  CHECK_THAT(refusal(file, kInputs, {}, 9).second, contains("options.max_tokens = 8, not 9") && contains("--fresh"));
  CHECK_THAT(refusal(file, {kInputs[0]}).second, contains("3 documents, not 1"));
  CHECK_THAT(refusal(file, {kInputs[0], kInputs[1], key("c", "D")}).second, contains("other documents"));
  CHECK(refusal(file, {kInputs[0]}).first == Exit::usage);
  CHECK(text_of(file) == whole);
  dir.write("out", "{\"id\": 3}\n" + whole);
  CHECK_THAT(refusal(file).second, contains("line 1 is no record of longhaul batch"));
  dir.write("out", whole + whole);
  CHECK_THAT(refusal(file).second, contains("line 2 (a) answers none of the documents given"));
  auto output = begun(file, kInputs, {.fresh = true}, 9);
  CHECK(output->recorded() == 0);
  CHECK(text_of(file).empty());
  CHECK_THAT(text_of(dir.path() / "out.manifest"), contains("\"max_tokens\": 9"));
}

TEST_CASE("errors are asked again, of documents that may have changed, and answers stay") {
  ScratchDir dir;
  auto file = dir.path() / "out";
  {
    auto output = begun(file);
    output->append(0, Failure{"x", "y"});
    output->append(1, Answer{"text", "m", "stop", 1, 1});
    output->append(2, Failure{"x", "y"});
    output->finish();
  }
  auto mended = kInputs;
  mended[2].content = content_key("text", "mended");
  CHECK(refusal(file, mended).first == Exit::usage);
  CHECK(refusal(file, kInputs, {.retry_errors = true}, 9).first == Exit::usage);
  auto other = kInputs;
  other[1].content = content_key("text", "other");
  CHECK_THAT(refusal(file, other, {.retry_errors = true}).second, contains("(b) answers none of the documents"));
  auto output = begun(file, mended, {.retry_errors = true});
  CHECK(custom_ids(file) == std::vector<std::string>{"b"});
  CHECK(output->recorded() == 1);
  CHECK(output->failed() == 0);
  output->append(2, Answer{"text", "m", "stop", 1, 1});
  output->append(0, Failure{"x", "y"});
  output->finish();
  CHECK(custom_ids(file) == std::vector<std::string>{"a", "b", "c"});
  output.reset();
  CHECK(refusal(file, mended).first == Exit::ok);
}

TEST_CASE("a name that is not UTF-8 still makes a record") {
  ScratchDir dir;
  auto output = begun(dir.path() / "out", {key("a\xff", "A")});
  output->append(0, Failure{"x", "y"});
  CHECK(custom_ids(dir.path() / "out") == std::vector<std::string>{"a\xef\xbf\xbd"});
}

TEST_CASE("an output that is not this job's is refused and left alone") {
  ScratchDir dir;
  for (bool fresh : {false, true}) {
    auto [exit, words] = refusal(dir.write("old", "mine\n").string(), kInputs, {.fresh = fresh});
    CHECK(exit == Exit::usage);
    CHECK_THAT(words, contains("exists and is not this job's"));
    CHECK(text_of(dir.path() / "old") == "mine\n");
  }
  dir.write("old.manifest", "{}");
  CHECK_THAT(refusal((dir.path() / "old").string()).second, contains("old.manifest: is no manifest"));
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
  CHECK(refusal((dir.path() / "new").string()).first == Exit::ok);
  CHECK(std::filesystem::is_empty(dir.path()));
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

TEST_CASE("finish keeps the mode, and the link that leads to the file") {
  ScratchDir dir;
  dir.write("real", "");
  std::filesystem::permissions(dir.path() / "real", std::filesystem::perms{0640});
  std::filesystem::create_symlink(dir.path() / "real", dir.path() / "link");
  auto output = begun(dir.path() / "link");
  for (std::int64_t i : {2, 0, 1}) output->append(i, Failure{"x", "y"});
  output->finish();
  CHECK(std::filesystem::is_symlink(dir.path() / "link"));
  CHECK(custom_ids(dir.path() / "real") == std::vector<std::string>{"a", "b", "c"});
  CHECK(std::filesystem::status(dir.path() / "real").permissions() == std::filesystem::perms{0640});
}

TEST_CASE("an output that another job writes is locked, also after it was rewritten") {
  ScratchDir dir;
  const std::string file = (dir.path() / "out").string();
  auto output = begun(file);
  CHECK(refusal(file).first == Exit::locked);
  for (std::int64_t i : {2, 0, 1}) output->append(i, Failure{"x", "y"});
  output->finish();
  CHECK(refusal(file).first == Exit::locked);
  output.reset();
  CHECK(refusal(file).first == Exit::ok);
}

}  // namespace
}  // namespace longhaul
