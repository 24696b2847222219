// The manifest beside a batch's output: which model, options and inputs its records answer. A job goes on with an
// output whose manifest says the same.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>

#include "runtime/batch/record.h"

namespace longhaul {

class Manifest {
 public:
  using Json = nlohmann::ordered_json;
  /// `model` and `options`: everything that an answer depends on, and no more, so that a job may go on with another
  /// budget, batch size or order. The inputs count by their content, in no order.
  Manifest(Json model, Json options, std::span<const InputKey> inputs = {});
  /// The same job's, once its inputs are known.
  Manifest of_inputs(std::span<const InputKey> inputs) const;

  /// 32 hex digits.
  const std::string& fingerprint() const { return fingerprint_; }
  /// The same of the model and the options alone.
  std::string job() const;
  std::string text() const;

  /// The manifest in FILE; none where there is no file. Throws UserError{usage} when it is no manifest.
  static std::optional<Manifest> read(const std::string& file);
  /// What `had` says otherwise, in words: "options.max_tokens = 12, not 20"; empty where they agree. The inputs count
  /// only with `inputs_too`.
  std::string difference(const Manifest& had, bool inputs_too) const;

 private:
  explicit Manifest(Json all);
  Json all_;
  std::string fingerprint_;
};

std::string manifest_name(const std::string& output);

}  // namespace longhaul
