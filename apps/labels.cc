#include "apps/labels.h"

#include <spdlog/spdlog.h>

#include "runtime/find_channels.h"
#include "runtime/label_bases.h"

namespace longhaul {

std::shared_ptr<const LabelBases> label_bases(const Options& o, const KvPolicy& policy, const ModelFiles& model) {
  const bool labels = policy.select == Select::labels;
  const bool from_file = labels && policy.labels != Labels::document && policy.labels != Labels::exact;
  if (!from_file && !o.channels.empty())
    spdlog::warn("--channels {} is not used: the policy {} takes no labels from a file", o.channels, policy.name);
  if (!from_file) return nullptr;
  const auto file = find_channels(o.model, model.config, model.weights, o.channels);
  if (!file) {
    spdlog::info(
        "labels: no channel file; {} is calibrated on the spot, on each document's own keys and last queries (or make "
        "one: longhaul calibrate --model {} --text BOOK.txt)",
        name_of(policy.labels), o.model);
    return nullptr;
  }
  auto found = std::make_shared<LabelBases>(bases(*file, policy.labels, policy.dims(model.config.head_dim)));
  spdlog::info("labels: {} of {}", name_of(policy.labels), file->where);
  return found;
}

}  // namespace longhaul
