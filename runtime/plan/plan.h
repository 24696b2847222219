// The memory plan: what an engine will take, to the byte, before anything is allocated or loaded.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/arena.h"
#include "offload/layout.h"
#include "offload/replay.h"
#include "runtime/model/model_config.h"

namespace longhaul {

/// Where labels come from when they are not fitted to the document: maps onto the basis for every layer and KV head.
struct LabelBases {
  std::int64_t dims;
  std::vector<float> maps;  // [layers, kv_heads, 2 (of keys, of queries), dims, head_dim]
};

/// What an engine also takes memory and time for, for measurements.
struct Probes {
  bool adoptable = false;  // keeps the recent queries of every layer, so that adopt() can build other labels
  bool mass = false;       // keeps the attention mass of prefill, so that adopt() can go on as H2O
  bool moments = false;    // adds up the moments of q and k, for calibration
  bool steps = false;      // records what each decode step selected and how good that was (Engine::set_step_tap)
  bool lists = false;      // records which rows each step selected, and no more: for a trace
  bool checksums = false;  // sums up the rows of a prefill, so that the host store can be checked
  bool rewinds = false;    // windowed layers keep all rows, so that Engine::rewind can go back
  bool noise = false;      // predicts the next layer's query by noise: what is left of look-ahead then is its cost
};

struct WeightFormats;

/// Where weights and hidden states are, and as what, as far as the user says; the rest is fit_to_budget's.
struct Placement {
  static constexpr std::int64_t kAllLayers = std::int64_t{1} << 62;
  std::optional<std::int64_t> streamed_layers;  // none: as few as fit; kAllLayers: every one
  std::optional<bool> spill_hidden;             // none: where that keeps weights on the device, or the plan fits by it
  std::optional<bool> packed;                   // none: where bf16 does not fit the device, or is streamed
};

struct EngineOptions {
  KvPolicy policy;
  DType activations = DType::bf16;
  std::int64_t max_len = 0;       // rows a session may need: longest prompt + answer
  std::int64_t max_sessions = 1;  // decoded together
  /// What sessions may need, the longest first, none more than max_len; null: all of them max_len. With it each takes
  /// of the host store its own length's rows.
  std::shared_ptr<const std::vector<std::int64_t>> lengths = {};
  /// Then, of the host store: 0 for what the longest ones need, as many as there are slots. Never less than what the
  /// longest and what so many of mean length need.
  std::int64_t store_rows = 0;
  static constexpr std::int64_t kLeastStore = 1;
  std::int64_t shared_rest = 0;      // rows of prompts that are prefilled together, beyond the first's max_len
  std::int64_t prefill_chunk = 512;  // tokens a prefill pushes through a layer at a time
  bool widens_chunk = false;         // fit_to_budget doubles it, up to widest_chunk(), as far as the plan fits
  std::int64_t layers_held = 1;      // SelectionExtras::layers_held
  bool may_hold_two = false;         // fit_to_budget makes that 2, where holds_two() and the plan fits
  bool lengthens_tile = false;       // fit_to_budget sets policy.tile_rows, where the policy leaves them to it, up to
                                     // longest_tile(), as far as all else stays as it is
  /// Prompts that begin alike share whole units of so many rows; 0: whole chunks, so that a prompt is cut alike whoever
  /// else there is, and sharing changes no bit.
  std::int64_t share_unit = 0;
  double resident = 0;               // share of rows on the device, in [0, 1]; fit_to_budget sets it from the policy
  double cache = 0;                  // slots of the resident set as a multiple of the budget; likewise
  std::int64_t streamed_layers = 0;  // the last ones: in host memory, over the link in every walk; likewise
  bool spill_hidden = false;         // a prompt's hidden states live in host memory; likewise
  bool host_embedding = false;  // so does the embedding table, if it is not the head: a row a token is read; likewise
  bool packed = false;          // layers rest as `formats` says, and are expanded before they are used; likewise
  Placement wanted = {};        // of these four
  std::shared_ptr<const WeightFormats> formats =
      {};                                        // of layers' weights, where those are quantised; null: they are not
  std::shared_ptr<const LabelBases> bases = {};  // for labels that come from a file, and for exact ones
  std::shared_ptr<const Replay> replay = {};     // rows to attend in place of selected ones; null: queries select
  Probes probes = {};
  bool replay_steps = true;  // enqueues decode steps that are alike by one call, where the device can
};

struct MemoryPlan {
  std::vector<Arena::Item> device, host;
  std::int64_t device_bytes = 0, host_bytes = 0;
  std::string table() const;  // item, bytes; one line each, totals last
};

/// Throws UserError{usage} when the policy names layers, dimensions or rows that the model does not have.
void check_policy(const KvPolicy& policy, const ModelConfig& config);

/// A window that no session outgrows is none, and so is a chunk.
KvShape kv_shape(const ModelConfig& config, const EngineOptions& options);
KvLayout kv_layout(const ModelConfig& config, const EngineOptions& options);
MemoryPlan plan_memory(const ModelConfig& config, const EngineOptions& options);

/// How many sessions of options.lengths have room together: if they are the longest, and if they are the shortest.
struct Together {
  std::int64_t longest, shortest;
};
Together together(const ModelConfig& config, const EngineOptions& options);

struct Budget {
  static constexpr std::int64_t kApart = std::int64_t{1} << 62;
  std::int64_t device, host;  // bytes
  /// Of both together, where device and host are one memory (the CPU device).
  std::int64_t together = kApart;
  std::int64_t libraries = 0;  // of the device's, what its libraries keep for themselves
  std::int64_t program = 0;    // of the host's, what the program and its libraries take beside the plan
  std::int64_t fitting = 0;    // and what labels are fitted in, where the host's cores do that
  std::int64_t held = 0;       // and what the process has already beyond the program: documents, a tokenizer's tables
  /// What a plan may take of the device.
  std::int64_t device_for_plan() const { return device - libraries; }
  /// Of the host's, what is beside a plan.
  std::int64_t beside(const KvPolicy& policy) const {
    return program + held + (policy.select == Select::labels ? fitting : 0);
  }
};

/// Tokens that a prefill best pushes through a layer at a time on a GPU, whose products and attention want many rows to
/// fill it: options.prefill_chunk doubled up to 8,192, as long as what that takes of the device more is no more than a
/// sixteenth of its memory.
std::int64_t widest_chunk(const ModelConfig& config, EngineOptions options, const Budget& budget);

/// Rows of a streamed tile where the policy leaves them to the plan, placed as `options` says: KvPolicy::kTileRows,
/// doubled up to 32 MiB, beside which the microseconds that a copy over the link takes before its bytes are nothing, as
/// long as the longest session streams four tiles a layer, for a step waits for its first, and as what that takes of
/// the device more is no more than a 128th of its memory.
std::int64_t longest_tile(const ModelConfig& config, EngineOptions options, const Budget& budget);

/// Whether what it takes of the device to have the rows of two layers in a prefill, placed as `options` says, is no
/// more than a 32nd of its memory. Where a layer takes long the labels of the one before are made behind its last chunk
/// alone.
bool holds_two(const ModelConfig& config, EngineOptions options, const Budget& budget);

/// Sets options.resident and options.cache (the policy's, or for "auto" the largest that fit) and lowers
/// options.store_rows, where there are lengths, and options.max_sessions as far as needed to fit. Widens the chunk,
/// and holds two layers.
/// Where even one session does not, spills hidden states and then the embedding table, which cost next to no byte over
/// the link in a decode step; where it still does not, packs the weights of a quantised model, which then cost their
/// expansion in every step; where it still does not, streams weights, of as few layers as fit beside the least of KV.
/// So resident weights come before resident KV rows: each byte of them is one byte less over the link in every step,
/// and a byte of rows is that at most. Throws UserError{plan_does_not_fit}: needed, available, KV rows of a smaller
/// type (int8, then int4) where they fit, the longest context that fits, and the smallest budgets that work;
/// UserError{usage} when options.wanted streams more layers than there are, or packs what is not quantised.
EngineOptions fit_to_budget(const ModelConfig& config, EngineOptions options, const Budget& budget);
/// The same; none where not even one session fits.
std::optional<EngineOptions> try_fit(const ModelConfig& config, EngineOptions options, const Budget& budget);

}  // namespace longhaul
