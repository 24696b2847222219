#include "runtime/engine/step_recorder.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace longhaul {
namespace {

constexpr float kNone = std::numeric_limits<float>::quiet_NaN();

std::int64_t common(const std::int32_t* a, std::int64_t n, const std::int32_t* b, std::int64_t m) {
  std::int64_t shared = 0;
  for (const std::int32_t *x = a, *y = b; x < a + n && y < b + m;) {
    if (*x < *y) ++x;
    else if (*y < *x) ++y;
    else ++shared, ++x, ++y;
  }
  return shared;
}

}  // namespace

template <class T>
void StepRecorder::bring(T* to, const T* from, std::int64_t count) {
  compute_.copy({.dst = to,
                 .src = from,
                 .width = count * static_cast<std::int64_t>(sizeof(T)),
                 .kind = CopyKind::device_to_host});
}

void StepRecorder::before_layer(std::int64_t layer, std::int64_t sessions) {
  const ProbeBuffers& probes = memory_.probes;
  const std::int64_t row = config_.hidden * size_of(memory_.act.act);
  if (probes.hidden_bytes > 0)
    bring(probes.hidden + layer * probes.hidden_bytes, memory_.act.step_hidden, sessions * row);
}

void StepRecorder::after_layer(std::int64_t layer, std::int64_t sessions) {
  const ProbeBuffers& probes = memory_.probes;
  const LayerPlan& plan = memory_.kv.plan[static_cast<std::size_t>(layer)];
  const SelectionBuffers& selection = memory_.kv.selection;
  const std::int64_t heads = config_.kv_heads, stride = memory_.kv.layout.list_rows;
  if (probes.lists == 0) return;
  for (std::int64_t s = 0; s < sessions; ++s) {
    const std::int64_t at = place(s, layer);
    auto record = [&](const RowList& list, std::int32_t* rows, std::int32_t* counts) {
      bring(rows + at * stride, list.rows, heads * stride);
      bring(counts + at, list.count, heads);
    };
    if (plan.selects)
      record(plan.corrected ? selection.selected(s) : selection.predicted(layer, s), probes.rows, probes.counts);
    else std::fill_n(probes.counts + at, heads, 0);  // no step is in flight: the host has waited for the last one
    if (probes.judged == 0) continue;
    SelectionQuality* quality = probes.quality + at;
    if (plan.selects) bring(quality, selection.quality(false, layer, s), heads);
    else std::fill_n(quality, heads, SelectionQuality{1, 1, 1});
    if (plan.predicted) {
      record(selection.predicted(layer, s), probes.predicted_rows, probes.predicted_counts);
      bring(quality + probes.judged, selection.quality(true, layer, s), heads);
    } else {
      std::fill_n(quality + probes.judged, heads, SelectionQuality{kNone, kNone, kNone});
    }
  }
}

void StepRecorder::end(std::int64_t sessions) {
  sessions_ = sessions;
  if (memory_.kv.layout.list_rows > 0)
    bring(memory_.probes.tally, memory_.kv.selection.tally(0), config_.layers * kTally);
}

void StepRecorder::recall() {
  const ProbeBuffers& probes = memory_.probes;
  const std::int64_t stride = memory_.kv.layout.list_rows;
  recall_.assign(static_cast<std::size_t>(sessions_ * config_.layers * config_.kv_heads), kNone);
  for (std::int64_t s = 0; s < sessions_; ++s)
    for (std::int64_t l = 0; l < config_.layers; ++l) {
      if (!memory_.kv.plan[static_cast<std::size_t>(l)].predicted) continue;
      for (std::int64_t i = place(s, l); i < place(s, l) + config_.kv_heads; ++i) {
        const std::int64_t shared = common(probes.rows + i * stride, probes.counts[i],
                                           probes.predicted_rows + i * stride, probes.predicted_counts[i]);
        recall_[static_cast<std::size_t>(i)] = static_cast<float>(shared) / static_cast<float>(probes.counts[i]);
      }
    }
}

void StepRecorder::cosines() {
  const ProbeBuffers& probes = memory_.probes;
  const DType act = memory_.act.act;
  auto value = [&](std::int64_t layer, std::int64_t s, std::int64_t i) {
    const std::byte* row = probes.hidden + layer * probes.hidden_bytes + s * config_.hidden * size_of(act);
    return act == DType::f32 ? reinterpret_cast<const float*>(row)[i] : to_float(reinterpret_cast<const bf16*>(row)[i]);
  };
  cosine_.assign(static_cast<std::size_t>(sessions_ * config_.layers), kNone);
  for (std::int64_t s = 0; s < sessions_; ++s)
    for (std::int64_t l = 1; l < config_.layers; ++l) {
      double dot = 0, a2 = 0, b2 = 0;
      for (std::int64_t i = 0; i < config_.hidden; ++i) {
        const double a = value(l - 1, s, i), b = value(l, s, i);
        dot += a * b, a2 += a * a, b2 += b * b;
      }
      cosine_[static_cast<std::size_t>(s * config_.layers + l)] = static_cast<float>(dot / std::sqrt(a2 * b2));
    }
}

StepProbe StepRecorder::view() {
  const ProbeBuffers& probes = memory_.probes;
  StepProbe probe{.sessions = sessions_,
                  .layers = config_.layers,
                  .kv_heads = config_.kv_heads,
                  .stride = memory_.kv.layout.list_rows,
                  .counts = probes.counts,
                  .rows = probes.rows,
                  .selected = nullptr,
                  .predicted = nullptr,
                  .predicted_recall = nullptr,
                  .cosine = nullptr,
                  .tally = probes.tally};
  if (probes.judged > 0) {
    recall();
    cosines();
    probe.selected = probes.quality;
    probe.predicted = probes.quality + probes.judged;
    probe.predicted_recall = recall_.data();
    probe.cosine = cosine_.data();
  }
  return probe;
}

}  // namespace longhaul
