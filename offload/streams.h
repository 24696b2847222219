// The three streams of the pipeline. "No overlap" is all three being one stream.
#pragma once
#include "kernels/device.h"

namespace longhaul {

struct Streams {
  Stream& compute;  // every operator
  Stream& fetch;    // host store -> staging slots
  Stream& store;    // new rows -> host store, resident prefix and recent window
};

}  // namespace longhaul
