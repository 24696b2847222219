#include "apps/eval/progress.h"

#include <fmt/format.h>

#include <cstdio>

#include "runtime/tokenizer/utf8.h"

namespace longhaul::eval {

void EvalProgress::show(const std::string& what) {
  if (seconds_since(shown_) < (terminal_ ? 0.2 : 10.0)) return;
  shown_ = Progress::Clock::now();
  std::string line = fmt::format("{}/{} answered", done_, expected_);
  if (done_ > 0)
    line += fmt::format(", {} left", format_seconds(seconds_since(start_) / static_cast<double>(done_) *
                                                    static_cast<double>(expected_ - done_)));
  line += fmt::format("; {}, {}", task_, what);
  fmt::print(stderr, "{}{}{}", terminal_ ? "\r\033[K" : "", printable(line).substr(0, terminal_ ? 100 : 400),
             terminal_ ? "" : "\n");
  std::fflush(stderr);
  open_ = terminal_;
}

void EvalProgress::cell(const std::string& policy, const std::string& share) {
  cell_ = share == "-" ? policy : policy + " " + share;
}

void EvalProgress::prefill(std::int64_t tokens, double share) {
  show(fmt::format("prefill of {} tokens, {:.0f} %", with_commas(tokens), share * 100));
}

void EvalProgress::stepped(std::int64_t tokens) {
  tokens_ += tokens;
  show(fmt::format("{}: {} tokens decoded, {:.0f} a second", cell_, with_commas(tokens_),
                   static_cast<double>(tokens_) / seconds_since(start_)));
}

void EvalProgress::document_done() {
  ++done_;
  show(cell_);
}

void EvalProgress::clear() {
  if (!open_) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
  open_ = false;
}

}  // namespace longhaul::eval
