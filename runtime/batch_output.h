// The records of a batch: one JSON object a line, on disk as each completes, in input order once finished.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/base/file.h"
#include "runtime/batch_input.h"

namespace longhaul {

/// What one request was answered.
struct Answer {
  std::string text, model, finish_reason;
  std::int64_t prompt_tokens, completion_tokens;
};

nlohmann::ordered_json answer_record(std::int64_t index, const std::string& custom_id, const Answer& answer);
nlohmann::ordered_json failure_record(std::int64_t index, const std::string& custom_id, const Failure& failure);

class BatchOutput {
 public:
  /// Opens FILE for appending. Throws UserError{usage} when it is not a regular file or holds anything already,
  /// UserError{io} when it cannot be written, UserError{locked} while another job writes it.
  explicit BatchOutput(const std::string& file);
  BatchOutput(BatchOutput&&) = delete;
  /// Removes the file it made while that holds no record: a job that never began leaves nothing behind.
  ~BatchOutput();

  /// Appends the record of input `index`; it is on disk when this returns. Throws UserError{io}, the file then ends
  /// after the last whole record.
  void append(std::int64_t index, const nlohmann::ordered_json& record);
  /// Puts the records into input order: a new file in the same folder, then renamed over this one.
  void finish();

 private:
  struct Line {
    std::int64_t index, offset, bytes;
  };
  bool is_named() const;  // is the open file the one at `file_`?
  void remove_unused() const;

  std::string file_;
  bool made_;  // by this object
  Fd fd_;
  std::int64_t size_ = 0;
  std::vector<Line> lines_;
};

}  // namespace longhaul
