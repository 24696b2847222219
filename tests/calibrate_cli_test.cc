// The verb calibrate: what it makes, and what it refuses.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "paths.h"
#include "tests/support/batch_files.h"
#include "tests/support/command.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using namespace test;

const std::string kModel = LONGHAUL_SOURCE_DIR "/apps/demo/demo-7m";

TEST_CASE("calibrate makes a file that run and batch take") {
  ScratchDir dir;
  dir.write("a.txt", document("The Road", 40));
  dir.write("b.txt", document("The River", 60));
  const std::string calibrate = "calibrate --log-level warn --model " + kModel + " --text a.txt b.txt ";
  CHECK(run_command(dir, calibrate + "-o channels.json").out.empty());
  const std::string text = text_of(dir.path() / "channels.json");
  CHECK(json::parse(text).at("texts").size() == 2);
  CHECK(run_command(dir, calibrate).out == text);
  CHECK(run_command(dir, calibrate + "--prefill-chunk 64 --activations f32").exit == 0);
  const json published = json::parse(run_command(dir, calibrate + "--published").out);
  CHECK(published.size() == 24);
  CHECK(published.at("model.layers.7.self_attn.q_proj").size() == 4);
  CHECK(json::parse(run_command(dir, calibrate + "--max-model-len 300").out).at("texts")[0].at("tokens") == 300);
}

TEST_CASE("calibrate refuses what it cannot use") {
  ScratchDir dir;
  dir.write("text.txt", document("The Road", 60));
  dir.write("short.txt", "A few words.");
  dir.write("empty.txt", " \n");
  dir.write("bytes.txt", "a\xff");
  dir.write("old.json", "{}");
  const std::string calibrate = "calibrate --model " + kModel + " ";
  check_refused(dir, calibrate, 2, "--text is required");
  check_refused(dir, "calibrate --text text.txt", 2, "--model is required");
  check_refused(dir, "calibrate --model absent --text text.txt", 3, "absent: no such folder");
  check_refused(dir, calibrate + "--text absent.txt", 5, "absent.txt: No such file");
  check_refused(dir, calibrate + "--text .", 5, ".: ");
  check_refused(dir, calibrate + "--text text.txt empty.txt", 5, "empty.txt: the document is empty");
  check_refused(dir, calibrate + "--text text.txt bytes.txt", 5, "bytes.txt: not valid UTF-8");
  check_refused(dir, calibrate + "--text short.txt short.txt", 5, "tokens together; calibration needs 512 or more");
  check_refused(dir, calibrate + "--text text.txt --max-model-len 100", 5, "the texts have 100 tokens together");
  check_refused(dir, calibrate + "--text text.txt --max-model-len 64K", 2, "the model's context is 32768 tokens");
  check_refused(dir, calibrate + "--text text.txt --policy dense", 2, "--policy");
  check_refused(dir, calibrate + "--text text.txt -o old.json", 2, "exists and is not this job's");
  check_refused(dir, calibrate + "--text text.txt -o no/new.json", 5, "no/new.json: cannot be written");
  check_refused(dir, calibrate + "--text text.txt -o new.json --gpu-memory 1MiB", 4, "--gpu-memory");
  CHECK_FALSE(fs::exists(dir.path() / "new.json"));
}

}  // namespace
}  // namespace longhaul
