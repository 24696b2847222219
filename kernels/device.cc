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

std::unique_ptr<Recording> Device::record(std::span<Stream* const>, const std::function<void()>&) { return nullptr; }

}  // namespace longhaul
