#include "runtime/batch/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "kernels/base/bytes.h"
#include "runtime/tokenizer/utf8.h"

namespace longhaul {
namespace {

std::size_t terminal_width(std::FILE* out) {
  winsize size{};
  return ::ioctl(::fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

/// The first `columns` characters; a character of several bytes is never cut.
std::string_view first_columns(std::string_view text, std::size_t columns) {
  std::size_t end = 0;
  for (std::size_t seen = 0; end < text.size(); ++end)
    if ((static_cast<unsigned char>(text[end]) & 0xc0) != 0x80 && seen++ == columns) break;
  return text.substr(0, end);
}

}  // namespace

std::string with_commas(std::int64_t number) {
  std::string digits = std::to_string(number), text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::string format_seconds(double seconds) {
  auto s = static_cast<std::int64_t>(std::llround(std::clamp(seconds, 0.0, 1e9)));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{}:{:02} min", s / 60, s % 60);
  return fmt::format("{}:{:02}:{:02} h", s / 3600, s / 60 % 60, s % 60);
}

bool Progress::due() {
  if (seconds_since(shown_) < (options_.terminal ? 0.1 : 5.0)) return false;
  shown_ = Clock::now();
  return true;
}

void Progress::show(double share, const std::string& text) {
  std::string line = fmt::format("{}/{} documents, {}", documents_done_, options_.documents, printable(text));
  if (!options_.terminal) {
    fmt::print(options_.out, "{}\n", line);
  } else {
    constexpr int kBar = 12;
    int full = static_cast<int>(std::clamp(share, 0.0, 1.0) * kBar);
    line = fmt::format("[{:=<{}}{:<{}}] {}", "", full, "", kBar - full, line);
    fmt::print(options_.out, "\r\033[K{}", first_columns(line, terminal_width(options_.out) - 1));
    line_open_ = true;
  }
  std::fflush(options_.out);
}

void Progress::event(const char* name, const Json& facts) {
  if (options_.form != Form::jsonl) return;
  Json event{{"event", name}, {"documents_done", documents_done_}, {"documents", options_.documents}};
  if (left_ >= 0) event["seconds_left"] = std::llround(left_);
  event.update(facts);
  fmt::print(options_.out, "{}\n", event.dump(-1, ' ', false, Json::error_handler_t::replace));
  std::fflush(options_.out);
}

/// `share`: of the job as a whole; where the time that is left is known, of its time.
void Progress::tell(const char* name, double share, const std::string& text, const Json& facts) {
  if (options_.form == Form::jsonl) return event(name, facts);
  if (options_.form == Form::none) return;
  if (left_ < 0) return show(share, text);
  const double past = seconds_since(start_);
  show(past / std::max(past + left_, 1e-9), fmt::format("{} left, {}", format_seconds(left_), text));
}

void Progress::clear() {
  if (!line_open_) return;
  std::fputs("\r\033[K", options_.out);
  std::fflush(options_.out);
  line_open_ = false;
}

void Progress::reading(std::int64_t document) {
  if (due())
    tell("reading", static_cast<double>(document) / static_cast<double>(options_.documents),
         fmt::format("reading document {}", document), {{"document", document}});
}

void Progress::tokenizing(std::int64_t document) {
  if (due())
    tell("tokenizing", static_cast<double>(document) / static_cast<double>(options_.documents),
         fmt::format("tokenizing document {}", document), {{"document", document}});
}

void Progress::pinning(std::int64_t done, std::int64_t total) {
  if (due())
    tell("pinning", static_cast<double>(done) / static_cast<double>(total),
         fmt::format("pinning host memory, {} of {}", format_bytes(done), format_bytes(total)),
         {{"bytes", done}, {"bytes_total", total}});
}

void Progress::loading(std::int64_t done, std::int64_t total) {
  if (due())
    tell("loading", static_cast<double>(done) / static_cast<double>(total),
         fmt::format("loading weights, {} of {}", format_bytes(done), format_bytes(total)),
         {{"bytes", done}, {"bytes_total", total}});
}

void Progress::prefill(const std::string& document, std::int64_t tokens, double share) {
  if (share <= 0) prefill_start_ = Clock::now();
  if (share <= 0 || !due()) return;
  double seconds = seconds_since(prefill_start_), done = share * static_cast<double>(tokens);
  tell("prefill", share,
       fmt::format("prefill {:.0f} %, {} to go, {} tokens/s, {} of {} tokens of {}", share * 100,
                   format_seconds(seconds / share * (1 - share)), with_commas(std::llround(done / seconds)),
                   with_commas(std::llround(done)), with_commas(tokens), document),
       {{"custom_id", document}, {"tokens", tokens}, {"share", share}, {"tokens_per_second", done / seconds}});
}

void Progress::decode(std::int64_t sessions, std::int64_t tokens, double seconds) {
  if (!due()) return;
  const double speed = static_cast<double>(tokens) / seconds;
  tell("decode", static_cast<double>(documents_done_) / static_cast<double>(options_.documents),
       fmt::format("decoding {} together, {} answer tokens, {:.1f} tokens/s", sessions, with_commas(tokens), speed),
       {{"sessions", sessions}, {"tokens", tokens}, {"tokens_per_second", speed}});
}

void Progress::document_done(const std::string& document, const std::string& outcome, const Json& facts) {
  ++documents_done_;
  clear();
  if (options_.form == Form::jsonl) {
    Json named{{"custom_id", document}};
    named.update(facts);
    return event("document", named);
  }
  if (options_.form == Form::none) return;
  fmt::print(options_.out, "{}/{} documents, {}: {}\n", documents_done_, options_.documents, printable(document),
             printable(outcome));
  std::fflush(options_.out);
}

}  // namespace longhaul
