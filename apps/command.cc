#include "apps/command.h"

#include <cstdio>
#include <iostream>

#include "apps/ended.h"
#include "apps/tokenize.h"
#include "apps/verbs.h"
#include "runtime/tokenizer/utf8.h"

namespace longhaul {
namespace {

Exit end(Exit code, const std::string& message) {
  fmt::print(stderr, "longhaul: {}\n", printable(message));
  return code;
}

Exit run_verb(int argc, const char* const* argv) {
  CLI::App app{"Long contexts on a small memory budget: the KV cache lives in host memory and streams to the device.",
               "longhaul"};
  app.set_version_flag("--version", "longhaul " LONGHAUL_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Examples:\n"
      "  longhaul run --model apps/demo/demo-7m --prompt-file report.txt\n"
      "  longhaul batch --model apps/demo/demo-7m --input reports/ --output summaries.jsonl --gpu-memory 80MiB\n\n"
      "Exit codes: 0 all ok, 1 some documents failed, 2 usage or config, 3 bad model, 4 does not fit the budget,\n"
      "5 input or output, 6 out of memory, 7 device failure, 8 output locked by another process, 70 internal error.");
  Exit exit = Exit::ok;
  register_run(app);
  register_batch(app, exit);
  register_calibrate(app);
  register_eval(app);
  register_plan(app);
  register_bench(app);
  register_doctor(app);
  register_tokenize(app);
  register_completion(app);
  try {
    app.parse(argc, argv);
    return exit;
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e), Exit::ok;  // --help, --version
    if (argc > 1 && argv[1][0] != '-' && app.get_subcommands().empty())
      return end(Exit::usage, fmt::format("'{}' is not a verb; see longhaul --help", argv[1]));
    return end(Exit::usage, fmt::format("{}; see longhaul --help", e.what()));
  } catch (...) {
    const Ended ended = ended_by_exception();
    return end(ended.exit, ended.message);
  }
}

}  // namespace

Exit command(int argc, const char* const* argv) {
  const Exit exit = run_verb(argc, argv);
  if (exit <= Exit::failed_documents && !std::cout.flush()) return end(Exit::io, "stdout: cannot be written");
  return exit;
}

}  // namespace longhaul
