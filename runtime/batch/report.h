// Where a job's time, traffic and memory went, as a table for people and as JSON.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "runtime/engine/engine.h"

namespace longhaul {

struct JobStats {
  std::int64_t documents = 0, failed = 0;
  std::int64_t prompt_tokens = 0;
  std::int64_t shared_tokens = 0;   // of those, what was computed for another prompt that begins alike
  std::int64_t decoded_tokens = 0;  // by decode steps: an answer's first token comes from its prefill
  double load_seconds = 0, prefill_seconds = 0, decode_seconds = 0, wall_seconds = 0;
  std::int64_t load_h2d_bytes = 0, prefill_h2d_bytes = 0;
  std::int64_t wanted_sessions = 0;  // together, had they fitted
  std::int64_t resumed = 0;          // documents that an earlier run has ended
  std::int64_t peak_before = 0;      // bytes of the process before the engine was planned: reading takes memory, too
  std::vector<double> ttft;          // seconds of each document from its turn to its first token
  std::vector<double> tpot;          // and from there on, a token; others' prefills are in it
  std::vector<double> waits;         // of each of these tokens for itself
};

/// How the KV cache of the longest context compares with the device: what stays there, what is streamed.
std::string describe_streaming(const ModelConfig& config, const EngineOptions& options, const Budget& budget);

/// Which layers' weights are on the device, what the others cost, and where hidden states are.
std::string describe_placement(const ModelConfig& config, const EngineOptions& options);

/// What decode steps have attended, and where those rows were.
std::string describe_rows(const RowCounts& rows);

/// Seconds that the compute stream has stood at waits for copies: what a faster link or a larger budget would give
/// back. None where the device does not measure its streams.
std::optional<double> compute_stall_seconds(const DeviceCounters& counters);

/// Bytes/s of the link each way; 0: not known.
struct LinkRates {
  double h2d = 0, d2h = 0;
};

/// What went over the link, and what share of what it can do that was; none where its rate is not known.
struct LinkUse {
  std::int64_t decode_h2d_bytes = 0;
  double decode_h2d_rate = 0;                // bytes/s while decoding
  std::optional<double> decoding, h2d, d2h;  // shares: to the device while decoding, and each way over the job
};
LinkUse link_use(const JobStats& stats, const DeviceCounters& counters, const LinkRates& rates);

/// What a job stood waiting for most: where more of something would make it faster.
struct Bound {
  std::string resource;  // load, link, compute, or unknown where nothing tells
  bool memory = false;   // fewer documents were together than were wanted
  std::string words;
};
Bound find_bound(const JobStats& stats, const DeviceCounters& counters, std::int64_t sessions, const LinkUse& link);

/// The least of the values that `percent` of 100 of them do not exceed; they are sorted, and not none.
double percentile(const std::vector<double>& values, int percent);

struct JobReport {
  std::string table;                                                // for people: a line a topic
  nlohmann::ordered_json facts = nlohmann::ordered_json::object();  // the same for programs
};
JobReport report(const JobStats& stats, const Engine& engine, const Budget& budget, const LinkRates& link);

}  // namespace longhaul
