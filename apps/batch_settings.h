// What a batch's answers depend on, for its manifest.
#pragma once
#include <vector>

#include "apps/options.h"
#include "runtime/batch/job.h"

namespace longhaul {

/// Of the weights, the other files of the model, the policy, the prompt and the sampling; not of budgets, devices,
/// batch sizes or orders, which change no answer.
Manifest batch_manifest(const Options& options, const ModelFiles& model, const JobOptions& job,
                        const std::vector<InputKey>& inputs);

}  // namespace longhaul
