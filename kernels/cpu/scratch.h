// Memory a thread keeps between calls: 64-byte aligned, grows, never shrinks, contents undefined. Owned by a
// `thread_local Scratch` inside the function that uses it.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "kernels/base/bytes.h"

namespace longhaul::cpu {

class Scratch {
 public:
  /// At least `count` elements; the pointer of an earlier call is dead.
  template <class T>
  T* get(std::int64_t count) {
    const std::int64_t bytes = round_up(count * static_cast<std::int64_t>(sizeof(T)), 64);
    if (bytes > size_) {
      data_.reset();
      size_ = 0;
      data_.reset(std::aligned_alloc(64, bytes));
      if (!data_) throw std::bad_alloc();
      size_ = bytes;
    }
    return static_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> data_;
  std::int64_t size_ = 0;
};

}  // namespace longhaul::cpu
