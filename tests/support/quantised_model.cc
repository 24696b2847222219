#include "tests/support/quantised_model.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "kernels/base/types.h"
#include "paths.h"
#include "runtime/checkpoint/json_file.h"
#include "runtime/checkpoint/safetensors.h"

namespace longhaul::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::int64_t kGroup = 16;

class Writer {
 public:
  template <class T>
  void add(const std::string& name, const char* dtype, const std::vector<std::int64_t>& shape,
           const std::vector<T>& values) {
    const std::size_t begin = data_.size();
    data_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
    header_[name] = {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {begin, data_.size()}}};
  }
  void write(const fs::path& file) const {
    const std::string text = header_.dump();
    const std::uint64_t size = text.size();
    std::ofstream out(file, std::ios::binary);
    out.write(reinterpret_cast<const char*>(&size), 8) << text << data_;
  }

 private:
  json header_ = json::object();
  std::string data_;
};

struct Matrix {
  std::int64_t rows, cols;
  std::vector<bf16> values;
  float at(std::int64_t r, std::int64_t c) const { return to_float(values[static_cast<std::size_t>(r * cols + c)]); }
};

float largest(const Matrix& m, std::int64_t row, std::int64_t begin, std::int64_t end) {
  float most = 0;
  for (std::int64_t c = begin; c < end; ++c) most = std::max(most, std::abs(m.at(row, c)));
  return most;
}

void add_int8(Writer& out, const std::string& module, const Matrix& m) {
  std::vector<std::int8_t> codes;
  std::vector<float> scales;
  for (std::int64_t r = 0; r < m.rows; ++r) {
    scales.push_back(largest(m, r, 0, m.cols) / 127);
    for (std::int64_t c = 0; c < m.cols; ++c)
      codes.push_back(static_cast<std::int8_t>(std::lround(m.at(r, c) / scales.back())));
  }
  out.add(module + ".weight", "I8", {m.rows, m.cols}, codes);
  out.add(module + ".weight_scale", "F32", {m.rows, 1}, scales);
}

/// A power of two from `x` up, in half precision.
std::uint16_t half_above(float x) {
  return static_cast<std::uint16_t>((15 + static_cast<int>(std::ceil(std::log2(x)))) << 10);
}

void add_gptq(Writer& out, const std::string& module, const Matrix& m) {
  const std::int64_t groups = (m.cols + kGroup - 1) / kGroup;
  std::vector<std::uint32_t> words(static_cast<std::size_t>(m.cols / 8 * m.rows));
  std::vector<std::uint16_t> scales(static_cast<std::size_t>(groups * m.rows));
  for (std::int64_t r = 0; r < m.rows; ++r)
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t begin = g * kGroup, end = std::min(begin + kGroup, m.cols);
      const std::uint16_t half = half_above(largest(m, r, begin, end) / 7);
      scales[static_cast<std::size_t>(g * m.rows + r)] = half;
      const float scale = std::ldexp(1.0f, (half >> 10) - 15);
      for (std::int64_t c = begin; c < end; ++c) {
        const auto code = static_cast<std::uint32_t>(std::lround(m.at(r, c) / scale) + 8);
        words[static_cast<std::size_t>(c / 8 * m.rows + r)] |= code << 4 * (c % 8);
      }
    }
  const std::vector<std::uint32_t> zeros(static_cast<std::size_t>(groups * m.rows / 8), 0x77777777u);  // stored less 1
  out.add(module + ".qweight", "I32", {m.cols / 8, m.rows}, words);
  out.add(module + ".qzeros", "I32", {groups, m.rows / 8}, zeros);
  out.add(module + ".scales", "F16", {groups, m.rows}, scales);
}

}  // namespace

void write_quantised(const fs::path& model, const fs::path& to, Quantised kind,
                     const std::function<bool(const std::string&)>& keeps) {
  const std::string like = kind == Quantised::gptq ? "gptq" : "int8_rows";
  json config = read_json_file(model / "config.json");
  config["quantization_config"] = read_json_file(fs::path(LONGHAUL_SOURCE_DIR) / "tests/data/quantised" / like /
                                                 "config.json")["quantization_config"];
  if (kind == Quantised::gptq) config["quantization_config"]["group_size"] = kGroup;
  std::ofstream(to / "config.json") << config.dump(1);

  const Safetensors files = Safetensors::open_model(model);
  Writer out;
  for (const auto& [name, info] : files.tensors()) {
    std::vector<bf16> values(static_cast<std::size_t>(info.bytes / 2));
    files.read(info, 0, info.bytes, reinterpret_cast<std::byte*>(values.data()));
    constexpr std::string_view kWeight = ".weight";
    const bool layers = name.starts_with("model.layers.") && name.ends_with(kWeight) && info.shape.size() == 2;
    if (!layers || name.ends_with(".gate.weight") || keeps(name)) {
      out.add(name, "BF16", info.shape, values);
      continue;
    }
    const std::string module = name.substr(0, name.size() - kWeight.size());
    const Matrix matrix{info.shape[0], info.shape[1], std::move(values)};
    kind == Quantised::gptq ? add_gptq(out, module, matrix) : add_int8(out, module, matrix);
  }
  out.write(to / "model.safetensors");
}

}  // namespace longhaul::test
