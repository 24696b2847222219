// Documents that decode together, offload against stream under the same budget: how many are answered in an hour.
#include "bench/bounds.h"
#include "bench/figure_sections.h"
#include "runtime/plan/peaks.h"

namespace longhaul::bench {

void batch_figures(Figures& figures, const SectionFlags& flags) {
  SyntheticSetting setting = flags.setting;
  const std::string batch = fmt::format("batch_{}x{}k", setting.batch, setting.context / 1024);
  auto names = [&](const std::string& policy) -> std::vector<std::string> {
    return {fmt::format("{}_{}_docs_per_hour", batch, policy), fmt::format("{}_{}_tokens_per_second", batch, policy)};
  };
  std::vector<std::string> policies{"stream", "offload"};
  std::erase_if(policies, [&](const std::string& policy) { return !figures.wants_any(names(policy)); });
  if (policies.empty()) return;
  const Peaks peaks = measure_peaks(setting.device);
  const double rate = product_rate(*open_device(setting.device, std::int64_t{2} << 30, 0));
  const auto documents = static_cast<double>(setting.batch);
  constexpr std::int64_t kSteps = kAnswer - 1;  // a prefill gives the first token
  for (const std::string& policy : policies) {
    setting.policy = policy;
    const KvPolicy values = load_policy(policy, setting.sets);
    setting.replay = nullptr;
    if (!flags.trace.empty() && values.selects())
      setting.replay = load_replay(flags.trace, 256, values.budget(setting.context), flags.recall);
    SyntheticRun run(setting);
    run.warm_prefill();
    const double prefill = run.prefill();
    const StepRun steps = run.step(flags.warm, flags.steps);
    const StepBound bound = step_bound(steps, peaks);
    const double flops = documents * prefill_flops(setting.geometry.config, steps.bytes, setting.context);
    const double seconds = prefill + kSteps * steps.times.seconds, least = flops / rate + kSteps * bound.seconds;
    figures.add(figure(names(policy)[0], documents * 3600 / seconds, "docs/h", documents * 3600 / least,
                       fmt::format("{}; {:.2f} s of prefills, one after the other, and {} steps for answers of {} "
                                   "tokens; the bound: {:.4g} FLOP at the {:.0f} TFLOP/s of an 8192^3 bf16 product, "
                                   "and of a step {}",
                                   steps.setting, prefill, kSteps, kAnswer, flops, rate / 1e12, bound.text)));
    figures.add(figure(names(policy)[1], documents / steps.times.seconds, "tokens/s", documents / bound.seconds,
                       fmt::format("{}; of decoding; {}", steps.setting, bound.text)));
  }
}

}  // namespace longhaul::bench
