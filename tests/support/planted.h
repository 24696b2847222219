// Kernels with one mistake each. They prove that a sanitizer is on, and how the process takes a fatal error; only cases
// tagged [.planted] launch them.
#pragma once

namespace longhaul::test {

enum class Mistake {
  out_of_bounds,   // memcheck: writes one element past the allocation
  race,            // racecheck: reads shared memory that another warp writes, without a barrier
  uninitialised,   // initcheck: adds up memory that nothing has written
  divergence,      // synccheck: a barrier that half of the block's threads reach
  illegal_address  // fatal
};

/// On the current device; returns when it has run, whatever has come of it.
void plant(Mistake mistake);

}  // namespace longhaul::test
