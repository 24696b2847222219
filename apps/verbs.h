// Each verb adds itself to the command. What it throws ends the process (apps/command.cc); else `exit` is how it ended.
#pragma once
#include <CLI/CLI.hpp>

#include "kernels/base/error.h"

namespace longhaul {

void register_run(CLI::App& app);
void register_batch(CLI::App& app, Exit& exit);
void register_calibrate(CLI::App& app);
void register_bench(CLI::App& app);
void register_plan(CLI::App& app);
void register_doctor(CLI::App& app);
void register_eval(CLI::App& app);
void register_completion(CLI::App& app);

}  // namespace longhaul
