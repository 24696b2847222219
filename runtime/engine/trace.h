// Which rows each decode step selected, written compactly so that another run can replay them.
//
// A line of JSON (format, model, policy, layers, kv_heads), then for each step: the number of sessions; for each
// session its slot and its rows; for each layer and KV head the number of selected rows (0: all) and those, ascending,
// each as what lies between it and the one before. Numbers are varints: seven bits a byte, the lowest first, the high
// bit set on all but the last.
#pragma once
#include <cstdint>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "runtime/engine/engine.h"

namespace longhaul {

class TraceWriter {
 public:
  /// Throws UserError{usage} when FILE holds anything already, UserError{io} when it cannot be written.
  TraceWriter(const std::string& file, const std::string& model, const Engine& engine);
  /// One step of these sessions. Throws UserError{io}.
  void add(const StepProbe& probe, std::span<Session* const> sessions);
  /// Everything is on its way to the disk. Throws UserError{io}.
  void finish();

 private:
  void number(std::uint64_t x);

  std::string file_, bytes_;
  std::ofstream out_;
};

struct TraceStep {
  struct Of {
    std::int64_t slot, rows;
    std::vector<std::vector<std::int32_t>> selected;  // [layers * kv_heads]; empty: all rows
  };
  std::vector<Of> sessions;
};

class TraceReader {
 public:
  /// Throws UserError{io}, one line, for a file that is not a trace.
  explicit TraceReader(const std::string& file);
  std::int64_t layers() const { return layers_; }
  std::int64_t kv_heads() const { return kv_heads_; }
  /// False at the end. Throws UserError{io} where the file ends within a step or a row is not below the session's rows.
  bool next(TraceStep& step);

 private:
  std::uint64_t number();

  std::string file_, bytes_;
  std::size_t at_ = 0;
  std::int64_t layers_ = 0, kv_heads_ = 0;
};

}  // namespace longhaul
