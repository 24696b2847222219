// Which of the compiled instruction sets runs.
#include <array>
#include <atomic>

#include "kernels/base/error.h"
#include "kernels/cpu/simd/simd.h"

namespace longhaul::cpu {

#ifdef __x86_64__
namespace isa_v3 {
extern const Simd kTable;
}
namespace isa_v4 {
extern const Simd kTable;
}
#else
namespace isa_native {
extern const Simd kTable;
}
#endif

namespace {

std::array<const Simd*, 3> find_isas() {
  std::array<const Simd*, 3> found{};
  std::size_t n = 0;
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    found[n++] = &isa_v4::kTable;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
    found[n++] = &isa_v3::kTable;
  if (n == 0) throw DeviceError("this processor has no AVX2; the CPU operators need it");
#else
  found[n++] = &isa_native::kTable;
#endif
  return found;
}

std::atomic<const Simd*>& chosen() {
  static std::atomic<const Simd*> isa{available_isas()[0]};
  return isa;
}

}  // namespace

const Simd* const* available_isas() {
  static const std::array<const Simd*, 3> isas = find_isas();
  return isas.data();
}

const Simd& simd() { return *chosen().load(std::memory_order_relaxed); }
void use_isa(const Simd& isa) { chosen() = &isa; }

}  // namespace longhaul::cpu
