// A small random model as files in a temporary folder, and runs of it: what the laws are tested on.
#pragma once
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_device.h"
#include "runtime/engine/engine.h"

namespace longhaul::test {

/// A folder that goes with the object.
class TempDir {
 public:
  TempDir();
  TempDir(const TempDir&) = delete;
  ~TempDir();
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

struct TinyShape {
  std::int64_t layers = 3, hidden = 32, q_heads = 4, kv_heads = 2, head_dim = 16, intermediate = 48, vocab = 64;
};

/// config.json and model.safetensors with weights drawn from `seed`.
void write_tiny_model(const std::filesystem::path& dir, const TinyShape& shape, std::uint64_t seed);

/// The same model for all tests of the process; with larger heads for rows of fewer bits, which have groups of 32.
const std::filesystem::path& tiny_model_dir(RowType kv_dtype = RowType::act);
/// The same with more layers than two slots of streamed weights, so that each slot has several in turn.
const std::filesystem::path& deep_model_dir();

std::vector<std::int32_t> random_prompt(std::int64_t tokens, std::uint64_t seed, std::int64_t vocab = 64);

struct RunOptions {
  std::filesystem::path model = {};  // empty: tiny_model_dir
  std::string policy = "stream";
  std::vector<std::string> sets = {};  // KEY=VALUE of the policy
  double resident = 0;
  double cache = 0;
  std::int64_t streamed_layers = 0;
  bool spill_hidden = false;
  bool packed = false;  // of a quantised model
  Probes probes = {};
  std::int64_t tile_rows = kAttendBlock, recent_rows = kAttendBlock;
  DType activations = DType::bf16;
  RowType kv_dtype = RowType::act;
  DualChunks dual_chunks = {};  // in place of the model's own
  std::int64_t prefill_chunk = 48, layers_held = 1;
  std::vector<std::int64_t> prompts{100};  // length of each session's prompt
  std::int64_t steps = 110;
  bool together = true;  // decode the sessions as one batch, else one after the other
  double turn = 0;       // not 0: a prefill goes on by so much work between two steps of the sessions before
  /// Slots that no session uses lie between those of the sessions, whose order is not the batch's.
  bool scattered = false;
  CpuDeviceOptions device;
};

struct RunResult {
  std::vector<std::vector<std::int32_t>> tokens;  // [session] prompt and answer
  std::vector<std::vector<float>> logits;         // [session] of every sampled position, [steps + 1, vocab] flat
  /// Of every step, session, layer and KV head the rows that were selected; with probes.lists.
  std::vector<std::vector<std::int32_t>> lists = {};
};

/// Prefills every session, then decodes greedily. Bits of all logits that tokens were sampled from are kept.
RunResult run_tiny(const RunOptions& options);
/// On a device of the caller's (options.device is not read); with `forced`, the answers become that run's whatever is
/// sampled.
RunResult run_tiny(Device& device, const RunOptions& options, const RunResult* forced = nullptr);
EngineOptions engine_options(const RunOptions& options);
ModelConfig model_config(const RunOptions& options);
const std::filesystem::path& model_dir(const RunOptions& options);
/// Same tokens, and the same bits in every logit they were sampled from.
bool same(const RunResult& a, const RunResult& b);

}  // namespace longhaul::test
