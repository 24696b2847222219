#include "bench/synthetic_run.h"

#include <algorithm>

#include "apps/options.h"
#include "kernels/base/bytes.h"
#include "kernels/base/error.h"

namespace longhaul::bench {
namespace {

/// "256K" where it is a round number.
std::string tokens_text(std::int64_t tokens) {
  return tokens % 1024 == 0 ? fmt::format("{}K", tokens / 1024) : fmt::format("{}", tokens);
}

}  // namespace

std::string name_of(const SyntheticSetting& s) {
  std::string name = fmt::format("{}_{}_{}_{}", s.geometry.name, s.policy, s.context, s.batch);
  if (s.gpu_memory) {
    name += "_" + format_bytes(*s.gpu_memory);
    std::erase(name, ' ');
  }
  if (s.wanted.streamed_layers) name += fmt::format("_weights{}", *s.wanted.streamed_layers);
  if (s.wanted.packed) name += *s.wanted.packed ? "_packed" : "_bf16";
  for (const std::string& set : s.sets) name += "_" + set;  // results of other settings stay
  if (s.wanted.spill_hidden) name += *s.wanted.spill_hidden ? "_host" : "_device";
  return name;
}

SyntheticRun::SyntheticRun(const SyntheticSetting& setting) : setting_(setting) {
  ModelConfig& config = setting_.geometry.config;
  // Random weights have no context that they were trained for.
  config.max_position = std::max(config.max_position, setting.context + kAnswer);
  Budget budget = available_budget(setting.device, setting.gpu_memory);
  budget.host = setting.host_memory.value_or(budget.host);
  device_ = open_device(setting.device, budget.device, 0);
  EngineOptions options{.policy = load_policy(setting.policy, setting.sets),
                        .max_len = setting.context + kAnswer,
                        .max_sessions = setting.batch,
                        .prefill_chunk = setting.prefill_chunk,
                        .may_hold_two = true,
                        .lengthens_tile = true,
                        .wanted = setting.wanted,
                        .formats = setting.geometry.formats,
                        .probes = setting.probes};
  options.replay = setting.replay;
  check_policy(options.policy, config);
  const EngineOptions fitted = fit_to_budget(config, options, budget);
  if (fitted.max_sessions < setting.batch)
    throw UserError(Exit::plan_does_not_fit, "of {} sessions of {} tokens only {} fit the budget", setting.batch,
                    setting.context, fitted.max_sessions);
  engine_ = std::make_unique<Engine>(*device_, config, fitted);
  sessions_ = std::make_unique<TimedSessions>(*engine_, setting.context, kAnswer);
}

StepRun SyntheticRun::step(int warm, int timed) {
  const StepBytes bytes = this->bytes();
  // A step that streams all rows takes long and hardly varies.
  if (bytes.streamed + bytes.streamed_weights > 0) warm = 2, timed = 5;
  Timed times = sessions_->step(std::max(warm, static_cast<int>(engine_->steps_to_settle(setting_.batch))), timed);
  std::ranges::sort(times.seconds);
  auto mean = [&](std::int64_t count) { return static_cast<double>(count) / timed; };
  const StepTimes t{.seconds = times.seconds[times.seconds.size() / 2],
                    .rows = mean(times.rows.listed),
                    .hits = mean(times.rows.cache_hits),
                    .staged = mean(times.rows.staged_hits),
                    .missed = mean(times.rows.missed),
                    .h2d_bytes = mean(times.h2d_bytes())};
  std::string text = describe();
  if (t.rows > 0)
    text += fmt::format(", hits {:.3f}, staged {:.3f}, missed {:.3f} of {:.0f} rows", t.hits / t.rows,
                        t.staged / t.rows, t.missed / t.rows, t.rows);
  text += fmt::format(", {:.3f} ms", t.seconds * 1e3);
  fmt::print("  {}\n", text);
  return {t, bytes, kv_shape(engine_->config(), engine_->options()).row_bytes(), std::move(text)};
}

StepBytes SyntheticRun::bytes() const { return step_bytes(engine_->config(), engine_->options(), setting_.context); }

std::string SyntheticRun::describe() const {
  const EngineOptions& o = engine_->options();
  std::string text = fmt::format("synthetic {}, policy {}, {} tokens x {}", setting_.geometry.name, o.policy.name,
                                 tokens_text(setting_.context), setting_.batch);
  if (o.policy.selects()) text += fmt::format(", k {}", o.policy.budget(setting_.context));
  if (o.policy.selects() && o.cache > 0) text += fmt::format(", B {:.4g} k", o.cache);
  if (!o.policy.selects()) text += fmt::format(", resident {:.3g}", o.resident);
  if (const std::int64_t rows = kv_layout(setting_.geometry.config, o).tile_rows; rows > 0)
    text += fmt::format(", tiles of {} rows", rows);
  if (o.streamed_layers > 0)
    text += fmt::format(", weights of {} of {} layers streamed", o.streamed_layers, setting_.geometry.config.layers);
  if (o.packed) text += fmt::format(", weights packed as {}", o.formats->names());
  if (o.spill_hidden) text += ", hidden states in host memory";
  if (setting_.gpu_memory) text += ", gpu memory " + format_bytes(*setting_.gpu_memory);
  if (o.policy.look_ahead == LookAhead::measured && o.resident < 1)
    text += engine_->looks_ahead(setting_.batch) ? ", with look-ahead" : ", without look-ahead";
  if (o.replay)
    text += fmt::format(", {}, look-ahead recall {:.3g}", o.replay->recorded() ? "replayed rows" : "rows never again",
                        o.replay->recall);
  return text;
}

}  // namespace longhaul::bench
