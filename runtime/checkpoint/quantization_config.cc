#include "runtime/checkpoint/quantization_config.h"

#include <algorithm>

#include "runtime/checkpoint/json_file.h"

namespace longhaul {
namespace {

using nlohmann::json;
constexpr std::int64_t kMostGroup = 1 << 20;

[[noreturn]] void refuse(const std::string& where, std::string_view what) {
  throw UserError(Exit::bad_model, "{}: {}", where, what);
}

void expect_names(JsonObject& object, const char* key) {
  const json* list = object.take(key);
  if (list == nullptr) return;
  const bool good = list->is_array() && std::ranges::all_of(*list, [](const json& one) { return one.is_string(); });
  if (!good) object.refuse(key, "a list of module names");
}

/// -1 stands for all inputs.
std::int64_t read_group(JsonObject& object) {
  const auto group = object.require("group_size", object.whole("group_size", -1, kMostGroup));
  if (group == 0 || (group > 0 && group % 8 != 0)) object.refuse("group_size", "-1 or a multiple of 8");
  return std::max<std::int64_t>(group, 0);
}

void read_bits(JsonObject& object, const char* key, const std::string& method) {
  if (object.require(key, object.whole(key, 1, 64)) != 4)
    object.refuse(key, "4: " + method + " is supported in 4 bits");
}

/// `weight_block_size` or block_structure: [rows, columns].
void read_block(JsonObject& object, const char* key, Quantization& out) {
  const json* block = object.take(key);
  if (block == nullptr) return;
  const auto size = [](const json& one) { return one.is_number_unsigned() && one > 0 && one <= kMostGroup; };
  if (!block->is_array() || block->size() != 2 || !size((*block)[0]) || !size((*block)[1]))
    object.refuse(key, "[rows, columns] of a block");
  out.block_rows = (*block)[0].get<std::int64_t>();
  out.block_cols = (*block)[1].get<std::int64_t>();
}

Quantization read_fp8(JsonObject& object) {
  Quantization out{.method = QuantMethod::scaled, .name = "fp8"};
  object.only("fmt", {"e4m3", "float8_e4m3fn"});
  object.only("activation_scheme", {"dynamic", "static"});
  object.only("scale_fmt", {"float", "ue8m0"});  // of how the scales were chosen; they are stored as numbers
  object.only("dequantize", {true, false});
  read_block(object, "weight_block_size", out);
  for (const char* key : {"modules_to_not_convert", "ignored_layers"}) expect_names(object, key);
  return out;
}

Quantization read_awq(JsonObject& object, const std::string& where) {
  Quantization out{.method = QuantMethod::awq, .name = "awq"};
  read_bits(object, object.take("w_bit") != nullptr ? "w_bit" : "bits", "awq");
  out.group = read_group(object);
  const std::string version = object.text("version").value_or("gemm");
  if (version != "gemm" && version != "GEMM")
    refuse(where, fmt::format("awq version {} is not supported; gemm is", quoted(version)));
  object.only("zero_point", {true});
  expect_names(object, "modules_to_not_convert");
  object.ignore({"backend", "do_fuse", "fuse_max_seq_len", "exllama_config", "modules_to_fuse"});
  return out;
}

Quantization read_gptq(JsonObject& object, const std::string& where) {
  Quantization out{.method = QuantMethod::gptq, .name = "gptq"};
  read_bits(object, "bits", "gptq");
  out.group = read_group(object);
  const auto before = object.text("format");
  const std::string format = object.text("checkpoint_format").value_or(before.value_or("gptq"));
  if (format != "gptq" && format != "gptq_v2")
    refuse(where, fmt::format("gptq checkpoint_format {} is not supported; gptq and gptq_v2 are", quoted(format)));
  out.zero_offset = format == "gptq" ? 1 : 0;
  object.only("is_marlin_format", {false});
  object.only("dynamic", {json::object()});  // other bits for some modules
  object.only("pack_dtype", {"int32"});
  for (const char* key : {"desc_act", "sym", "lm_head", "static_groups", "true_sequential"}) object.boolean(key);
  for (const char* key : {"modules_to_not_convert", "modules_in_block_to_quantize"}) object.ignore({key});
  // How it was made, and which kernels the makers prefer.
  object.ignore({"damp_percent",
                 "damp_auto_increment",
                 "dataset",
                 "tokenizer",
                 "model_seqlen",
                 "block_name_to_quantize",
                 "module_name_preceding_first_block",
                 "batch_size",
                 "pad_token_id",
                 "use_cuda_fp16",
                 "use_exllama",
                 "disable_exllama",
                 "exllama_config",
                 "max_input_length",
                 "cache_block_outputs",
                 "model_name_or_path",
                 "model_file_base_name",
                 "quantizer",
                 "meta",
                 "mse",
                 "backend",
                 "uuid",
                 "act_group_aware"});
  return out;
}

/// config_groups of compressed-tensors: each group of modules must have one of the schemes that the readers know. What
/// the scales belong to shows in their shapes, but for the size of blocks.
void read_group_scheme(const json& value, const std::string& where, const std::string& type, Quantization& out) {
  JsonObject group(value, where);
  const json* weights = group.take("weights");
  if (weights == nullptr) group.missing("weights");
  group.only("output_activations", {});
  group.only("format", {"int-quantized", "float-quantized", "naive-quantized"});
  group.ignore({"input_activations"});
  expect_names(group, "targets");
  group.finish();

  JsonObject scheme(*weights, where + ".weights");
  if (scheme.require("num_bits", scheme.whole("num_bits", 1, 64)) != 8) scheme.refuse("num_bits", "8");
  scheme.only("type", {type});
  scheme.only("symmetric", {true});
  scheme.only("dynamic", {false});
  scheme.only("group_size", {-1});
  scheme.only("actorder", {});
  const std::string strategy = scheme.text("strategy").value_or("tensor");
  if (strategy != "tensor" && strategy != "channel" && strategy != "block")
    scheme.refuse("strategy", "tensor, channel or block");
  read_block(scheme, "block_structure", out);
  if (strategy == "block" && out.block_rows == 0) scheme.missing("block_structure");
  scheme.ignore({"observer", "observer_kwargs", "scale_dtype", "zp_dtype"});
  scheme.finish();
}

Quantization read_compressed_tensors(JsonObject& object, const std::string& where) {
  Quantization out{.method = QuantMethod::scaled, .name = "compressed-tensors"};
  const std::string format = object.require("format", object.text("format"));
  if (format != "int-quantized" && format != "float-quantized" && format != "naive-quantized")
    refuse(where,
           fmt::format("compressed-tensors format {} is not supported; int-quantized and float-quantized (8 bits) are",
                       quoted(format)));
  const json* groups = object.take("config_groups");
  if (groups == nullptr || !groups->is_object() || groups->empty())
    refuse(where, "config_groups must be an object with at least one group");
  for (const auto& [name, group] : groups->items()) {
    const std::string group_where = fmt::format("{}.config_groups.{}", where, name);
    const json* weights = group.is_object() && group.contains("weights") ? &group["weights"] : nullptr;
    const bool fp8 = weights != nullptr && weights->is_object() && weights->value("type", json()) == "float";
    read_group_scheme(group, group_where, fp8 ? "float" : "int", out);
  }
  object.only("kv_cache_scheme", {});
  object.only("quantization_status", {"compressed", "frozen"});
  object.only("sparsity_config", {json::object(), {{"format", "dense"}}});
  object.only("transform_config", {json::object()});
  expect_names(object, "ignore");
  object.ignore({"global_compression_ratio", "version"});
  return out;
}

}  // namespace

Quantization parse_quantization(const json& config, const std::string& file) {
  const auto found = config.find("quantization_config");
  if (found == config.end() || found->is_null()) return {};
  const std::string where = file + ": quantization_config";
  JsonObject object(*found, where);
  const std::string method = object.require("quant_method", object.text("quant_method"));
  const auto read = [&] {
    if (method == "fp8") return read_fp8(object);
    if (method == "compressed-tensors") return read_compressed_tensors(object, where);
    if (method == "awq") return read_awq(object, where);
    if (method == "gptq") return read_gptq(object, where);
    throw UserError(Exit::bad_model,
                    "{}: quant_method {} is not supported; supported: fp8, compressed-tensors (8 bits), awq, gptq",
                    where, quoted(method));
  };
  Quantization out = read();
  object.finish();
  return out;
}

}  // namespace longhaul
