// A loaded model on a device with its KV cache: prefill one session, decode a span of sessions together, or both by
// turns.
// One host thread drives it; it owns its streams and all memory of the plan.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/device.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/weight_loader.h"
#include "runtime/engine/session.h"
#include "runtime/plan/plan.h"

namespace longhaul {

/// In the same unit, proportional to arithmetic, so that done / total predicts time.
struct PrefillProgress {
  double done, total;
};
using PrefillReport = std::function<void(const PrefillProgress&)>;

/// What a step selected, and the sessions it was a step of; they have their new token.
struct StepProbe;
using StepTap = std::function<void(const StepProbe& probe, std::span<Session* const> sessions)>;

/// Logits of `rows` consecutive positions of one forward call, [rows, vocab].
using LogitsTap = std::function<void(std::int64_t rows, const float* logits)>;

/// What a step selected, by session of the step, layer and KV head; with EngineOptions::probes.steps, or probes.lists
/// (then counts, rows and tally alone). Good while the tap runs. Layers that attend every row have count 0.
struct StepProbe {
  std::int64_t sessions, layers, kv_heads, stride;
  const std::int32_t* counts;         // [sessions, layers, kv_heads] attended rows
  const std::int32_t* rows;           // [sessions, layers, kv_heads, stride] which, ascending
  const SelectionQuality* selected;   // [sessions, layers, kv_heads] of the attended rows
  const SelectionQuality* predicted;  // of the rows that the predicted query selects; NaN in layers without one
  const float* predicted_recall;      // [sessions, layers, kv_heads] share of attended rows that were predicted; NaN
  const float* cosine;                // [sessions, layers] between a layer's input and the layer's before; NaN for 0
  const std::int64_t* tally;          // [layers, kTally] rows of all steps so far, by where they were
};

/// Rows of all decode steps so far, over layers and KV heads.
struct RowCounts {
  std::int64_t attended = 0, all = 0;  // with top_p < 1 the most that may have been attended
  std::int64_t listed = 0;             // selected rows of layers whose rows move, and of these:
  std::int64_t cache_hits = 0, staged_hits = 0, missed = 0;

  /// Of the selected rows, those that no step had to bring over the link.
  std::optional<double> hit_rate() const {
    if (listed == 0) return {};
    return 1 - static_cast<double>(staged_hits + missed) / static_cast<double>(listed);
  }
};

class Engine {
 public:
  /// Allocates exactly plan_memory(config, options), pins the host's part and loads the weights. Throws OutOfMemory,
  /// UserError{bad_model}.
  Engine(Device& device, const ModelConfig& config, const Checkpoint& weights, const EngineOptions& options,
         const PinReport& pinning = {}, const LoadReport& loading = {});
  /// The same with random weights, for measurements of speed.
  Engine(Device& device, const ModelConfig& config, const EngineOptions& options);
  Engine(Engine&&) = delete;
  ~Engine();

  /// Whether the host store has room now for sessions that begin and may come to have so many tokens each
  /// (Session::most_tokens); always, where EngineOptions::lengths are not given.
  bool has_room(std::span<const std::int64_t> most) const;
  /// The session has ended: others may take its room.
  void release(const Session& session);
  /// Runs the session's prompt through all layers and samples the first answer token.
  void prefill(Session& session, const PrefillReport& report = {});
  /// Tokens that these sessions' prompts begin with alike, as many as prefill() of all of them together computes once;
  /// 0: it does not take them together. With options.shared_rest.
  std::int64_t shared_rows(std::span<Session* const> sessions) const;
  /// The same as prefill() of each, bit for bit.
  void prefill(std::span<Session* const> sessions, const PrefillReport& report = {});
  /// prefill() in pieces, between which other sessions may take steps: the same bits for all of them. The sessions
  /// outlive it; one that is under way is given up.
  void begin_prefill(std::span<Session* const> sessions);
  /// Goes on by as many chunks of a layer as have `work` (in PrefillProgress's unit), by one at least, and waits for
  /// them. In the end the sessions have their first token. What `report` throws gives the prefill up.
  PrefillProgress advance_prefill(double work, const PrefillReport& report = {});
  /// Whether a prefill has begun and not ended.
  bool prefilling() const;
  /// What prefill does, with random rows in place of computed ones: a long session in the time of its storing.
  void fill(Session& session);
  /// How many layers of the host store differ from what the last prefill, that of `session`, has computed. Waits for
  /// the store; with probes.checksums.
  std::int64_t layers_not_stored(const Session& session) const;
  /// One decode step: one more token for each session (none may be done). One host wait.
  void step(std::span<Session* const> sessions);
  /// Makes `session` (of this engine, at its start, same prompt) what `from`'s session `source` is after its prefill:
  /// copies its rows and builds this engine's labels, so that one prefill serves many policies. Both engines keep all
  /// rows on the device; `from` has probes.adoptable (and probes.mass where this engine's policy is heavy).
  void adopt(Session& session, Engine& from, const Session& source);
  /// Takes `session` back to its first `rows` rows (not before its prompt's end, all rows on the device), with `next`
  /// as the token to go on with: another continuation of the same prefill.
  void rewind(Session& session, std::int64_t rows, std::int32_t next);
  RowCounts row_counts() const;
  /// Steps of as many sessions until it is settled whether they look ahead, 0: it is; and whether the next one does.
  std::int64_t steps_to_settle(std::int64_t sessions) const;
  bool looks_ahead(std::int64_t sessions) const;
  /// Sums of MomentsArgs over all prefills so far, [layers, kv_heads, moment_doubles(head_dim)], with probes.moments.
  std::vector<double> moments() const;
  /// While set, every forward call also brings its logits to the host (all positions of a prefill): for tests and
  /// scoring.
  void set_logits_tap(LogitsTap tap);
  /// While set, is called after every decode step; with probes.steps or probes.lists.
  void set_step_tap(StepTap tap);

  const EngineOptions& options() const;
  const MemoryPlan& plan() const;
  const ModelConfig& config() const;
  Device& device() const;
  /// That touching and pinning the host's part took.
  double pin_seconds() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace longhaul
