// What fits which budget, by shapes alone: weights, hidden states and KV against device and host memory.
#include "runtime/plan/plan.h"
#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "offload/selection_buffers.h"
#include "runtime/model/geometry.h"
#include "runtime/model/weights.h"
#include "tests/support/catch.h"

using namespace longhaul;

namespace {

constexpr std::int64_t kGiB = std::int64_t{1} << 30;

EngineOptions options_of(const std::string& policy, std::int64_t context, std::int64_t sessions = 1) {
  return {.policy = load_policy(policy), .max_len = context + 256, .max_sessions = sessions};
}

Budget gib(double device, double host) {
  return {.device = static_cast<std::int64_t>(device * kGiB), .host = static_cast<std::int64_t>(host * kGiB)};
}

EngineOptions fit(const ModelConfig& config, const EngineOptions& options, const Budget& budget) {
  const EngineOptions fitted = fit_to_budget(config, options, budget);
  const MemoryPlan plan = plan_memory(config, fitted);
  CHECK(plan.device_bytes <= budget.device_for_plan());
  CHECK(plan.host_bytes <= budget.host);
  return fitted;
}

std::string refusal(const ModelConfig& config, const EngineOptions& options, const Budget& budget) {
  try {
    fit_to_budget(config, options, budget);
  } catch (const UserError& e) {
    CHECK(e.code == Exit::plan_does_not_fit);
    return e.what();
  }
  return "it fits";
}

}  // namespace

TEST_CASE("models fit the budgets that they are meant to run in") {
  struct Case {
    const char* geometry;
    std::int64_t context;
    double device, host;
    bool streams, spills;
  };
  for (const char* policy : {"offload", "stream"})
    for (const Case& c :
         {Case{"llama-3.1-8b", 256 << 10, 10.7, 48, true, true},  // config/budgets/12gib.toml
          Case{"llama-3.1-8b", 256 << 10, 12, 48, true, true},
          Case{"llama-3.1-8b", 256 << 10, 22.2, 64, false, false},  // config/budgets/24gib.toml
          Case{"llama-3.1-8b", 256 << 10, 24, 64, false, false}, Case{"llama-2-7b", 128 << 10, 80, 125, false, false},
          Case{"llama-2-70b", 128 << 10, 139, 125, false, false}, Case{"llama-2-70b", 128 << 10, 77, 125, true, true},
          Case{"qwen2.5-7b-1m", 1000 << 10, 77, 125, false, false},
          Case{"qwen2.5-7b-1m", 1000 << 10, 22.5, 64, false, true},
          Case{"qwen2.5-7b-1m", 1000 << 10, 11, 96, true, true}}) {
      CAPTURE(policy, c.geometry, c.device, c.host);
      const EngineOptions fitted =
          fit(load_geometry(c.geometry).config, options_of(policy, c.context), gib(c.device, c.host));
      CHECK((fitted.streamed_layers > 0) == c.streams);
      CHECK(fitted.spill_hidden == c.spills);
    }
}

TEST_CASE("a chunk is widened as far as a sixteenth of the device's memory goes, and no plan is refused for it") {
  for (const char* geometry : {"llama-3.2-1b", "llama-3.1-8b", "mixtral-8x7b", "qwen2.5-7b-1m"})
    for (const double device : {4, 8, 12, 24, 80, 139}) {
      const ModelConfig config = load_geometry(geometry).config;
      const Budget budget = gib(device, 1000);
      EngineOptions options = options_of("offload", 300 << 10);
      auto bytes = [&](std::int64_t chunk) {
        EngineOptions with = options;
        with.prefill_chunk = chunk;
        return plan_memory(config, with).device_bytes;
      };
      const std::int64_t chunk = widest_chunk(config, options, budget);
      CAPTURE(geometry, device, chunk);
      CHECK(bytes(chunk) - bytes(512) <= budget.device / 16);
      CHECK((chunk == 8192 || bytes(2 * chunk) - bytes(512) > budget.device / 16));

      const auto narrow = try_fit(config, options, budget);
      options.widens_chunk = true;
      const auto wide = try_fit(config, options, budget);
      REQUIRE(narrow.has_value() == wide.has_value());
      if (!wide) continue;
      CHECK(wide->prefill_chunk >= 512);
      CHECK(wide->prefill_chunk <= chunk);
      CHECK(wide->max_sessions == narrow->max_sessions);
      CHECK(plan_memory(config, *wide).device_bytes <= budget.device_for_plan());
    }
  EngineOptions options = options_of("offload", 128 << 10);
  options.widens_chunk = true;
  CHECK(fit(load_geometry("llama-3.1-8b").config, options, gib(24, 64)).prefill_chunk == 8192);
}

