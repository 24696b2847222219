// longhaul plan: what a run would take and how fast it would be, from shapes alone.
#include <memory>

#include "apps/options.h"
#include "apps/plan_text.h"
#include "apps/verbs.h"
#include "kernels/base/bytes.h"
#include "kernels/cuda_device.h"

namespace longhaul {
namespace {

struct PlanOptions : Options {
  std::string length;  // of --max-model-len
  std::int64_t batch_size = 1;
  bool json = false;
};

/// Both budgets given: another machine's plan, as good as this one's.
bool elsewhere(const PlanOptions& o) { return o.gpu_memory && o.host_memory; }

Budget budget_of(const PlanOptions& o, bool cuda) {
  if (!elsewhere(o)) return budget(o);
  return make_budget(cuda, {.device = *o.gpu_memory, .host = *o.host_memory});
}

std::optional<MachineProfile> machine_of(const PlanOptions& o) {
  if (elsewhere(o) && !o.profile.empty() && o.profile != "none") return read_machine_profile(o.profile);
  const std::optional<int> cuda = named_cuda_device(o.device);
  if (elsewhere(o) && cuda && *cuda >= cuda_device_count()) return {};
  return find_profile(o.profile, device_name(cuda_ordinal(o.device)));
}

/// Rows of a session: the flag's, the model's where it is absent, the most that fit where it is "auto".
std::int64_t rows_of(const PlanOptions& o, const Geometry& shape, const Budget& budget) {
  const ModelConfig& config = shape.config;
  if (o.length == "auto") {
    const std::int64_t longest =
        longest_context(config, wanted_options(o, config, shape.formats, 1, o.batch_size), budget);
    return std::clamp<std::int64_t>(longest, 1, config.max_position);
  }
  if (o.length.empty()) return config.max_position;
  std::int64_t rows = 0;
  try {
    rows = parse_tokens(o.length);
  } catch (const UserError& e) {
    throw UserError(e.code, "--max-model-len: {}, or auto", e.what());
  }
  if (o.geometry.empty() && rows > config.max_position)
    throw UserError(Exit::usage, "--max-model-len {}: the model's context is {} tokens", rows, config.max_position);
  return rows;
}

void plan(const PlanOptions& o) {
  PlanReport report;
  report.shape = shape_of(o);
  report.synthetic = !o.geometry.empty();
  const ModelConfig& config = report.shape.config;
  report.cuda = named_cuda_device(o.device).has_value();
  report.wanted_sessions = o.batch_size;
  report.budget = budget_of(o, report.cuda);
  report.machine = machine_of(o);
  const EngineOptions wanted =
      wanted_options(o, config, report.shape.formats, rows_of(o, report.shape, report.budget), o.batch_size);
  report.now = capacity(config, wanted, report.budget, report.machine);
  Budget larger = report.budget;
  larger.device += kMoreBytes, larger.together += kMoreBytes;
  report.more = capacity(config, wanted, larger, report.machine);
  say(o.json ? plan_json(report).dump(2) + "\n" : plan_text(report));
}

}  // namespace

void register_plan(CLI::App& app) {
  auto o = std::make_shared<PlanOptions>();
  CLI::App* verb = app.add_subcommand("plan", "Say what a run would take and how fast it would be, loading nothing");
  add_place_options(*verb, *o);
  add_geometry_option(*verb, *o);
  add_policy_options(*verb, *o);
  verb->add_option(
          "--max-model-len", o->length,
          "rows of a session, prompt and answer together; the model's context unless given; \"auto\": the most "
          "that fit")
      ->type_name("TOKENS");
  verb->add_option("--batch-size", o->batch_size, "sessions that decode together; fewer where they do not fit")
      ->capture_default_str()
      ->check(between(1, kDecodeTokens))
      ->type_name("N");
  add_placement_options(*verb, *o);
  add_engine_options(*verb, *o);
  verb->add_flag("--json", o->json, "the plan as JSON")->configurable(false);
  verb->footer(
      "Of a model only config.json is read, and of a quantised one how its files store the weights (in bf16 they are\n"
      "counted where the files are absent). With both budgets given, nothing of this machine is asked: the plan is "
      "for\n"
      "one that has them. Speeds come from the profile that longhaul doctor measures, or that --profile names: bytes\n"
      "and arithmetic at measured rates, so small models are slower than predicted.\n\n"
      "Examples:\n"
      "  longhaul plan --model apps/demo/demo-7m --max-model-len auto\n"
      "  longhaul plan --geometry llama-3.1-8b --max-model-len 256K --device cuda --gpu-memory 24GiB --host-memory "
      "64GiB");
  verb->callback([verb, o] {
    if (finish_options(*verb, *o, false)) plan(*o);
  });
}

}  // namespace longhaul
