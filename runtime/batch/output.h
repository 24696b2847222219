// The records of a batch on disk: appended as documents end, each for good before the next begins; in input order once
// all are there. DESIGN.md, "Results that last", says what each interruption leaves and how the next run goes on.
#pragma once
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "runtime/batch/manifest.h"
#include "runtime/batch/output_file.h"
#include "runtime/batch/record.h"

namespace longhaul {

class BatchOutput {
 public:
  struct Resume {
    bool fresh = false;         // what an earlier job has left is thrown away
    bool retry_errors = false;  // error records are asked again; documents may have changed meanwhile
  };

  /// Opens and locks FILE; changes nothing. Throws what OutputFile does, and UserError{usage} when the file holds
  /// anything and has no manifest.
  explicit BatchOutput(const std::string& file, Disk& disk = system_disk());

  /// Before the documents are read: throws UserError{usage} when the records that are there are those of another model
  /// or other options.
  void expect(const Manifest& job, Resume resume) const;
  /// Finds the records that are there already. Throws UserError{usage} when they are another job's. Changes nothing.
  void match(const Manifest& manifest, std::vector<InputKey> inputs, Resume resume);
  /// Has input `index` a record?
  bool has(std::int64_t index) const { return lines_[static_cast<std::size_t>(index)].bytes > 0; }
  std::int64_t recorded() const { return recorded_; }
  std::int64_t failed() const { return failed_; }  // of those recorded
  std::int64_t inputs() const { return static_cast<std::int64_t>(inputs_.size()); }
  const std::string& file() const { return file_.name(); }
  /// This file and those beside it that the job makes.
  std::set<std::filesystem::path> own_files() const;

  /// Makes the file this job's: cuts off a torn end, drops what match() was told to, writes the manifest.
  void start();
  /// Appends the record of input `index`, which has none; it is on disk when this returns. Throws UserError{io}: the
  /// records so far are safe, and the next run goes on from there.
  void append(std::int64_t index, const Answer& answer);
  void append(std::int64_t index, const Failure& failure);
  /// When every input has its record: puts them into input order, in a new file that is then renamed over this one.
  void finish();

 private:
  struct Line {
    std::int64_t offset = 0, bytes = 0;  // 0 bytes: no record yet
    bool current = true;                 // has the id and custom_id that the input has now
  };
  struct Found {
    std::int64_t number, offset, bytes;
    std::string content, custom_id, id;
    bool failed;
  };

  std::vector<Found> read_records();
  void assign(const std::vector<Found>& found, Resume resume);
  void append_line(std::int64_t index, const nlohmann::ordered_json& record);
  std::string stored(std::int64_t index) const;
  void rewrite(const char* part, bool all);
  [[noreturn]] void fail() const;
  [[noreturn]] void refuse(const std::string& why) const;
  void refuse_others(const Manifest& job, const Manifest& had, bool inputs_too) const;

  Disk& disk_;
  OutputFile file_;
  std::int64_t size_ = 0, torn_at_ = 0;  // bytes; and of those up to the last whole record
  std::optional<Manifest> manifest_;
  std::vector<InputKey> inputs_;
  std::vector<std::string> ids_;
  std::vector<Line> lines_;  // by input
  std::int64_t recorded_ = 0, failed_ = 0;
  bool start_over_ = false, drop_ = false, manifest_differs_ = true;  // what start() has to do
  bool started_ = false;
};

}  // namespace longhaul
