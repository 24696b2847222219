// What the post-processor of tokenizer.json puts around one text.
#pragma once
#include <cstdint>
#include <vector>

#include "runtime/tokenizer/tokenizer_json.h"

namespace longhaul {

struct TokensAround {
  std::vector<std::int32_t> prefix, suffix;
};

/// TemplateProcessing, ByteLevel and sequences of them. Throws UserError{bad_model} naming another.
TokensAround read_post_processor(const JsonRef& json);

}  // namespace longhaul
