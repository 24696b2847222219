// Checkpoints in every format that is read, against what an independent program says they stand for
// (tests/data/make_quantised.py), and what is refused.
#include "runtime/checkpoint/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

#include "kernels/base/file.h"
#include "kernels/base/hash.h"
#include "kernels/cpu/cpu_device.h"
#include "paths.h"
#include "runtime/checkpoint/gguf_weights.h"
#include "runtime/checkpoint/json_file.h"
#include "runtime/checkpoint/model_source.h"
#include "runtime/engine/engine.h"
#include "runtime/model/layer_layout.h"
#include "tests/support/catch.h"
#include "tests/support/complaint.h"
#include "tests/support/quantised_cases.h"
#include "tests/support/scratch_dir.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::complaint;
using test::contains;
using test::file_of;
using test::kData;
using test::raw;
using test::ScratchDir;
using test::shape_in_base;
using test::Stored;
using test::values_of;
using Case = test::QuantisedCase;

std::string_view bytes_of(const std::vector<bf16>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * 2};
}

const std::vector<std::string> kCases{
    "floats",       "int8_rows",      "fp8_rows",           "fp8_tensor",  "fp8_blocks",      "awq",
    "gptq",         "gptq_act_order", "gptq_columns",       "gguf",        "gguf_qwen2_yarn", "gguf_qwen3",
    "gguf_mixtral", "gguf_qwen3_moe", "gguf_phi3_longrope", "gguf_smollm3"};
constexpr std::int64_t kPrompt = 80;  // past the length that gguf_phi3_longrope was trained at

/// The case dequantised by its readers, as a checkpoint of bf16.
void write_dequantised(const Case& c, const fs::path& dir) {
  json header = json::object();
  std::string data;
  for (const auto& [name, reader] : c.readers) {
    const std::size_t begin = data.size();
    const std::vector<bf16> values = values_of(*reader);
    data += bytes_of(values);
    header[name] = {{"dtype", "BF16"}, {"shape", c.shapes.at(name)}, {"data_offsets", {begin, data.size()}}};
  }
  const std::string text = header.dump();
  const std::uint64_t size = text.size();
  std::ofstream out(dir / "model.safetensors", std::ios::binary);
  out.write(reinterpret_cast<const char*>(&size), 8) << text << data;
}

std::vector<float> logits_of(const ModelConfig& config, const Checkpoint& weights, std::int64_t streamed,
                             bool packed = false) {
  auto device = make_cpu_device({.poison = true});
  EngineOptions options{.policy = load_policy("dense"),
                        .max_len = kPrompt + 15,
                        .max_sessions = 1,
                        .resident = 1,
                        .streamed_layers = streamed,
                        .host_embedding = streamed > 0,
                        .packed = packed};
  if (packed) options.formats = weight_formats(weights, config);
  Engine engine(*device, config, weights, options);
  std::vector<float> all;
  engine.set_logits_tap(
      [&](std::int64_t rows, const float* logits) { all.insert(all.end(), logits, logits + rows * config.vocab); });
  std::vector<std::int32_t> prompt;
  for (std::int32_t i = 0; i < kPrompt; ++i) prompt.push_back(i * 7 % 64);
  Session session(0, prompt, {}, 1, {});
  engine.prefill(session);
  return all;
}

std::string zeros(std::size_t bytes) { return std::string(bytes, '\0'); }

}  // namespace

TEST_CASE("Checkpoints dequantise to the bits that another implementation gives", "[checkpoint]") {
  for (const std::string& name : kCases) {
    const Case c(name);
    for (const auto& [tensor, reader] : c.readers) {
      CAPTURE(name, tensor);
      CHECK(fmt::format("{:016x}", hash64(bytes_of(values_of(*reader)))) == c.hashes.at(tensor));
    }
  }
}

