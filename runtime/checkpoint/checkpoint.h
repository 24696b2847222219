// A model's weights as its files hold them, given out by their Hugging Face names in bf16: the one seam between file
// formats and what is computed. A format is a function that finds a TensorReader for a name.
#pragma once
#include <functional>
#include <memory>
#include <set>
#include <string>

#include "runtime/checkpoint/gguf.h"
#include "runtime/checkpoint/quantization_config.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/checkpoint/tensor_reader.h"
#include "runtime/model/model_config.h"

namespace longhaul {

class Checkpoint {
 public:
  Checkpoint(Safetensors files, Quantization quantization = {});
  explicit Checkpoint(std::shared_ptr<const Gguf> file);

  /// Reads nothing but small tables of scales. Throws UserError{bad_model} where the tensor is absent, has another
  /// shape, or is stored in a way that is not supported.
  std::unique_ptr<TensorReader> tensor(const std::string& name, const TensorShape& shape) const;
  /// Throws UserError{bad_model} for a stored tensor that is not in `used`, but for derived ones.
  void refuse_others(const std::set<std::string>& used, const ModelConfig& config) const;
  /// Whether any tensor can be stored as what is packed: else none is asked for.
  bool is_quantised() const { return quantised_; }
  const TensorFiles& files() const { return *files_; }

 private:
  using Finder =
      std::function<std::unique_ptr<TensorReader>(const TensorFiles&, const std::string&, const TensorShape&)>;
  std::shared_ptr<const TensorFiles> files_;
  Finder find_;
  bool quantised_;
};

/// Not beside the weights but computed from them or from config.json, and absent from some copies.
bool is_derived(const std::string& stored_name, const ModelConfig& config);

}  // namespace longhaul
