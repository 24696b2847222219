// The whole pipeline against what Hugging Face transformers computes (tests/data: made with transformers 5.17,
// float32). qwen2_window is qwen2's random weights under a config whose layers 1 and 2 have a window of 48;
// qwen2_dual_chunk, which transformers does not compute, is of make_dual_chunk.py, in float64.
#include "apps/golden.h"
#include "kernels/cpu/cpu_device.h"
#include "paths.h"
#include "tests/support/catch.h"
#include "tests/support/sanitizer.h"

using namespace longhaul;

namespace {

const std::filesystem::path kSource = LONGHAUL_SOURCE_DIR;

GoldenResult compare(const std::filesystem::path& model, const Golden& golden, const std::string& policy_name,
                     double resident, std::int64_t tile_rows, DType act) {
  auto device = make_cpu_device({.poison = true});
  KvPolicy policy = load_policy(policy_name);
  if (policy.selects()) policy = load_policy(policy_name, {"rows=1000000"});  // every row
  policy.tile_rows = tile_rows;
  policy.recent_rows = kAttendBlock;
  return compare_golden(*device, model, golden, {.policy = policy, .activations = act, .resident = resident});
}

void check_result(const GoldenResult& result, double bound, bool median = false) {
  CHECK((median ? result.nmse_median : result.nmse) <= bound);
  CHECK(result.greedy_total > 0);
  CHECK(result.greedy_equal == result.greedy_total);
}

}  // namespace

TEST_CASE("families: logits at every position, and greedy, under every placement of rows") {
  const std::string name = GENERATE("llama2_mha", "llama3_gqa", "llama_tied", "vicuna_linear", "llama_dynamic",
                                    "mistral_window", "mixtral", "phi3_longrope", "qwen2_yarn", "qwen2_window",
                                    "qwen2_dual_chunk", "qwen3", "qwen3_moe", "seed_oss", "smollm3");
  const DType act = GENERATE(DType::f32, DType::bf16);
  if (test::kThreadSanitizer && act == DType::f32) return;  // bf16 has the threads that f32 has
  const auto dir = kSource / "tests/data/families" / name;
  const Golden golden = load_golden(dir / "golden.safetensors");
  REQUIRE(golden.rows == static_cast<std::int64_t>(golden.input_ids.size()));
  // In bf16 a tie of two experts falls either way, and a position's output with it.
  const bool median = act == DType::bf16 && load_model_config(dir).experts > 0;
  const double bound = act == DType::f32 ? 1e-8 : median ? 1e-2 : 4e-3;
  CAPTURE(name, name_of(act));
  check_result(compare(dir, golden, "dense", 1, kAttendBlock, act), bound, median);
  check_result(compare(dir, golden, "offload", 0, kAttendBlock, act), bound, median);
  for (double resident : {0.0, 0.4, 1.0})
    for (std::int64_t tile : {64, 128, 1024}) {
      if (test::kThreadSanitizer && tile == 128) continue;
      CAPTURE(resident, tile);
      check_result(compare(dir, golden, "stream", resident, tile, act), bound, median);
    }
}

TEST_CASE("longrope: a session that cannot outgrow the trained length has the short factors") {
  const auto dir = kSource / "tests/data/families/phi3_longrope";
  const Golden golden = load_golden(dir / "short.safetensors");  // 40 tokens and 20 more, of the 64 trained
  const DType act = GENERATE(DType::f32, DType::bf16);
  for (double resident : {0.0, 1.0})
    check_result(compare(dir, golden, "stream", resident, kAttendBlock, act), act == DType::f32 ? 1e-8 : 4e-3);
}

TEST_CASE("demo-7m on digest prompts of 700 and 3,900 tokens", "[numbers]") {
  const auto [prompt, act] = GENERATE(table<std::string, DType>(
      {{"1000", DType::f32}, {"1000", DType::bf16}, {"4000", DType::f32}, {"4000", DType::bf16}}));
  const Golden golden = load_golden(kSource / ("tests/data/models/demo-7m-digest-" + prompt + ".safetensors"));
  const GoldenResult result = compare(kSource / "apps/demo/demo-7m", golden, "stream", 0.2, 512, act);
  CAPTURE(prompt, name_of(act));
  check_result(result, act == DType::f32 ? 1e-8 : 2e-4);
  if (act == DType::f32) CHECK(result.greedy_total == static_cast<std::int64_t>(golden.greedy_ids.size()));
}
