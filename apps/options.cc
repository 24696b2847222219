#include "apps/options.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <charconv>
#include <iostream>
#include <memory>

#include "apps/config_file.h"
#include "apps/labels.h"
#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "runtime/jinja/json.h"
#include "runtime/tokenizer/tokenizer.h"

namespace longhaul {

void add_parsed(CLI::App& verb, const std::string& flag, std::optional<std::int64_t>& out,
                std::int64_t (*parse)(std::string_view), const std::string& help, const std::string& kind) {
  auto read = [&out, parse, flag](const std::string& text) {
    try {
      out = parse(text);
    } catch (const UserError& e) {
      throw UserError(e.code, "{}: {}", flag, e.what());
    }
  };
  verb.add_option_function<std::string>(flag, read, help)->type_name(kind);
}

CLI::Validator between(double low, double high) {
  auto check = [low, high](std::string& text) {
    double number;
    bool inside = CLI::detail::lexical_cast(text, number) && number >= low && number <= high;
    return inside ? std::string() : fmt::format("'{}' is not a number from {} to {}", text, low, high);
  };
  return CLI::Validator(check, "", "between");
}

void add_place_options(CLI::App& verb, Options& o) {
  verb.add_option("--model", o.model, "model folder (config.json, tokenizer.json, safetensors), or a GGUF file")
      ->type_name("DIR");
  verb.add_option("--device", o.device, "auto, cpu or cuda[:INDEX]")->capture_default_str();
  add_parsed(verb, "--gpu-memory", o.gpu_memory, parse_bytes,
             "budget of device memory, a hard total; what a GPU has free less 512 MiB, on the CPU device half of the "
             "memory available, unless given",
             "SIZE");
  add_parsed(verb, "--host-memory", o.host_memory, parse_bytes,
             "budget of host memory, a hard total: KV rows, staging, the program itself, and not the CPU device's "
             "memory; what "
             "is available less an eighth, of 1 GiB at most, unless given",
             "SIZE");
  verb.add_option("--profile", o.profile,
                  "machine profile of longhaul doctor; ~/.config/longhaul/machine.json, if it is there, unless given; "
                  "\"none\": do without")
      ->type_name("FILE");
}

void add_engine_options(CLI::App& verb, Options& o) {
  verb.add_option("--activations", o.activations, "type of activations, and of KV rows unless --kv-dtype says")
      ->capture_default_str()
      ->check(CLI::IsMember({"bf16", "f32"}))
      ->type_name("TYPE");
  verb.add_option("--prefill-chunk", o.prefill_chunk,
                  "tokens that go through a layer at a time in prefill; 512 on the CPU device, on a GPU up to 8,192 as "
                  "its memory allows, unless given")
      ->check(between(1, 1 << 20))
      ->type_name("TOKENS");
  verb.add_option("--cpu-link", o.cpu_link, "link speed of the CPU device, GB/s each way; 0 is as fast as memory")
      ->capture_default_str()
      ->check(between(0, 1e6))
      ->type_name("GBPS");
  verb.add_option("--log-level", o.log_level, "what is logged to stderr")
      ->capture_default_str()
      ->check(CLI::IsMember({"debug", "info", "warn", "error", "off"}))
      ->type_name("LEVEL");
  verb.add_option("--config", o.config, "TOML file with these flags' names as keys; flags override it")
      ->type_name("FILE")
      ->configurable(false);
  verb.add_flag("--print-config", o.print_config, "print the effective config as TOML that --config reads, and stop")
      ->configurable(false);
}

void add_policy_options(CLI::App& verb, Options& o) {
  verb.add_option("--policy", o.policy,
                  "what is attended and where KV rows live: a shipped policy's name, or a TOML file; offload unless "
                  "given")
      ->type_name("NAME|FILE");
  verb.add_option("--set", o.sets, "change a field of the policy, for example policy.share=1/8; may be repeated")
      ->type_name("policy.KEY=VALUE")
      ->allow_extra_args(false);
}

void add_placement_options(CLI::App& verb, Options& o) {
  verb.add_option("--kv-dtype", o.kv_dtype,
                  "type that KV rows are kept in: bf16 (as activations are), int8, fp8 or int4; the policy's unless "
                  "given")
      ->check(CLI::IsMember({"bf16", "int8", "fp8", "int4"}))
      ->type_name("TYPE");
  verb.add_option("--weights", o.weights,
                  "where layers' weights live: resident on the device, or streamed from host memory at every step, all "
                  "or as many of the last as LAYERS says; auto streams as few as the budget needs")
      ->capture_default_str()
      ->type_name("auto|resident|stream[:LAYERS]");
  verb.add_option("--weight-format", o.weight_format,
                  "as what a quantised model's layers rest: packed, and expanded before each use, or bf16, which is "
                  "faster; auto is bf16 where that fits the device; no answer depends on it")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "packed", "bf16"}))
      ->type_name("FORMAT");
  verb.add_option("--hidden-states", o.hidden_states,
                  "where a prompt's hidden states live: device or host; auto is host where the budget needs it")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "device", "host"}))
      ->type_name("PLACE");
}

