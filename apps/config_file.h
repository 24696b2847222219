// A verb's flags as TOML: --config reads it, --print-config prints it. Keys are the flags' long names.
#pragma once
#include <CLI/CLI.hpp>
#include <string>

namespace longhaul {

/// Gives each flag that the command line left out the file's value. Throws UserError naming the file and the key.
void apply_config(CLI::App& verb, const std::string& file);
/// The flags as they stand. What the model or the machine decides is left out.
std::string print_config(const CLI::App& verb);

}  // namespace longhaul
