#include "kernels/base/bytes.h"

#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/types.h"
#include "tests/support/catch.h"

using namespace longhaul;

TEST_CASE("sizes are read with their unit", "[base]") {
  auto [text, bytes] = GENERATE(table<const char*, std::int64_t>({{"0B", 0},
                                                                  {"5GB", 5'000'000'000},
                                                                  {"500MiB", std::int64_t{500} << 20},
                                                                  {"24GiB", std::int64_t{24} << 30},
                                                                  {"24 GiB", std::int64_t{24} << 30},
                                                                  {"1.5KiB", 1536},
                                                                  {"1.5KB", 1500},
                                                                  {"2TiB", std::int64_t{2} << 40}}));
  CHECK(parse_bytes(text) == bytes);
}

TEST_CASE("what is not a size is refused as a usage error that says what to write", "[base]") {
  for (const char* text : {"", "24", "-1GiB", "24gib", "24G", "GiB", "inf B", "nanB", "1e30GiB", "5GB!", "0x10B"}) {
    CAPTURE(text);
    try {
      parse_bytes(text);
      FAIL("taken as a size");
    } catch (const UserError& error) {
      CHECK(error.code == Exit::usage);
      CHECK_THAT(error.what(), test::contains("GiB"));
    }
  }
}

TEST_CASE("tokens are plain or in K and M, and whole", "[base]") {
  CHECK(parse_tokens("4096") == 4096);
  CHECK(parse_tokens("256K") == 262144);
  CHECK(parse_tokens("1.5K") == 1536);
  CHECK(parse_tokens("1M") == 1048576);
  for (const char* text : {"", "0", "-1", "0.3", "1.0001K", "4k", "1G", "12 tokens"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(parse_tokens(text), UserError);
  }
}

TEST_CASE("sizes are printed in the largest unit below them", "[base]") {
  CHECK(format_bytes(0) == "0 B");
  CHECK(format_bytes(1023) == "1023 B");
  CHECK(format_bytes(1024) == "1.00 KiB");
  CHECK(format_bytes(std::int64_t{3} << 29) == "1.50 GiB");
  CHECK(format_bytes(-2048) == "-2.00 KiB");
  CHECK(parse_bytes(format_bytes(std::int64_t{7} << 40)) == std::int64_t{7} << 40);
}

TEST_CASE("rounding to a multiple", "[base]") {
  for (std::int64_t a = 0; a < 40; ++a)
    for (std::int64_t b = 1; b < 9; ++b) {
      CHECK((round_up(a, b) % b == 0 && round_up(a, b) >= a && round_up(a, b) < a + b));
      CHECK((round_down(a, b) % b == 0 && round_down(a, b) <= a && round_down(a, b) > a - b));
      CHECK(ceil_div(a, b) * b == round_up(a, b));
    }
}

TEST_CASE("bf16 rounds to nearest, ties to even, and keeps NaN and infinity", "[base]") {
  constexpr float inf = std::numeric_limits<float>::infinity();
  CHECK(to_bf16(1.0f).bits == 0x3f80);
  CHECK(to_bf16(1.0f + 0x1p-8f).bits == 0x3f80);    // a tie goes to the even one below
  CHECK(to_bf16(1.0f + 0x1.8p-7f).bits == 0x3f82);  // and to the even one above
  CHECK(to_bf16(1.0f + 0x1.1p-8f).bits == 0x3f81);
  CHECK(to_float(to_bf16(inf)) == inf);
  CHECK(to_float(to_bf16(std::numeric_limits<float>::max())) == inf);
  auto payload_below = std::bit_cast<float>(0x7f800001u);  // a NaN whose upper half alone would read as infinity
  CHECK(std::isnan(to_float(to_bf16(payload_below))));
  for (std::uint32_t bits = 0; bits < 0x10000; bits += 7) {
    bf16 x{static_cast<std::uint16_t>(bits)};
    if (!std::isnan(to_float(x)) && to_bf16(to_float(x)).bits != x.bits)
      FAIL("does not survive a round trip: " << bits);
  }
}