void add_options(CLI::App& verb, Options& o) {
  add_place_options(verb, o);
  add_chat_options(verb, o);
  add_policy_options(verb, o);
  add_placement_options(verb, o);
  verb.add_option("--record-trace", o.record_trace,
                  "write the rows that each decode step selects, by layer and KV head, so that they can be replayed")
      ->type_name("FILE");
  verb.add_option("--channels", o.channels,
                  "channel file for labels that are not fitted to the document; channels.json in the model's folder, "
                  "or a shipped one, unless given")
      ->type_name("FILE");
  add_parsed(verb, "--max-model-len", o.max_model_len, parse_tokens,
             "context limit, prompt and answer together; the model's unless given", "TOKENS");
  add_parsed(verb, "--max-tokens", o.max_tokens, parse_tokens,
             "longest answer; from generation_config.json, or 512, unless given", "TOKENS");
  const char* kFromModel = "; from generation_config.json unless given";
  verb.add_option("--temperature", o.temperature, std::string("0 is greedy") + kFromModel)->check(between(0.0, 100.0));
  verb.add_option("--top-p", o.top_p, std::string("sample from this share of probability") + kFromModel)
      ->check(between(0.0, 1.0));
  verb.add_option("--top-k", o.top_k, std::string("sample from this many tokens; 0 is all") + kFromModel)
      ->check(between(0, 1 << 30));
  verb.add_option("--repetition-penalty", o.repetition_penalty,
                  std::string("above 1 makes tokens of the prompt and of the answer so far less likely; 1 is none") +
                      kFromModel)
      ->check(between(kLeastPenalty, kMostPenalty));
  verb.add_option("--seed", o.seed, "of the sampler")->capture_default_str()->check(between(0, 1e15));
  add_engine_options(verb, o);
}

void add_model_options(CLI::App& verb, Options& o, const std::string& max_model_len_help) {
  add_place_options(verb, o);
  add_parsed(verb, "--max-model-len", o.max_model_len, parse_tokens, max_model_len_help, "TOKENS");
  add_engine_options(verb, o);
}

void add_chat_options(CLI::App& verb, Options& o) {
  verb.add_option("--chat-template", o.chat_template,
                  "Jinja file for the messages, in place of the model's chat_template.jinja or tokenizer_config.json")
      ->type_name("FILE");
  verb.add_flag("--no-chat-template", o.no_chat_template, "the message's text alone, for models that continue text");
  verb.add_option("--template-var", o.template_vars,
                  "a variable of the template, as often as needed, such as enable_thinking=false; JSON, or else a text")
      ->type_name("NAME=VALUE");
}

ChatOptions chat_options(const Options& o) {
  if (o.no_chat_template && (!o.chat_template.empty() || !o.template_vars.empty()))
    throw UserError(Exit::usage, "--no-chat-template: contradicts --chat-template and --template-var");
  return {.file = o.chat_template, .none = o.no_chat_template, .variables = jinja::read_variables(o.template_vars)};
}

void add_geometry_option(CLI::App& verb, Options& o) {
  verb.add_option("--geometry", o.geometry,
                  "in place of a model: a shape with random weights, a shipped one's name or a TOML file; for speeds")
      ->type_name("NAME|FILE");
}

