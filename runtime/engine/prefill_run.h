// A prefill under way: what it is of, and where in its walk the next chunk is, so that it can go on after steps of
// other sessions.
#pragma once
#include <array>
#include <vector>

#include "offload/kv_pass.h"
#include "runtime/engine/prefill_walk.h"
#include "runtime/model/weight_stream.h"

namespace longhaul {

struct PrefillRun {
  static constexpr std::int64_t kPaced = 8;  // chunks enqueued ahead of the device

  std::vector<Session*> sessions;
  PrefillWalk walk;
  const float* inv_freq;  // of its rope, on the device
  KvPass* kv;
  std::int64_t layer = 0, part = 0, at = 0;  // the next chunk: of which part of the walk, from which token of it on
  std::int64_t enqueued = 0;                 // chunks, of all layers
  std::array<double, kPaced> work{};         // of chunks that the host has not waited for
  double done = 0;                           // work of those that it has
  WeightWalk weights = {};                   // at the end of the last piece
  bool stepped = false;                      // since then others have: the weights' slots hold theirs
};

}  // namespace longhaul
