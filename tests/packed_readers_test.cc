// What readers pack, against what they convert.
#include <set>

#include "kernels/cpu/ops.h"
#include "tests/support/catch.h"
#include "tests/support/complaint.h"
#include "tests/support/quantised_cases.h"

using namespace longhaul;
using namespace longhaul::test;

TEST_CASE("What is packed expands to the bits of what is converted", "[checkpoint][packed]") {
  using enum PackedType;
  // Linear layers of a case, and how many of the seven can be packed. Permuted groups (act order) cannot.
  struct Want {
    const char* name;
    std::vector<PackedType> types;
    std::size_t packed;
  };
  for (const Want& want : {Want{"floats", {}, 0},
                           {"int8_rows", {int8}, 7},
                           {"fp8_rows", {fp8}, 7},
                           {"fp8_tensor", {fp8}, 7},
                           {"fp8_blocks", {fp8}, 7},
                           {"awq", {int4}, 7},
                           {"gptq", {int4}, 7},
                           {"gptq_act_order", {}, 0},
                           {"gptq_columns", {int4}, 7},
                           {"gguf", {int8, q4_k, q6_k}, 5}}) {
    const QuantisedCase c(want.name);
    std::set<PackedType> types;
    std::size_t packed = 0;
    for (const auto& [tensor, reader] : c.readers) {
      const PackedFormat format = reader->packed_format();
      if (format.type == none) continue;
      types.insert(format.type);
      packed += tensor.ends_with("_proj.weight");
      const auto whole = values_of(*reader);
      const std::int64_t step = reader->row_step(), bytes = packed_row_bytes(format, reader->cols());
      for (const RowSpan span : {RowSpan{0, reader->rows()}, RowSpan{reader->rows() - 2 * step, 2 * step}}) {
        std::vector<std::byte> stored(static_cast<std::size_t>(reader->stored_bytes(span.count)));
        reader->fetch(span, stored.data());
        std::vector<std::byte> rows(static_cast<std::size_t>(span.count * bytes), std::byte{0xee});
        for (std::int64_t at = 0; at < span.count; at += step)  // a step at a time, as cores share them
          reader->pack(stored.data(), span, {span.first + at, step}, rows.data() + at * bytes);
        std::vector<bf16> values(static_cast<std::size_t>(span.count * reader->cols()));
        cpu::expand({rows.data(), values.data(), format, span.count, reader->cols()});
        CAPTURE(want.name, tensor, span.first);
        CHECK(std::memcmp(values.data(), whole.data() + span.first * reader->cols(), values.size() * 2) == 0);
      }
    }
    CAPTURE(want.name);
    CHECK(types == std::set<PackedType>(want.types.begin(), want.types.end()));
    CHECK(packed == want.packed);
  }
}

TEST_CASE("What bf16 cannot hold is refused packed, too", "[checkpoint][packed]") {
  ScratchDir dir;
  const auto refused = [&](const char* codes, float scale) {
    const Checkpoint checkpoint(file_of(dir, {{"w.weight", {"F8_E4M3", {1, 8}, std::string(codes, 8)}},
                                              {"w.weight_scale", {"F32", {}, raw<float>({scale})}}}),
                                {.method = QuantMethod::scaled, .name = "fp8"});
    const auto reader = checkpoint.tensor("w.weight", {1, 8});
    std::vector<std::byte> stored(8), rows(static_cast<std::size_t>(packed_row_bytes(reader->packed_format(), 8)));
    reader->fetch({0, 1}, stored.data());
    return complaint([&] { reader->pack(stored.data(), {0, 1}, {0, 1}, rows.data()); });
  };
  const std::string words = "no finite number, or too large for bf16";
  CHECK(refused("\x38\x38\x38\x38\x38\x38\x38\x7e", 1) == "no error");
  CHECK_THAT(refused("\x38\x38\x38\x38\x38\x38\x38\x7f", 1), contains(words));  // NaN's code
  CHECK_THAT(refused("\x38\x38\x38\x38\x38\x38\x38\x7e", 1e38f), contains(words));
}
