// Where rows and weights are, in words.
#include <algorithm>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "runtime/batch/progress.h"
#include "runtime/batch/report.h"
#include "runtime/model/weights.h"

namespace longhaul {

std::string describe_rows(const RowCounts& rows) {
  auto percent = [](std::int64_t part, std::int64_t whole) {
    return 100.0 * static_cast<double>(part) / static_cast<double>(std::max<std::int64_t>(whole, 1));
  };
  std::string text = fmt::format("{:.2f} % of the rows attended, over all layers", percent(rows.attended, rows.all));
  if (rows.listed == 0) return text;
  const std::int64_t here = rows.listed - rows.cache_hits - rows.staged_hits - rows.missed;
  return text + fmt::format(
                    "; of the selected {:.1f} % were sinks or recent, {:.1f} % in the resident set, {:.1f} % "
                    "prefetched, {:.1f} % fetched on demand",
                    percent(here, rows.listed), percent(rows.cache_hits, rows.listed),
                    percent(rows.staged_hits, rows.listed), percent(rows.missed, rows.listed));
}

std::string describe_streaming(const ModelConfig& config, const EngineOptions& options, const Budget& budget) {
  std::int64_t bytes = kv_shape(config, options).session_bytes(options.max_len);
  const KvLayout layout = kv_layout(config, options);
  std::string cache =
      fmt::format("{} for the longest context ({} tokens)", format_bytes(bytes), with_commas(options.max_len));
  if (layout.all_resident()) return cache + ": all rows stay on the device";
  if (options.policy.selects())
    return fmt::format(
        "{} in host memory; on the device {} rows and a resident set of {} rows a layer and KV head; a step attends at "
        "most {}",
        cache, with_commas(layout.prefix_rows + layout.ring_rows), with_commas(layout.cache_rows),
        with_commas(layout.list_rows));
  return fmt::format(
      "{} {} device budget {}: {:.0f} % of the rows stay on the device, the rest is streamed at every step, {} rows a "
      "tile",
      cache, bytes > budget.device ? ">" : "and weights against", format_bytes(budget.device),
      100.0 * static_cast<double>(layout.prefix_rows) / static_cast<double>(layout.capacity),
      with_commas(layout.tile_rows));
}

std::string describe_placement(const ModelConfig& config, const EngineOptions& options) {
  const std::int64_t streamed = options.streamed_layers, first = config.layers - streamed;
  const WeightFormats* formats = options.packed ? options.formats.get() : nullptr;
  std::string text = "all on the device";
  if (streamed > 0)
    text = fmt::format("{} of {} layers on the device, {} streamed: {} over the link at every step, once a prompt",
                       first, config.layers, streamed,
                       format_bytes(layers_at_rest(config, formats, first, config.layers).at_rest));
  if (formats != nullptr) {
    const RestBytes all = layers_at_rest(config, formats, 0, config.layers);
    text +=
        fmt::format("; packed as {}, {} in place of {}, and expanded at every step, once a prompt", formats->names(),
                    format_bytes(all.at_rest), format_bytes(config.layers * layer_weight_bytes(config)));
  } else if (options.formats != nullptr) {
    text += fmt::format("; {} in the file, bf16 in memory", options.formats->names());
  }
  if (options.host_embedding) text += "; the embedding table in host memory";
  return text + fmt::format("; a prompt's hidden states in {} memory", options.spill_hidden ? "host" : "device");
}

}  // namespace longhaul
