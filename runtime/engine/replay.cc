#include "runtime/engine/replay.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "runtime/engine/trace.h"

namespace longhaul {

std::shared_ptr<const Replay> load_replay(const std::string& file, std::int64_t steps, std::int64_t budget,
                                          double recall) {
  TraceReader reader(file);
  std::vector<std::vector<std::vector<std::int32_t>>> recorded;  // [steps][layers * heads]
  std::size_t longest = 0;
  for (TraceStep step; std::ssize(recorded) < steps && reader.next(step);) {
    if (step.sessions.empty()) continue;
    TraceStep::Of& session = step.sessions.front();
    for (const auto& rows : session.selected) longest = std::max(longest, rows.size());
    recorded.push_back(std::move(session.selected));
  }
  if (const auto rows = static_cast<std::int64_t>(longest); rows < budget - budget / 20 || rows > budget + budget / 20)
    throw UserError(
        Exit::usage,
        "{}: its steps selected up to {} rows, and the policy selects {}; record a trace with this policy and "
        "context",
        file, rows, budget);
  auto replay = std::make_shared<Replay>();
  replay->steps = std::ssize(recorded);
  replay->layers = reader.layers();
  replay->heads = reader.kv_heads();
  replay->stride = static_cast<std::int64_t>(longest);
  replay->recall = static_cast<float>(recall);
  replay->rows.assign(recorded.size() * static_cast<std::size_t>(replay->layers * replay->heads) * longest, 0);
  auto to = replay->rows.begin();
  for (const auto& step : recorded)
    for (const auto& rows : step) {
      std::ranges::copy(rows, to);
      replay->counts.push_back(static_cast<std::int32_t>(rows.size()));
      to += static_cast<std::ptrdiff_t>(longest);
    }
  return replay;
}

std::shared_ptr<const Replay> no_reuse(double recall) {
  auto replay = std::make_shared<Replay>();
  replay->recall = static_cast<float>(recall);
  return replay;
}

}  // namespace longhaul
