// `longhaul tokenize`: text to token ids and back, with nothing of a model but its tokenizer.
#pragma once
#include <CLI/CLI.hpp>

namespace longhaul {

/// Adds the verb to `parent`. It runs as the subcommand's callback and throws UserError.
void register_tokenize(CLI::App& parent);

}  // namespace longhaul
