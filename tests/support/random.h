// Fresh random inputs from a named seed, and outputs poisoned with NaN, as tensors of either type.
#pragma once
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/base/types.h"

namespace longhaul::test {

/// A flat owner of elements of one type.
struct Tensor {
  DType type;
  std::int64_t size;
  std::vector<std::byte> bytes;

  Tensor(DType type_, std::int64_t size_, double fill = std::numeric_limits<double>::quiet_NaN())
      : type(type_), size(size_), bytes(size_ * size_of(type_)) {
    for (std::int64_t i = 0; i < size; ++i) set(i, fill);
  }
  void* data() { return bytes.data(); }
  std::byte* at(std::int64_t i) { return bytes.data() + i * size_of(type); }
  float* floats() { return reinterpret_cast<float*>(bytes.data()); }
  bf16* halves() { return reinterpret_cast<bf16*>(bytes.data()); }
  double get(std::int64_t i) const {
    if (type == DType::f32) return read<float>(i);
    return to_float(read<bf16>(i));
  }
  void set(std::int64_t i, double value) {
    const float x = static_cast<float>(value);
    const bf16 half = to_bf16(x);
    if (type == DType::f32) std::memcpy(at(i), &x, sizeof x);
    else std::memcpy(at(i), &half, sizeof half);
  }
  std::vector<double> values() const {
    std::vector<double> out(size);
    for (std::int64_t i = 0; i < size; ++i) out[i] = get(i);
    return out;
  }

 private:
  template <class T>
  T read(std::int64_t i) const {
    T x;
    std::memcpy(&x, bytes.data() + i * sizeof(T), sizeof x);
    return x;
  }
};

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  Tensor normal(DType type, std::int64_t size, double deviation = 1) {
    Tensor t(type, size);
    std::normal_distribution<double> draw(0, deviation);
    for (std::int64_t i = 0; i < size; ++i) t.set(i, draw(engine_));
    return t;
  }
  /// In [low, high].
  std::int64_t integer(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(engine_);
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace longhaul::test
