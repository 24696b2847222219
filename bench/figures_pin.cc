// Start-up: from nothing to host memory that the device reaches by DMA.
#include "bench/figure_sections.h"
#include "kernels/base/bytes.h"
#include "kernels/base/clock.h"
#include "kernels/base/host_memory.h"

namespace longhaul::bench {
void pin_figures(Figures& figures, const SectionFlags& flags) {
  if (!figures.wants("pin_GiBps")) return;
  constexpr double kTarget = 10, kGiB = 1 << 30;
  const auto device = open_device(flags.setting.device, std::int64_t{1} << 30, 0);
  double best = 0;
  std::string runs;
  for (int i = 0; i < 3; ++i) {  // a machine's memory may have to grow the first time
    const auto start = std::chrono::steady_clock::now();
    HostMemory host(flags.pin_bytes, "bench", {.touch = true});
    const double touched = seconds_since(start);
    device->pin(host.data(), flags.pin_bytes);
    const double all = seconds_since(start), rate = static_cast<double>(flags.pin_bytes) / kGiB / all;
    device->unpin(host.data());
    runs += fmt::format("{}{:.2f} s ({:.2f} s to touch)", i == 0 ? "" : ", ", all, touched);
    best = std::max(best, rate);
  }
  figures.add(figure("pin_GiBps", best, "GiB/s", kTarget,
                     fmt::format("{} mapped, touched and registered three times: {}; the bound is the target",
                                 format_bytes(flags.pin_bytes), runs)));
}

}  // namespace longhaul::bench
