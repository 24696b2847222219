#include "runtime/checkpoint/checkpoint.h"

#include <fmt/ranges.h>

#include "kernels/base/error.h"
#include "runtime/checkpoint/gguf_weights.h"
#include "runtime/checkpoint/json_file.h"
#include "runtime/checkpoint/quantised_readers.h"

namespace longhaul {
namespace {

/// The tensors of a module show how it is stored; what config.json announces must agree.
std::unique_ptr<TensorReader> find_in_safetensors(const TensorFiles& files, const Quantization& quantization,
                                                  const std::string& name, const TensorShape& shape) {
  using enum QuantMethod;
  constexpr std::string_view kWeight = ".weight";
  const std::string module = name.ends_with(kWeight) ? name.substr(0, name.size() - kWeight.size()) : name;
  const TensorInfo* stored = files.find(name);
  if (files.find(module + ".qweight") != nullptr && shape.size() == 2) {
    if (quantization.method == awq) return awq_reader(files, module, shape, quantization);
    if (quantization.method == gptq) return gptq_reader(files, module, shape, quantization);
    throw UserError(Exit::bad_model,
                    "{}: is packed, but quantization_config in config.json names no method that packs ({})",
                    files.where(module + ".qweight", *files.find(module + ".qweight")), quantization.name);
  }
  if (stored != nullptr && !is_float(stored->dtype) && quantization.method == scaled)
    return scaled_reader(files, module, shape, quantization);
  return float_reader(files, name, shape);
}

}  // namespace

Checkpoint::Checkpoint(Safetensors files, Quantization quantization)
    : files_(std::make_shared<Safetensors>(std::move(files))),
      find_([quantization](const TensorFiles& from, const std::string& name, const TensorShape& shape) {
        return find_in_safetensors(from, quantization, name, shape);
      }),
      quantised_(quantization.method != QuantMethod::none) {}

Checkpoint::Checkpoint(std::shared_ptr<const Gguf> file) : files_(file), find_(gguf_finder(*file)), quantised_(true) {}

std::unique_ptr<TensorReader> Checkpoint::tensor(const std::string& name, const TensorShape& shape) const {
  return find_(*files_, name, shape);
}

void Checkpoint::refuse_others(const std::set<std::string>& used, const ModelConfig& config) const {
  for (const auto& [name, info] : files_->tensors())
    if (!used.contains(name) && !is_derived(name, config))
      throw UserError(Exit::bad_model, "{} ({} [{}]) has no place in this model", files_->where(name, info), info.dtype,
                      fmt::join(info.shape, ", "));
}

bool is_derived(const std::string& name, const ModelConfig& config) {
  return name.ends_with("rotary_emb.inv_freq") || name == kGgufRopeFactors || name == kGgufShortFactors ||
         name == kGgufLongFactors || (config.tied_embeddings && name.starts_with("lm_head."));
}

}  // namespace longhaul
