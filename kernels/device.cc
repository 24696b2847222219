#include "kernels/device.h"

#include <algorithm>
#include <utility>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"

namespace longhaul {

Buffer::Buffer(Buffer&& other) noexcept
    : device_(other.device_), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  device_->raw_free(data_, size_);
  device_->used_ -= size_;
}

Buffer Device::allocate(std::int64_t bytes, std::string_view what) {
  check(bytes >= 0, "a size is not negative");
  if (bytes > budget_ - used_) throw OutOfMemory(std::string(what), bytes, budget_ - used_);
  if (bytes == 0) return Buffer(*this, nullptr, 0);
  std::byte* data = raw_allocate(bytes);
  if (data == nullptr)
    throw OutOfMemory(
        fmt::format("{} (within the budget of {}, but the device has no more; give a smaller --gpu-memory)", what,
                    format_bytes(budget_)),
        bytes, raw_left());
  used_ += bytes;
  peak_ = std::max(peak_, used_);
  return Buffer(*this, data, bytes);
}

namespace {
[[noreturn]] void lacking(const char* op) { throw DeviceError(fmt::format("this device has no operator {} yet", op)); }
}  // namespace

void Stream::launch(const FitLabelsArgs&) { lacking("fit_labels"); }
void Stream::launch(const LabelRowsArgs&) { lacking("label_rows"); }
void Stream::launch(const SelectArgs&) { lacking("select"); }
void Stream::launch(const LocateArgs&) { lacking("locate"); }
void Stream::launch(const GatherArgs&) { lacking("gather"); }
void Stream::launch(const ScoreListArgs&) { lacking("score_list"); }
void Stream::launch(const FinishListArgs&) { lacking("finish_list"); }
void Stream::launch(const RetainArgs&) { lacking("retain"); }
void Stream::launch(const FillArgs&) { lacking("fill"); }
void Stream::launch(const AddListMassArgs&) { lacking("add_list_mass"); }
void Stream::launch(const AddMassArgs&) { lacking("add_mass"); }
void Stream::launch(const RoundRowsArgs&) { lacking("round_rows"); }
void Stream::launch(const JudgeArgs&) { lacking("judge"); }
void Stream::launch(const MomentsArgs&) { lacking("moments"); }
void Stream::launch(const MeanValuesArgs&) { lacking("mean_values"); }

std::unique_ptr<Recording> Device::record(std::span<Stream* const>, const std::function<void()>&) { return nullptr; }

}  // namespace longhaul