TEST_CASE("A quantised checkpoint is as near to what was quantised as its format allows", "[checkpoint]") {
  const std::map<std::string, double> bounds{{"floats", 1e-5},     {"int8_rows", 1e-4},      {"fp8_rows", 1e-3},
                                             {"fp8_tensor", 1e-3}, {"fp8_blocks", 1e-3},     {"awq", 1e-2},
                                             {"gptq", 1.5e-2},     {"gptq_act_order", 1e-2}, {"gptq_columns", 1.5e-2}};
  const Checkpoint base = ModelSource((kData / "families/llama3_gqa").string()).weights();
  for (const auto& [name, bound] : bounds) {
    const Case c(name);
    for (const auto& [tensor, reader] : c.readers) {
      if (!tensor.ends_with("_proj.weight")) continue;
      const auto is = values_of(*reader), was = values_of(*base.tensor(tensor, c.shapes.at(tensor)));
      double error = 0, size = 0;
      for (std::size_t i = 0; i < is.size(); ++i) {
        error += (to_float(is[i]) - to_float(was[i])) * (to_float(is[i]) - to_float(was[i]));
        size += to_float(was[i]) * to_float(was[i]);
      }
      CAPTURE(name, tensor);
      CHECK(error <= bound * size);
    }
  }
}

TEST_CASE("Any span of rows, in any pieces, has the values of the whole", "[checkpoint]") {
  for (const std::string& name : kCases) {
    const Case c(name);
    for (const auto& [tensor, reader] : c.readers) {
      const auto whole = values_of(*reader);
      const std::int64_t step = reader->row_step(), steps = reader->rows() / step;
      for (std::int64_t first = 0; first < steps; first += 3) {
        const RowSpan span{first * step, std::min<std::int64_t>(5, steps - first) * step};
        std::vector<std::byte> stored(static_cast<std::size_t>(reader->stored_bytes(span.count)));
        reader->fetch(span, stored.data());
        for (std::int64_t at = 0; at < span.count; at += step) {
          std::vector<bf16> piece(static_cast<std::size_t>(step * reader->cols()));
          reader->convert(stored.data(), span, {span.first + at, step}, piece.data());
          const bool same =
              std::memcmp(piece.data(), whole.data() + (span.first + at) * reader->cols(), piece.size() * 2) == 0;
          CAPTURE(name, tensor, span.first, at);
          REQUIRE(same);
        }
      }
    }
  }
}

TEST_CASE("A quantised checkpoint gives the logits of its dequantised one, bit for bit", "[checkpoint]") {
  for (const std::string& name : kCases) {
    const Case c(name);
    const ModelConfig config = c.source.config(), made_of = c.config();
    ScratchDir dir;
    write_dequantised(c, dir.path());
    const auto expected = logits_of(made_of, Safetensors::open_model(dir.path()), 0);
    CAPTURE(name);
    CHECK(config.model_type == made_of.model_type);
    CHECK(config.max_position == made_of.max_position);
    CHECK(config.bos == made_of.bos);
    CHECK(config.eos == made_of.eos);
    REQUIRE(expected.size() == static_cast<std::size_t>(kPrompt * config.vocab));
    CHECK(std::ranges::all_of(expected, [](float x) { return std::isfinite(x); }));
    CHECK(logits_of(config, c.weights, 0) == expected);
    CHECK(logits_of(config, c.weights, 1) == expected);  // converted into host memory
    if (weight_formats(c.weights, config) == nullptr) continue;
    CHECK(logits_of(config, c.weights, 0, true) == expected);
    CHECK(logits_of(config, c.weights, 1, true) == expected);
  }
}

TEST_CASE("Loading reports its bytes up to all of them", "[checkpoint]") {
  const Case c("gptq");
  auto device = make_cpu_device();
  std::int64_t last = 0, all = 0;
  Engine engine(*device, c.source.config(), c.weights,
                {.policy = load_policy("dense"), .max_len = 8, .max_sessions = 1, .resident = 1}, {},
                [&](std::int64_t done, std::int64_t total) {
                  CHECK(done >= last);
                  last = done;
                  all = total;
                });
  CHECK(last == all);
  CHECK(all > 0);
}

