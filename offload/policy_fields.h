// The fields of a policy, each in one line: its key, how it is read and printed, and when it has no meaning.
#pragma once
#include <sstream>
#include <string>
#include <string_view>
#include <vector>
#define TOML_EXCEPTIONS 1
#include <toml++/toml.h>

#include "offload/policy.h"

namespace longhaul {

struct PolicyField {
  std::string_view key;
  /// Throws UserError{usage}: `where`, the key, what it must be.
  void (*read)(const toml::node&, KvPolicy&, const std::string& where);
  void (*print)(const KvPolicy&, toml::table&);
  /// Why the field means nothing in this policy; empty where it does.
  std::string (*idle)(const KvPolicy&);
};

const std::vector<PolicyField>& policy_fields();

}  // namespace longhaul
