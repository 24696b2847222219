// The documents of `longhaul eval`: the same for the same seed, as long as asked, each answer in them once, and token
// for token what the chat template makes of the whole message.
#include <algorithm>

#include "apps/eval/cell.h"
#include "apps/eval/records.h"
#include "apps/eval/task.h"
#include "kernels/base/error.h"
#include "paths.h"
#include "tests/support/catch.h"
#include "tests/support/scratch_dir.h"

namespace longhaul::eval {
namespace {

using test::contains;
using test::ScratchDir;

const std::string kDocuments = LONGHAUL_SOURCE_DIR "/apps/demo/documents";

struct Fixture {
  ModelFiles model{LONGHAUL_SOURCE_DIR "/apps/demo/demo-7m"};
  Library texts{{kDocuments}, model.tokenizer};

  TaskInput input(std::int64_t length) const {
    TaskInput input{.model = model, .chat = chat_frame(model), .texts = texts};
    input.length = length;
    input.documents = 2;
    input.seed = 7;
    return input;
  }
  std::string text(std::span<const std::int32_t> ids) const { return model.tokenizer.decode(ids, false); }
};

const Fixture& fixture() {
  static const Fixture one;
  return one;
}

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

bool same(const std::vector<Document>& a, const std::vector<Document>& b) {
  return std::ranges::equal(a, b, [](const Document& x, const Document& y) {
    return x.prompt == y.prompt &&
           std::ranges::equal(x.questions, y.questions, [](const Question& p, const Question& q) {
             return p.ask == q.ask && p.answer == q.answer;
           });
  });
}

TEST_CASE("eval: made documents are determined by the seed and have the length asked for") {
  for (const char* name : {"needle", "lines", "digest", "kvretrieval", "niah-single", "niah-multikey",
                           "variable-tracking", "frequent-words"})
    for (std::int64_t length : {2048, 5000}) {
      INFO(name << " " << length);
      TaskInput input = fixture().input(length);
      if (length == 2048) input.questions = 5;
      const Task& task = find_task(name);
      const std::vector<Document> documents = task.make(input);
      REQUIRE(documents.size() == 2);
      CHECK(same(documents, task.make(input)));
      CHECK_FALSE(documents[0].prompt == documents[1].prompt);
      TaskInput other = input;
      other.seed = 8;
      CHECK_FALSE(same(documents, task.make(other)));
      other.seed = 7;
      other.documents = 1;
      CHECK(task.make(other)[0].prompt == documents[0].prompt);
      for (const Document& document : documents) {
        CHECK(document.rows() <= length);
        // What grows in leaps of a pair of keys and values (some 60 tokens) or a line of noise may lack one.
        const std::string grows = name;
        const std::int64_t leap = grows == "kvretrieval" ? 80 : grows == "niah-single" ? 32 : 0;
        CHECK(document.rows() >= length - std::max(length / 100, leap));
      }
    }
}

TEST_CASE("eval: a question and its document are the tokens of the whole message") {
  const ModelFiles& model = fixture().model;
  for (const char* name : {"needle", "lines", "digest"}) {
    INFO(name);
    const Document document = find_task(name).make(fixture().input(2048))[0];
    const std::string head = "<|begin_of_text|><|user|>", tail = "<|assistant|>";
    for (const Question& question : document.questions) {
      std::vector<std::int32_t> ids = document.prompt;
      ids.insert(ids.end(), question.ask.begin(), question.ask.end());
      const std::string text = fixture().text(ids);
      REQUIRE(text.starts_with(head));
      REQUIRE(text.ends_with(tail));
      const std::string message = text.substr(head.size(), text.size() - head.size() - tail.size());
      CHECK(model.prompt_ids({{"user", message}}) == ids);
      CHECK(fixture().text(question.answer).ends_with("<|end|>"));
    }
  }
}

TEST_CASE("eval: each answer stands in its document once, beside its key") {
  const Fixture& f = fixture();
  const Document needle = find_task("needle").make(f.input(4096))[0];
  REQUIRE(needle.questions.size() == 25);
  const std::string book = f.text(needle.prompt);
  for (const Question& question : needle.questions) {
    std::string number = f.text(question.answer), ask = f.text(question.ask);
    number.resize(number.find('<'));
    std::string key = ask.substr(ask.find(" for ") + 5);
    key.resize(key.find('?'));
    CHECK(count_of(book, number) == 1);
    CHECK(count_of(book, "\n\nThe special magic number for " + key + " is: " + number + ".\n\n") == 1);
  }
  const Document lines = find_task("lines").make(f.input(4096))[0];
  const std::string record = f.text(lines.prompt);
  for (const Question& question : lines.questions) {
    std::string number = f.text(question.answer), ask = f.text(question.ask);
    number.resize(number.find('<'));
    std::string key = ask.substr(ask.find("in line ") + 8);
    key.resize(key.find('?'));
    CHECK(count_of(record, "line " + key + ": REGISTER_CONTENT is <" + number + ">\n") == 1);
    CHECK(count_of(record, number) == 1);
  }
}

TEST_CASE("eval: a digest's lines are its items") {
  const Fixture& f = fixture();
  for (const Document& document : find_task("digest").make(f.input(4096))) {
    REQUIRE(document.questions.size() == 1);
    const Question& question = document.questions[0];
    const std::string body = f.text(document.prompt);
    std::string answer;
    std::int64_t at = 0, sections = 0, notes = 0;
    for (const Part& part : question.parts) {
      CHECK(part.begin == at);
      at = part.end;
      const std::string line =
          f.text(std::span(question.answer)
                     .subspan(static_cast<std::size_t>(part.begin), static_cast<std::size_t>(part.end - part.begin)));
      CHECK(count_of(line, "\n") <= 1);
      if (part.name == "section") {
        ++sections;
        const std::string heading = line.substr(3, line.find('\n') - 3);
        CHECK(count_of(body, fmt::format("\n\nSection {}. {}\n\n", sections, heading)) == 1);
      } else if (part.name == "note") {
        ++notes;
        CHECK(count_of(body, fmt::format("\n\nNote: {}.\n\n", line.substr(2, line.find_first_of("\n<") - 2))) == 1);
      } else if (part.name == "title") {
        CHECK(body.starts_with("<|begin_of_text|><|user|>" + line.substr(7) + "by "));
      } else {
        CHECK((part.name == "author" || !part.scored));
      }
      answer += line;
    }
    CHECK(at == static_cast<std::int64_t>(question.answer.size()));
    CHECK(sections >= 2);
    CHECK(notes >= 2);
    CHECK(answer.find("\nSections:\n1. ") != std::string::npos);
    CHECK(answer.find("\nNotes:\n- the ") != std::string::npos);
  }
}

TEST_CASE("eval: windows of perplexity do not overlap and cover the texts") {
  const Fixture& f = fixture();
  TaskInput input = f.input(2048);
  input.tail = 512;
  input.all = true;
  const std::vector<Document> all = make_perplexity(input);
  std::size_t at = 0;
  for (std::int64_t i = 0; i < f.texts.size(); ++i) {
    const std::vector<std::int32_t>& tokens = f.texts.tokenized(i).tokens;
    for (std::size_t begin = 0; begin + 2048 <= tokens.size(); begin += 2048, ++at) {
      std::vector<std::int32_t> ids = all[at].prompt;
      const Question& question = all[at].questions[0];
      ids.insert(ids.end(), question.ask.begin(), question.ask.end());
      ids.insert(ids.end(), question.answer.begin(), question.answer.end());
      CHECK(std::ranges::equal(ids, std::span(tokens).subspan(begin, 2048)));
      CHECK(question.answer.size() == 512);
      CHECK(question.ask.size() == 1);
    }
  }
  CHECK(at == all.size());
  input.mode = Mode::every;
  CHECK(make_perplexity(input)[0].prompt.size() == 256);
  input.all = false;
  input.documents = 4;
  std::vector<std::string> names;
  for (const Document& document : make_perplexity(input))
    names.push_back(document.name.substr(0, document.name.find(':')));
  std::ranges::sort(names);
  CHECK(std::ranges::adjacent_find(names) == names.end());  // one of each text
}

TEST_CASE("eval: published sets are read in their own formats") {
  const Fixture& f = fixture();
  ScratchDir dir;
  TaskInput input = f.input(0);
  input.documents.reset();
  input.data = {
      dir.write("lines.jsonl",
                R"({"random_idx": ["a-b", 0], "expected_number": 39256, "num_lines": 1, "correct_line": "x",)"
                R"( "prompt": "Remember.\n\nline a-b: REGISTER_CONTENT is <39256>\n\nNow the record is over. )"
                R"(Tell me what is in line a-b? I need the number."})"
                "\n")
          .string()};
  std::vector<Document> documents = make_lines(input);
  REQUIRE(documents.size() == 1);
  CHECK_THAT(f.text(documents[0].questions[0].ask), contains("Now the record is over."));
  CHECK(documents[0].questions[0].score("line a-b is 39256") == 1);

  input.data = {
      dir.write("kv.jsonl", R"({"ordered_kv_records": [["k1", "v1"], ["k2", "v2"]], "key": "k2", "value": "v2"})")
          .string()};
  documents = make_kv_retrieval(input);
  CHECK_THAT(f.text(documents[0].prompt) + f.text(documents[0].questions[0].ask),
             contains("JSON data:\n{\"k1\": \"v1\",\n \"k2\": \"v2\"}\n\nKey: \"k2\"\nCorresponding value:"));

  dir.write("world_facts_dev.csv", "question,choice0,choice1,choice2,choice3,answer\nOne?,a,b,c,d,2\n");
  dir.write("world_facts_test.csv", "\"Two, \"\"or\"\" so?\",w,x,y,z,B\nThree?,w,x,y,z,D\n");
  input.data = {dir.path().string()};
  documents = make_mmlu(input);
  REQUIRE(documents.size() == 1);
  CHECK_THAT(f.text(documents[0].prompt),
             contains("The following are multiple choice questions (with answers) about world facts.\n\nOne?\nA. a\nB. "
                      "b\nC. c\nD. d\nAnswer: C"));
  REQUIRE(documents[0].questions.size() == 2);
  CHECK(documents[0].questions[0].right == 1);
  CHECK_THAT(f.text(documents[0].questions[0].ask), contains("Two, \"or\" so?\nA. w\nB. x\nC. y\nD. z\nAnswer:"));
  CHECK(f.text(documents[0].questions[0].answer) == " A B C D");

  dir.write("dataset2prompt.json", R"({"hotpotqa": "Passages: {context}\nQuestion: {input}\nAnswer:"})");
  dir.write("dataset2maxlen.json", R"({"hotpotqa": 32})");
  std::string context;
  for (int i = 0; i < 400; ++i) context += "The " + std::to_string(i) + "th passage. ";
  const nlohmann::json record{{"dataset", "hotpotqa"},
                              {"context", context},
                              {"input", "Who?"},
                              {"answers", {"Nobody", "No one"}},
                              {"all_classes", nullptr}};
  input.data = {dir.write("hotpotqa.jsonl", record.dump() + "\n").string()};
  documents = make_longbench(input);
  CHECK(documents[0].questions[0].max_tokens == 32);
  CHECK(documents[0].questions[0].score("nobody") == 1);
  CHECK_THAT(f.text(documents[0].prompt), contains("Question: Who?\nAnswer:"));
  input.length = 512;
  documents = make_longbench(input);
  CHECK(documents[0].rows() <= 512);
  CHECK(documents[0].rows() >= 500);
  CHECK_THAT(f.text(documents[0].prompt), contains("Passages: The 0th") && contains("Question: Who?\nAnswer:"));
}

