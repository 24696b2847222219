// A hash of bytes that is the same on every machine and in every version.
#pragma once
#include <cstdint>
#include <string_view>

namespace longhaul {

/// FNV-1a, 64 bits. `hash`: of the bytes before, to go on.
constexpr std::uint64_t hash64(std::string_view bytes, std::uint64_t hash = 0xcbf29ce484222325u) {
  for (unsigned char c : bytes) hash = (hash ^ c) * 0x100000001b3u;
  return hash;
}

}  // namespace longhaul
