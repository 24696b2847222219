// Scores of `longhaul eval`, against what the published programs give: metrics.py of LongBench with the packages rouge
// 1.0.1 and fuzzywuzzy 0.18.0 (with Levenshtein 0.27), run on these texts.
#include <cmath>

#include "apps/eval/data_file.h"
#include "apps/eval/longbench.h"
#include "apps/eval/scores.h"
#include "apps/eval/statistics.h"
#include "apps/eval/step_stats.h"
#include "kernels/base/error.h"
#include "paths.h"
#include "tests/support/catch.h"
#include "tests/support/scratch_dir.h"

namespace longhaul::eval {
namespace {

using test::contains;
using test::ScratchDir;

TEST_CASE("eval: F1 of words as published") {
  CHECK(qa_f1_score("The cat, an old one, sat.", "An old cat sat down") == Approx(0.75));
  CHECK(qa_f1_score("Paris", "Paris, France") == Approx(2.0 / 3));
  CHECK(qa_f1_score("No idea", "yes") == 0);
  CHECK(qa_f1_score("", "yes") == 0);
}

TEST_CASE("eval: ROUGE-L as published") {
  CHECK(rouge_l_score("the cat sat on the mat. it was warm.", "a cat was on the mat. the day was warm and long.") ==
        Approx(0.6666666617283951).epsilon(1e-12));
  CHECK(rouge_l_score("w1 w2 w6 w7 w8. w1 w3 w8 w9 w5", "w1 w2 w3 w4 w5") == Approx(0.6153846106508877).epsilon(1e-12));
  CHECK(rouge_l_score("police killed the gunman", "police kill the gunman") == Approx(0.749999995).epsilon(1e-12));
  CHECK(rouge_l_score(" one . two..  three", "three two. one") == Approx(0.999999995).epsilon(1e-12));
  CHECK(rouge_l_score("the law gives powers. The Congress may end them by a law of its own. courts review",
                      "Congress may end powers by law. Courts review them. The law gives the powers") ==
        Approx(0.7142857093877552).epsilon(1e-12));
  CHECK(rouge_l_score("", "a summary") == 0);
}

TEST_CASE("eval: the other scores as published") {
  CHECK(code_similarity_score("\n# a comment\n    return x + 1\nmore", "    return x + y") == Approx(0.94));
  CHECK(code_similarity_score("for i in range(10):", "for j in range(12):") == Approx(0.89));
  CHECK(code_similarity_score("```", "x") == 0);
  CHECK(retrieval_score("It is Paragraph 12, not 3", "Paragraph 12", "Paragraph ") == Approx(0.5));
  CHECK(retrieval_score("段落7", "段落7", "段落") == 1);
  CHECK(count_score("5 or 5 or 6", "5") == Approx(2.0 / 3));
  CHECK(count_score("none", "5") == 0);
  const std::vector<std::string> classes{"City", "Mountain", "Other city", "Other"};
  CHECK(classification_score("Other", "Other", classes) == 1);
  CHECK(classification_score("City or Mountain", "City", classes) == Approx(0.5));
  CHECK(classification_score("an Other city", "Other city", classes) == 1);
  CHECK(classification_score("Lake", "City", classes) == 0);
  CHECK(last_number_score("in line a-b the number is <0042>.", 42) == 1);
  CHECK(last_number_score("12345 is not 123", 12345) == 0);
  CHECK(contains_score("Value: ABC-1", "abc-1") == 1);
  CHECK(recall_score("VAR abc, def", {"ABC", "XYZ"}) == Approx(0.5));
}

TEST_CASE("eval: LongBench's prompts are filled in once") {
  CHECK(fill_prompt("A {context} B {input} C", "{input}", "{context}") == "A {input} B {context} C");
}

TEST_CASE("eval: LongBench cuts prompts in the middle") {
  const Tokenizer tokenizer(LONGHAUL_SOURCE_DIR "/apps/demo/demo-7m");
  std::string text;
  for (int i = 0; i < 200; ++i) text += " word" + std::to_string(i);
  const auto ids = tokenizer.encode(text, false);
  const std::string cut = cut_middle(tokenizer, text, 101);
  CHECK(cut == tokenizer.decode(std::span(ids).first(50)) + tokenizer.decode(std::span(ids).last(50)));
  CHECK(cut_middle(tokenizer, text, static_cast<std::int64_t>(ids.size())) == text);
}

TEST_CASE("eval: CSV with quotes, line ends and commas in fields") {
  const auto rows = parse_csv("a,\"b, \"\"c\"\"\",d\r\n\"two\nlines\",,x\n", "t.csv");
  REQUIRE(rows.size() == 2);
  CHECK(rows[0] == std::vector<std::string>{"a", "b, \"c\"", "d"});
  CHECK(rows[1] == std::vector<std::string>{"two\nlines", "", "x"});
  CHECK_THROWS_WITH(parse_csv("a\n\"b\nc", "t.csv"), contains("t.csv:2: not CSV"));
  CHECK_THROWS_WITH(parse_csv("\"a\"b", "t.csv"), contains("text after a quoted field"));
}

TEST_CASE("eval: data files that cannot be used are named") {
  ScratchDir dir;
  auto refusal = [&](const std::string& text) {
    try {
      read_json_lines(dir.write("d.jsonl", text).string(), [](const nlohmann::json&, const std::string&) {});
    } catch (const UserError& e) {
      CHECK(e.code == Exit::io);
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  CHECK_THAT(refusal("{\"a\": 1}\n[2]\n"), contains("d.jsonl:2: expected a JSON object"));
  CHECK_THAT(refusal("{\"a\": 1}\n{\n"), contains("d.jsonl:2: not valid JSON"));
  CHECK_THAT(refusal("\x1f\x8b\x08"), contains("is compressed"));
  CHECK_THAT(refusal("\n"), contains("holds no records"));
  CHECK_THAT(refusal("{\"a\": \"\xff\"}"), contains("not valid UTF-8"));
}

TEST_CASE("eval: intervals of paired scores") {
  std::vector<Item> dense, equal, worse;
  for (int i = 0; i < 200; ++i) {
    dense.push_back({"", i % 10 == 0 ? 0.0 : 1.0, 1});
    equal.push_back(dense.back());
    worse.push_back({"", i % 10 < 2 ? 0.0 : 1.0, 1});
  }
  const Comparison same = compare(dense, equal, false, 1);
  CHECK(same.difference == 0);
  CHECK(same.difference_95.low == 0);
  CHECK(same.difference_95.high == 0);
  const Comparison less = compare(dense, worse, false, 1);
  CHECK(less.difference == Approx(-0.1));
  // Paired: the standard error of the mean difference is sqrt(0.1 * 0.9 / 200) = 0.021.
  CHECK(less.difference_95.low == Approx(-0.1 - 1.96 * 0.0212).margin(0.008));
  CHECK(less.difference_95.high == Approx(-0.1 + 1.96 * 0.0212).margin(0.008));
  CHECK(less.difference_95.low == compare(dense, worse, false, 1).difference_95.low);

  // Perplexity: sums of losses over tokens.
  const std::vector<Item> a{{"", 100, 50}, {"", 300, 100}}, b{{"", 105, 50}, {"", 315, 100}};
  const Comparison ppl = compare(a, b, true, 1);
  CHECK(score_of(a, true) == Approx(std::exp(400.0 / 150)));
  CHECK(ppl.ratio == Approx(std::exp(20.0 / 150)));
  CHECK(ppl.ratio_95.low <= ppl.ratio);
  CHECK(ppl.ratio_95.high >= ppl.ratio);
}

TEST_CASE("eval: LRU keeps what was used last") {
  LruRows lru(10, 3);
  for (int row : {1, 2, 3, 1, 4}) lru.use(row);  // 2 was used least recently
  CHECK(lru.holds(1));
  CHECK_FALSE(lru.holds(2));
  CHECK(lru.holds(3));
  CHECK(lru.holds(4));
  lru.use(5);
  CHECK_FALSE(lru.holds(3));
  lru.clear();
  for (int row = 0; row < 10; ++row) CHECK_FALSE(lru.holds(row));
  LruRows none(4, 0);
  none.use(1);
  CHECK_FALSE(none.holds(1));
}

/// A step of one session, one layer, one head that attends `rows`.
void add_step(StepStats& stats, const std::vector<std::int32_t>& rows, std::int64_t length) {
  const auto count = static_cast<std::int32_t>(rows.size());
  const SelectionQuality quality{0.8f, 0.9f, 0.75f}, predicted{0.7f, 0.9f, 0.5f};
  const float recall = 0.5f, cosine = 0.95f;
  const StepProbe probe{.sessions = 1,
                        .layers = 1,
                        .kv_heads = 1,
                        .stride = count,
                        .counts = &count,
                        .rows = rows.data(),
                        .selected = &quality,
                        .predicted = &predicted,
                        .predicted_recall = &recall,
                        .cosine = &cosine,
                        .tally = nullptr};
  stats.add(probe, 0, length);
}

TEST_CASE("eval: hit rates of a resident set") {
  ModelConfig config{};
  config.layers = config.kv_heads = 1;
  KvPolicy policy;
  policy.select = Select::labels;
  policy.rows = 4;  // B = 4, 8, 16
  policy.sinks = 1;
  policy.recent_rows = 2;
  StepStats stats(config, policy, 100);
  add_step(stats, {0, 10, 11, 49}, 50);  // 0 is a sink, 49 recent: two that could be kept
  add_step(stats, {0, 10, 12, 50}, 51);  // one hit
  add_step(stats, {0, 13, 14, 51}, 52);
  add_step(stats, {0, 10, 11, 52}, 53);  // B = 4 holds 10, 12, 13, 14: one hit; 8 and 16 hold 11 too
  stats.restart();
  add_step(stats, {0, 10, 11, 53}, 54);  // forgotten
  const HeadSums& sums = stats.sums()[0];
  CHECK(sums.reusable == 10);
  CHECK(sums.hits[0] == 2);
  CHECK(sums.hits[1] == 3);
  CHECK(sums.hits[2] == 3);
  CHECK(sums.attended == 20);
  CHECK(sums.mass / sums.steps == Approx(0.8));
  std::vector<HeadSums> twice;
  add_json(nlohmann::json::parse(stats.to_json().dump()), twice);
  add_json(nlohmann::json::parse(stats.to_json().dump()), twice);
  CHECK(twice[0].hits[1] == 6);
  CHECK(twice[0].predicted_recall == Approx(5));
  CHECK_THAT(step_table(twice, 1, 512), contains("| 0 |") && contains("| 0.300 |"));
}

}  // namespace
}  // namespace longhaul::eval