TEST_CASE(
    "two layers are held where that takes no more than a 32nd of the device's memory, and no plan is refused for it") {
  for (const char* geometry : {"llama-3.2-1b", "llama-3.1-8b", "qwen2.5-7b-1m"})
    for (const char* policy : {"offload", "stream"})
      for (const double device : {4, 12, 24, 139})
        for (const std::int64_t context : {8 << 10, 64 << 10, 300 << 10}) {
          const ModelConfig config = load_geometry(geometry).config;
          const Budget budget = gib(device, 1000);
          EngineOptions options = options_of(policy, context);
          const auto one = try_fit(config, options, budget);
          options.may_hold_two = true;
          const auto two = try_fit(config, options, budget);
          CAPTURE(geometry, policy, device, context);
          REQUIRE(one.has_value() == two.has_value());
          if (!two) continue;
          CHECK(two->max_sessions == one->max_sessions);
          CHECK(plan_memory(config, *two).device_bytes <= budget.device_for_plan());
          if (policy == std::string("stream") || !holds_two(config, *one, budget)) CHECK(two->layers_held == 1);
        }
  EngineOptions options = options_of("offload", 32 << 10);
  options.may_hold_two = true;
  CHECK(fit(load_geometry("llama-3.1-8b").config, options, gib(24, 64)).layers_held == 2);
}

namespace {

/// What a longer tile may change: rows that are resident because there is room. True if there is one.
bool check_lengthened(const ModelConfig& config, EngineOptions options, const Budget& budget) {
  const auto plain = try_fit(config, options, budget);
  options.lengthens_tile = true;
  const auto longer = try_fit(config, options, budget);
  REQUIRE(plain.has_value() == longer.has_value());
  if (!plain) return false;
  const KvLayout before = kv_layout(config, *plain);
  CHECK(plain->policy.tile_rows == options.policy.tile_rows);
  EngineOptions same = *longer;
  same.policy.tile_rows = plain->policy.tile_rows, same.resident = plain->resident;
  CHECK(plan_memory(config, same).table() == plan_memory(config, *plain).table());
  CHECK((longer->resident >= 1) == (plain->resident >= 1));
  CHECK(longer->resident <= plain->resident);
  CHECK(longer->store_rows == plain->store_rows);
  CHECK(together(config, *longer).longest >= together(config, *plain).longest);
  const MemoryPlan plan = plan_memory(config, *longer);
  CHECK(plan.device_bytes <= budget.device_for_plan());
  CHECK(plan.host_bytes + budget.beside(longer->policy) <= budget.host);
  const std::int64_t rows = kv_layout(config, *longer).tile_rows;
  if (options.policy.tile_rows || rows <= KvPolicy::kTileRows) {
    CHECK(longer->policy.tile_rows == options.policy.tile_rows);
    return false;
  }
  CHECK(rows * config.kv_heads * kv_shape(config, *longer).row_bytes() <= 32 << 20);
  CHECK(4 * rows <= before.host_rows());
  same.policy.tile_rows = rows;
  CHECK(plan_memory(config, same).device_bytes - plan_memory(config, *plain).device_bytes <= budget.device / 128);
  return true;
}

}  // namespace

