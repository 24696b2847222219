// Catch2, version 2 or 3: what every test includes. The names that differ between them are here.
#pragma once
#include <string>

#ifdef LONGHAUL_CATCH2_V2
#include <catch2/catch.hpp>  // brings Approx into the global namespace
#else
#include <catch2/catch_all.hpp>
using Catch::Approx;
#endif

namespace longhaul::test {

/// For CHECK_THAT: a string that has `part` in it.
inline auto contains(const std::string& part) {
#ifdef LONGHAUL_CATCH2_V2
  return Catch::Matchers::Contains(part);
#else
  return Catch::Matchers::ContainsSubstring(part);
#endif
}

}  // namespace longhaul::test
