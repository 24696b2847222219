#include "runtime/plan/measure_machine.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "kernels/cuda_device.h"
#include "kernels/gather_probe.h"
#include "kernels/sampling.h"
#include "runtime/engine/pinned_memory.h"
#include "runtime/plan/peaks.h"

namespace longhaul {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20, kGiB = std::int64_t{1} << 30;

struct Trial {
  std::int64_t size, bytes;  // bytes: of device memory
};

/// The rate at the first size whose run takes some time, or the last that fits. `seconds` is what a run takes at
/// `rate`.
template <class Rate, class Seconds>
double settle(const Device& device, std::initializer_list<Trial> trials, const Rate& rate, const Seconds& seconds) {
  constexpr double kBusy = 0.02;
  double found = 0;
  for (const Trial& trial : trials) {
    if (found > 0 && trial.bytes > device.budget() - device.used_bytes()) break;
    found = rate(trial.size);
    if (seconds(static_cast<double>(trial.size), found) >= kBusy) break;
  }
  return found;
}

/// A link that is no measure_link's to measure.
LinkProfile plain_link(Device& device, int times) {
  constexpr std::int64_t kBytes = 128 * kMiB;
  const GatherProbe probe{.layers = 1, .heads = 8, .rows = 65536, .listed = 4096, .row_bytes = 512};
  LinkProfile link{.h2d_GBps = link_bandwidth(device, CopyKind::host_to_device, kBytes, times) * 1e-9,
                   .d2h_GBps = link_bandwidth(device, CopyKind::device_to_host, kBytes, times) * 1e-9};
  const PinnedMemory store(device, probe.store_bytes(), {});
  auto rows_per_second = [&](bool scattered) {
    GatherProbe one = probe;
    one.scattered = scattered;
    return static_cast<double>(probe.heads * probe.listed) / seconds_to_gather(device, one, store.data());
  };
  link.zero_copy_run = rows_per_second(false);
  link.zero_copy_scattered = rows_per_second(true);
  return link;
}

DeviceRates device_rates(Device& device, int times, std::int64_t most_pinned) {
  DeviceRates rates;
  rates.copy_GBps = settle(
                        device, {{256 * kMiB, 512 * kMiB}, {kGiB, 2 * kGiB}},
                        [&](std::int64_t bytes) { return copy_bandwidth(device, bytes, times); },
                        [](double bytes, double rate) { return 16 * bytes / rate; }) *
                    1e-9;
  auto product = [](std::int64_t n) { return Trial{n, 6 * n * n}; };
  constexpr int kProducts = 8;
  rates.product_TFLOPs = settle(
                             device, {product(1024), product(2048), product(4096), product(8192)},
                             [&](std::int64_t n) { return product_rate(device, n, kProducts, times); },
                             [](double n, double rate) { return kProducts * 2 * n * n * n / rate; }) *
                         1e-12;
  auto attention = [](std::int64_t tokens) { return Trial{tokens, attention_bytes(tokens)}; };
  rates.attention_TFLOPs = settle(
                               device, {attention(1024), attention(4096), attention(16384)},
                               [&](std::int64_t tokens) { return attention_rate(device, tokens, times); },
                               [](double n, double rate) { return 4 * 2 * n * n * 4096 / rate; }) *
                           1e-12;
  rates.pin_GiBps = settle(
                        device, {{128 * kMiB, 0}, {kGiB, 0}, {4 * kGiB, 0}},
                        [&](std::int64_t bytes) { return pin_rate(device, std::min(bytes, most_pinned)); },
                        [](double bytes, double rate) { return bytes / rate; }) /
                    static_cast<double>(kGiB);
  return rates;
}

}  // namespace

std::int64_t bytes_changed(Device& device, std::int64_t bytes) {
  const PinnedMemory sent(device, bytes, {}), received(device, bytes, {});
  const Buffer there = device.allocate(bytes, "test");
  for (std::int64_t at = 0; at + 8 <= bytes; at += 8) {
    const std::uint64_t word = sampling::mix(static_cast<std::uint64_t>(at) + 1);
    std::memcpy(sent.data() + at, &word, sizeof word);
  }
  const auto up = device.make_stream("there"), down = device.make_stream("back");
  const auto arrived = device.make_event(), returned = device.make_event();
  up->copy({.dst = there.data(), .src = sent.data(), .width = bytes, .kind = CopyKind::host_to_device});
  up->record(*arrived);
  down->wait(*arrived, {"test_arrived"});
  down->copy({.dst = received.data(), .src = there.data(), .width = bytes, .kind = CopyKind::device_to_host});
  down->record(*returned);
  device.host_wait(*returned, {"test_returned"});
  std::int64_t changed = 0;
  for (std::int64_t at = 0; at < bytes; ++at) changed += sent.data()[at] != received.data()[at];
  return changed;
}

MachineProfile measure_machine(Device& device, const std::string& name, const MeasureOptions& options) {
  // Host memory is asked for in shares of what is left, so that a busy machine is measured too, in smaller pieces.
  const std::int64_t share = available_host_memory() / 4, most = (options.quick ? 2 : 8) * kGiB;
  const int times = options.quick ? 1 : 3;
  MachineProfile profile{.device = name, .link = {}, .rates = {}};
  profile.link = options.cuda ? measure_link(*options.cuda, std::min(share, most)) : plain_link(device, times);
  profile.rates = device_rates(device, times, std::max(share, 64 * kMiB));
  return profile;
}

}  // namespace longhaul
