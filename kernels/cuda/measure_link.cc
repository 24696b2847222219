// measure_link: copies and gathers of every kind between a host store and the device, each route on a device of its
// own.
#include <algorithm>
#include <chrono>

#include "kernels/base/host_memory.h"
#include "kernels/cuda_device.h"
#include "kernels/gather_probe.h"

namespace longhaul {
namespace {

constexpr std::int64_t kHeads = 8, kListed = 16384, kRowBytes = 512, kSparsity = 16;
constexpr std::int64_t kLayerBytes = kHeads * kListed * kSparsity * kRowBytes;  // 1 GiB
constexpr std::int64_t kDeviceBytes = std::int64_t{1} << 30;

/// A device that gathers that way, the store pinned for it.
class Trial {
 public:
  Trial(int ordinal, const GatherChoice& choice, HostMemory& store)
      : device_(make_cuda_device(ordinal, kDeviceBytes, choice)), store_(store) {
    device_->pin(store_.data(), store_.size());
  }
  Trial(Trial&&) = delete;
  ~Trial() { device_->unpin(store_.data()); }

  /// Rows a second.
  double gather(bool scattered) const {
    const GatherProbe probe{store_.size() / kLayerBytes, kHeads, kListed * kSparsity, kListed, kRowBytes, scattered};
    return static_cast<double>(probe.gathered_bytes()) / kRowBytes / seconds_to_gather(*device_, probe, store_.data());
  }
  /// 10^9 bytes a second.
  double copy(CopyKind kind) const {
    constexpr std::int64_t kBytes = std::int64_t{256} << 20;
    const Buffer there = device_->allocate(kBytes, "probe");
    const auto stream = device_->make_stream("probe");
    const auto done = device_->make_event();
    const bool down = kind == CopyKind::device_to_host;
    double best = 0;
    for (int i = 0; i < 5; ++i) {
      const auto start = std::chrono::steady_clock::now();
      stream->copy({.dst = down ? store_.data() : there.data(),
                    .src = down ? there.data() : store_.data(),
                    .width = kBytes,
                    .kind = kind});
      stream->record(*done);
      device_->host_wait(*done, {"probe"});
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      best = std::max(best, static_cast<double>(kBytes) / took.count() * 1e-9);
    }
    return best;
  }

 private:
  std::unique_ptr<Device> device_;
  HostMemory& store_;
};

}  // namespace

LinkProfile measure_link(int ordinal, std::int64_t store_bytes) {
  // The host's threads cost cores that others may want: they must bring more than this.
  constexpr double kWorthwhile = 1.05;
  HostMemory store(std::max(store_bytes / kLayerBytes, std::int64_t{1}) * kLayerBytes, "link measurement",
                   {.numa_node = cuda_host_node(ordinal), .touch = true});
  LinkProfile profile;
  double best = 0;
  auto consider = [&](const GatherChoice& choice, double rate, double least) {
    if (rate > best * least) best = rate, profile.gather = choice;
  };
  {
    const Trial trial(ordinal, {GatherRoute::zero_copy}, store);
    profile.h2d_GBps = trial.copy(CopyKind::host_to_device);
    profile.d2h_GBps = trial.copy(CopyKind::device_to_host);
    profile.zero_copy_run = trial.gather(false);
    profile.zero_copy_scattered = trial.gather(true);
    consider({GatherRoute::zero_copy}, profile.zero_copy_scattered, 1);
  }
  const GatherChoice host{GatherRoute::host, 1};
  profile.host_scattered = Trial(ordinal, host, store).gather(true);
  consider(host, profile.host_scattered, kWorthwhile);
  for (double share : {0.25, 0.5, 0.75}) {
    const GatherChoice both{GatherRoute::both, share};
    const double rate = Trial(ordinal, both, store).gather(true);
    profile.both_scattered = std::max(profile.both_scattered, rate);
    consider(both, rate, kWorthwhile);
  }
  return profile;
}

}  // namespace longhaul
