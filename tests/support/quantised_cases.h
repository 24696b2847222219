// The small checkpoints of tests/data/quantised, and files that a test makes of single tensors.
#pragma once
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "paths.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/gguf_weights.h"
#include "runtime/checkpoint/json_file.h"
#include "runtime/checkpoint/model_source.h"
#include "tests/support/scratch_dir.h"

namespace longhaul::test {

inline const std::filesystem::path kData = std::filesystem::path(LONGHAUL_SOURCE_DIR) / "tests/data";

inline TensorShape shape_in_base(const std::string& name) {
  static const Safetensors base = Safetensors::open_model(kData / "families/llama3_gqa");
  TensorShape shape = base.tensors().at(name).shape;
  if (shape[0] == 320) shape[0] = 64;  // the rows of the vocabulary that the quantised ones kept
  return shape;
}

inline std::vector<bf16> values_of(const TensorReader& reader) {
  std::vector<bf16> values(static_cast<std::size_t>(reader.rows() * reader.cols()));
  std::vector<std::byte> stored(static_cast<std::size_t>(reader.stored_bytes(reader.rows())));
  const RowSpan all{0, reader.rows()};
  reader.fetch(all, stored.data());
  reader.convert(stored.data(), all, all, values.data());
  return values;
}

/// A case's tensors as its dequantised.json names them.
struct QuantisedCase {
  explicit QuantisedCase(const std::string& name)
      : dir(kData / "quantised" / name), source(dir.string()), weights(source.weights()) {
    const nlohmann::json expected = read_json_file(dir / "dequantised.json");
    for (const auto& [tensor, hash] : expected.items()) {
      TensorShape shape = is_gguf() ? weights.files().tensors().at(gguf_name(tensor)).shape : shape_in_base(tensor);
      if (shape.size() == 3) shape.erase(shape.begin());  // experts come one by one
      readers.emplace(tensor, weights.tensor(tensor, shape));
      shapes.emplace(tensor, shape);
      hashes.emplace(tensor, hash.get<std::string>());
    }
  }
  bool is_gguf() const { return dir.filename().string().starts_with("gguf"); }
  /// Of the model that the case was made of.
  ModelConfig config() const {
    const std::filesystem::path made_of = dir / "expected.json";
    return std::filesystem::exists(made_of) ? parse_model_config(read_json_file(made_of), made_of.string())
                                            : source.config();
  }
  std::filesystem::path dir;
  ModelSource source;
  Checkpoint weights;
  std::map<std::string, std::unique_ptr<TensorReader>> readers;
  std::map<std::string, TensorShape> shapes;
  std::map<std::string, std::string> hashes;
};

/// A safetensors file of these tensors: dtype, shape, data.
struct Stored {
  std::string dtype;
  TensorShape shape;
  std::string data;
};
inline Safetensors file_of(const ScratchDir& dir, const std::map<std::string, Stored>& tensors) {
  nlohmann::json header = nlohmann::json::object();
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const std::size_t begin = data.size();
    data += tensor.data;
    header[name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  const std::string text = header.dump();
  const std::uint64_t size = text.size();
  std::string bytes(reinterpret_cast<const char*>(&size), 8);
  return Safetensors::open_file(dir.write("model.safetensors", bytes + text + data));
}
template <class T>
std::string raw(std::initializer_list<T> values) {
  return {reinterpret_cast<const char*>(std::data(values)), values.size() * sizeof(T)};
}

}  // namespace longhaul::test
