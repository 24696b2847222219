// The row mover: scattered rows of a host store, layer after layer.
#include <fmt/format.h>

#include "bench/figure_sections.h"
#include "kernels/base/bytes.h"
#include "kernels/base/host_memory.h"
#include "kernels/gather_probe.h"
#include "runtime/plan/peaks.h"

namespace longhaul::bench {

void gather_figures(Figures& figures, const SectionFlags& flags) {
  if (!figures.wants_any({"gather_512B_GBps", "gather_2KiB_GBps"})) return;
  constexpr std::int64_t kHeadBytes = std::int64_t{128} << 20;  // 256K rows of 512 B
  const auto device = open_device(flags.setting.device, std::int64_t{4} << 30, 0);
  const double peak = link_bandwidth(*device, CopyKind::host_to_device) * 1e-9;
  HostMemory store(flags.pin_bytes, "bench", {.touch = true});
  device->pin(store.data(), store.size());
  auto measure = [&](const char* name, std::int64_t row_bytes) {
    if (!figures.wants(name)) return;
    const std::int64_t rows = kHeadBytes / row_bytes, heads = 8;
    const GatherProbe probe{store.size() / (heads * rows * row_bytes), heads, rows, rows / 16, row_bytes};
    const double rate = static_cast<double>(probe.gathered_bytes()) / seconds_to_gather(*device, probe, store.data());
    figures.add(
        figure(name, rate * 1e-9, "GB/s", peak,
               fmt::format("{} of {} rows of {} x {} heads at random positions, {} layers in turn, {} of pinned "
                           "memory; bytes of rows; the bound is one large copy",
                           probe.listed, rows, format_bytes(row_bytes), heads, probe.layers,
                           format_bytes(probe.store_bytes()))));
  };
  measure("gather_512B_GBps", 512);
  measure("gather_2KiB_GBps", 2048);
  device->unpin(store.data());
}

}  // namespace longhaul::bench
