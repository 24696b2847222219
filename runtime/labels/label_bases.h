// From what a channel file knows to the maps that labels are made with.
#pragma once
#include "runtime/labels/channel_file.h"
#include "runtime/plan/plan.h"

namespace longhaul {

/// The first `dims` dimensions of what `labels` (fitted, or a ranking) names: unit vectors for a ranking. Throws
/// UserError{usage} when the file has no such statistic or not as many dimensions.
LabelBases bases(const ChannelFile& file, Labels labels, std::int64_t dims);

/// Every channel as it is.
LabelBases exact_bases(const ModelConfig& config);

}  // namespace longhaul
