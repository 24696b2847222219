// What a batch takes in: folders, text files and JSONL lines, and the words and codes of what it refuses.
#include "runtime/batch/input.h"

#include <fcntl.h>

#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/file.h"
#include "tests/support/catch.h"
#include "tests/support/scratch_dir.h"

namespace longhaul {
namespace {

using test::contains;
using test::ScratchDir;

constexpr const char* kBody = R"("body": {"messages": [{"role": "user", "content": "hello"}]})";

std::vector<std::string> ids(const std::vector<BatchRequest>& requests) {
  std::vector<std::string> ids;
  for (const BatchRequest& request : requests) ids.push_back(request.custom_id);
  return ids;
}

/// The failure of a line whose body has `fields` besides its messages; empty code when it is accepted.
Failure with_body(const std::string& fields) {
  std::string line = R"({"custom_id": "a", "body": {"messages": [{"role": "user", "content": "hi"}])" + fields + "}}";
  return parse_request(line, "f:1").failure.value_or(Failure{});
}

std::string code_of_line(const std::string& line) {
  try {
    return parse_request(line, "f:1").failure.value_or(Failure{}).code;
  } catch (const DocumentError& e) {
    CHECK_THAT(e.what(), !contains("\n"));
    return e.code;
  }
}

std::string code_of_document(const std::filesystem::path& file) {
  try {
    read_document(file);
  } catch (const DocumentError& e) {
    return e.code;
  }
  return "";
}

std::pair<Exit, std::string> refusal(const std::vector<std::string>& paths) {
  try {
    list_requests(paths);
  } catch (const UserError& e) {
    return {e.code, e.what()};
  }
  return {Exit::ok, ""};
}

TEST_CASE("a folder gives its files by sorted relative path, hidden ones left out") {
  ScratchDir dir;
  for (const char* name : {"sub/deep", ".hidden", "sub/.git"}) std::filesystem::create_directories(dir.path() / name);
  for (const char* name : {"b.txt", "a.md", "sub/deep/c.txt", "sub/a.txt", ".d.txt", ".hidden/e.txt", "sub/.git/f"})
    dir.write(name, "text");
  auto requests = list_requests({dir.path().string()});
  CHECK(ids(requests) == std::vector<std::string>{"a.md", "b.txt", "sub/a.txt", "sub/deep/c.txt"});
  CHECK(read_document(requests[3].document) == "text");
}

TEST_CASE("a text file's custom_id is the path as given") {
  ScratchDir dir;
  std::string path = dir.path().string() + "/./one.txt";
  dir.write("one.txt", "text");
  CHECK(ids(list_requests({path})) == std::vector<std::string>{path});
}

TEST_CASE("a document loses its byte order mark and trailing whitespace only") {
  ScratchDir dir;
  CHECK(read_document(dir.write("a", "\xef\xbb\xbf  caf\xc3\xa9\n\n two \t\r\n\n")) == "  caf\xc3\xa9\n\n two");
}

TEST_CASE("a document that cannot be asked has a code") {
  ScratchDir dir;
  CHECK(code_of_document(dir.write("a", "ok \xff")) == "invalid_utf8");
  CHECK(code_of_document(dir.write("b", "")) == "empty_document");
  CHECK(code_of_document(dir.write("c", "\xef\xbb\xbf \n\t")) == "empty_document");
  CHECK(code_of_document(dir.path() / "absent") == "file_unreadable");
  CHECK(code_of_document(dir.path()) == "file_unreadable");
}

TEST_CASE("an odd entry of a folder is a failed record, and the others go on") {
  ScratchDir dir;
  namespace fs = std::filesystem;
  dir.write("a.txt", "text");
  fs::create_directories(dir.path() / "shut");
  fs::create_symlink("loop", dir.path() / "loop");
  fs::create_directory_symlink(".", dir.path() / "linked");
  fs::permissions(dir.path() / "shut", fs::perms::none);
  auto requests = list_requests({dir.path().string()});
  fs::permissions(dir.path() / "shut", fs::perms::owner_all);
  auto names = ids(requests);
  if (::geteuid() == 0) names.push_back("shut");  // nothing is shut to root: an empty folder
  CHECK(names == std::vector<std::string>{"a.txt", "linked", "loop", "shut"});
  CHECK(requests[1].failure.value_or(Failure{}).code == "file_unreadable");
  CHECK(code_of_document(requests[2].document) == "file_unreadable");
  CHECK_FALSE(requests[0].failure);
}

TEST_CASE("a document is whole or unreadable") {
  CHECK(code_of_document("/proc/self/mem") == "file_unreadable");
  CHECK(code_of_document("/dev/null") == "file_unreadable");
  CHECK_THROWS_AS(list_requests({ScratchDir().write("a.jsonl", "").string()}), UserError);
}

TEST_CASE("names that are equal once they are UTF-8 are refused") {
  ScratchDir dir;
  dir.write("\xfe.txt", "a");
  CHECK(ids(list_requests({dir.path().string()})) == std::vector<std::string>{"\xef\xbf\xbd.txt"});
  dir.write("\xfd.txt", "b");
  CHECK_THAT(refusal({dir.path().string()}).second, contains("have the same custom_id") && contains("rename one"));
}

TEST_CASE("paths that hold nothing stop the job") {
  ScratchDir dir;
  auto [absent, words] = refusal({dir.path().string() + "/nowhere"});
  CHECK(absent == Exit::io);
  CHECK_THAT(words, contains("nowhere: no such file or folder"));
  CHECK(refusal({dir.path().string()}).first == Exit::io);
}

TEST_CASE("one custom_id for two inputs names both") {
  ScratchDir dir;
  std::string line = std::string(R"({"custom_id": "x", )") + kBody + "}\n";
  std::string path = dir.write("requests.jsonl", line + "\n" + line).string();
  auto [exit, words] = refusal({path});
  CHECK(exit == Exit::usage);
  CHECK_THAT(words, contains(path + ":1 and " + path + ":3 have the same custom_id \"x\""));
}

TEST_CASE("a JSONL request carries what it sets") {
  BatchRequest request = parse_request(
      R"({"custom_id": "q", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "any", "messages": [)"
      R"({"role": "system", "content": "short"}, {"role": "user", "content": [{"type": "text", "text": "a"},)"
      R"({"type": "text", "text": "b"}]}], "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 3,)"
      R"("repetition_penalty": 1.05}})",
      "f:1");
  CHECK_FALSE(request.failure);
  CHECK(request.custom_id == "q");
  REQUIRE(request.messages.size() == 2);
  CHECK(request.messages[0].role == "system");
  CHECK(request.messages[1].content == "ab");
  CHECK(request.max_tokens == 7);
  CHECK(request.temperature == 0.5);
  CHECK(request.top_p == 0.9);
  CHECK(request.seed == 3);
  CHECK(request.repetition_penalty == 1.05);
  CHECK(request.stop.empty());
  auto stops = [](const std::string& stop) {
    return parse_request(
               R"({"custom_id": "q", "body": {"messages": [{"role": "user", "content": "hi"}], "stop": )" + stop + "}}",
               "f:1")
        .stop;
  };
  CHECK(stops("\"a\"") == std::vector<std::string>{"a"});
  CHECK(stops(R"(["a", "b"])") == std::vector<std::string>{"a", "b"});
  CHECK(stops("null").empty());
  CHECK(parse_request(std::string(R"({"custom_id": "q", )") + kBody + "}", "f:1").max_tokens == std::nullopt);
}

TEST_CASE("a body field that would change the answer is refused unless neutral") {
  for (const char* neutral :
       {R"(, "n": 1)", R"(, "stream": false)", R"(, "frequency_penalty": 0)", R"(, "stop": null)",
        R"(, "user": "me", "metadata": {"a": "b"})", R"(, "response_format": {"type": "text"})"}) {
    INFO(neutral);
    CHECK(with_body(neutral).code.empty());
  }
  for (const char* changing :
       {R"(, "n": 2)", R"(, "stop": [""])", R"(, "stop": 1)", R"(, "logit_bias": {"1": 5})", R"(, "temperature": -1)",
        R"(, "repetition_penalty": 0)", R"(, "repetition_penalty": -1.1)", R"(, "presence_penalty": 0.5)",
        R"(, "top_p": "high")", R"(, "max_tokens": 0)", R"(, "response_format": {"type": "json_object"})"}) {
    INFO(changing);
    Failure failure = with_body(changing);
    CHECK(failure.code == "invalid_request");
    CHECK_THAT(failure.message, contains("f:1: body"));
  }
}

TEST_CASE("a line that is no request has a code") {
  CHECK(code_of_line("{not json") == "invalid_request");
  CHECK(code_of_line("[]") == "invalid_request");
  CHECK(code_of_line("\"\xc3(\"") == "invalid_utf8");
  CHECK(code_of_line(std::string("{") + kBody + "}") == "invalid_request");  // no custom_id
  CHECK(code_of_line(R"({"custom_id": "a"})") == "invalid_request");
  CHECK(code_of_line(std::string(R"({"custom_id": "a", "url": "/v1/embeddings", )") + kBody + "}") ==
        "invalid_request");
  CHECK(code_of_line(R"({"custom_id": "a", "body": {"messages": []}})") == "invalid_request");
  CHECK(code_of_line(R"({"custom_id": "a", "body": {"messages": [{"role": "tool", "content": "x"}]}})") ==
        "invalid_request");
  CHECK(code_of_line(R"({"custom_id": "a", "body": {"messages": [{"role": "user", "content": ""}]}})") ==
        "empty_document");
  CHECK(code_of_line(R"({"custom_id": "a", "body": {"messages": [{"role": "user", "content": " \n"}]}})") ==
        "empty_document");
}

TEST_CASE("a malformed line is named by its place, the other lines go on") {
  ScratchDir dir;
  std::string good = std::string(R"({"custom_id": "good", )") + kBody + "}\n";
  std::string path = dir.write("r.jsonl", "\xef\xbb\xbf" + good + "oops\n" + R"({"custom_id": "bad"})" + "\n").string();
  auto requests = list_requests({path});
  CHECK(ids(requests) == std::vector<std::string>{"good", path + ":2", "bad"});
  CHECK_FALSE(requests[0].failure);
  CHECK(requests[1].failure);
  CHECK(requests[2].failure);
}

TEST_CASE("a pattern gives the files that match, ** those at any depth") {
  ScratchDir dir;
  std::filesystem::create_directories(dir.path() / "sub/deep");
  for (const char* name : {"b.txt", "a.txt", "c.md", ".d.txt", "sub/e.txt", "sub/deep/f.txt", "sub/g.md"})
    dir.write(name, "text");
  const std::string here = dir.path().string() + "/";
  CHECK(ids(list_requests({here + "*.txt"})) == std::vector<std::string>{here + "a.txt", here + "b.txt"});
  CHECK(ids(list_requests({here + "[bc].*"})) == std::vector<std::string>{here + "b.txt", here + "c.md"});
  const auto deep = list_requests({here + "**/*.txt"});
  CHECK(ids(deep) ==
        std::vector<std::string>{here + "a.txt", here + "b.txt", here + "sub/deep/f.txt", here + "sub/e.txt"});
  CHECK(read_document(deep[2].document) == "text");
  dir.write("odd[1].txt", "text");
  CHECK(ids(list_requests({here + "odd[1].txt"})).size() == 1);  // a name that is there is no pattern
  CHECK_THAT(refusal({here + "*.pdf"}).second, contains("*.pdf: no file matches"));
  CHECK_THAT(refusal({here + "*/**/x"}).second, contains("** stands between a folder and a file's pattern"));
}

TEST_CASE("a job's own output in its folder is no document") {
  ScratchDir dir;
  for (const char* name : {"a.txt", "out", "out.manifest"}) dir.write(name, "text");
  const auto here = std::filesystem::canonical(dir.path());
  const std::set<std::filesystem::path> own{here / "out", here / "out.manifest"};
  CHECK(ids(list_requests({dir.path().string()}, own)) == std::vector<std::string>{"a.txt"});
  const std::string below = dir.path().string() + "/";
  for (const char* pattern : {"*", "**/*"})
    CHECK(ids(list_requests({below + pattern}, own)) == std::vector<std::string>{below + "a.txt"});
}

TEST_CASE("stdin is a document, or requests when its first line is one") {
  ScratchDir dir;
  auto standard_input = [&](const std::string& text) {
    const Fd fd(::open(dir.write("in", text).c_str(), O_RDONLY));
    auto requests = list_requests({"-"}, {}, fd);
    for (BatchRequest& request : requests) read_request(request);
    return requests;
  };
  const auto document = standard_input("\xef\xbb\xbfSome words.\n\n");
  CHECK(ids(document) == std::vector<std::string>{"stdin"});
  CHECK(document[0].text == "Some words.");
  CHECK(document[0].content == content_key("text", "Some words."));
  const std::string line = std::string(R"({"custom_id": "x", )") + kBody + "}\n";
  CHECK(ids(standard_input(line + "oops\n")) == std::vector<std::string>{"x", "stdin:2"});
  CHECK(standard_input(" \n")[0].failure.value_or(Failure{}).code == "empty_document");
}

TEST_CASE("what a request asks is its content, whatever it is called") {
  auto content = [](const std::string& id, const std::string& fields) {
    return parse_request(R"({"custom_id": ")" + id + R"(", "body": {"messages": [{"role": "user", "content": "hi"}])" +
                             fields + "}}",
                         "f:1")
        .content;
  };
  CHECK(content("a", "") == content("b", ""));
  CHECK(content("a", "") != content("a", R"(, "max_tokens": 3)"));
}

/// While this lives, programs are looked for in one folder only.
struct OnlyPath {
  explicit OnlyPath(const std::filesystem::path& folder) { ::setenv("PATH", folder.c_str(), 1); }
  ~OnlyPath() { ::setenv("PATH", before.c_str(), 1); }
  std::string before = std::getenv("PATH");
};

TEST_CASE("PDF and HTML are read through the program that is there, or the packages are named") {
  ScratchDir dir, programs;
  dir.write("-a.PDF", "%PDF");
  dir.write("b.htm", "<p>b</p>");
  dir.write("c.txt", "text");
  const std::string pdf = (dir.path() / "-a.PDF").string(), html = (dir.path() / "b.htm").string();
  const OnlyPath path(programs.path());
  auto make = [&](const std::string& name, const std::string& script) {
    std::filesystem::permissions(programs.write(name, "#!/bin/sh\n" + script), std::filesystem::perms::owner_all);
  };
  CHECK(refusal({dir.path().string()}).first == Exit::usage);
  CHECK_THAT(refusal({pdf}).second, contains("-a.PDF") && contains("poppler-utils"));
  CHECK_THAT(refusal({html}).second, contains("pandoc, w3m or lynx"));
  CHECK(refusal({(dir.path() / "*.txt").string()}).first == Exit::ok);
  make("pdftotext", "echo \"read $4 as $3\"\necho noise >&2\n");
  make("lynx", "exit 3\n");
  auto requests = list_requests({dir.path().string()});
  REQUIRE(ids(requests) == std::vector<std::string>{"-a.PDF", "b.htm", "c.txt"});
  for (BatchRequest& request : requests) read_request(request);
  CHECK(requests[0].text == "read " + pdf + " as UTF-8");
  CHECK(requests[1].failure.value_or(Failure{}).code == "conversion_failed");
  CHECK_THAT(requests[1].failure.value_or(Failure{}).message, contains("lynx fails with exit code 3"));
  CHECK(requests[2].text == "text");
  make("w3m", "while [ $# -gt 1 ]; do shift; done\nread -r line < \"$1\"\necho \"$line\"\n");  // before lynx
  BatchRequest again = list_requests({html})[0];
  read_request(again);
  CHECK(again.text == "<p>b</p>");
}

}  // namespace
}  // namespace longhaul
