// GGUF files byte by byte, sound or damaged.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace longhaul::test {

template <class T>
std::string little_endian(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
inline std::string gguf_string(const std::string& text) { return little_endian<std::uint64_t>(text.size()) + text; }

/// A value with its type: whole numbers as u32, others as f32, lists by their first element.
inline std::string gguf_value(const nlohmann::json& value) {
  const auto type = [](const nlohmann::json& v) -> std::uint32_t {
    return v.is_array() ? 9 : v.is_string() ? 8 : v.is_boolean() ? 7 : v.is_number_float() ? 6 : v < 0 ? 5 : 4;
  };
  const auto bytes = [](const nlohmann::json& v) {
    if (v.is_string()) return gguf_string(v.get<std::string>());
    if (v.is_boolean()) return std::string(1, v.get<bool>() ? '\1' : '\0');
    if (v.is_number_float()) return little_endian(v.get<float>());
    return v < 0 ? little_endian(v.get<std::int32_t>()) : little_endian(v.get<std::uint32_t>());
  };
  if (!value.is_array()) return little_endian(type(value)) + bytes(value);
  std::string out = little_endian<std::uint32_t>(9) + little_endian(value.empty() ? 4u : type(value[0]));
  out += little_endian<std::uint64_t>(value.size());
  for (const auto& one : value) out += bytes(one);
  return out;
}

struct GgufTensor {
  std::string name;
  std::vector<std::uint64_t> dims;  // the row's length first
  std::uint32_t type;
  std::uint64_t offset, bytes;
};

struct GgufFile {
  std::string magic = "GGUF";
  std::uint32_t version = 3;
  nlohmann::ordered_json metadata = nlohmann::ordered_json::object();
  std::vector<GgufTensor> tensors;
  std::string keys_before = {};  // entries as bytes
  std::uint64_t more_keys = 0, more_tensors = 0;
  std::uint64_t alignment = 32;

  std::string head() const {
    std::string out = magic + little_endian(version) + little_endian<std::uint64_t>(tensors.size() + more_tensors) +
                      little_endian<std::uint64_t>(metadata.size() + more_keys) + keys_before;
    for (const auto& [key, value] : metadata.items()) out += gguf_string(key) + gguf_value(value);
    for (const GgufTensor& t : tensors) {
      out += gguf_string(t.name) + little_endian<std::uint32_t>(static_cast<std::uint32_t>(t.dims.size()));
      for (std::uint64_t d : t.dims) out += little_endian(d);
      out += little_endian(t.type) + little_endian(t.offset);
    }
    return out;
  }
  /// With data up to the end of the last tensor.
  std::string bytes() const {
    std::string out = head();
    out.resize((out.size() + alignment - 1) / alignment * alignment);
    return tensors.empty() ? out : out + std::string(tensors.back().offset + tensors.back().bytes, '\0');
  }
};

}  // namespace longhaul::test
