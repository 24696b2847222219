// longhaul bench: prefill and decode speeds, of a model or of a shape with random weights, under one or several
// policies.
#include <spdlog/spdlog.h>

#include <memory>

#include "apps/bench_output.h"
#include "apps/labels.h"
#include "apps/options.h"
#include "apps/verbs.h"
#include "kernels/base/bytes.h"
#include "runtime/engine/replay.h"
#include "runtime/plan/peaks.h"

namespace longhaul {
namespace {

struct BenchOptions : Options {
  std::vector<std::string> prompts, generated, depths, policies;  // empty: 512, 128, 0, offload
  std::string output = "md", trace;
  std::int64_t batch_size = 1;
  int repetitions = 5;
  double recall = 1;
};

std::vector<std::int64_t> counts(const char* flag, const std::vector<std::string>& texts, std::int64_t unless_given) {
  if (texts.empty()) return {unless_given};
  std::vector<std::int64_t> counts;
  for (const std::string& text : texts) try {
      counts.push_back(text == "0" ? 0 : parse_tokens(text));
    } catch (const UserError& e) {
      throw UserError(e.code, "{}: {}", flag, e.what());
    }
  return counts;
}

std::vector<BenchCase> cases_of(const BenchOptions& o) {
  std::vector<BenchCase> cases;
  for (const std::int64_t prompt : counts("--n-prompt", o.prompts, 512))
    if (prompt > 0) cases.push_back({.prompt = prompt});
  const auto depths = counts("--n-depth", o.depths, 0);
  for (const std::int64_t generated : counts("--n-gen", o.generated, 128))
    for (const std::int64_t depth : depths)
      if (generated > 0) cases.push_back({.generated = generated, .depth = depth});
  if (cases.empty()) throw UserError(Exit::usage, "--n-prompt and --n-gen are all 0: nothing is measured");
  return cases;
}

/// A case under a policy, planned before anything is measured: what does not fit is told at once.
struct Planned {
  BenchCase what;
  EngineOptions options;
};

class Bench {
 public:
  explicit Bench(const BenchOptions& o)
      : o_(o), format_(bench_format(o.output)), cases_(cases_of(o)), shape_(shape_of(o)), limits_(budget(o)) {
    if (!o.model.empty()) model_ = std::make_unique<ModelFiles>(o.model);
    plan();
    device_ = open_device(o, limits_.device);
    device_text_ = device_->describe();
  }

  void run() {
    constexpr std::int64_t kProbe = std::int64_t{256} << 20;
    const double peak =
        link_bandwidth(*device_, CopyKind::host_to_device, std::min(kProbe, limits_.device / 4)) / 0x1p30;
    BenchOutput output(format_);
    for (const Planned& planned : planned_) {
      const MemoryPlan memory = plan_memory(shape_.config, planned.options);
      spdlog::info("policy {}, {}: {} of device memory, {} of host memory", planned.options.policy.name,
                   planned.what.label(), format_bytes(memory.device_bytes), format_bytes(memory.host_bytes));
      device_.reset();  // one at a time; a fresh one's peak is this case's
      device_ = open_device(o_, limits_.device);
      const auto engine = model_ ? std::make_unique<Engine>(*device_, shape_.config, model_->weights, planned.options)
                                 : std::make_unique<Engine>(*device_, shape_.config, planned.options);
      say(output.row(row(planned, run_case(*engine, planned.what, o_.repetitions), peak)));
    }
    say(output.end());
  }

 private:
  void plan() {
    Options o = o_;
    for (const std::string& name : o_.policies.empty() ? std::vector<std::string>{"offload"} : o_.policies)
      for (const BenchCase& what : cases_) {
        o.policy = name;
        ModelConfig config = shape_.config;
        if (model_ && what.rows() > config.max_position)
          throw UserError(Exit::usage, "{}: needs {} tokens, the model's context is {}", what.label(), what.rows(),
                          config.max_position);
        // Random weights have no context that they were trained for.
        config.max_position = std::max(config.max_position, what.rows());
        EngineOptions wanted = wanted_options(o, config, shape_.formats, what.rows(), o_.batch_size);
        if (model_) wanted.bases = label_bases(o_, wanted.policy, *model_);
        if (!o_.trace.empty() && wanted.policy.selects() && what.generated > 0)
          wanted.replay = load_replay(o_.trace, kTraceSteps, wanted.policy.budget(what.depth), o_.recall);
        EngineOptions fitted = fit_to_budget(config, std::move(wanted), limits_);
        if (fitted.max_sessions < o_.batch_size)
          throw UserError(Exit::plan_does_not_fit, "{} under policy {}: of {} sessions only {} fit the budget",
                          what.label(), fitted.policy.name, o_.batch_size, fitted.max_sessions);
        planned_.push_back({what, std::move(fitted)});
      }
  }

