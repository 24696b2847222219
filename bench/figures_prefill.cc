// Prefill of all layers, and its arithmetic against a large product's rate.
#include "bench/bounds.h"
#include "bench/figure_sections.h"
#include "kernels/base/error.h"
#include "runtime/plan/peaks.h"

namespace longhaul::bench {

void prefill_figures(Figures& figures, const SectionFlags& flags) {
  SyntheticSetting setting = flags.setting;
  setting.batch = 1;
  std::string name = "prefill_" + name_of(setting);
  if (name == "prefill_llama-3.1-8b_offload_262144_1") name = "prefill_256k_s";
  if (!figures.wants(name)) return;
  double rate = 0;
  {
    const auto device = open_device(flags.setting.device, std::int64_t{2} << 30, 0);
    rate = product_rate(*device);
  }
  setting.probes.checksums = true;
  SyntheticRun run(setting);
  const double seconds = run.prefill();
  const std::int64_t wrong = run.layers_not_stored();
  if (wrong > 0)
    throw DeviceError(fmt::format("prefill: {} layers of the host store are not what was computed", wrong));
  const ModelConfig& config = setting.geometry.config;
  const double flops = prefill_flops(config, run.bytes(), setting.context);
  figures.add({name, seconds, "s", flops / rate, seconds / (flops / rate),
               fmt::format("{}, {:.4g} FLOP at the {:.0f} TFLOP/s of an 8192^3 bf16 product is the bound; host store: "
                           "{} layers of rows, checksums equal",
                           run.describe(), flops, rate / 1e12, config.layers)});
}

}  // namespace longhaul::bench
