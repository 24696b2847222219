// The flags that run and batch share, their config file, and what they resolve to once the model's files are known.
#pragma once
#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>

#include "apps/machine.h"
#include "runtime/checkpoint/model_files.h"
#include "runtime/engine/trace.h"
#include "runtime/model/geometry.h"
#include "runtime/plan/plan.h"

namespace longhaul {

struct Options {
  std::string model, device = "auto", activations = "bf16", log_level = "info";
  std::string geometry;                                 // in place of a model: its shape with random weights
  std::string profile;                                  // a file, or "none"; empty: the user's
  std::optional<std::int64_t> gpu_memory, host_memory;  // bytes
  std::optional<std::int64_t> max_model_len, max_tokens;
  std::optional<double> temperature, top_p, repetition_penalty;
  std::optional<std::int64_t> top_k;
  std::optional<std::int64_t> prefill_chunk;
  std::int64_t seed = 0;
  double cpu_link = 0;                                   // GB/s; 0: as fast as memory
  std::string weights = "auto", hidden_states = "auto";  // where they live
  std::string weight_format = "auto";                    // as what
  std::string policy;                                    // empty: offload
  std::vector<std::string> sets;                         // policy.KEY=VALUE
  std::string kv_dtype;                                  // policy.kv_dtype; empty: the policy's
  std::string record_trace;                              // a file for the rows that each step selects; empty: none
  std::string channels;                                  // a channel file; empty: find_channels looks for one
  std::string chat_template;                             // a file; empty: the model's
  bool no_chat_template = false;
  std::vector<std::string> template_vars;  // NAME=VALUE
  std::string config;
  bool print_config = false;
};

/// For Option::check: a number in [low, high].
CLI::Validator between(double low, double high);
void add_options(CLI::App& verb, Options& options);
/// --policy and --set.
void add_policy_options(CLI::App& verb, Options& options);
/// Where weights and hidden states live and as what, and --kv-dtype.
void add_placement_options(CLI::App& verb, Options& options);
/// A flag whose text `parse` reads; its errors name the flag.
void add_parsed(CLI::App& verb, const std::string& flag, std::optional<std::int64_t>& out,
                std::int64_t (*parse)(std::string_view), const std::string& help, const std::string& kind);
/// --model, --device, budgets, --profile.
void add_place_options(CLI::App& verb, Options& options);
/// How an engine computes and what it tells; --config and --print-config.
void add_engine_options(CLI::App& verb, Options& options);
/// --chat-template, --no-chat-template and --template-var.
void add_chat_options(CLI::App& verb, Options& options);
/// What those say. Throws UserError{usage}.
ChatOptions chat_options(const Options& options);
/// --geometry, for verbs that can do without a model's files.
void add_geometry_option(CLI::App& verb, Options& options);
/// Those that are about the model and the machine: for verbs that answer nothing.
void add_model_options(CLI::App& verb, Options& options, const std::string& max_model_len_help);
/// Fills in the config file, prints the config when asked, and sets up the log. False: there is nothing more to do.
/// Throws UserError for flags that contradict each other, and with `opens_device` for a device that is not there.
bool finish_options(CLI::App& verb, const Options& options, bool opens_device = true);

/// The shape of --geometry, or of --model: its config.json alone is read, and of a quantised one, if its files are
/// there, how they are stored. Throws UserError.
Geometry shape_of(const Options& options);
/// Throws UserError{usage} when a flag's text is not UTF-8.
void check_text(const char* flag, const std::string& text);
/// Text to stdout, at once. Throws UserError{io}.
void say(const std::string& text);

SampleParams sampling_params(const Options& options, const GenerationDefaults& defaults);
std::int64_t max_tokens(const Options& options, const GenerationDefaults& defaults);
/// Most tokens of prompt and answer together.
std::int64_t context(const Options& options, const ModelConfig& config);

/// What the machine has, under the budgets that were given.
Budget budget(const Options& options);
/// The type of --activations.
DType activations(const Options& options);
/// EngineOptions::share_unit: chunks on the CPU device; on a GPU, where sums are rounded as a step's company has it
/// anyway, at most 512 rows.
std::int64_t share_unit(const Options& options);
/// Engine options of the flags, but for what depends on the budget and on a model's weights: `formats` is as what those
/// can be packed.
EngineOptions wanted_options(const Options& options, const ModelConfig& config,
                             std::shared_ptr<const WeightFormats> formats, std::int64_t longest, std::int64_t sessions);
/// Engine options that fit the budget. `wanted_sessions` may be lowered.
EngineOptions engine_options(const Options& options, const ModelFiles& model, const Budget& budget,
                             std::int64_t longest, std::int64_t wanted_sessions, const Probes& probes = {},
                             std::int64_t shared_rest = 0,
                             std::shared_ptr<const std::vector<std::int64_t>> lengths = {});
/// What --weights (auto, resident, stream, stream:LAYERS), --hidden-states (auto, device, host) and --weight-format
/// (auto, packed, bf16) say. Throws UserError{usage}.
Placement parse_placement(const std::string& weights, const std::string& hidden_states,
                          const std::string& weight_format = "auto");
/// KEY=VALUE of --set's policy.KEY=VALUE. Throws UserError{usage}.
std::vector<std::string> policy_sets(const std::vector<std::string>& sets);
/// The policy of --policy and --set.
KvPolicy policy_of(const Options& options);
/// With --record-trace, a trace of what the engine's steps select; null without.
std::unique_ptr<TraceWriter> record_trace(const Options& options, const std::string& model, Engine& engine);
/// The profile of the flags' device, if there is one.
std::optional<MachineProfile> machine_profile(const Options& options);
/// The device of the flags, with its profile.
std::unique_ptr<Device> open_device(const Options& options, std::int64_t budget);

}  // namespace longhaul
