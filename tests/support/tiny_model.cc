#include "tests/support/tiny_model.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>

#include "runtime/checkpoint/model_source.h"
#include "runtime/model/layer_layout.h"

namespace longhaul::test {

TempDir::TempDir() {
  std::string name = (std::filesystem::temp_directory_path() / "longhaul-test-XXXXXX").string();
  if (!mkdtemp(name.data())) throw std::runtime_error("no temporary folder");
  path_ = name;
}
TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void write_tiny_model(const std::filesystem::path& dir, const TinyShape& s, std::uint64_t seed) {
  nlohmann::json config = {{"model_type", "llama"},
                           {"architectures", {"LlamaForCausalLM"}},
                           {"hidden_size", s.hidden},
                           {"num_hidden_layers", s.layers},
                           {"num_attention_heads", s.q_heads},
                           {"num_key_value_heads", s.kv_heads},
                           {"head_dim", s.head_dim},
                           {"intermediate_size", s.intermediate},
                           {"vocab_size", s.vocab},
                           {"hidden_act", "silu"},
                           {"rms_norm_eps", 1e-5},
                           {"rope_theta", 10000.0},
                           {"rope_scaling", nullptr},
                           {"max_position_embeddings", 4096},
                           {"tie_word_embeddings", false},
                           {"torch_dtype", "bfloat16"},
                           {"bos_token_id", 0},
                           {"eos_token_id", 1}};
  std::ofstream(dir / "config.json") << config.dump(1);

  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  nlohmann::json header;
  std::vector<bf16> data;
  auto add = [&](const std::string& name, std::vector<std::int64_t> shape, float scale, float mean = 0) {
    std::int64_t count = 1;
    for (std::int64_t d : shape) count *= d;
    const std::size_t begin = data.size() * 2;
    for (std::int64_t i = 0; i < count; ++i) data.push_back(to_bf16(mean + scale * normal(random)));
    header[name] = {{"dtype", "BF16"}, {"shape", shape}, {"data_offsets", {begin, data.size() * 2}}};
  };
  auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in) {
    add(name + ".weight", {out, in}, 1.5f / std::sqrt(static_cast<float>(in)));  // attention peaks, as trained ones do
  };
  add("model.embed_tokens.weight", {s.vocab, s.hidden}, 1);
  add("model.norm.weight", {s.hidden}, 0.1f, 1);
  linear("lm_head", s.vocab, s.hidden);
  for (std::int64_t l = 0; l < s.layers; ++l) {
    const std::string p = "model.layers." + std::to_string(l) + ".";
    add(p + "input_layernorm.weight", {s.hidden}, 0.1f, 1);
    add(p + "post_attention_layernorm.weight", {s.hidden}, 0.1f, 1);
    linear(p + "self_attn.q_proj", s.q_heads * s.head_dim, s.hidden);
    linear(p + "self_attn.k_proj", s.kv_heads * s.head_dim, s.hidden);
    linear(p + "self_attn.v_proj", s.kv_heads * s.head_dim, s.hidden);
    linear(p + "self_attn.o_proj", s.hidden, s.q_heads * s.head_dim);
    linear(p + "mlp.gate_proj", s.intermediate, s.hidden);
    linear(p + "mlp.up_proj", s.intermediate, s.hidden);
    linear(p + "mlp.down_proj", s.hidden, s.intermediate);
  }
  const std::string text = header.dump();
  const std::uint64_t size = text.size();
  std::ofstream out(dir / "model.safetensors", std::ios::binary);
  out.write(reinterpret_cast<const char*>(&size), 8);
  out << text;
  out.write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size() * 2));
}

const std::filesystem::path& tiny_model_dir(RowType kv_dtype) {
  static const TempDir dir, wide;
  static const bool written = (write_tiny_model(dir.path(), {}, 7),
                               write_tiny_model(wide.path(), {.q_heads = 2, .kv_heads = 1, .head_dim = 32}, 7), true);
  (void)written;
  return kv_dtype == RowType::act ? dir.path() : wide.path();
}

const std::filesystem::path& deep_model_dir() {
  static const TempDir dir;
  static const bool written = (write_tiny_model(dir.path(), {.layers = 6}, 7), true);
  (void)written;
  return dir.path();
}

std::vector<std::int32_t> random_prompt(std::int64_t tokens, std::uint64_t seed, std::int64_t vocab) {
  std::mt19937_64 random(seed);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens));
  for (auto& id : ids) id = static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(vocab));
  return ids;
}

namespace {

/// Of the i-th session: scattered, 3, 1, 9, 7, 5 for five of them.
std::int64_t slot_of(const RunOptions& o, std::size_t i) {
  const auto place = static_cast<std::int64_t>(i), count = std::ssize(o.prompts);
  return o.scattered ? 2 * ((count + 1 - place) % count) + 1 : place;
}

}  // namespace

