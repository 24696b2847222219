// How a prefill and the steps of the documents that decode take turns, so that neither stands still for the other.
//
// Where every place but those of the prefill decodes, the prefill gets `share` of the time. Where fewer decode it gets
// more, for a step costs about the same however few are in it: with d of p places decoding it goes on for
//   share / (1 - share) * p / d
// steps' time between two steps, and by one chunk of a layer at least. That is what a step waits; what the prefill
// loses is less than 1 - share. What steps and chunks take is measured as they are done; it changes no answer.
#pragma once
#include <cstdint>
#include <limits>

namespace longhaul {

class Turns {
 public:
  /// share: in (0, 1]; 1: who decodes waits until a prefill has ended.
  explicit Turns(double share) : share_(share) {}

  bool taken() const { return share_ < 1; }
  /// Work (PrefillProgress's unit) that a prefill does between two steps of `decoding` documents, where `places` could
  /// decode.
  double work(std::int64_t decoding, std::int64_t places) const {
    if (!taken()) return std::numeric_limits<double>::infinity();
    if (work_seconds_ <= 0) return kLeast;
    const double steps = share_ / (1 - share_) * static_cast<double>(places) / static_cast<double>(decoding);
    return kLeast + steps * step_seconds_ / work_seconds_;
  }
  void stepped(double seconds) { add(step_seconds_, seconds); }
  void prefilled(double work, double seconds) {
    if (work > 0) add(work_seconds_, seconds / work);
  }

 private:
  static constexpr double kLeast = 1, kNewest = 0.2;  // of a mean, the newest value's weight
  static void add(double& mean, double value) { mean = mean > 0 ? mean + kNewest * (value - mean) : value; }

  double share_;
  double step_seconds_ = 0, work_seconds_ = 0;  // of a step, of a unit of work; 0: none has been measured
};

}  // namespace longhaul
