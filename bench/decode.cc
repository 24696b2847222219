// Whole decode steps of a random-weight model of more than 2 GB, far larger than the caches: a step must read every
// weight once, so the bound is the memory's read bandwidth.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "bench/measure.h"
#include "kernels/cpu/cpu_device.h"
#include "runtime/engine/engine.h"

using namespace longhaul;
using namespace longhaul::bench;

namespace {

/// The shape of a 1.1-billion-parameter Llama.
const ModelConfig kShape{.model_type = "llama",
                         .hidden = 2048,
                         .layers = 22,
                         .q_heads = 32,
                         .kv_heads = 4,
                         .head_dim = 64,
                         .intermediate = 5632,
                         .vocab = 32000,
                         .max_position = 2048,
                         .rms_norm_eps = 1e-5f,
                         .rope = {},
                         .tied_embeddings = false,
                         .bos = {},
                         .eos = {}};

/// A safetensors file of that shape, removed with the object; `bytes` is what a decode step reads of it.
class RandomWeights {
 public:
  RandomWeights() {
    const ModelConfig& c = kShape;
    const std::int64_t q = c.q_heads * c.head_dim, kv = c.kv_heads * c.head_dim;
    add("model.embed_tokens", {c.vocab, c.hidden});
    std::int64_t embedding = end_;
    add("model.norm", {c.hidden});
    add("lm_head", {c.vocab, c.hidden});
    for (std::int64_t l = 0; l < c.layers; ++l) {
      const std::string p = "model.layers." + std::to_string(l) + ".";
      for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) add(p + norm, {c.hidden});
      add(p + "self_attn.q_proj", {q, c.hidden});
      for (const char* k : {"self_attn.k_proj", "self_attn.v_proj"}) add(p + k, {kv, c.hidden});
      add(p + "self_attn.o_proj", {c.hidden, q});
      for (const char* up : {"mlp.gate_proj", "mlp.up_proj"}) add(p + up, {c.intermediate, c.hidden});
      add(p + "mlp.down_proj", {c.hidden, c.intermediate});
    }
    bytes = end_ - embedding;  // a step reads one row of the embedding
    const std::string header = header_.dump();
    const std::uint64_t size = header.size();
    auto block = noise<float>(1 << 20);
    std::vector<bf16> values;
    for (float x : block) values.push_back(to_bf16(0.02f * x));
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char*>(&size), 8) << header;
    for (std::int64_t left = end_; left > 0; left -= 2 << 20)
      out.write(reinterpret_cast<const char*>(values.data()), std::min<std::int64_t>(left, 2 << 20));
    if (!out.flush()) throw std::runtime_error("no room for " + path.string());
  }
  ~RandomWeights() { std::filesystem::remove(path); }

  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("longhaul-bench-" + std::to_string(getpid()) + ".safetensors");
  std::int64_t bytes = 0;

 private:
  void add(const std::string& name, const std::vector<std::int64_t>& shape) {
    std::int64_t bytes = 2;
    for (std::int64_t d : shape) bytes *= d;
    header_[name + ".weight"] = {{"dtype", "BF16"}, {"shape", shape}, {"data_offsets", {end_, end_ + bytes}}};
    end_ += bytes;
  }
  nlohmann::json header_;
  std::int64_t end_ = 0;
};

void decode_step(benchmark::State& state) {
  static RandomWeights weights;
  const std::int64_t batch = state.range(0);
  auto device = make_cpu_device();
  EngineOptions options{.policy = load_policy("dense"), .max_len = 512, .max_sessions = batch, .resident = 1};
  Engine engine(*device, kShape, Safetensors::open_file(weights.path), options);
  std::vector<Session> sessions;
  std::vector<Session*> all;
  for (std::int64_t i = 0; i < batch; ++i)
    sessions.emplace_back(i, std::vector<std::int32_t>(16, static_cast<std::int32_t>(i + 1)), SampleParams{}, 480,
                          std::vector<std::int32_t>{});
  for (Session& session : sessions) {
    engine.prefill(session);
    all.push_back(&session);
  }
  measure(state, "GB/s", static_cast<double>(weights.bytes), read_peak(), [&] { engine.step(all); });
  state.counters["tokens/s"] =
      benchmark::Counter(static_cast<double>(batch * state.iterations()), benchmark::Counter::kIsRate);
}

BENCHMARK(decode_step)
    ->ArgName("batch")
    ->Arg(1)
    ->Arg(4)
    ->Arg(8)
    ->UseManualTime()
    ->Iterations(20)
    ->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
