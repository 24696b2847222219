// Runs a test once for each compiled instruction set that this processor has.
#pragma once
#include "kernels/cpu/simd/simd.h"
#include "tests/support/catch.h"

namespace longhaul::test {

template <class Body>
void for_each_isa(const Body& body) {
  for (auto isa = cpu::available_isas(); *isa; ++isa) {
    cpu::use_isa(**isa);
    INFO("isa " << (*isa)->name);
    body();
  }
  cpu::use_isa(*cpu::available_isas()[0]);
}

}  // namespace longhaul::test