  BenchRow row(const Planned& planned, const BenchResult& r, double peak) const {
    const EngineOptions& e = planned.options;
    auto maybe = [](const std::optional<double>& x) { return x ? BenchRow(*x) : BenchRow(); };
    const bool filled = planned.what.generated > 0;
    return {{"version", LONGHAUL_VERSION},
            {"device", device_text_},
            {"model", shape_.name},
            {"synthetic", !model_  ? "synthetic weights"
                          : filled ? "synthetic rows"
                                   : "synthetic prompt"},
            {"policy", e.policy.name},
            {"activations", std::string(name_of(e.activations))},
            {"batch", e.max_sessions},
            {"prefill_chunk", e.prefill_chunk},
            {"resident", e.resident},
            {"cache", e.cache},
            {"gpu_memory_bytes", limits_.device},
            {"replay", e.replay ? o_.trace : std::string()},
            {"n_prompt", planned.what.prompt},
            {"n_gen", planned.what.generated},
            {"n_depth", planned.what.depth},
            {"test", planned.what.label()},
            {"repetitions", o_.repetitions},
            {"avg_ts", r.mean()},
            {"stddev_ts", r.deviation()},
            {"ttft_ms", maybe(r.ttft_ms)},
            {"tpot_ms", maybe(r.tpot_ms)},
            {"itl_p50_ms", maybe(r.itl_p50_ms)},
            {"itl_p99_ms", maybe(r.itl_p99_ms)},
            {"h2d_bytes", r.h2d_bytes},
            {"h2d_gibps", r.h2d_gibps},
            {"link_peak_gibps", peak},
            {"overlap_pct", maybe(r.overlap_pct)},
            {"stall_ms", maybe(r.stall_ms)},
            {"hit_rate", maybe(r.hit_rate)},
            {"kv_host_bytes", r.kv_host_bytes},
            {"kv_device_bytes", r.kv_device_bytes},
            {"peak_device_bytes", r.peak_device_bytes},
            {"peak_host_bytes", r.peak_host_bytes},
            {"pin_ms", r.pin_ms}};
  }

  static constexpr std::int64_t kTraceSteps = 256;

  const BenchOptions& o_;
  BenchFormat format_;
  std::vector<BenchCase> cases_;
  Geometry shape_;
  Budget limits_;
  std::unique_ptr<ModelFiles> model_;  // null: a geometry
  std::unique_ptr<Device> device_;
  std::string device_text_;
  std::vector<Planned> planned_;
};

void add_bench_options(CLI::App& verb, BenchOptions& o) {
  auto list = [&](const char* flag, std::vector<std::string>& to, const char* help, const char* kind) {
    verb.add_option(flag, to, help)->delimiter(',')->type_name(kind);
  };
  list("-p,--n-prompt", o.prompts, "prompts to prefill, tokens; 0: none; 512 unless given", "TOKENS,...");
  list("-n,--n-gen", o.generated, "tokens to decode, steps of all sessions; 0: none; 128 unless given", "TOKENS,...");
  list("-d,--n-depth", o.depths, "rows in the cache before decoding, filled with random ones; 0 unless given",
       "TOKENS,...");
  verb.add_option("-r,--repetitions", o.repetitions, "times each is measured")
      ->capture_default_str()
      ->check(between(1, 1000))
      ->type_name("N");
  verb.add_option("-o,--output", o.output, "md, csv, json, jsonl or sql")->capture_default_str()->type_name("FORMAT");
  list("--policies", o.policies,
       "policies to compare under the same budgets: names or TOML files; offload unless given", "NAME|FILE,...");
  verb.add_option("--set", o.sets, "change a field of every policy, for example policy.share=1/8; may be repeated")
      ->type_name("policy.KEY=VALUE")
      ->allow_extra_args(false);
  verb.add_option("--batch-size", o.batch_size, "sessions that decode together")
      ->capture_default_str()
      ->check(between(1, kDecodeTokens))
      ->type_name("N");
  verb.add_option("--channels", o.channels, "channel file for labels that are not fitted to the document")
      ->type_name("FILE");
  verb.add_option("--trace", o.trace,
                  "rows of --record-trace to attend in place of those that random queries select, which have no reuse")
      ->type_name("FILE");
  verb.add_option("--recall", o.recall, "share of a trace's rows that look-ahead foretells")
      ->capture_default_str()
      ->check(between(0, 1));
}

}  // namespace

void register_bench(CLI::App& app) {
  auto o = std::make_shared<BenchOptions>();
  CLI::App* verb = app.add_subcommand("bench", "Measure prefill and decode speeds, and what goes over the link");
  add_place_options(*verb, *o);
  add_geometry_option(*verb, *o);
  add_bench_options(*verb, *o);
  add_placement_options(*verb, *o);
  add_engine_options(*verb, *o);
  verb->footer(
      "pp512 is a prefill of 512 random tokens, tg128 @ d256K are 128 steps behind 256K rows. tokens/s are of all\n"
      "sessions, mean and standard deviation of the repetitions. TTFT: a prefill up to its first sampled token. TPOT:\n"
      "time of the steps / steps. overlap: of the time that the link was busy, what compute did not wait for, or "
      "\"-\"\n"
      "where a device does not tell. hit rate: of the selected rows, those that did not cross the link. The other\n"
      "formats have more columns than md.\n\n"
      "Examples:\n"
      "  longhaul bench --geometry llama-3.1-8b -p 0 -n 32 -d 256K --policies offload,stream --gpu-memory 24GiB\n"
      "  longhaul bench --model apps/demo/demo-7m -p 512,4K -n 64 -d 0,16K -r 3 -o csv");
  verb->callback([verb, o] {
    if (finish_options(*verb, *o)) Bench(*o).run();
  });
}

}  // namespace longhaul
