// A decode step's batch for tests: some of more slots than there are tokens, so that slots and places differ.
#pragma once
#include <vector>

#include "kernels/ops.h"
#include "tests/support/random.h"

namespace longhaul::test {

struct Batch {
  std::int64_t count = 0, capacity = 0, slots = count + 2;
  std::vector<StepSpan> spans = std::vector<StepSpan>(count);

  Batch() = default;
  /// Every span has a slot of its own, not that of its place.
  Batch(Random& random, std::int64_t count_, std::int64_t capacity_) : count(count_), capacity(capacity_) {
    // Rotated by at least one: place i has slot (i + turn) % slots.
    const std::int64_t turn = random.integer(1, slots - 1);
    for (std::int64_t i = 0; i < count; ++i) spans[i].slot = static_cast<std::int32_t>((i + turn) % slots);
  }
  StepBatch view() const { return {spans.data(), count, capacity}; }
  /// The span at a place, alone.
  StepBatch one(std::int64_t place) const { return {spans.data() + place, 1, capacity}; }
};

}  // namespace longhaul::test
