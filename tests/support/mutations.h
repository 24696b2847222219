// Runs of the tiny model with waits dropped, and with what can be in host memory there.
#pragma once
#include <algorithm>
#include <array>

#include "offload/edges.h"
#include "tests/support/tiny_model.h"

namespace longhaul::test {

/// With all weights streamed and hidden states spilled.
inline RunOptions away(RunOptions options) {
  options.streamed_layers = TinyShape{}.layers;
  options.spill_hidden = true;
  return options;
}

inline constexpr std::array kPlacementEdges{edge::kHiddenFree,    edge::kHiddenStored,  edge::kHiddenLanded,
                                            edge::kHiddenWritten, edge::kWeightsLanded, edge::kNextWeightsLanded,
                                            edge::kWeightsFree,   edge::kPrefillPaused};
constexpr bool of_placement(Edge edge) {
  return std::ranges::any_of(kPlacementEdges, [&](Edge e) { return e.name == edge.name; });
}

/// Three chunks a layer, so that a slot is given on; and what is predicted is attended, so that look-ahead's weights
/// show.
inline std::vector<RunOptions> away_runs() {
  return {away({.activations = DType::f32, .prompts = {120}, .steps = 2, .device = {.poison = true}}),
          away({.policy = "published-offload",
                .sets = {"rows=48", "window=8", "label_dims=8", "eager_layers=[0]"},
                .activations = DType::f32,
                .prompts = {120},
                .steps = 3,
                .device = {.poison = true}})};
}
inline std::vector<CpuDelay> placement_delays() {
  return {{.stream = "compute", .microseconds = 150},
          {.stream = "aside", .microseconds = 1500},
          {.stream = "weights", .microseconds = 2000},
          {.stream = "fetch", .microseconds = 1500},
          {.stream = "store", .microseconds = 5000}};
}

/// Runs with each stream slowed down in turn, and with a wait dropped or none.
class Mutations {
 public:
  Mutations(std::vector<RunOptions> runs, std::vector<CpuDelay> profiles)
      : runs_(std::move(runs)), profiles_(std::move(profiles)) {
    for (const RunOptions& run : runs_) expected_.push_back(run_tiny(run));
  }
  bool all_right(std::string_view drop) const {
    for (std::size_t run = 0; run < runs_.size(); ++run)
      for (const CpuDelay& delay : profiles_)
        if (!right(run, delay, drop)) return false;
    return true;
  }

 private:
  bool right(std::size_t run, const CpuDelay& delay, std::string_view drop) const {
    RunOptions options = runs_[run];
    options.device.delays = {delay};
    options.device.drop_wait = drop;
    try {
      return same(run_tiny(options), expected_[run]);
    } catch (const std::exception&) {
      return false;  // a poisoned read became a sampled token of -1, an id outside the vocabulary, or a list without
                     // sense
    }
  }

  std::vector<RunOptions> runs_;
  std::vector<CpuDelay> profiles_;
  std::vector<RunResult> expected_;
};

}  // namespace longhaul::test