TEST_CASE("eval: documents that cannot be made are refused") {
  const Fixture& f = fixture();
  auto refusal = [&](const char* task, auto change) {
    TaskInput input = f.input(2048);
    change(input);
    try {
      find_task(task).make(input);
    } catch (const UserError& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  CHECK_THAT(refusal("needle", [](TaskInput& i) { i.questions = 500; }), contains("--questions 500: the needles take"));
  CHECK_THAT(refusal("lines", [](TaskInput& i) { i.questions = 500; }), contains("--questions 500: a document of"));
  CHECK_THAT(refusal("perplexity", [](TaskInput& i) { i.tail = 2048; }), contains("shorten --tail"));
  CHECK_THAT(refusal("perplexity", [](TaskInput& i) { i.length = 1 << 20; }), contains("--texts: no text has the"));
  CHECK_THAT(refusal("perplexity", [](TaskInput& i) { i.documents = 1000; }),
             contains("--documents 1000: the texts have"));
  CHECK_THAT(refusal("digest", [](TaskInput& i) { i.length = 128; }), contains("--lengths 128"));
  CHECK_THAT(refusal("needle", [](TaskInput& i) { i.length = 1 << 20; }), contains("all texts together lack"));
  CHECK_THROWS_WITH(find_task("riddles"), contains("known: perplexity, needle"));
}

TEST_CASE("eval: the grid has each policy once") {
  const std::vector<Variant> all = make_variants({.policies = {"dense", "stream", "streaming-llm", "sparse-resident"},
                                                  .shares = {"1/16", "1/4", "512"},
                                                  .label_dims = {"8", "1/4"},
                                                  .labels = {"document", "qk"},
                                                  .sets = {"min_rows=64"}});
  // dense and stream are one; the window has only shares; labels have all three.
  REQUIRE(all.size() == 1 + 3 + 3 * 2 * 2);
  CHECK(all[0].name == "dense");
  CHECK(all[1].share == "1/16");
  CHECK(all[1].policy.min_rows == 64);
  CHECK(all[3].share == "512 rows");
  CHECK(all[3].labels == "-");
  CHECK(all[4].labels == "document");
  CHECK(all[4].label_dims == "8");
  CHECK(all[5].labels == "qk");
  CHECK(all[6].label_dims == "1/4");
  CHECK(attended_share(all[1].policy, 8, 4096) == Approx(1.0 / 16));
  CHECK(attended_share(all[0].policy, 8, 4096) == 1);
  for (const char* bad : {"0", "-1", "2/1", "x", "1/0", "1.5", ""})
    CHECK_THROWS_AS(make_variants({.policies = {"streaming-llm"}, .shares = {bad == std::string() ? "/" : bad}}),
                    UserError);
  CHECK_THROWS_WITH(make_variants({.policies = {"streaming-llm"}, .shares = {"0"}}), contains("--shares '0'"));
}

TEST_CASE("eval: records go on after an interruption and refuse other settings") {
  ScratchDir dir;
  const std::string file = (dir.path() / "out.jsonl").string();
  const Records::Json settings{{"model", "m"}, {"policies", {"share = 0.25", "share = 0.5"}}};
  {
    Records records(file, settings);
    CHECK_THROWS_WITH(Records(file, settings), contains("another job is writing it"));
    records.append("a", 0, {{"task", "t"}}, {.items = {{"x", 1, 1}, {"y", 0, 1}}, .attended = 0.25});
    records.append("a", 1, {{"task", "t"}}, {.items = {{"x", 1, 1}}, .steps = {{"layers", 1}}});
  }
  const auto whole = std::filesystem::file_size(file);
  // A group without its last line, and a line without its end.
  std::ofstream(file, std::ios::app)
      << R"({"key":"b","document":0,"line":0,"of":2,"attended":1,"item":"x","sum":1,"weight":1})"
      << "\n{\"key\":";
  {
    Records records(file, settings);
    CHECK(std::filesystem::file_size(file) == whole);
    CHECK(records.resumed() == 2);
    REQUIRE(records.find("a", 0) != nullptr);
    CHECK(records.find("a", 0)->items.size() == 2);
    CHECK(records.find("a", 0)->items[0].name == "x");
    CHECK(records.find("a", 0)->attended == 0.25);
    CHECK(records.find("a", 1)->steps.at("layers") == 1);
    CHECK(records.find("b", 0) == nullptr);
  }
  CHECK_THROWS_WITH(Records(file, {{"model", "m"}, {"policies", {"share = 0.25", "share = 0.125"}}}),
                    contains("made with policies = share = 0.5, not share = 0.125"));
  CHECK_THROWS_WITH(Records(file, {{"model", "n"}}), contains("made with model = m, not n"));
  dir.write("mine.jsonl", "{\"a\": 1}\n");
  CHECK_THROWS_WITH(Records((dir.path() / "mine.jsonl").string(), settings), contains("line 1 is no record"));
  dir.write("torn.jsonl", "notes");
  CHECK_THROWS_WITH(Records((dir.path() / "torn.jsonl").string(), settings), contains("line 1 is no record"));
  CHECK_THROWS_WITH(Records((dir.path() / "no/out.jsonl").string(), settings), contains("cannot be written"));
}

}  // namespace
}  // namespace longhaul::eval
