// The machine profile: what is written is read back, and what is wrong is one line that names the key.
#include "runtime/plan/machine_profile.h"

#include <fstream>

#include "kernels/base/durable_file.h"
#include "kernels/base/error.h"
#include "kernels/base/file.h"
#include "kernels/cpu/cpu_device.h"
#include "paths.h"
#include "tests/support/command.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

const MachineProfile kProfile{.device = "a \"device\"",
                              .link = {.h2d_GBps = 55.4,
                                       .d2h_GBps = 54.25,
                                       .zero_copy_run = 1e8,
                                       .zero_copy_scattered = 9.9e7,
                                       .host_scattered = 4.1e7,
                                       .both_scattered = 9.8e7,
                                       .gather = {}},
                              .rates = {4240, 690.5, 613, 24.5}};

std::string complaint(const std::filesystem::path& file, const std::string& text) {
  std::ofstream(file) << text;
  try {
    read_machine_profile(file);
  } catch (const UserError& e) {
    CHECK(e.code == Exit::usage);
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("machine profile: written and read back") {
  const ScratchDir dir;
  const auto file = dir.path() / "profile.json";
  for (GatherRoute route : {GatherRoute::zero_copy, GatherRoute::host, GatherRoute::both}) {
    MachineProfile profile = kProfile;
    profile.link.gather = {route, 0.375, 11};
    write_machine_profile(file, profile);
    const MachineProfile read = read_machine_profile(file);
    CHECK(read.device == profile.device);
    CHECK(read.link.h2d_GBps == profile.link.h2d_GBps);
    CHECK(read.link.d2h_GBps == profile.link.d2h_GBps);
    CHECK(read.link.zero_copy_run == profile.link.zero_copy_run);
    CHECK(read.link.zero_copy_scattered == profile.link.zero_copy_scattered);
    CHECK(read.link.host_scattered == profile.link.host_scattered);
    CHECK(read.link.both_scattered == profile.link.both_scattered);
    CHECK(read.link.gather == profile.link.gather);
    CHECK(read.rates.copy_GBps == 4240);
    CHECK(read.rates.product_TFLOPs == 690.5);
    CHECK(read.rates.attention_TFLOPs == 613);
    CHECK(read.rates.pin_GiBps == 24.5);
  }
  CHECK(!std::filesystem::exists(unfinished_name(file)));
  CHECK_THROWS_AS(write_machine_profile(dir.path() / "none" / "profile.json", {}), UserError);
}

TEST_CASE("machine profile: faults are refused by name") {
  const ScratchDir dir;
  const auto file = dir.path() / "profile.json";
  MachineProfile plain = kProfile;
  plain.device = "d";
  write_machine_profile(file, plain);
  const std::string good = read_file(file);
  CHECK(complaint(file, good).empty());
  auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const auto at = text.find(from);
    REQUIRE(at != std::string::npos);
    return complaint(file, text.replace(at, from.size(), to));
  };
  CHECK(with("zero_copy\"", "teleport\"").find("route") != std::string::npos);
  CHECK(with("\"host_share\": 0.0", "\"host_share\": 1.5").find("host_share") != std::string::npos);
  CHECK(with("\"h2d_GBps\": 55.4", "\"h2d_GBps\": -1").find("h2d_GBps") != std::string::npos);
  CHECK(with("\"copy_GBps\": 4240.0", "\"copy_GBps\": 0").find("copy_GBps") != std::string::npos);
  CHECK(with("\"version\": 1", "\"version\": 2").find("run longhaul doctor again") != std::string::npos);
  CHECK(with("\"version\": 1,", "").find("\"version\" is missing") != std::string::npos);
  CHECK(with("\"pin_GiBps\"", "\"pinning\"").find("pin") != std::string::npos);
  CHECK(with("\"d2h_GBps\"", "\"d2h\"").find("d2h") != std::string::npos);
  CHECK(with("\"device\": \"d\"", "\"device\": 3").find("device") != std::string::npos);
  CHECK(with("{", "[").find("JSON") != std::string::npos);
}

TEST_CASE("a run takes the profile of its device, and only that") {
  const ScratchDir dir;
  const std::string run =
      "run --device cpu --prompt hello --max-tokens 1 --model " LONGHAUL_SOURCE_DIR "/apps/demo/demo-7m --profile ";
  write_machine_profile(dir.path() / "other.json", kProfile);
  MachineProfile own = kProfile;
  own.device = cpu_device_name();
  write_machine_profile(dir.path() / "own.json", own);
  dir.write("bad.json", "{\"version\": 1}");

  const Outcome other = run_command(dir, run + "other.json");
  CHECK(other.exit == 0);
  CHECK_THAT(other.err, contains("machine profile other.json is of a \"device\", not of CPU"));
  for (const char* quiet : {"own.json", "none"}) {
    const Outcome outcome = run_command(dir, run + quiet);
    CHECK(outcome.exit == 0);
    CHECK(outcome.err.find("profile") == std::string::npos);
  }
  check_refused(dir, run + "bad.json", 2, "bad.json: the key \"device\" is missing");
  check_refused(dir, run + "absent.json", 2, "absent.json: no such file");
}