bool finish_options(CLI::App& verb, const Options& o, bool opens_device) {
  if (!o.config.empty()) apply_config(verb, o.config);
  if (o.print_config) {
    say(print_config(verb));
    return false;
  }
  // Not spdlog's own function for this, which can be called once in a process.
  auto log = std::make_shared<spdlog::logger>("longhaul", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  log->set_pattern("%^%l%$: %v");
  log->set_level(spdlog::level::from_str(o.log_level));
  spdlog::set_default_logger(std::move(log));
  if (o.model.empty() && o.geometry.empty())
    throw UserError(Exit::usage, "--model is required; see longhaul {} --help", verb.get_name());
  if (!o.model.empty() && !o.geometry.empty())
    throw UserError(Exit::usage, "--model and --geometry: give one of them; see longhaul {} --help", verb.get_name());
  opens_device ? cuda_ordinal(o.device) : named_cuda_device(o.device);
  policy_of(o);  // a mistake in it is better told before the model's files are read
  parse_placement(o.weights, o.hidden_states, o.weight_format);
  return true;
}

Geometry shape_of(const Options& o) {
  if (!o.geometry.empty()) return load_geometry(o.geometry);
  const ModelSource model(o.model);
  Geometry shape{.name = model.name(), .config = model.config()};
  if (model.has_packed_weights()) shape.formats = weight_formats(model.weights(), shape.config);
  return shape;
}

void check_text(const char* flag, const std::string& text) {
  if (auto at = find_invalid_utf8(text); at != std::string::npos)
    throw UserError(Exit::usage, "{}: not valid UTF-8 at byte {}", flag, at);
}

void say(const std::string& text) {
  std::cout << text << std::flush;
  if (!std::cout) throw UserError(Exit::io, "stdout: cannot be written");
}

SampleParams sampling_params(const Options& o, const GenerationDefaults& defaults) {
  SampleParams params;
  params.temperature = static_cast<float>(o.temperature.value_or(defaults.temperature));
  params.top_p = static_cast<float>(o.top_p.value_or(defaults.top_p));
  params.top_k = static_cast<std::int32_t>(o.top_k.value_or(defaults.top_k));
  params.repetition_penalty = static_cast<float>(o.repetition_penalty.value_or(defaults.repetition_penalty));
  params.seed = static_cast<std::uint64_t>(o.seed);
  return params;
}

std::int64_t max_tokens(const Options& o, const GenerationDefaults& defaults) {
  return o.max_tokens.value_or(defaults.max_new_tokens.value_or(512));
}

std::int64_t context(const Options& o, const ModelConfig& config) {
  if (o.max_model_len && *o.max_model_len > config.max_position)
    throw UserError(Exit::usage, "--max-model-len {}: the model's context is {} tokens", *o.max_model_len,
                    config.max_position);
  return o.max_model_len.value_or(config.max_position);
}

Budget budget(const Options& o) {
  Budget budget = available_budget(o.device, o.gpu_memory);
  budget.host = o.host_memory.value_or(budget.host);
  return budget;
}

Placement parse_placement(const std::string& weights, const std::string& hidden_states,
                          const std::string& weight_format) {
  Placement wanted;
  constexpr std::string_view kStream = "stream:";
  if (weights == "resident") wanted.streamed_layers = 0;
  if (weights == "stream") wanted.streamed_layers = Placement::kAllLayers;
  if (weights.starts_with(kStream)) {
    std::int64_t layers = 0;
    const char* end = weights.data() + weights.size();
    const auto [at, error] = std::from_chars(weights.data() + kStream.size(), end, layers);
    if (error == std::errc{} && at == end && layers >= 1) wanted.streamed_layers = layers;
  }
  if (!wanted.streamed_layers && weights != "auto")
    throw UserError(Exit::usage, "--weights {}: expected auto, resident, stream or stream:LAYERS", weights);
  if (hidden_states != "auto") wanted.spill_hidden = hidden_states == "host";
  if (weight_format != "auto") wanted.packed = weight_format == "packed";
  return wanted;
}

std::vector<std::string> policy_sets(const std::vector<std::string>& sets) {
  std::vector<std::string> fields;
  for (const std::string& set : sets) {
    if (!set.starts_with("policy.")) throw UserError(Exit::usage, "--set {}: expected policy.KEY=VALUE", set);
    fields.push_back(set.substr(7));
  }
  return fields;
}

KvPolicy policy_of(const Options& o) {
  std::vector<std::string> sets = policy_sets(o.sets);
  if (!o.kv_dtype.empty()) sets.push_back("kv_dtype=" + o.kv_dtype);
  return load_policy(o.policy.empty() ? "offload" : o.policy, sets);
}

DType activations(const Options& o) { return o.activations == "f32" ? DType::f32 : DType::bf16; }

std::int64_t share_unit(const Options& o) {
  const std::int64_t chunk = o.prefill_chunk.value_or(EngineOptions{}.prefill_chunk);
  return named_cuda_device(o.device) ? std::min(chunk, EngineOptions{}.prefill_chunk) : chunk;
}

EngineOptions wanted_options(const Options& o, const ModelConfig& config, std::shared_ptr<const WeightFormats> formats,
                             std::int64_t longest, std::int64_t sessions) {
  EngineOptions engine;
  engine.policy = policy_of(o);
  check_policy(engine.policy, config);
  engine.activations = activations(o);
  engine.max_len = longest;
  engine.max_sessions = sessions;
  engine.prefill_chunk = o.prefill_chunk.value_or(engine.prefill_chunk);
  const bool on_gpu = named_cuda_device(o.device).has_value();
  engine.widens_chunk = on_gpu && !o.prefill_chunk;
  engine.may_hold_two = on_gpu;    // elsewhere fits and layers share the same cores
  engine.lengthens_tile = on_gpu;  // elsewhere a copy takes no time beside its bytes
  engine.share_unit = share_unit(o);
  engine.wanted = parse_placement(o.weights, o.hidden_states, o.weight_format);
  engine.formats = std::move(formats);
  engine.probes.lists = !o.record_trace.empty();
  return engine;
}

EngineOptions engine_options(const Options& o, const ModelFiles& model, const Budget& budget, std::int64_t longest,
                             std::int64_t wanted_sessions, const Probes& probes, std::int64_t shared_rest,
                             std::shared_ptr<const std::vector<std::int64_t>> lengths) {
  EngineOptions engine =
      wanted_options(o, model.config, weight_formats(model.weights, model.config), longest, wanted_sessions);
  engine.probes = probes;
  engine.shared_rest = shared_rest;
  engine.lengths = std::move(lengths);
  engine.probes.lists = !o.record_trace.empty();
  engine.bases = label_bases(o, engine.policy, model);
  if (shared_rest > 0) {  // room to share prompts' rows in costs no session, and moves nothing to the host
    EngineOptions alone = engine;
    alone.shared_rest = 0;
    const auto with = try_fit(model.config, engine, budget), without = try_fit(model.config, alone, budget);
    const bool costs = without && (!with || with->max_sessions < without->max_sessions ||
                                   together(model.config, *with).longest < together(model.config, *without).longest ||
                                   with->streamed_layers > without->streamed_layers ||
                                   with->spill_hidden > without->spill_hidden || with->packed > without->packed);
    if (costs) return *without;
  }
  return fit_to_budget(model.config, engine, budget);
}

std::unique_ptr<TraceWriter> record_trace(const Options& o, const std::string& model, Engine& engine) {
  if (o.record_trace.empty()) return nullptr;
  auto trace = std::make_unique<TraceWriter>(o.record_trace, model, engine);
  engine.set_step_tap(
      [to = trace.get()](const StepProbe& probe, std::span<Session* const> sessions) { to->add(probe, sessions); });
  return trace;
}

std::optional<MachineProfile> machine_profile(const Options& o) {
  return find_profile(o.profile, device_name(cuda_ordinal(o.device)));
}

std::unique_ptr<Device> open_device(const Options& o, std::int64_t budget) {
  return open_device(o.device, budget, o.cpu_link, machine_profile(o));
}

}  // namespace longhaul
