// What the operators of synthetic_ops.h give, element by element: one definition for all devices. constexpr, so that
// device code can call it.
#pragma once
#include "kernels/sampling.h"
#include "kernels/synthetic_ops.h"

namespace longhaul::synthetic {

constexpr std::uint64_t word_sum(std::uint64_t word, std::int64_t head, std::int64_t row, std::int64_t place) {
  return sampling::mix(word ^
                       sampling::mix(static_cast<std::uint64_t>(row) << 24 ^ static_cast<std::uint64_t>(head) << 12 ^
                                     static_cast<std::uint64_t>(place)));
}

constexpr std::int64_t kHeadShift = 7;

/// In double, where the product is exact: then it does not matter whether a compiler fuses product and sum.
constexpr float random_value(std::uint64_t seed, std::uint64_t i, float mean, float spread) {
  const auto bits = static_cast<std::int32_t>(sampling::mix(seed ^ i * 0x9e3779b97f4a7c15u) >> 40) - (1 << 23);
  return static_cast<float>(static_cast<double>(mean) + static_cast<double>(spread) * (bits * 0x1p-23));
}

constexpr std::int64_t recorded_step(std::int64_t step, std::int64_t steps) {
  const std::int64_t at = step % (2 * steps);
  return at < steps ? at : 2 * steps - 1 - at;
}

/// One list: its parts are sinks, `between` rows and the window.
struct ReplayedList {
  std::int64_t rows, sinks, window, between;
  const std::int32_t* recorded;  // null: every `every`-th row, another one at each step
  std::int64_t every, step;
  std::uint64_t seed;

  constexpr std::int64_t size() const { return sinks + between + window; }
  constexpr std::int32_t middle(std::int64_t i) const {
    if (recorded != nullptr) return recorded[i];
    const auto phase = static_cast<std::int64_t>(sampling::mix(seed ^ static_cast<std::uint64_t>(i)) >> 33);
    return static_cast<std::int32_t>(sinks + i * every + (phase + step) % every);
  }
  /// The i-th row, ascending in i.
  constexpr std::int32_t row(std::int64_t i, float recall) const {
    if (i < sinks) return static_cast<std::int32_t>(i);
    i -= sinks;
    if (i >= between) return static_cast<std::int32_t>(rows - window + (i - between));
    const std::int32_t row = middle(i);
    if (recall >= 1) return row;
    const std::uint64_t drawn =
        sampling::mix(seed ^ static_cast<std::uint64_t>(row) << 20 ^ static_cast<std::uint64_t>(step));
    const bool right = static_cast<float>(drawn >> 40) * 0x1p-24f < recall;
    const std::int64_t next = i + 1 < between ? middle(i + 1) : rows - window;
    return right || row + 1 >= next ? row : row + 1;
  }
};

/// KV head h's list for one span.
constexpr ReplayedList replayed_list(const ReplayArgs& a, const StepSpan& span, std::int64_t h) {
  ReplayedList l{.rows = span.rows,
                 .sinks = span.sinks < span.rows ? span.sinks : span.rows,
                 .window = 0,
                 .between = 0,
                 .recorded = nullptr,
                 .every = 1,
                 .step = span.rows + a.shift + h / a.heads * kHeadShift,
                 .seed = static_cast<std::uint64_t>(a.first_list) << 32 | static_cast<std::uint64_t>(h)};
  l.window = l.rows - l.sinks < span.window ? l.rows - l.sinks : span.window;
  const std::int64_t free = l.rows - l.sinks - l.window;  // rows between sinks and window
  const std::int64_t most = span.budget < l.rows ? span.budget - l.sinks - l.window : free;
  if (most <= 0) return l;
  if (a.rows == nullptr) {
    l.between = most;
    l.every = free / most;
    return l;
  }
  const std::int64_t at = recorded_step(l.step, a.steps) * a.lists + a.first_list + h % a.heads;
  const std::int32_t *recorded = a.rows + at * a.stride, *end = recorded + a.count[at];
  while (recorded < end && *recorded < l.sinks) ++recorded;
  // How many are before the window: the recording may have been of a longer session.
  std::int64_t low = 0, high = end - recorded;
  while (low < high) {
    const std::int64_t half = (low + high) / 2;
    if (recorded[half] < l.rows - l.window) low = half + 1;
    else high = half;
  }
  l.recorded = recorded;
  l.between = low < most ? low : most;
  return l;
}

}  // namespace longhaul::synthetic
