// Packed weights: what a row takes, what codes stand for, and what is refused.
#include "kernels/packed_format.h"

#include <cmath>
#include <cstring>
#include <random>

#include "kernels/cpu/ops.h"
#include "tests/support/catch.h"
#include "tests/support/isa.h"
#include "tests/support/packed_rows.h"

using namespace longhaul;
using namespace longhaul::test;

TEST_CASE("packed_format: bytes a row") {
  CHECK(packed_row_bytes({}, 100) == 200);
  CHECK(packed_row_bytes({PackedType::int4, 128}, 8192) == 4096 + 64 * 4);  // 4.25 bits
  CHECK(packed_row_bytes({PackedType::q4_k, 32}, 8192) == 4096 + 32 * 20);  // 4.625
  CHECK(packed_row_bytes({PackedType::int8, 128}, 8192) == 8192 + 64 * 4);  // 8.25
  CHECK(packed_row_bytes({PackedType::int8, 8192}, 8192) == 8192 + 16);     // a scale a row, up to 16 bytes
  CHECK(packed_row_bytes({PackedType::q6_k, 16}, 8192) == 8192 + 32 * 20);  // 8.625
  CHECK(packed_row_bytes({PackedType::fp8, 128}, 200) == (200 + 2 * 4 + 15) / 16 * 16);
  for (const PackedFormat& format : kPackedFormats)
    for (std::int64_t cols = 256; cols <= 4096; cols += 256) CHECK(packed_row_bytes(format, cols) % 16 == 0);
}

TEST_CASE("packed_format: what has no form is refused") {
  CHECK(is_packable({PackedType::int4, 8}, 8));
  for (const auto& [format, cols] : {std::pair{PackedFormat{PackedType::int4, 64}, 12},
                                     {PackedFormat{PackedType::int4, 4}, 64},
                                     {PackedFormat{PackedType::int8, 0}, 64},
                                     {PackedFormat{PackedType::fp8, -8}, 64},
                                     {PackedFormat{PackedType::fp8, 100}, 200},
                                     {PackedFormat{PackedType::q4_k, 32}, 128},
                                     {PackedFormat{PackedType::q4_k, 64}, 256},
                                     {PackedFormat{PackedType::q6_k, 16}, 264},
                                     {PackedFormat{}, 64},
                                     {PackedFormat{PackedType::int8, 64}, 0}}) {
    CAPTURE(name_of(format.type), format.group, cols);
    CHECK_FALSE(is_packable(format, cols));
    alignas(16) std::byte row[2048]{};
    bf16 out[512];
    CHECK_THROWS(cpu::expand({row, out, format, 1, cols}));
  }
}

TEST_CASE("expand: every format against its definition, scales of every kind") {
  std::mt19937_64 random(11);
  for (const PackedFormat& format : kPackedFormats)
    for (std::int64_t cols : {8, 24, 64, 200, 256, 768}) {
      if (!is_packable(format, cols)) continue;
      for (std::int64_t rows : {1, 3, 70}) {
        const std::vector<std::byte> packed = random_packed(format, rows, cols, random);
        const std::vector<bf16> want = reference_expand(packed, format, rows, cols);
        for_each_isa([&] {
          const bf16 stale{0xabcd};
          std::vector<bf16> got(static_cast<std::size_t>(rows * cols + 8), stale);
          cpu::expand({packed.data(), got.data(), format, rows, cols});
          CAPTURE(name_of(format.type), format.group, cols, rows);
          CHECK(first_other(got, want) == -1);
          for (std::size_t i = want.size(); i < got.size(); ++i) CHECK(got[i].bits == stale.bits);
        });
      }
    }
}
