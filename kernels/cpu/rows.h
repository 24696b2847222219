// Rows of activations as float32, whatever their type.
#pragma once
#include <cstring>

#include "kernels/cpu/simd/simd.h"

namespace longhaul::cpu {

inline const std::byte* at(const void* base, DType type, std::int64_t element) {
  return static_cast<const std::byte*>(base) + element * size_of(type);
}
inline std::byte* at(void* base, DType type, std::int64_t element) {
  return static_cast<std::byte*>(base) + element * size_of(type);
}

/// n elements as float32: where they are, or widened into `space`.
inline const float* read_row(const void* row, DType type, std::int64_t n, float* space) {
  if (type == DType::f32) return static_cast<const float*>(row);
  simd().widen(static_cast<const bf16*>(row), space, n);
  return space;
}

inline void write_row(const float* x, void* row, DType type, std::int64_t n) {
  if (type == DType::f32) std::memcpy(row, x, n * sizeof(float));
  else simd().narrow(x, static_cast<bf16*>(row), n);
}

/// Rows a task should take so that it has about 16K elements to work on.
inline std::int64_t row_grain(std::int64_t elements) { return elements < 16384 ? 16384 / (elements + 1) + 1 : 1; }

}  // namespace longhaul::cpu
