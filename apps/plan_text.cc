#include "apps/plan_text.h"

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "runtime/batch/progress.h"
#include "runtime/batch/report.h"

namespace longhaul {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kNoProfile = "no machine profile: run longhaul doctor";

std::string prefill_text(const Capacity& c) {
  return fmt::format(
      "{:.3g} s, {} tokens/s", c.prediction->prefill_seconds,
      with_commas(static_cast<std::int64_t>(static_cast<double>(c.options.max_len) / c.prediction->prefill_seconds)));
}

std::string decode_text(const Capacity& c, const MachineProfile& machine) {
  const Prediction& p = *c.prediction;
  std::string text = fmt::format("{:.3g} tokens/s, a step in {:.3g} ms: {} of device memory at {:.0f} GB/s",
                                 p.tokens_per_second, p.step_seconds * 1e3,
                                 format_bytes(static_cast<std::int64_t>(p.device_bytes)), machine.rates.copy_GBps);
  if (p.link_bytes == 0) return fmt::format("{}, nothing over the link", text);
  return text + fmt::format(", {} over the link in {:.3g} ms", format_bytes(static_cast<std::int64_t>(p.link_bytes)),
                            p.link_seconds * 1e3);
}

std::string more_text(const ModelConfig& config, const Capacity& now, const Capacity& more) {
  std::string text;
  auto grows = [&](const std::string& what, const std::string& from, const std::string& to) {
    if (from != to) text += fmt::format("{}{} {} instead of {}", text.empty() ? "" : ", ", what, to, from);
  };
  grows("contexts up to", with_commas(now.longest_context), with_commas(more.longest_context));
  grows("batches up to", with_commas(now.largest_batch), with_commas(more.largest_batch));
  grows("sessions", with_commas(now.options.max_sessions), with_commas(more.options.max_sessions));
  const KvLayout a = kv_layout(config, now.options), b = kv_layout(config, more.options);
  grows("resident set slots", with_commas(a.cache_rows), with_commas(b.cache_rows));
  grows("resident rows", with_commas(a.prefix_rows), with_commas(b.prefix_rows));
  if (now.prediction)
    grows("tokens/s", fmt::format("{:.3g}", now.prediction->tokens_per_second),
          fmt::format("{:.3g}", more.prediction->tokens_per_second));
  return text.empty() ? "nothing" : text;
}

Json items_json(const std::vector<Arena::Item>& items, std::int64_t total) {
  Json list = Json::array();
  for (const Arena::Item& item : items)
    if (item.bytes > 0) list.push_back({{"item", item.name}, {"bytes", item.bytes}});
  return {{"bytes", total}, {"items", list}};
}

Json capacity_json(const ModelConfig& config, const Capacity& c) {
  const KvLayout layout = kv_layout(config, c.options);
  const auto share = static_cast<double>(layout.prefix_rows) / static_cast<double>(layout.capacity);
  Json json{{"sessions", c.options.max_sessions},
            {"resident_share", share},
            {"resident_rows", layout.prefix_rows},
            {"tile_rows", layout.tile_rows},
            {"window_rows", layout.ring_rows},
            {"resident_set_slots", layout.cache_rows},
            {"attended_rows", layout.list_rows > 0 ? layout.list_rows : layout.capacity},
            {"longest_context", c.longest_context},
            {"largest_batch", c.largest_batch},
            {"predicted", Json()}};
  if (!c.prediction) return json;
  const Prediction& p = *c.prediction;
  json["predicted"] = {{"prefill_seconds", p.prefill_seconds}, {"decode_tokens_per_second", p.tokens_per_second},
                       {"step_seconds", p.step_seconds},       {"device_bytes_a_step", p.device_bytes},
                       {"link_bytes_a_step", p.link_bytes},    {"assumed_hit_rate", p.hit_rate}};
  return json;
}

}  // namespace