TEST_CASE("a tile is as long as a copy over the link wants it, and the plan is the same otherwise") {
  int lengthened = 0;
  for (const char* geometry : {"llama-3.2-1b", "llama-3.1-8b", "llama-2-7b"})
    for (const char* policy : {"stream", "offload-dense2", "offload"})
      for (const std::int64_t context : {3 << 10, 20 << 10, 64 << 10, 300 << 10})
        for (double device = 1.5; device < 40; device *= 1.013) {
          const ModelConfig config = load_geometry(geometry).config;
          EngineOptions options = options_of(policy, context);
          const auto turn = static_cast<int>(device * 1000);
          options.widens_chunk = options.may_hold_two = turn % 2 == 0;
          if (turn % 3 == 0) options.policy.resident = 0.0;
          if (turn % 7 == 0) options.policy.tile_rows = 128;
          CAPTURE(geometry, policy, device, context);
          lengthened += check_lengthened(config, options, gib(device, 1000));
        }
  CHECK(lengthened > 100);
  auto rows = [](const char* geometry, std::int64_t context, double device) {
    EngineOptions options = options_of("stream", context);
    options.lengthens_tile = true;
    return fit(load_geometry(geometry).config, options, gib(device, 200)).policy.tile_rows;
  };
  CHECK(rows("llama-3.1-8b", 256 << 10, 24) == 8192);
  CHECK(rows("llama-3.1-8b", 256 << 10, 12) == 8192);
  CHECK(rows("llama-2-7b", 128 << 10, 24) == 2048);
}

TEST_CASE("a longer tile leaves a host that is nearly full, and sessions of their own lengths, what they have") {
  const ModelConfig config = load_geometry("llama-3.1-8b").config;
  int lengthened = 0;
  for (const double device : {12.0, 20.0, 24.0})
    for (const bool own_lengths : {false, true})
      for (const std::int64_t more : {0, 20, 56, 57, 100, 500}) {
        EngineOptions options = options_of("stream", 64 << 10, 4);
        options.widens_chunk = options.may_hold_two = true;
        if (own_lengths)
          options.lengths = std::make_shared<const std::vector<std::int64_t>>(
              std::vector<std::int64_t>{64 << 10, 60 << 10, 50 << 10, 40 << 10, 30 << 10, 20 << 10, 10 << 10});
        const auto plain = try_fit(config, options, gib(device, 1000));
        REQUIRE(plain);
        Budget budget = gib(device, 0);
        budget.host = plan_memory(config, *plain).host_bytes + budget.beside(options.policy) + (more << 20);
        CAPTURE(device, own_lengths, more);
        lengthened += check_lengthened(config, options, budget);
      }
  CHECK(lengthened > 5);
}

TEST_CASE("rows that are all resident stay so, whatever a faster prefill would take") {
  const ModelConfig config = load_geometry("llama-3.1-8b").config;
  bool seen = false;
  for (double device = 22; device < 30; device += 0.25) {
    EngineOptions options = options_of("offload", 128 << 10);
    options.policy.kv_dtype = RowType::int8;  // not prefilled in place
    const auto narrow = try_fit(config, options, gib(device, 64));
    options.widens_chunk = options.may_hold_two = true;
    const auto wide = try_fit(config, options, gib(device, 64));
    CAPTURE(device, narrow->resident, wide->prefill_chunk, wide->layers_held);
    CHECK((narrow->resident < 1 || wide->resident >= 1));
    seen = seen || narrow->resident >= 1;
  }
  CHECK(seen);
}

TEST_CASE("bases of labels lie on multiples of 8 bytes, however many heads there are") {
  const KvPolicy policy = load_policy("offload");
  for (const std::int64_t group : {1, 3, 4, 5})
    for (const std::int64_t kv_heads : {1, 2, 3}) {
      const KvShape shape{.layers = 3, .q_heads = group * kv_heads, .kv_heads = kv_heads, .head_dim = 64};
      Arena device, host;
      const SelectionBuffers buffers(shape, make_layout(policy, 0, 1, 2, 4096), policy, {}, device, host);
      CHECK(buffers.labels(0, 0).basis_stride % 2 == 0);
    }
}

