// Whether the tests run under a sanitizer.
#pragma once

namespace longhaul::test {

/// A case that drops a wait *is* the race that the thread sanitizer reports: that case asks.
#ifdef LONGHAUL_SERIAL
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif

/// Sanitizers keep books in the same memory, so that what a process takes says nothing.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitizer = true;
#else
inline constexpr bool kSanitizer = false;
#endif

}  // namespace longhaul::test