TEST_CASE("Half precision is read exactly, subnormals, infinities and NaN too", "[checkpoint]") {
  ScratchDir dir;
  const std::string halves = raw<std::uint16_t>({0x0000, 0x8000, 0x0001, 0x03ff, 0x0400, 0x3c00, 0xc000, 0x7bff});
  const auto file = file_of(dir, {{"a", {"F16", {8}, halves}}, {"b", {"F16", {1}, raw<std::uint16_t>({0x7c00})}}});
  const auto values = values_of(*float_reader(file, "a", {8}));
  const float expected[] = {0, -0.0f, 0x1p-24f, 1023 * 0x1p-24f, 0x1p-14f, 1, -2, 65504};
  for (std::size_t i = 0; i < 8; ++i) CHECK(values[i].bits == to_bf16(expected[i]).bits);
  CHECK_THAT(complaint([&] { values_of(*float_reader(file, "b", {1})); }),
             contains("tensor \"b\" holds a value that is no finite number, or too large for bf16"));
}

TEST_CASE("Weights that bf16 cannot hold are refused", "[checkpoint]") {
  ScratchDir dir;
  const auto refused = [&](const Stored& tensor) {
    const Checkpoint checkpoint(file_of(dir, {{"w.weight", tensor}, {"w.weight_scale", {"F32", {}, raw<float>({1})}}}),
                                {.method = QuantMethod::scaled, .name = "fp8"});
    return complaint([&] { values_of(*checkpoint.tensor("w.weight", tensor.shape)); });
  };
  const std::string words = "no finite number, or too large for bf16";
  CHECK_THAT(refused({"F32", {1, 2}, raw<float>({1, 3.4e38f})}), contains(words));
  CHECK_THAT(refused({"F32", {1, 2}, raw<float>({1, std::numeric_limits<float>::quiet_NaN()})}), contains(words));
  CHECK_THAT(refused({"F8_E4M3", {1, 2}, "\x38\x7f"}), contains(words));
  CHECK(refused({"F8_E4M3", {1, 2}, "\x38\x7e"}) == "no error");
}

