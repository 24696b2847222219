// RoPE as config.json has it: rope_parameters (which holds rope_theta), or rope_scaling beside a rope_theta; neither is
// plain RoPE.
#pragma once
#include "runtime/checkpoint/json_file.h"
#include "runtime/model/families.h"
#include "runtime/model/model_config.h"

namespace longhaul {

/// `longest`: max_position_embeddings. `file` names the file in errors.
RopeConfig read_rope(JsonObject& top, const Family& family, std::int64_t head_dim, std::int64_t longest,
                     const std::string& file);

/// By its name in files; none: there is no such type.
std::optional<RopeType> rope_type_of(std::string_view name);
/// Those that rope_type_of knows, for messages.
std::string rope_type_names();

}  // namespace longhaul
