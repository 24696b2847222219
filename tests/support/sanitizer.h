// Whether the tests run under the thread sanitizer. A case that drops a wait *is* the race it reports: that case asks.
#pragma once

namespace longhaul::test {

#ifdef LONGHAUL_SERIAL
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif

}  // namespace longhaul::test