EngineOptions engine_options(const RunOptions& o) {
  KvPolicy policy = load_policy(o.policy, o.sets);
  policy.tile_rows = o.tile_rows;
  policy.recent_rows = o.recent_rows;
  policy.kv_dtype = o.kv_dtype;
  return {.policy = policy,
          .activations = o.activations,
          .max_len = *std::ranges::max_element(o.prompts) + o.steps + 1,
          .max_sessions = std::ssize(o.prompts) * (o.scattered ? 2 : 1),
          .prefill_chunk = o.prefill_chunk,
          .layers_held = o.layers_held,
          .resident = o.policy == "dense" || o.policy == "sparse-resident" ? 1 : o.resident,
          .cache = o.cache,
          .streamed_layers = o.streamed_layers,
          .spill_hidden = o.spill_hidden,
          .host_embedding = o.streamed_layers > 0,
          .probes = o.probes};
}

const std::filesystem::path& model_dir(const RunOptions& o) {
  return o.model.empty() ? tiny_model_dir(o.kv_dtype) : o.model;
}

ModelConfig model_config(const RunOptions& o) {
  ModelConfig config = load_model_config(model_dir(o));
  if (o.dual_chunks.rows > 0) config.dual_chunks = o.dual_chunks;
  return config;
}

RunResult run_tiny(const RunOptions& o) {
  auto device = make_cpu_device(o.device);
  return run_tiny(*device, o);
}

RunResult run_tiny(Device& device, const RunOptions& o, const RunResult* forced) {
  const ModelConfig config = model_config(o);
  const Checkpoint weights = ModelSource(model_dir(o).string()).weights();
  EngineOptions options = engine_options(o);
  options.packed = o.packed;
  if (o.packed) options.formats = weight_formats(weights, config);
  Engine engine(device, config, weights, options);
  const std::size_t count = o.prompts.size();
  RunResult result{.tokens = {}, .logits = std::vector<std::vector<float>>(count)};
  std::vector<Session> sessions;
  for (std::size_t i = 0; i < count; ++i)
    sessions.emplace_back(slot_of(o, i), random_prompt(o.prompts[i], i), SampleParams{}, o.steps + 1,
                          std::vector<std::int32_t>{});

  if (o.probes.lists)
    engine.set_step_tap([&](const StepProbe& probe, std::span<Session* const>) {
      for (std::int64_t i = 0; i < probe.sessions * probe.layers * probe.kv_heads; ++i)
        result.lists.emplace_back(probe.rows + i * probe.stride, probe.rows + i * probe.stride + probe.counts[i]);
    });

  auto force = [&](std::size_t i) {
    const auto at = sessions[i].tokens().size() - 1;
    if (forced != nullptr) sessions[i].force(forced->tokens[i][at]);
  };
  auto step = [&](const std::vector<std::size_t>& which) {
    std::vector<Session*> batch;
    for (std::size_t i : which) batch.push_back(&sessions[i]);
    engine.set_logits_tap([&](std::int64_t rows, const float* logits) {
      for (std::int64_t r = 0; r < rows; ++r) {
        auto& to = result.logits[which[static_cast<std::size_t>(r)]];
        to.insert(to.end(), logits + r * config.vocab, logits + (r + 1) * config.vocab);
      }
    });
    engine.step(batch);
    for (std::size_t i : which) force(i);
  };
  auto going = [&](std::size_t end) {  // of the first ones, those that have steps to take
    std::vector<std::size_t> which;
    for (std::size_t i = 0; i < end; ++i)
      if (sessions[i].answer_size() <= o.steps) which.push_back(i);
    return which;
  };
  for (std::size_t i = 0; i < count; ++i) {
    std::vector<float> last;
    Session* const one = &sessions[i];
    engine.begin_prefill({&one, 1});
    while (engine.prefilling()) {
      engine.set_logits_tap([&](std::int64_t rows, const float* logits) {
        last.assign(logits + (rows - 1) * config.vocab, logits + rows * config.vocab);
      });
      engine.advance_prefill(o.turn > 0 ? o.turn : std::numeric_limits<double>::infinity());
      if (const auto others = going(i); o.turn > 0 && engine.prefilling() && !others.empty()) step(others);
    }
    result.logits[i] = last;
    force(i);
  }
  if (o.together)
    for (auto which = going(count); !which.empty(); which = going(count)) step(which);
  else
    for (std::size_t i = 0; i < count; ++i)
      while (sessions[i].answer_size() <= o.steps) step({i});
  for (const Session& session : sessions) result.tokens.push_back(session.tokens());
  return result;
}

bool same(const RunResult& a, const RunResult& b) {
  if (a.tokens != b.tokens || a.logits.size() != b.logits.size()) return false;
  for (std::size_t i = 0; i < a.logits.size(); ++i)
    if (a.logits[i].size() != b.logits[i].size() ||
        std::memcmp(a.logits[i].data(), b.logits[i].data(), a.logits[i].size() * 4) != 0)
      return false;
  return true;
}

}  // namespace longhaul::test