TEST_CASE("as few layers are streamed as fit, and only where spilled hidden states do not help") {
  const ModelConfig config = load_geometry("llama-3.1-8b").config;
  std::int64_t streamed = config.layers;
  bool spilled = true, table = true;
  for (double device = 5.5; device < 24; device += 0.25) {
    const EngineOptions fitted = fit(config, options_of("offload", 256 << 10), gib(device, 64));
    CAPTURE(device, fitted.streamed_layers, fitted.spill_hidden);
    CHECK(fitted.streamed_layers <= streamed);
    CHECK(fitted.spill_hidden <= spilled);
    CHECK(fitted.host_embedding <= table);
    streamed = fitted.streamed_layers, spilled = fitted.spill_hidden;
    table = fitted.host_embedding;
    if (streamed == 0) continue;
    CHECK(table);
    CHECK(spilled);
    CHECK(fitted.streamed_layers > Weights::kSlots);  // as many as that give no memory back
    EngineOptions fewer = fitted;
    --fewer.streamed_layers;
    fewer.cache = 0;
    CHECK(plan_memory(config, fewer).device_bytes > gib(device, 0).device);
  }
  CHECK(streamed == 0);
  CHECK(!spilled);
  CHECK(!table);
}

TEST_CASE("what is asked of weights and hidden states is kept or refused") {
  const ModelConfig config = load_geometry("llama-3.1-8b").config;
  EngineOptions options = options_of("offload", 256 << 10);
  const Budget large = gib(141, 512);
  for (std::int64_t layers : {0, 1, 7, 32}) {
    options.wanted = {.streamed_layers = layers, .spill_hidden = layers == 7};
    const EngineOptions fitted = fit(config, options, large);
    CHECK(fitted.streamed_layers == layers);
    CHECK(fitted.spill_hidden == (layers == 7));
  }
  options.wanted = {.streamed_layers = Placement::kAllLayers};
  CHECK(fit(config, options, large).streamed_layers == 32);
  options.wanted = {.streamed_layers = 33};
  CHECK_THROWS_WITH(fit_to_budget(config, options, large), Catch::Contains("33 layers") && Catch::Contains("has 32"));
  options.wanted = {.streamed_layers = 0};
  CHECK(refusal(config, options, gib(12, 64)).find("needs 1") !=
        std::string::npos);  // 18 or so, not what streaming takes
  options.wanted = {.spill_hidden = false};
  CHECK(fit(config, options, gib(12, 64)).streamed_layers > 0);
}

TEST_CASE("a quantised model is bf16 where that fits the device, else packed, and streamed only then") {
  const Geometry shape = load_geometry("llama-2-70b-int4");
  const ModelConfig& config = shape.config;
  for (const char* policy : {"offload", "stream"}) {
    CAPTURE(policy);
    EngineOptions options = options_of(policy, 128 << 10);
    options.formats = shape.formats;
    const EngineOptions large = fit(config, options, gib(141, 125));
    CHECK(!large.packed);
    CHECK(large.streamed_layers == 0);
    const EngineOptions one_gpu = fit(config, options, gib(77, 125));  // of 80 GB
    CHECK(one_gpu.packed);
    CHECK(one_gpu.streamed_layers == 0);
    const EngineOptions smaller = fit(config, options, gib(45, 125));
    CHECK(smaller.packed);
    CHECK(smaller.streamed_layers == 0);
    const EngineOptions little = fit(config, options, gib(24, 125));
    CHECK(little.packed);
    CHECK(little.streamed_layers > 0);
    // 34 GiB in 4 bits: most stay on the device, where in bf16 none would.
    CHECK(little.streamed_layers < config.layers / 2 + 10);

    options.wanted.packed = false;
    const EngineOptions bf16 = fit(config, options, gib(77, 125));
    CHECK(!bf16.packed);
    CHECK(bf16.streamed_layers > 0);
    options.wanted.packed = true;
    CHECK(fit(config, options, gib(141, 125)).packed);
    options.wanted = {.streamed_layers = 5};  // fewer bytes over the link
    CHECK(fit(config, options, gib(141, 125)).packed);
    options.wanted = {.packed = true};
    options.formats = nullptr;
    CHECK_THROWS_WITH(fit_to_budget(config, options, gib(141, 125)), Catch::Contains("to be packed"));
  }
}

