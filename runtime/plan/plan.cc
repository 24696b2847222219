#include "runtime/plan/plan.h"

#include <algorithm>
#include <ranges>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "runtime/engine/engine_memory.h"

namespace longhaul {

KvShape kv_shape(const ModelConfig& c, const EngineOptions& options) {
  const bool windowed = c.window > 0 && c.window < options.max_len;
  const bool chunked = c.dual_chunks.rows > 0 && c.dual_chunks.rows < options.max_len;
  check(!chunked || c.still.empty(), "dual-chunk attention: RoPE turns every layer");
  return {.layers = c.layers,
          .q_heads = c.q_heads,
          .kv_heads = c.kv_heads,
          .head_dim = c.head_dim,
          .act = options.activations,
          .row_type = options.policy.kv_dtype,
          .window = windowed ? c.window : 0,
          .windowed = windowed ? c.windowed : std::vector<bool>{},
          .chunk = chunked ? c.dual_chunks.rows : 0,
          .reach = chunked ? c.dual_chunks.reach : 0,
          .still = c.still};
}

namespace {

/// Room for the longest session in any case.
void set_store(KvLayout& layout, const EngineOptions& o) {
  layout.own_lengths = true;
  std::int64_t longest = 0, all = 0;
  for (std::int64_t i = 0; i < std::ssize(*o.lengths); ++i) {
    const std::int64_t rows = layout.host_rows_of((*o.lengths)[static_cast<std::size_t>(i)]);
    all += rows;
    if (i < o.max_sessions) longest += rows;
  }
  const std::int64_t most = std::max(longest, layout.host_rows());
  const std::int64_t mean = ceil_div(all * o.max_sessions, std::max<std::int64_t>(std::ssize(*o.lengths), 1));
  const std::int64_t least = std::clamp(round_up(mean, kAttendBlock), layout.host_rows(), most);
  layout.store_rows = o.store_rows > 0 ? std::clamp(o.store_rows, least, most) : most;
}

}  // namespace

KvLayout kv_layout(const ModelConfig& c, const EngineOptions& o) {
  const KvShape shape = kv_shape(c, o);
  // Where every layer is windowed no row leaves the device.
  KvLayout layout = shape.full_layers() > 0 ? make_layout(o.policy, o.resident, o.cache, o.max_sessions, o.max_len)
                                            : make_layout({}, 1, 0, o.max_sessions, o.max_len);
  if (o.lengths) set_store(layout, o);
  if (shape.window > 0) layout.window_rows = o.probes.rewinds ? layout.capacity : round_up(shape.window, kAttendBlock);
  return layout;
}

void check_policy(const KvPolicy& policy, const ModelConfig& c) {
  auto refuse = [&](const std::string& what) { throw UserError(Exit::usage, "policy '{}': {}", policy.name, what); };
  for (const auto& [key, layers] :
       {std::pair{"dense_layers", &policy.dense_layers}, {"eager_layers", &policy.eager_layers}})
    if (!layers->empty() && layers->back() >= c.layers)
      refuse(fmt::format("{} names layer {}, and the model has layers 0 to {}", key, layers->back(), c.layers - 1));
  if (policy.kv_dtype != RowType::act && c.head_dim % kRowGroup != 0)
    refuse(
        fmt::format("kv_dtype = \"{}\" scales groups of {} values, and the model's head_dim of {} is not a multiple "
                    "of that; use \"bf16\"",
                    name_of(policy.kv_dtype), kRowGroup, c.head_dim));
  if (policy.selects() && policy.rows > c.max_position)
    refuse(fmt::format("rows = {} is more than the model's context of {} tokens", policy.rows, c.max_position));
  if (policy.select == Select::labels && policy.label_dims > static_cast<double>(c.head_dim))
    refuse(fmt::format("label_dims = {} is more than the model's head_dim of {}", policy.label_dims, c.head_dim));
}

MemoryPlan plan_memory(const ModelConfig& config, const EngineOptions& options) {
  Arena device, host;
  EngineMemory layout(config, options, device, host);
  return {.device = device.items(), .host = host.items(), .device_bytes = device.used(), .host_bytes = host.used()};
}

Together together(const ModelConfig& config, const EngineOptions& options) {
  if (!options.lengths) return {options.max_sessions, options.max_sessions};
  const KvLayout layout = kv_layout(config, options);
  auto count = [&](auto lengths) {
    std::int64_t sessions = 0, rows = 0;
    for (const std::int64_t length : lengths) {
      rows += layout.host_rows_of(length);
      if (sessions == options.max_sessions || rows > layout.store_rows) break;
      ++sessions;
    }
    return sessions;
  };
  return {count(std::views::all(*options.lengths)), count(std::views::reverse(*options.lengths))};
}

std::string MemoryPlan::table() const {
  std::string out;
  auto part = [&](const char* place, const std::vector<Arena::Item>& items, std::int64_t total) {
    for (const Arena::Item& item : items)
      if (item.bytes > 0) out += fmt::format("{:<7} {:<22} {:>12}\n", place, item.name, format_bytes(item.bytes));
    out += fmt::format("{:<7} {:<22} {:>12}\n", place, "total", format_bytes(total));
  };
  part("device", device, device_bytes);
  part("host", host, host_bytes);
  return out;
}

namespace {

bool fits(const ModelConfig& config, const EngineOptions& options, const Budget& budget) {
  const MemoryPlan plan = plan_memory(config, options);
  const std::int64_t host = plan.host_bytes + budget.beside(options.policy);
  return plan.device_bytes <= budget.device_for_plan() && host <= budget.host &&
         plan.device_bytes + host <= budget.together;
}

/// The largest x in [low, high] with good(x), or low - 1; good is true up to some point and false after it.
template <class Good>
std::int64_t last_true(std::int64_t low, std::int64_t high, const Good& good) {
  std::int64_t below = low - 1;
  while (below < high) {
    std::int64_t middle = below + (high - below + 1) / 2;
    if (good(middle)) below = middle;
    else high = middle - 1;
  }
  return below;
}

/// Chooses options.cache, the most that the policy allows and that fits; false when nothing does.
bool fit_cache(const ModelConfig& config, EngineOptions& options, const Budget& budget) {
  constexpr std::int64_t kParts = 4, kMost = 8 * kParts;  // quarters of the attended rows; more is hardly ever hit
  auto with = [&](double cache) {
    options.cache = cache;
    return fits(config, options, budget);
  };
  if (!options.policy.selects()) return with(0);
  if (options.policy.cache) return with(*options.policy.cache);
  const std::int64_t parts = last_true(0, kMost, [&](std::int64_t n) { return with(static_cast<double>(n) / kParts); });
  return parts >= 0 && with(static_cast<double>(parts) / kParts);
}

/// Chooses options.resident and options.cache; false when nothing that the policy allows fits.
bool fit_resident(const ModelConfig& config, EngineOptions& options, const Budget& budget) {
  auto with = [&](double share) {
    options.resident = share;
    return fits(config, options, budget);
  };
  if (options.policy.resident) {
    options.resident = *options.policy.resident;
    return fit_cache(config, options, budget);
  }
  options.cache = 0;
  if (with(1)) return true;
  if (options.policy.selects()) {  // rows that are asked for again serve better than the first ones
    options.resident = 0;
    return fit_cache(config, options, budget);
  }
  // More resident rows take device memory and give host memory back, so only the device's bound is monotonic. Step by
  // attend block; a little over, so that the layout's rounding down gives just that many blocks.
  const std::int64_t blocks = ceil_div(options.max_len, kAttendBlock);
  auto share = [&](std::int64_t n) { return (static_cast<double>(n) + 0.5) / static_cast<double>(blocks); };
  std::int64_t n = last_true(0, blocks - 1, [&](std::int64_t n) {
    options.resident = share(n);
    return plan_memory(config, options).device_bytes <= budget.device_for_plan();
  });
  return n >= 0 && with(share(n));
}

/// Chooses options.store_rows too: what the longest sessions need together, or as much of that as fits, but never less
/// than as many of mean length need, so that no slot's other memory lies idle.
bool fit_store(const ModelConfig& config, EngineOptions& options, const Budget& budget) {
  options.store_rows = 0;
  if (fit_resident(config, options, budget)) return true;
  if (!options.lengths) return false;
  options.store_rows = EngineOptions::kLeastStore;
  if (!fit_resident(config, options, budget)) return false;
  const std::int64_t most = options.max_sessions * ceil_div(options.max_len, kAttendBlock);
  options.store_rows = kAttendBlock * last_true(1, most, [&](std::int64_t blocks) {
                         options.store_rows = blocks * kAttendBlock;
                         return fits(config, options, budget);
                       });
  return true;
}

/// Of the placements of KV that the policy allows, the plan that takes the least device memory.
MemoryPlan least(const ModelConfig& config, EngineOptions options) {
  options.cache = options.policy.cache.value_or(0);
  options.resident = options.policy.resident.value_or(0);
  MemoryPlan plan = plan_memory(config, options);
  if (options.policy.resident) return plan;
  options.resident = 1;  // a short context needs no buffers then
  MemoryPlan all = plan_memory(config, options);
  return all.device_bytes < plan.device_bytes ? all : plan;
}

/// Where weights and hidden states may be, and as what; those that cost the least in a step come first.
struct Rung {
  bool packed, spill, host_embedding;
  std::optional<std::int64_t> streamed;  // none: as few as fit, but at least one
};

std::vector<Rung> rungs(const ModelConfig& config, const EngineOptions& options) {
  const Placement& wanted = options.wanted;
  if (wanted.streamed_layers && *wanted.streamed_layers != Placement::kAllLayers &&
      *wanted.streamed_layers > config.layers)
    throw UserError(Exit::usage, "weights: {} layers are to be streamed, and the model has {}", *wanted.streamed_layers,
                    config.layers);
  if (wanted.packed.value_or(false) && options.formats == nullptr)
    throw UserError(Exit::usage, "weights: they are to be packed, and no layer of this model has any that can be");
  const std::int64_t streamed = std::min(wanted.streamed_layers.value_or(0), config.layers);
  std::vector<bool> spills{false, true}, packings{false};
  if (wanted.spill_hidden) spills = {*wanted.spill_hidden};
  if (wanted.packed) packings = {*wanted.packed};
  else if (options.formats != nullptr && streamed > 0) packings = {true};  // fewer bytes over the link
  else if (options.formats != nullptr) packings = {false, true};
  std::vector<Rung> all;
  for (const bool packed : packings) {
    for (const bool spill : spills) all.push_back({packed, spill, streamed > 0, streamed});
    if (!wanted.streamed_layers) all.push_back({packed, spills.back(), true, 0});
  }
  if (!wanted.streamed_layers) all.push_back({packings.back(), spills.back(), true, {}});
  return all;
}

/// Sets what the rung says. The fewest streamed layers are those beside which the least of KV fits the device; more of
/// them, from as many as there are slots on, give device memory back and take host memory.
void place(const ModelConfig& config, EngineOptions& options, const Rung& rung, const Budget& budget) {
  options.packed = rung.packed;
  options.spill_hidden = rung.spill;
  options.host_embedding = rung.host_embedding;
  if (rung.streamed) {
    options.streamed_layers = *rung.streamed;
    return;
  }
  const std::int64_t too_few = last_true(1, config.layers - 1, [&](std::int64_t n) {
    options.streamed_layers = n;
    return least(config, options).device_bytes > budget.device_for_plan();
  });
  options.streamed_layers = too_few + 1;
}

/// The least that these sessions take; of placements that the device has room for the first, as the others take more of
/// the host.
MemoryPlan smallest(const ModelConfig& config, EngineOptions options, const Budget& budget) {
  MemoryPlan plan;
  for (const Rung& rung : rungs(config, options)) {
    place(config, options, rung, budget);
    plan = least(config, options);
    if (plan.device_bytes <= budget.device_for_plan()) break;
  }
  return plan;
}

/// Types of fewer bytes that the same plan fits with, the least loss first; empty: none does.
std::string smaller_rows(const ModelConfig& config, EngineOptions options, const Budget& budget) {
  const std::int64_t now = kv_shape(config, options).row_bytes();
  if (config.head_dim % kRowGroup != 0) return "";
  for (RowType type : {RowType::int8, RowType::int4}) {
    options.policy.kv_dtype = type;
    if (kv_shape(config, options).row_bytes() < now && try_fit(config, options, budget))
      return fmt::format("with --kv-dtype {} it fits; ", name_of(type));
  }
  return "";
}

/// What makes a prefill faster and takes memory, the fastest first; narrow: the plan without.
std::vector<EngineOptions> wider(const ModelConfig& config, const EngineOptions& options, const EngineOptions& narrow,
                                 const Budget& budget) {
  std::vector<EngineOptions> out;
  const std::int64_t widest = options.widens_chunk ? widest_chunk(config, options, budget) : options.prefill_chunk;
  const bool labelled = options.policy.select == Select::labels;
  const std::int64_t held = options.may_hold_two && labelled && holds_two(config, narrow, budget) ? 2 : 1;
  for (std::int64_t chunk = widest; chunk >= options.prefill_chunk; chunk /= 2)
    for (std::int64_t layers = held; layers >= 1; --layers) {
      out.push_back(options);
      out.back().prefill_chunk = chunk;
      out.back().layers_held = layers;
    }
  out.pop_back();  // narrow itself
  return out;
}

/// The plan with the longest tile beside which all else stays as it is, but for rows that are resident because there is
/// room.
EngineOptions lengthen_tile(const ModelConfig& config, const EngineOptions& plan, const Budget& budget) {
  if (!plan.lengthens_tile || plan.policy.tile_rows || kv_layout(config, plan).tile_rows == 0) return plan;
  const Together all = together(config, plan);
  for (std::int64_t rows = longest_tile(config, plan, budget); rows > KvPolicy::kTileRows; rows /= 2) {
    EngineOptions longer = plan;
    longer.policy.tile_rows = rows;
    if (!fit_resident(config, longer, budget) || longer.cache != plan.cache) continue;
    const Together some = together(config, longer);
    if (some.longest >= all.longest && some.shortest >= all.shortest) return longer;
  }
  return plan;
}

}  // namespace

std::int64_t widest_chunk(const ModelConfig& config, EngineOptions options, const Budget& budget) {
  constexpr std::int64_t kMost = 8192, kShare = 16;
  options.max_sessions = 1;
  options.lengths = nullptr;
  const std::int64_t least = plan_memory(config, options).device_bytes;
  for (std::int64_t chunk = options.prefill_chunk;; chunk = options.prefill_chunk) {
    options.prefill_chunk = 2 * chunk;
    if (2 * chunk > kMost || plan_memory(config, options).device_bytes - least > budget.device / kShare) return chunk;
  }
}

std::int64_t longest_tile(const ModelConfig& config, EngineOptions options, const Budget& budget) {
  constexpr std::int64_t kMostBytes = 32 << 20, kParts = 4, kShare = 128;
  const std::int64_t row_bytes = config.kv_heads * kv_shape(config, options).row_bytes();
  const auto bytes = [&](std::int64_t rows) {
    options.policy.tile_rows = rows;
    return plan_memory(config, options).device_bytes;
  };
  const std::int64_t streamed = kv_layout(config, options).host_rows(), least = bytes(KvPolicy::kTileRows);
  std::int64_t rows = KvPolicy::kTileRows;
  while (2 * rows * row_bytes <= kMostBytes && 2 * rows * kParts <= streamed &&
         bytes(2 * rows) - least <= budget.device / kShare)
    rows *= 2;
  return rows;
}

bool holds_two(const ModelConfig& config, EngineOptions options, const Budget& budget) {
  constexpr std::int64_t kShare = 32;
  options.max_sessions = 1;
  options.lengths = nullptr;
  const auto bytes = [&](std::int64_t layers) {
    options.layers_held = layers;
    return plan_memory(config, options).device_bytes;
  };
  return bytes(2) - bytes(1) <= budget.device / kShare;
}

std::optional<EngineOptions> try_fit(const ModelConfig& config, EngineOptions options, const Budget& budget) {
  const std::int64_t most = options.max_sessions;
  for (const Rung& rung : rungs(config, options))
    for (options.max_sessions = most; options.max_sessions >= 1; --options.max_sessions) {
      const auto fitted = [&](EngineOptions with) -> std::optional<EngineOptions> {
        place(config, with, rung, budget);
        if (!fit_store(config, with, budget)) return {};
        return with;
      };
      const auto narrow = fitted(options);
      if (!narrow) continue;
      for (const EngineOptions& wide : wider(config, options, *narrow, budget)) {
        const auto room = fitted(wide);
        if (room && (room->resident >= 1 || narrow->resident < 1))  // no step pays for a prefill's speed
          return lengthen_tile(config, *room, budget);
      }
      return lengthen_tile(config, *narrow, budget);
    }
  return {};
}

EngineOptions fit_to_budget(const ModelConfig& config, EngineOptions options, const Budget& budget) {
  if (const auto fitted = try_fit(config, options, budget)) return *fitted;
  options.max_sessions = 1;
  const MemoryPlan need = smallest(config, options, budget);
  const std::int64_t device = need.device_bytes + budget.libraries;
  const std::int64_t host = need.host_bytes + budget.beside(options.policy);
  const std::int64_t longest = last_true(1, options.max_len, [&](std::int64_t len) {
    EngineOptions shorter = options;
    shorter.max_len = len;
    return try_fit(config, shorter, budget).has_value();
  });
  const bool shared = device <= budget.device && host <= budget.host;
  const std::string fitting = longest >= 1 ? fmt::format("the longest context that fits is {} tokens", longest)
                                           : std::string("no context fits");
  throw UserError(
      Exit::plan_does_not_fit,
      "a context of {} tokens under policy '{}' needs {} of device and {} of host memory; available are {} and "
      "{}{}; {}{}, or give --gpu-memory {}MiB --host-memory {}MiB",
      options.max_len, options.policy.name, format_bytes(device), format_bytes(host), format_bytes(budget.device),
      format_bytes(budget.host), shared ? fmt::format(", {} together", format_bytes(budget.together)) : std::string(),
      smaller_rows(config, options, budget), fitting, ceil_div(device, 1 << 20), ceil_div(host, 1 << 20));
}

}  // namespace longhaul
