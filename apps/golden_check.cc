// golden_check DIR...: compares folders in the layout of a golden case (config.json, weights, golden.safetensors) with
// what the pipeline computes, one JSON line per folder, activation type and policy. Exit 0 when all are within bounds.
#include <cstdio>

#include <CLI/CLI.hpp>

#include "apps/golden.h"
#include "apps/options.h"
#include "kernels/base/error.h"

namespace longhaul {
namespace {

struct Setting {
  const char* policy;
  double resident;
};

constexpr Setting kSettings[]{{"dense", 1},           {"stream", 0},        {"stream", 0.4}, {"stream", 1},
                              {"sparse-resident", 1}, {"offload", 0},       {"offload", 1},  {"on-demand", 0},
                              {"oracle", 0},          {"streaming-llm", 0}, {"h2o", 0},      {"published-offload", 0}};

struct Bounds {  // of the normalised squared error
  double f32 = 1e-8, bf16 = 4e-3;
  double experts = 1e-2;  // bf16, of the median over positions: a tie of two experts may fall either way
};

bool check_folder(Device& device, const std::filesystem::path& dir, const Bounds& bounds) {
  const Golden golden = load_golden(dir / "golden.safetensors");
  const bool experts = load_model_config(dir).experts > 0;
  bool ok = true;
  for (DType act : {DType::f32, DType::bf16})
    for (Setting setting : kSettings) {
      KvPolicy policy = load_policy(setting.policy);
      if (policy.selects()) policy = load_policy(setting.policy, {"rows=1000000"});  // every row: equal to dense
      policy.tile_rows = policy.recent_rows = kAttendBlock;  // so that a case of a few hundred tokens streams too
      const GoldenResult r = compare_golden(
          device, dir, golden, {.policy = policy, .activations = act, .resident = setting.resident, .cache = 1});
      const bool close = act == DType::f32 ? r.nmse <= bounds.f32
                         : experts         ? r.nmse_median <= bounds.experts
                                           : r.nmse <= bounds.bf16;
      const bool good = close && r.greedy_equal == r.greedy_total;
      ok = ok && good;
      fmt::print(
          "{{\"case\":\"{}\",\"activations\":\"{}\",\"policy\":\"{}\",\"resident\":{},\"nmse\":{:.3e},\"nmse_median\":{"
          ":.3e},"
          "\"greedy_equal\":{},\"greedy_total\":{},\"ok\":{}}}\n",
          dir.filename().string(), name_of(act), setting.policy, setting.resident, r.nmse, r.nmse_median,
          r.greedy_equal, r.greedy_total, good);
      std::fflush(stdout);
    }
  return ok;
}

}  // namespace
}  // namespace longhaul

int main(int argc, char** argv) {
  using namespace longhaul;
  CLI::App app{"Compare golden cases with the pipeline"};
  std::vector<std::string> dirs;
  std::string device_name = "auto";
  app.add_option("DIR", dirs, "folders with config.json, weights and golden.safetensors")->required();
  app.add_option("--device", device_name, "auto, cpu or cuda[:i]");
  Bounds bounds;
  app.add_option("--bound-f32", bounds.f32, "most normalised squared error with f32 activations")
      ->capture_default_str();
  app.add_option("--bound-bf16", bounds.bf16, "most with bf16 activations")->capture_default_str();
  app.add_option("--bound-experts", bounds.experts, "most of the median over positions, for experts and bf16")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  bool ok = true;
  for (std::filesystem::path dir : dirs) try {
      if (!dir.has_filename()) dir = dir.parent_path();
      auto device = open_device(device_name, available_budget(device_name).device, 0);
      ok = check_folder(*device, dir, bounds) && ok;
    } catch (const std::exception& e) {
      fmt::print(stderr, "golden_check: {}: {}\n", dir.string(), e.what());
      ok = false;
    }
  return ok ? 0 : 1;
}
