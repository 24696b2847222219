#include "kernels/cpu/cpu_machine.h"

#include <algorithm>
#include <utility>

#include "kernels/base/error.h"

namespace longhaul {

std::int64_t CpuEventState::open() {
  std::lock_guard lock(mutex_);
  open_.push_back(++latest_);
  return latest_;
}

void CpuEventState::pass(std::int64_t generation) {
  std::lock_guard lock(mutex_);
  std::erase(open_, generation);
  passed_.notify_all();
}

std::int64_t CpuEventState::latest() const {
  std::lock_guard lock(mutex_);
  return latest_;
}

double CpuEventState::wait(std::int64_t generation) {
  auto has_passed = [&] { return std::find(open_.begin(), open_.end(), generation) == open_.end(); };
  std::unique_lock lock(mutex_);
  if (has_passed()) return 0;
  auto start = CpuMachine::Clock::now();
  passed_.wait(lock, has_passed);
  return std::chrono::duration<double>(CpuMachine::Clock::now() - start).count();
}

CpuMachine::CpuMachine(CpuDeviceOptions options) : options_(std::move(options)) {
  for (const CpuDelay& delay : options_.delays)
    check(delay.every >= 1 && delay.microseconds >= 0, "a delay's period is positive and its length not negative");
}

CpuMachine::Clock::time_point CpuMachine::reserve_link(CopyKind kind, std::int64_t bytes) {
  if (kind == CopyKind::device_to_device || options_.link_bytes_per_second <= 0) return {};
  std::chrono::duration<double> crossing(static_cast<double>(bytes) / options_.link_bytes_per_second);
  std::lock_guard lock(mutex_);
  auto& free = link_free_[kind == CopyKind::device_to_host];
  free = std::max(free, Clock::now()) + std::chrono::ceil<Clock::duration>(crossing);
  return free;
}

void CpuMachine::begin_work() {
  if (begun_.fetch_add(1) + 1 == options_.fail_work_at) throw DeviceError("injected failure");
}

void CpuMachine::fail(std::string_view stream) {
  std::exception_ptr kept = std::current_exception();
  try {
    throw;
  } catch (const OutOfMemory&) {
  } catch (const UserError&) {
  } catch (const std::exception& error) {
    kept = std::make_exception_ptr(DeviceError(fmt::format("stream {}: {}", stream, error.what())));
  } catch (...) {
  }
  std::lock_guard lock(mutex_);
  if (failure_ == nullptr) failure_ = kept;
  failed_ = true;
}

void CpuMachine::rethrow_failure() const {
  if (!failed_) return;
  std::lock_guard lock(mutex_);
  std::rethrow_exception(failure_);
}

void CpuMachine::done() {
  if (pending_.fetch_sub(1) == 1) pending_.notify_all();
}

void CpuMachine::drain() const {
  for (std::int64_t left = pending_; left != 0; left = pending_) pending_.wait(left);
}

DeviceCounters CpuMachine::counters() const {
  std::lock_guard lock(mutex_);
  return counters_;
}

}  // namespace longhaul
