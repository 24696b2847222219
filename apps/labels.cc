#include "apps/labels.h"

#include <spdlog/spdlog.h>

#include "kernels/base/hash.h"
#include "runtime/labels/find_channels.h"
#include "runtime/labels/label_bases.h"

namespace longhaul {
namespace {

bool takes_file(const KvPolicy& policy) {
  return policy.select == Select::labels && policy.labels != Labels::document && policy.labels != Labels::exact;
}

}  // namespace

std::string label_fingerprint(const Options& o, const KvPolicy& policy, const ModelFiles& model) {
  if (!takes_file(policy)) return "";
  const auto file = find_channels(o.model, model.config, model.weights, o.channels);
  if (!file) return "";
  const LabelBases found = bases(*file, policy.labels, policy.dims(model.config.head_dim));
  const std::string_view maps(reinterpret_cast<const char*>(found.maps.data()), found.maps.size() * sizeof(float));
  return fmt::format("{:016x}", hash64(maps));
}

std::shared_ptr<const LabelBases> label_bases(const Options& o, const KvPolicy& policy, const ModelFiles& model) {
  const bool from_file = takes_file(policy);
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
