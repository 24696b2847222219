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
  /// A way's steps in a trial: as many until the device replays them, and those that count, by their median.
  static constexpr std::int64_t kUncounted = 3, kCounted = 5, kWay = kUncounted + kCounted;
  /// Steps from a trial to the next: sessions grow, and what they attend moves.
  static constexpr std::int64_t kPeriod = 2048;

  /// Not `open`: every step looks ahead.
  explicit LookAheadChoice(bool open) : open_(open) {}

  /// The next step of `sessions` sessions.
  bool looks_ahead(std::int64_t sessions) const {
    const auto found = trials_.find(sessions);
    return found == trials_.end() || found->second.looks_ahead();
  }
  /// What that step took, nothing else running.
  void took(std::int64_t sessions, double seconds) {
    if (open_) trials_[sessions].took(seconds);
  }
  /// Steps of as many sessions until the choice is made.
  std::int64_t steps_to_choose() const { return open_ ? 2 * kWay : 0; }

 private:
  struct Trial {
    std::int64_t step = 0;
    bool best = true;
    std::array<std::vector<double>, 2> seconds;  // [looks ahead]

    bool looks_ahead() const { return step < kWay || (step >= 2 * kWay && best); }
    void took(double s) {
      if (step < 2 * kWay && step % kWay >= kUncounted) seconds[step < kWay].push_back(s);
      if (++step == 2 * kWay) best = median(seconds[true]) <= median(seconds[false]);
      if (step == kPeriod) *this = {.best = best};
    }
  };
  static double median(std::vector<double> values) {
    std::ranges::nth_element(values, values.begin() + std::ssize(values) / 2);
    return values[values.size() / 2];
  }

  bool open_;
  std::map<std::int64_t, Trial> trials_;  // by number of sessions
};

}  // namespace longhaul