TEST_CASE("Damaged parts of quantised layers are refused by name", "[checkpoint]") {
  ScratchDir dir;
  const TensorShape shape{16, 32};
  const Quantization scaled{.method = QuantMethod::scaled, .name = "fp8", .block_rows = 8, .block_cols = 8},
      gptq{.method = QuantMethod::gptq, .name = "gptq", .group = 16},
      awq{.method = QuantMethod::awq, .name = "awq", .group = 16};
  const auto with = [&](const std::map<std::string, Stored>& tensors, const Quantization& quantization) {
    const Checkpoint checkpoint(file_of(dir, tensors), quantization);
    return complaint([&] { checkpoint.tensor("m.weight", shape); });
  };
  const Stored codes{"I8", shape, zeros(512)}, scales{"F32", {2, 4}, zeros(32)};
  CHECK(with({{"m.weight", codes}, {"m.weight_scale_inv", scales}}, scaled) == "no error");
  CHECK_THAT(with({{"m.weight", codes}}, scaled), contains("tensor \"m.weight_scale\" is missing"));
  CHECK_THAT(
      with({{"m.weight", codes}, {"m.weight_scale", {"F32", {3}, zeros(12)}}}, scaled),
      contains("tensor \"m.weight_scale\" is [3]; expected one scale, one a row ([16, 1]) or one a block ([2, 4])"));
  CHECK_THAT(with({{"m.weight", codes}, {"m.weight_scale", {"I32", {1}, zeros(4)}}}, scaled),
             contains("tensor \"m.weight_scale\" is I32; expected BF16, F16 or F32"));
  CHECK_THAT(with({{"m.weight", codes}, {"m.weight_scale", {"F32", {1}, raw<float>({INFINITY})}}}, scaled),
             contains("tensor \"m.weight_scale\" holds a value that is no finite number"));
  CHECK_THAT(with({{"m.weight", {"F8_E5M2", shape, zeros(512)}}, {"m.weight_scale", scales}}, scaled),
             contains("tensor \"m.weight\" is F8_E5M2 [16, 32]; expected F8_E4M3 or I8 [16, 32]"));
  CHECK_THAT(with({{"m.weight", codes}, {"m.weight_scale", scales}}, {}),
             contains("tensor \"m.weight\" is I8 [16, 32]; expected BF16, F16 or F32 [16, 32]"));

  std::map<std::string, Stored> packed{{"m.qweight", {"I32", {4, 16}, zeros(256)}},
                                       {"m.qzeros", {"I32", {2, 2}, zeros(16)}},
                                       {"m.scales", {"F16", {2, 16}, zeros(64)}}};
  CHECK(with(packed, gptq) == "no error");
  CHECK_THAT(with(packed, {}),
             contains("tensor \"m.qweight\": is packed, but quantization_config in config.json names no method"));
  CHECK_THAT(with(packed, awq), contains("tensor \"m.qweight\" is I32 [4, 16]; expected I32 [32, 2]"));
  packed["m.g_idx"] = {"I32", {32}, zeros(124) + raw<std::int32_t>({2})};
  CHECK_THAT(with(packed, gptq), contains("tensor \"m.g_idx\": group 2 is out of range; there are 2"));
  packed["m.g_idx"] = {"I32", {32}, zeros(124) + raw<std::int32_t>({-1})};
  CHECK_THAT(with(packed, gptq), contains("group -1 is out of range"));
  packed.erase("m.g_idx");
  packed.erase("m.qzeros");
  CHECK_THAT(with(packed, gptq), contains("tensor \"m.qzeros\" is missing"));
  packed["m.qzeros"] = {"I32", {1, 2}, zeros(8)};
  CHECK_THAT(with(packed, gptq), contains("tensor \"m.qzeros\" is I32 [1, 2]; expected I32 [2, 2]"));
}

TEST_CASE("A stored tensor without a place in the model is refused", "[checkpoint]") {
  ScratchDir dir;
  const Checkpoint checkpoint(file_of(dir, {{"m.weight", {"BF16", {1}, zeros(2)}},
                                            {"m.weight_scale", {"BF16", {1}, zeros(2)}},
                                            {"a.rotary_emb.inv_freq", {"F32", {1}, zeros(4)}}}));
  CHECK_THAT(complaint([&] { checkpoint.refuse_others({"m.weight"}, {}); }),
             contains("model.safetensors: tensor \"m.weight_scale\" (BF16 [1]) has no place in this model"));
  CHECK(complaint([&] { checkpoint.refuse_others({"m.weight", "m.weight_scale"}, {}); }) == "no error");
}