TEST_CASE("a refusal names budgets that work and a context that fits") {
  for (const char* policy : {"offload", "stream"})
    for (const auto& [device, host] : {std::pair{2.25, 64.0}, {2.75, 64.0}, {11.0, 20.0}, {11.0, 38.0}, {24.0, 20.0}}) {
      const ModelConfig config = load_geometry("llama-3.1-8b").config;
      EngineOptions options = options_of(policy, 256 << 10);
      options.widens_chunk = policy == std::string("offload");
      Budget budget = gib(device, host);
      budget.libraries = std::int64_t{32} << 20;
      budget.program = std::int64_t{96} << 20;
      const std::string text = refusal(config, options, budget);
      CAPTURE(policy, device, host, text);
      CHECK(text.find('\n') == std::string::npos);
      const auto number = [&](const char* before) {
        const auto at = text.find(before);
        return at == std::string::npos ? -1 : std::stoll(text.substr(at + std::string(before).size()));
      };
      const std::int64_t gpu = number("--gpu-memory "), pinned = number("--host-memory ");
      REQUIRE(gpu > 0);
      REQUIRE(pinned > 0);
      fit(config, options,
          {.device = gpu << 20, .host = pinned << 20, .libraries = budget.libraries, .program = budget.program});
      const std::int64_t longest = number("the longest context that fits is ");
      if (longest < 0) {
        CHECK(text.find("no context fits") != std::string::npos);
        continue;
      }
      EngineOptions shorter = options;
      shorter.max_len = longest;
      fit(config, shorter, budget);
      shorter.max_len = longest + 1;
      CHECK(refusal(config, shorter, budget) != "it fits");
    }
}

TEST_CASE("a refusal proposes KV rows of int8, then of 4 bits, where they fit") {
  const ModelConfig config = load_geometry("llama-3.1-8b").config;
  EngineOptions options = options_of("offload", 256 << 10);
  const std::int64_t bf16 = plan_memory(config, fit(config, options, gib(24, 64))).host_bytes;
  // What each share of the host memory that bf16 rows take has room for: 272 and 160 of 512 bytes a row.
  for (const auto& [share, proposed] :
       {std::pair{0.9, "int8"}, {0.54, "int8"}, {0.52, "int4"}, {0.32, "int4"}, {0.3, ""}}) {
    const Budget budget{.device = 24 * kGiB, .host = static_cast<std::int64_t>(static_cast<double>(bf16) * share)};
    options.policy.kv_dtype = RowType::act;
    const std::string text = refusal(config, options, budget);
    CAPTURE(share, text);
    const auto at = text.find("; with --kv-dtype ");
    if (!*proposed) {
      CHECK(at == std::string::npos);
      continue;
    }
    REQUIRE(at != std::string::npos);
    CHECK(text.substr(at).starts_with(std::string("; with --kv-dtype ") + proposed + " it fits; the longest context"));
    options.policy.kv_dtype = proposed == std::string("int8") ? RowType::int8 : RowType::int4;
    fit(config, options, budget);
  }
  options.policy.kv_dtype = RowType::int4;  // nothing smaller is left
  CHECK(refusal(config, options, gib(24, 4)).find("--kv-dtype") == std::string::npos);
}

TEST_CASE("resident weights come before resident rows") {
  const ModelConfig config = load_geometry("llama-3.1-8b").config;
  for (const char* policy : {"offload", "stream"}) {
    const EngineOptions fitted = fit(config, options_of(policy, 256 << 10), gib(12, 64));
    CAPTURE(policy);
    // What is left to rows is less than a layer's weights.
    EngineOptions bare = fitted;
    bare.resident = bare.cache = 0;
    CHECK(plan_memory(config, fitted).device_bytes - plan_memory(config, bare).device_bytes <
          layer_weight_bytes(config) + kGiB / 1024);
  }
}
