// Whether decode steps look ahead, where the policy leaves that to measurement (look_ahead = "auto"). Look-ahead takes
// processors and bandwidth of the device for what it saves of the link; which is more depends on both, on the budget
// and on how many sessions step. It decides when rows move and never what a step computes, so it may be tried out.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <vector>

namespace longhaul {

class LookAheadChoice {
 public:
  /// A trial: steps one way, the other way, and the first again, so that what changes on the way is no one's advantage.
  /// Of each run the first steps do not count, until the device replays them; of the others the medians are compared.
  static constexpr std::int64_t kUncounted = 3, kCounted = 3;
  static constexpr std::int64_t kTrial = 3 * kUncounted + 4 * kCounted;
  /// Steps from a trial to the next: sessions grow, and what they attend moves.
  static constexpr std::int64_t kPeriod = 2048;

  /// Not `open`: every step looks ahead.
  explicit LookAheadChoice(bool open) : open_(open) {}

  /// The next step of `sessions` sessions.
  bool looks_ahead(std::int64_t sessions) const { return trial_of(sessions).looks_ahead(); }
  bool is_tried(std::int64_t sessions) const { return steps_to_settle(sessions) > 0; }
  std::int64_t steps_to_settle(std::int64_t sessions) const {
    return open_ ? std::max<std::int64_t>(kTrial - trial_of(sessions).step, 0) : 0;
  }
  /// What that step took, nothing else running.
  void took(std::int64_t sessions, double seconds) {
    if (open_) trials_[sessions].took(seconds);
  }

 private:
  struct Trial {
    bool best = true;  // the way that is taken, and tried first
    std::int64_t step = 0;
    std::array<std::vector<double>, 2> seconds;  // [other than the best]

    static constexpr std::int64_t kRun = kUncounted + kCounted;  // the middle one has kCounted more
    bool is_other() const { return step >= kRun && step < kTrial - kRun; }
    std::int64_t of_run() const {
      return step < kRun ? step : step < kTrial - kRun ? step - kRun : step - kTrial + kRun;
    }
    bool looks_ahead() const { return best != is_other(); }
    void took(double s) {
      if (step < kTrial && of_run() >= kUncounted) seconds[is_other()].push_back(s);
      if (++step == kTrial && median(seconds[true]) < median(seconds[false])) best = !best;
      if (step == kPeriod) *this = {.best = best};
    }
  };
  static double median(std::vector<double> values) {
    std::ranges::nth_element(values, values.begin() + std::ssize(values) / 2);
    return values[values.size() / 2];
  }
  const Trial& trial_of(std::int64_t sessions) const {
    static const Trial none;
    const auto found = trials_.find(sessions);
    return found == trials_.end() ? none : found->second;
  }

  bool open_;
  std::map<std::int64_t, Trial> trials_;  // by number of sessions
};

}  // namespace longhaul
