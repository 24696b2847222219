// Calibration of a small model: what it gives depends on the texts and the weights, and on nothing else.
#include "runtime/labels/calibrate.h"

#include <fstream>

#include "kernels/cpu/cpu_device.h"
#include "paths.h"
#include "runtime/checkpoint/fingerprint.h"
#include "tests/support/catch.h"
#include "tests/support/scratch_dir.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using test::contains;

const std::string kModel = LONGHAUL_SOURCE_DIR "/apps/demo/demo-7m";

std::vector<CalibrationDocument> documents(const ModelFiles& model) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += fmt::format("The road went over hill {} and down to the river again. ", i);
  return {calibration_document(model, "a", text, 400), calibration_document(model, "b", text + "<|end|>", 300)};
}

struct Way {
  std::string policy = "dense";
  std::int64_t chunk = 512;
  DType activations = DType::f32;
};

ChannelFile calibrate_by(const ModelFiles& model, const std::vector<CalibrationDocument>& texts, const Way& way = {}) {
  auto device = make_cpu_device();
  EngineOptions options{.policy = load_policy(way.policy), .activations = way.activations, .max_len = 401};
  options.prefill_chunk = way.chunk;
  options.resident = way.policy == "dense" ? 1 : 0;
  options.probes.moments = true;
  Engine engine(*device, model.config, model.weights, options);
  return calibrate(engine, model, texts);
}

TEST_CASE("calibration gives the same bytes every time, wherever rows live") {
  const ModelFiles model(kModel);
  const auto texts = documents(model);
  const ChannelFile file = calibrate_by(model, texts);
  CHECK(file.texts == std::vector<CalibrationText>{{"a", 400}, {"b", 300}});
  CHECK(file.fingerprint == weights_fingerprint(model.config, model.weights));
  CHECK(file.heads.size() == static_cast<std::size_t>(model.config.layers * model.config.kv_heads));
  const std::string text = print_channels(file);
  CHECK(print_channels(calibrate_by(model, texts)) == text);
  CHECK(print_channels(calibrate_by(model, texts, {.policy = "stream"})) == text);
  const ChannelFile read = parse_channels(text, "f", shape_of(model.config), file.fingerprint);
  CHECK(read.heads == file.heads);
}

TEST_CASE("a document's text makes no special tokens and is cut where it must be") {
  const ModelFiles model(kModel);
  for (const CalibrationDocument& document : documents(model))
    for (std::size_t i = 1; i < document.ids.size(); ++i) CHECK_FALSE(model.tokenizer.is_special(document.ids[i]));
  CHECK(calibration_document(model, "a", "one two three", 2).ids.size() == 2);
}

TEST_CASE("texts that are too short, and weights that are damaged") {
  const ModelFiles model(kModel);
  auto texts = documents(model);
  texts.resize(1);
  CHECK_THROWS_WITH(calibrate_by(model, texts), "the texts have 400 tokens together; calibration needs 512 or more");

  test::ScratchDir dir;
  fs::copy(kModel, dir.path() / "m");
  const TensorInfo& info = model.weights.files().tensors().at("model.layers.3.self_attn.k_proj.weight");
  {
    std::fstream file(dir.path() / "m/model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(info.offset);
    file.write("\xff\xff", 2);  // NaN in bf16
  }
  const ModelFiles damaged((dir.path() / "m").string());
  CHECK_THROWS_WITH(calibrate_by(damaged, documents(damaged)),
                    contains("the keys or queries of layer 3 are not finite; are the weights damaged?"));
}

}  // namespace
}  // namespace longhaul
