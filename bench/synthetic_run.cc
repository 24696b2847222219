#include "bench/synthetic_run.h"

#include <algorithm>
#include <chrono>
#include <random>

#include "apps/options.h"
#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "offload/layer_plan.h"
#include "offload/layout.h"

namespace longhaul::bench {
namespace {

constexpr std::int64_t kAnswer = 256;  // most steps that are timed

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<std::int32_t> random_tokens(std::int64_t count, std::int64_t vocab, std::int64_t seed) {
  std::mt19937_64 random(static_cast<std::uint64_t>(seed));
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  for (std::int32_t& id : ids) id = static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(vocab));
  return ids;
}

/// "256K" where it is a round number.
std::string tokens_text(std::int64_t tokens) {
  return tokens % 1024 == 0 ? fmt::format("{}K", tokens / 1024) : fmt::format("{}", tokens);
}

}  // namespace

SyntheticRun::SyntheticRun(const SyntheticSetting& setting) : setting_(setting) {
  ModelConfig& config = setting_.geometry.config;
  // Random weights have no context that they were trained for.
  config.max_position = std::max(config.max_position, setting.context + kAnswer);
  Budget budget = available_budget(setting.device, setting.gpu_memory);
  budget.host = setting.host_memory.value_or(budget.host);
  device_ = open_device(setting.device, budget.device, 0);
  budget.device -= device_->used_bytes();
  EngineOptions options{.policy = load_policy(setting.policy, setting.sets),
                        .max_len = setting.context + kAnswer,
                        .max_sessions = setting.batch,
                        .prefill_chunk = setting.prefill_chunk,
                        .probes = setting.probes};
  options.replay = setting.replay;
  check_policy(options.policy, config);
  const EngineOptions fitted = fit_to_budget(config, options, budget);
  if (fitted.max_sessions < setting.batch)
    throw UserError(Exit::plan_does_not_fit, "of {} sessions of {} tokens only {} fit the budget", setting.batch,
                    setting.context, fitted.max_sessions);
  engine_ = std::make_unique<Engine>(*device_, config, fitted);
  for (std::int64_t slot = 0; slot < setting.batch; ++slot)
    sessions_.emplace_back(slot, random_tokens(setting.context, config.vocab, slot), SampleParams{}, kAnswer,
                           std::vector<std::int32_t>{});
}

void SyntheticRun::fill() {
  for (Session& session : sessions_) engine_->fill(session);
}

StepTimes SyntheticRun::step(int warm, int timed) {
  std::vector<Session*> all;
  for (Session& session : sessions_) all.push_back(&session);
  for (int i = 0; i < warm; ++i) engine_->step(all);
  const RowCounts rows = engine_->row_counts();
  std::vector<double> seconds;
  for (int i = 0; i < timed; ++i) {
    const auto start = std::chrono::steady_clock::now();
    engine_->step(all);
    seconds.push_back(seconds_since(start));
  }
  const RowCounts now = engine_->row_counts();
  std::ranges::sort(seconds);
  auto mean = [&](std::int64_t before, std::int64_t after) { return static_cast<double>(after - before) / timed; };
  return {.seconds = seconds[seconds.size() / 2],
          .rows = mean(rows.listed, now.listed),
          .hits = mean(rows.cache_hits, now.cache_hits),
          .staged = mean(rows.staged_hits, now.staged_hits),
          .missed = mean(rows.missed, now.missed)};
}

double SyntheticRun::prefill() {
  const auto start = std::chrono::steady_clock::now();
  engine_->prefill(sessions_[0]);
  return seconds_since(start);
}

std::int64_t SyntheticRun::weight_bytes() const {
  const ModelConfig& c = setting_.geometry.config;
  const std::int64_t layer = c.hidden * (2 * c.q_heads + 2 * c.kv_heads) * c.head_dim + 3 * c.hidden * c.intermediate;
  return 2 * (c.layers * (layer + 2 * c.hidden) + c.hidden + c.vocab * c.hidden);
}

std::int64_t SyntheticRun::label_bytes() const {
  const ModelConfig& c = setting_.geometry.config;
  const KvPolicy& policy = engine_->options().policy;
  if (policy.select != Select::labels) return 0;
  return setting_.batch * c.layers * c.kv_heads * setting_.context * policy.dims(c.head_dim) * policy.label_bits / 8;
}

std::int64_t SyntheticRun::attended_bytes() const {
  const ModelConfig& c = setting_.geometry.config;
  const KvShape shape = kv_shape(c, engine_->options());
  std::int64_t rows = 0;
  for (const LayerPlan& plan : plan_layers(engine_->options().policy, c.layers))
    rows += plan.selects ? engine_->options().policy.budget(setting_.context) : setting_.context;
  return setting_.batch * rows * c.kv_heads * shape.row_bytes();
}

std::int64_t SyntheticRun::streamed_bytes() const {
  const ModelConfig& c = setting_.geometry.config;
  const EngineOptions& o = engine_->options();
  if (o.policy.selects()) return 0;
  const KvLayout layout = make_layout(o.policy, o.resident, o.cache, o.max_sessions, o.max_len);
  const std::int64_t rows = layout.all_resident() ? 0 : layout.window_begin(setting_.context) - layout.prefix_rows;
  return setting_.batch * rows * c.layers * c.kv_heads * kv_shape(c, o).row_bytes();
}

std::string SyntheticRun::describe() const {
  const EngineOptions& o = engine_->options();
  std::string text =
      fmt::format("synthetic {}{}{}, policy {}, {} tokens x {}", setting_.geometry.name,
                  setting_.geometry.left_out.empty() ? "" : " without ", fmt::join(setting_.geometry.left_out, ", "),
                  o.policy.name, tokens_text(setting_.context), setting_.batch);
  if (o.policy.selects()) text += fmt::format(", k {}", o.policy.budget(setting_.context));
  if (o.policy.selects() && o.cache > 0) text += fmt::format(", B {:.4g} k", o.cache);
  if (!o.policy.selects()) text += fmt::format(", resident {:.3g}", o.resident);
  if (setting_.gpu_memory) text += ", gpu memory " + format_bytes(*setting_.gpu_memory);
  if (o.replay)
    text += fmt::format(", {}, look-ahead recall {:.3g}", o.replay->recorded() ? "replayed rows" : "rows never again",
                        o.replay->recall);
  return text;
}

}  // namespace longhaul::bench
