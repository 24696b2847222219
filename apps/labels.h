// Where a policy's labels come from, as run and batch resolve it.
#pragma once
#include <memory>

#include "apps/options.h"
#include "offload/policy.h"

namespace longhaul {

/// The maps that the policy's labels need: of --channels, of a file that find_channels finds, null where
/// the policy needs none, or there is no file: then labels are made from the document. Says which was used.
std::shared_ptr<const LabelBases> label_bases(const Options& options, const KvPolicy& policy, const ModelFiles& model);

/// Of the bases that label_bases gives; empty where it gives none.
std::string label_fingerprint(const Options& options, const KvPolicy& policy, const ModelFiles& model);

}  // namespace longhaul