std::string plan_text(const PlanReport& r) {
  const EngineOptions& o = r.now.options;
  const KvLayout layout = kv_layout(r.shape.config, o);
  std::string text;
  auto line = [&](const char* topic, const std::string& what) { text += fmt::format("{:<15}{}\n", topic, what); };
  line("model", fmt::format("{}{}", r.shape.name, r.synthetic ? " (a geometry: synthetic weights)" : ""));
  line("sessions", fmt::format("{} of {} tokens together{}, policy {}, {}", o.max_sessions, with_commas(o.max_len),
                               o.max_sessions < r.wanted_sessions ? fmt::format(" ({} asked for)", r.wanted_sessions)
                                                                  : std::string(),
                               o.policy.name, name_of(o.activations)));
  line("budget", fmt::format("{} of device memory{}, {} of host memory, {} device", format_bytes(r.budget.device),
                             r.budget.libraries > 0
                                 ? fmt::format(" ({} for CUDA and its libraries)", format_bytes(r.budget.libraries))
                                 : std::string(),
                             format_bytes(r.budget.host), r.cuda ? "CUDA" : "CPU"));
  text += fmt::format("\n{}{:<7} {:<22} {:>12}\n\n", r.now.memory.table(), "host", "and the program itself",
                      format_bytes(r.budget.beside(o.policy)));
  line("weights", describe_placement(r.shape.config, o));
  line("kv cache", describe_streaming(r.shape.config, o, r.budget));
  line("resident", fmt::format("{:.3g} of a session's rows",
                               static_cast<double>(layout.prefix_rows) / static_cast<double>(layout.capacity)));
  if (layout.cache_rows > 0)
    line("resident set", fmt::format("B = {} slots a layer and KV head, {:.3g} times the {} rows that a token attends",
                                     with_commas(layout.cache_rows),
                                     static_cast<double>(layout.cache_rows) / static_cast<double>(layout.list_rows),
                                     with_commas(layout.list_rows)));
  line("prefill chunk", fmt::format("{} tokens", with_commas(std::min(o.prefill_chunk, o.max_len))));
  line("fits at most",
       fmt::format("{} tokens a session (the model takes {}); {} sessions of this length",
                   with_commas(r.now.longest_context), with_commas(r.shape.config.max_position), r.now.largest_batch));
  if (r.machine) {
    line("machine", r.machine->device);
    line("prefill", fmt::format("predicted {}", prefill_text(r.now)));
    line("decode", fmt::format("predicted {}", decode_text(r.now, *r.machine)));
    if (r.now.prediction->hit_rate < 1)
      line("", fmt::format("assumed: {:.0f} % of the selected rows in the resident set, as in long documents",
                           100 * r.now.prediction->hit_rate));
  } else {
    line("speed", kNoProfile);
  }
  line("1 GiB more", fmt::format("of device memory: {}", more_text(r.shape.config, r.now, r.more)));
  return text;
}

Json plan_json(const PlanReport& r) {
  const EngineOptions& o = r.now.options;
  Json json{{"model", r.shape.name},
            {"synthetic", r.synthetic},
            {"policy", o.policy.name},
            {"activations", name_of(o.activations)},
            {"context", o.max_len},
            {"model_context", r.shape.config.max_position},
            {"wanted_sessions", r.wanted_sessions},
            {"prefill_chunk", std::min(o.prefill_chunk, o.max_len)},
            {"weights_packed", o.packed},
            {"weights_streamed_layers", o.streamed_layers},
            {"device_kind", r.cuda ? "cuda" : "cpu"},
            {"budget",
             {{"device_bytes", r.budget.device}, {"host_bytes", r.budget.host}, {"library_bytes", r.budget.libraries}}},
            {"device", items_json(r.now.memory.device, r.now.memory.device_bytes)},
            {"host", items_json(r.now.memory.host, r.now.memory.host_bytes)},
            {"program_bytes", r.budget.beside(o.policy)}};
  json.update(capacity_json(r.shape.config, r.now));
  json["machine"] = r.machine ? Json(r.machine->device) : Json();
  if (!r.machine) json["note"] = kNoProfile;
  json["with_1_gib_more"] = capacity_json(r.shape.config, r.more);
  return json;
}

}  // namespace longhaul
