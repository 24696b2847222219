// The shape of a model without its weights: config/geometries, or a file like those. For measuring speed; an engine of
// it has random weights.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "runtime/model/layer_layout.h"

namespace longhaul {

struct Geometry {
  std::string name;
  ModelConfig config;
  std::shared_ptr<const WeightFormats> formats = {};  // as what its layers can be packed; null: they are bf16
};

/// A shipped geometry by name, or a TOML file. Throws UserError{usage} naming the file and the unknown key, the absent
/// one, the bad value, or what the runtime cannot run.
Geometry load_geometry(const std::string& name_or_file);
/// `where` names the text in errors and, less folder and ending, the geometry.
Geometry parse_geometry(std::string_view toml, const std::string& where);
std::vector<std::string> shipped_geometries();

}  // namespace longhaul
