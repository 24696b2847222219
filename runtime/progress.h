// How a job is getting on, for people: one line that is rewritten on a terminal, else a plain line every five seconds
// and one for each document.
#pragma once
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

namespace longhaul {

class Progress {
 public:
  using Clock = std::chrono::steady_clock;
  struct Options {
    std::FILE* out = stderr;
    bool terminal = false;
    std::int64_t documents = 1;
  };
  explicit Progress(Options options) : options_(options) {}
  ~Progress() { clear(); }

  /// A share in [0, 1] of a document's prefill is done; 0 starts its clock.
  void prefill(const std::string& document, std::int64_t tokens, double share);
  void decode(std::int64_t sessions, std::int64_t tokens, double seconds);
  void tokenizing(std::int64_t documents_read);
  /// Bytes of host memory that the device reaches by DMA.
  void pinning(std::int64_t done, std::int64_t total);
  /// Bytes of the model's files that are in place.
  void loading(std::int64_t done, std::int64_t total);
  void document_done(const std::string& document, const std::string& outcome);
  /// Takes the rewritten line off the terminal, before something else is printed.
  void clear();

 private:
  bool due();
  void show(double share, const std::string& text);

  Options options_;
  std::int64_t documents_done_ = 0;
  Clock::time_point prefill_start_{}, shown_ = Clock::now();
  bool line_open_ = false;
};

double seconds_since(Progress::Clock::time_point start);
/// "1,234,567"; not for negative numbers.
std::string with_commas(std::int64_t number);
/// "8 s", "3:05 min", "1:02:03 h".
std::string format_seconds(double seconds);

}  // namespace longhaul
