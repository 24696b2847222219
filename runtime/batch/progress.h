// How a job is getting on: for people one line that is rewritten on a terminal, else a plain line every five seconds,
// and one for each document; for programs the same as JSON, an event a line.
#pragma once
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "kernels/base/clock.h"

namespace longhaul {

class Progress {
 public:
  using Clock = std::chrono::steady_clock;
  using Json = nlohmann::ordered_json;
  enum class Form { text, jsonl, none };
  struct Options {
    std::FILE* out = stderr;
    bool terminal = false;
    std::int64_t documents = 1;
    Form form = Form::text;
  };
  explicit Progress(Options options) : options_(options) {}
  ~Progress() { clear(); }

  /// A share in [0, 1] of a document's prefill is done; 0 starts its clock.
  void prefill(const std::string& document, std::int64_t tokens, double share);
  void decode(std::int64_t sessions, std::int64_t tokens, double seconds);
  /// Documents that an earlier run has ended.
  void resumed(std::int64_t documents) { documents_done_ = documents; }
  void reading(std::int64_t document);
  void tokenizing(std::int64_t document);
  /// Bytes of host memory that the device reaches by DMA.
  void pinning(std::int64_t done, std::int64_t total);
  /// Bytes of the model's files that are in place.
  void loading(std::int64_t done, std::int64_t total);
  /// `facts`: the outcome for programs.
  void document_done(const std::string& document, const std::string& outcome, const Json& facts = Json::object());
  /// Seconds that the whole job may still take, told with what is shown from now on.
  void left(double seconds) { left_ = seconds; }
  /// For programs only.
  void event(const char* name, const Json& facts);
  /// Takes the rewritten line off the terminal, before something else is printed.
  void clear();

 private:
  bool due();
  void show(double share, const std::string& text);
  void tell(const char* event, double share, const std::string& text, const Json& facts);

  Options options_;
  std::int64_t documents_done_ = 0;
  double left_ = -1;  // seconds; less than 0: not known
  Clock::time_point start_ = Clock::now(), prefill_start_ = start_, shown_ = start_;
  bool line_open_ = false;
};

/// "1,234,567"; not for negative numbers.
std::string with_commas(std::int64_t number);
/// "8 s", "3:05 min", "1:02:03 h".
std::string format_seconds(double seconds);

}  // namespace longhaul
