// The streams of the pipeline. "No overlap" is all of them being one stream.
#pragma once
#include "kernels/device.h"

namespace longhaul {

struct Streams {
  Stream& compute;  // what the token waits for
  Stream& aside;    // what it does not: the next layer's look-ahead
  Stream& labels;   // behind a prefill's layers: labels, which no step of other sessions waits for
  Stream& fetch;    // host store -> staging slots -> resident set
  Stream& store;    // new rows -> host store, resident prefix and recent window
};

}  // namespace longhaul
