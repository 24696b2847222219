// What a batch's answers depend on, for its manifest.
#pragma once
#include "apps/options.h"
#include "runtime/batch/job.h"

namespace longhaul {

/// Of the weights, the other files of the model, the policy, the prompt and the sampling; not of budgets, devices,
/// batch sizes or orders, which change no answer.
/// Of no inputs yet.
Manifest batch_manifest(const Options& options, const ModelFiles& model, const JobOptions& job);

}  // namespace longhaul
