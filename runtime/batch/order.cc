// Which of a batch's prompts come first, and which stand together because they begin alike.
#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>

#include "runtime/batch/job.h"

namespace longhaul {

/// Prompts belong together when half of the shorter one is what the other begins with.
void BatchJob::find_groups() {
  constexpr std::int64_t kLeast = 1024;  // tokens; less is not worth a wait for places
  std::vector<std::size_t> order(ready_.size());
  std::iota(order.begin(), order.end(), 0);
  std::erase_if(order, [&](std::size_t i) { return ready_[i].alone || ready_[i].part >= 0; });
  std::ranges::sort(
      order, {}, [&](std::size_t i) -> const auto& { return ready_[i].prompt; });
  std::int64_t members = 0, alike_all = 0, rows = 0;
  for (std::size_t n = 1; n < order.size(); ++n) {
    Ready &a = ready_[order[n - 1]], &b = ready_[order[n]];
    const std::int64_t shorter = std::min(std::ssize(a.prompt), std::ssize(b.prompt));
    const std::int64_t alike =
        std::mismatch(a.prompt.begin(), a.prompt.begin() + shorter, b.prompt.begin()).first - a.prompt.begin();
    if (alike < std::max({kLeast, options_.share_unit, shorter / 2})) continue;
    const DualChunks& dual = model_.config.dual_chunks;  // prompts that are turned otherwise share nothing
    if (dual.temperature(std::ssize(a.prompt)) != dual.temperature(std::ssize(b.prompt))) continue;
    if (a.group < 0) {
      a.group = a.index;
      members = 1;
      alike_all = std::ssize(a.prompt);
      rows = std::ssize(a.prompt);
    }
    b.group = a.group;
    alike_all = std::min(alike_all, alike);
    // Each has at most a unit more of its own than where it parts from the others.
    if (++members <= options_.together) rows += std::ssize(b.prompt);
    const std::int64_t together = std::min(members, options_.together);
    const std::int64_t walk = rows - (together - 1) * std::max<std::int64_t>(alike_all - options_.share_unit, 0);
    shared_rest_ = std::max(shared_rest_, walk - longest_);
  }
  const bool any = std::ranges::any_of(ready_, [](const Ready& r) { return r.group >= 0; });
  if (any) shared_rest_ = std::max<std::int64_t>(shared_rest_, 1);
}

/// The longest first, or as given; prompts that begin alike where their first is. What may end the process comes last,
/// so that the rest is done by then.
void BatchJob::sort_ready() {
  std::map<std::int64_t, std::int64_t> place;  // of each group
  auto own = [&](const Ready& r) { return options_.order == Order::input ? r.index : -r.rows(); };
  for (const Ready& r : ready_)
    if (r.group >= 0) place[r.group] = place.contains(r.group) ? std::min(place[r.group], own(r)) : own(r);
  auto key = [&](const Ready& r) { return std::tuple(r.alone, r.group >= 0 ? place[r.group] : own(r), r.group); };
  std::ranges::stable_sort(ready_, {}, key);
  if (options_.order == Order::input) return;
  // The shortest that is whole and stands by itself is the first, which runs alone.
  for (auto first = ready_.end(); first != ready_.begin();) {
    --first;
    if (first->alone || first->part >= 0 || first->group >= 0) continue;
    std::rotate(ready_.begin(), first, first + 1);
    return;
  }
}

}  // namespace longhaul
