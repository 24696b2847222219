// A trace gives back the rows that the steps selected; a damaged one is one line.
#include "runtime/engine/trace.h"

#include <filesystem>
#include <fstream>

#include "kernels/base/error.h"
#include "kernels/base/file.h"
#include "tests/support/catch.h"
#include "tests/support/tiny_model.h"

using namespace longhaul;
using namespace longhaul::test;

TEST_CASE("a trace gives back what the steps selected") {
  const TempDir dir;
  const std::string file = (dir.path() / "trace").string();
  const TinyShape shape;
  RunOptions run{.policy = "offload", .sets = {"rows=48", "dense_layers=[0]"}, .cache = 1, .prompts = {200, 90}};
  run.probes.lists = true;
  auto device = make_cpu_device();
  Engine engine(*device, load_model_config(tiny_model_dir()), Safetensors::open_model(tiny_model_dir()),
                engine_options(run));
  Session a(0, random_prompt(200, 1), {}, 30, {}), b(1, random_prompt(90, 2), {}, 30, {});
  engine.prefill(a);
  engine.prefill(b);
  std::vector<std::vector<std::int32_t>> expected;
  {
    TraceWriter writer(file, "tiny", engine);
    engine.set_step_tap([&](const StepProbe& probe, std::span<Session* const> sessions) {
      writer.add(probe, sessions);
      for (std::int64_t i = 0; i < probe.sessions * probe.layers * probe.kv_heads; ++i) {
        const std::int32_t* rows = probe.rows + i * probe.stride;
        expected.emplace_back(rows, rows + probe.counts[i]);
      }
    });
    Session* both[] = {&a, &b};
    for (int i = 0; i < 5; ++i) engine.step(both);
    writer.finish();
  }
  TraceReader reader(file);
  CHECK(reader.layers() == shape.layers);
  CHECK(reader.kv_heads() == shape.kv_heads);
  TraceStep step;
  std::size_t list = 0;
  for (std::int64_t s = 0; s < 5; ++s) {
    REQUIRE(reader.next(step));
    REQUIRE(step.sessions.size() == 2);
    CHECK(step.sessions[0].rows == 201 + s);
    CHECK(step.sessions[1].slot == 1);
    for (const auto& of : step.sessions)
      for (std::size_t i = 0; i < of.selected.size(); ++i) {
        CHECK(of.selected[i] == expected[list++]);
        CHECK(of.selected[i].size() == (i < 2 ? 0u : 48u));  // layer 0 is dense
        if (i >= 2) CHECK(of.selected[i].back() == of.rows - 1);
      }
  }
  CHECK(!reader.next(step));
  CHECK_THROWS_AS(TraceWriter(file, "tiny", engine), UserError);

  const std::string whole = read_file(file);
  for (std::size_t cut : {std::size_t{10}, whole.size() / 2, whole.size() - 1}) {
    std::ofstream(file, std::ios::binary | std::ios::trunc) << whole.substr(0, cut);
    CHECK_THROWS_AS(
        [&] {
          TraceReader damaged(file);
          while (damaged.next(step)) {
          }
        }(),
        UserError);
  }
}