TEST_CASE("quantization_config is read strictly", "[checkpoint]") {
  const auto read = [](const json& value) {
    return complaint([&] { parse_quantization({{"quantization_config", value}}, "config.json"); });
  };
  const auto changed = [&](json value, const json& changes) {
    value.update(changes);
    return read(value);
  };
  const json awq = read_json_file(kData / "quantised/awq/config.json")["quantization_config"];
  const json gptq = read_json_file(kData / "quantised/gptq/config.json")["quantization_config"];
  const json fp8 = read_json_file(kData / "quantised/fp8_blocks/config.json")["quantization_config"];
  const json int8 = read_json_file(kData / "quantised/int8_rows/config.json")["quantization_config"];
  for (const json& good : {awq, gptq, fp8, int8, json()}) CHECK(read(good) == "no error");

  for (const char* method : {"bitsandbytes", "marlin", "aqlm", "mxfp4", "quanto", "hqq", "eetq"})
    CHECK_THAT(read({{"quant_method", method}}),
               contains(fmt::format(
                   "config.json: quantization_config: quant_method \"{}\" is not supported; supported: fp8", method)));
  CHECK_THAT(read({{"bits", 4}}), contains("quantization_config: the key \"quant_method\" is missing"));
  CHECK_THAT(read(json::array()), contains("quantization_config: expected a JSON object"));

  CHECK_THAT(changed(awq, {{"bits", 3}}), contains("\"bits\" is 3; expected 4: awq is supported in 4 bits"));
  CHECK_THAT(changed(awq, {{"version", "gemv"}}), contains("awq version \"gemv\" is not supported; gemm is"));
  CHECK_THAT(changed(awq, {{"zero_point", false}}), contains("\"zero_point\" is false; expected true"));
  CHECK_THAT(changed(awq, {{"group_size", 0}}), contains("\"group_size\" is 0; expected -1 or a multiple of 8"));
  CHECK_THAT(changed(awq, {{"group_size", 1LL << 40}}), contains("\"group_size\" is 1099511627776"));
  CHECK_THAT(changed(awq, {{"kv_cache_scheme", {{"num_bits", 8}}}}),
             contains("the key \"kv_cache_scheme\" is unknown"));
  CHECK_THAT(changed(awq, {{"modules_to_not_convert", 3}}), contains("expected a list of module names"));

  CHECK_THAT(changed(gptq, {{"bits", 3}}), contains("\"bits\" is 3; expected 4: gptq is supported in 4 bits"));
  CHECK_THAT(changed(gptq, {{"checkpoint_format", "marlin"}}),
             contains("gptq checkpoint_format \"marlin\" is not supported; gptq and gptq_v2 are"));
  CHECK_THAT(changed(gptq, {{"is_marlin_format", true}}), contains("\"is_marlin_format\" is true; expected false"));
  CHECK_THAT(changed(gptq, {{"dynamic", {{"-:lm_head", {{"bits", 8}}}}}}), contains("\"dynamic\" is"));
  CHECK_THAT(changed(gptq, {{"rotation", "hadamard"}}), contains("the key \"rotation\" is unknown"));

  CHECK_THAT(changed(fp8, {{"fmt", "e5m2"}}), contains("\"fmt\" is \"e5m2\"; expected \"e4m3\""));
  for (const json& block :
       {json(128), json::array({128}), json::array({0, 128}), json::array({-1, 128}), json::array({1 << 30, 1})})
    CHECK_THAT(changed(fp8, {{"weight_block_size", block}}), contains("expected [rows, columns] of a block"));

  CHECK_THAT(changed(int8, {{"format", "pack-quantized"}}),
             contains("compressed-tensors format \"pack-quantized\" is not supported"));
  CHECK_THAT(changed(int8, {{"format", "marlin-24"}}), contains("format \"marlin-24\" is not supported"));
  CHECK_THAT(changed(int8, {{"kv_cache_scheme", {{"num_bits", 8}}}}),
             contains("\"kv_cache_scheme\" is {\"num_bits\":8}"));
  CHECK_THAT(changed(int8, {{"config_groups", json::object()}}),
             contains("config_groups must be an object with at least one"));
  const auto with_scheme = [&](const json& changes) {
    json value = int8;
    value["config_groups"]["group_0"]["weights"].update(changes);
    return read(value);
  };
  CHECK_THAT(with_scheme({{"num_bits", 4}}), contains("config_groups.group_0.weights: \"num_bits\" is 4; expected 8"));
  CHECK_THAT(with_scheme({{"symmetric", false}}), contains("\"symmetric\" is false; expected true"));
  CHECK_THAT(with_scheme({{"strategy", "group"}}),
             contains("\"strategy\" is \"group\"; expected tensor, channel or block"));
  CHECK_THAT(with_scheme({{"actorder", "weight"}}), contains("\"actorder\" is \"weight\""));
}

}  // namespace longhaul
