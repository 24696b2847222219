#include "runtime/labels/calibrate.h"

#include <algorithm>

#include "runtime/checkpoint/fingerprint.h"
#include "runtime/labels/fit_channels.h"

namespace longhaul {

CalibrationDocument calibration_document(const ModelFiles& model, std::string name, const std::string& text,
                                         std::int64_t most) {
  CalibrationDocument document{std::move(name), model.tokenizer.encode(model.tokenizer.guard(text), true)};
  if (static_cast<std::int64_t>(document.ids.size()) > most) document.ids.resize(static_cast<std::size_t>(most));
  return document;
}

void check_calibration(const std::vector<CalibrationDocument>& documents) {
  std::size_t tokens = 0;
  for (const CalibrationDocument& document : documents) tokens += document.ids.size();
  if (static_cast<std::int64_t>(tokens) < kCalibrationTokens)
    throw UserError(Exit::io, "the texts have {} tokens together; calibration needs {} or more", tokens,
                    kCalibrationTokens);
}

ChannelFile calibrate(Engine& engine, const ModelFiles& model, const std::vector<CalibrationDocument>& documents,
                      const CalibrationReport& report) {
  check_calibration(documents);
  const ModelConfig& config = engine.config();
  ChannelFile file{.where = "calibration",
                   .model = model.name,
                   .fingerprint = weights_fingerprint(config, model.weights),
                   .shape = shape_of(config),
                   .fitted_dims = std::min(kFittedDims, config.head_dim)};
  for (const CalibrationDocument& document : documents) {
    if (document.ids.empty()) continue;
    auto tell = [&](double share) {
      if (report) report(document, share);
    };
    tell(0);
    Session session(0, document.ids, {}, 1, {});
    engine.prefill(session, [&](const PrefillProgress& p) {
      if (p.done < p.total) tell(p.done / p.total);
    });
    tell(1);
    file.texts.push_back({document.name, static_cast<std::int64_t>(document.ids.size())});
  }
  const std::vector<double> sums = engine.moments();
  const auto size = static_cast<std::size_t>(moment_doubles(config.head_dim));
  for (std::size_t i = 0; i * size < sums.size(); ++i) {
    const auto head = std::span(sums).subspan(i * size, size);
    if (!all_finite(head))
      throw UserError(Exit::bad_model, "{}: the keys or queries of layer {} are not finite; are the weights damaged?",
                      model.name, static_cast<std::int64_t>(i) / config.kv_heads);
    file.heads.push_back(fit_channels(head, config.head_dim, config.q_heads / config.kv_heads));
  }
  return file;
}

}  // namespace longhaul
