// `longhaul batch`: when documents are prefilled, when they decode and who waits for room changes no answer.
#include <map>
#include <nlohmann/json.hpp>

#include "paths.h"
#include "tests/support/batch_files.h"
#include "tests/support/command.h"
#include "tests/support/sanitizer.h"

namespace longhaul {
namespace {

using namespace test;

/// Answers by custom_id.
std::map<std::string, std::string> answers(const std::filesystem::path& file) {
  std::map<std::string, std::string> texts;
  for (const nlohmann::json& record : json_lines(text_of(file))) {
    REQUIRE(!record["response"].is_null());
    texts[record["custom_id"]] = record["response"]["body"]["choices"].dump();
  }
  return texts;
}

TEST_CASE("documents of different lengths are answered alike, however they take turns and whoever waits for room") {
  ScratchDir dir;
  std::filesystem::create_directories(dir.path() / "docs");
  const std::vector<int> sentences{300, 20, 120, 30, 10, 60, 15};
  for (std::size_t i = 0; i < sentences.size(); ++i)
    dir.write("docs/" + std::to_string(i) + ".txt", document("The Road " + std::to_string(i), sentences[i]));
  const std::string batch = "batch --device cpu --model " LONGHAUL_SOURCE_DIR
                            "/apps/demo/demo-7m --input docs --max-tokens 24 --prefill-chunk 128 --policy stream "
                            "--set policy.resident=0.0 --set policy.recent_rows=64 --output ";
  const Outcome waits = run_command(dir, batch + "waits.jsonl --prefill-share 1 --host-memory 1GiB");
  CHECK(waits.exit == 0);
  CHECK_THAT(waits.err, contains("7 documents, 7 together"));
  const auto expected = answers(dir.path() / "waits.jsonl");
  REQUIRE(expected.size() == sentences.size());
  for (const char* share : {"0.75", "0.05"}) {
    const std::string file = std::string("turns-") + share + ".jsonl";
    CHECK(run_command(dir, batch + file + " --host-memory 1GiB --prefill-share " + share).exit == 0);
    CHECK(answers(dir.path() / file) == expected);
  }
  if (kSanitizer) return;  // what it keeps of every byte counts as the program's
  // Too little for the KV rows of two of the longest, and enough for it and some short ones.
  for (const char* order : {"longest", "input"}) {
    const std::string file = std::string("room-") + order + ".jsonl";
    const Outcome room = run_command(dir, batch + file + " --host-memory 70MiB --order " + order);
    CHECK(room.exit == 0);
    CHECK_THAT(room.err, contains("of the shortest together"));
    CHECK(answers(dir.path() / file) == expected);
  }
}

}  // namespace
}  // namespace longhaul
