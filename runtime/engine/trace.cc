#include "runtime/engine/trace.h"

#include <filesystem>

#include "kernels/base/error.h"
#include "kernels/base/file.h"
#include "runtime/checkpoint/json_file.h"

namespace longhaul {

TraceWriter::TraceWriter(const std::string& file, const std::string& model, const Engine& engine) : file_(file) {
  std::error_code none;
  if (std::filesystem::exists(file, none) && std::filesystem::file_size(file, none) > 0)
    throw UserError(Exit::usage, "--record-trace {}: the file holds something already; give a new name", file);
  out_.open(file, std::ios::binary | std::ios::trunc);
  const nlohmann::ordered_json head{{"format", "longhaul-trace-1"},
                                    {"model", model},
                                    {"policy", engine.options().policy.name},
                                    {"layers", engine.config().layers},
                                    {"kv_heads", engine.config().kv_heads}};
  out_ << head.dump() << '\n';
  finish();
}

void TraceWriter::number(std::uint64_t x) {
  for (; x >= 128; x >>= 7) bytes_.push_back(static_cast<char>(x | 128));
  bytes_.push_back(static_cast<char>(x));
}

void TraceWriter::add(const StepProbe& probe, std::span<Session* const> sessions) {
  bytes_.clear();
  number(sessions.size());
  const std::int64_t lists = probe.layers * probe.kv_heads;
  for (std::size_t s = 0; s < sessions.size(); ++s) {
    number(static_cast<std::uint64_t>(sessions[s]->slot()));
    number(static_cast<std::uint64_t>(sessions[s]->rows()));
    for (std::int64_t i = static_cast<std::int64_t>(s) * lists, end = i + lists; i < end; ++i) {
      number(static_cast<std::uint64_t>(probe.counts[i]));
      const std::int32_t* rows = probe.rows + i * probe.stride;
      for (std::int32_t r = 0, before = -1; r < probe.counts[i]; before = rows[r++])
        number(static_cast<std::uint64_t>(rows[r] - before - 1));
    }
  }
  out_.write(bytes_.data(), std::ssize(bytes_));
  if (!out_) finish();
}

void TraceWriter::finish() {
  out_.flush();
  if (!out_) throw UserError(Exit::io, "--record-trace {}: cannot be written", file_);
}

TraceReader::TraceReader(const std::string& file) : file_(file), bytes_(read_file(file)) {
  const std::size_t end = bytes_.find('\n');
  if (end == std::string::npos || end > 4096) throw UserError(Exit::io, "{}: not a trace of selected rows", file);
  const nlohmann::json head = parse_json(std::string_view(bytes_).substr(0, end), file, Exit::io);
  JsonObject object(head, file, Exit::io);
  object.only("format", {"longhaul-trace-1"});
  object.ignore({"model", "policy"});
  layers_ = object.require("layers", object.whole("layers", 1, 1 << 16));
  kv_heads_ = object.require("kv_heads", object.whole("kv_heads", 1, 1 << 16));
  object.finish();
  at_ = end + 1;
}

std::uint64_t TraceReader::number() {
  std::uint64_t x = 0;
  for (int shift = 0; shift < 63; shift += 7) {
    if (at_ == bytes_.size()) throw UserError(Exit::io, "{}: ends within a step", file_);
    const auto byte = static_cast<std::uint8_t>(bytes_[at_++]);
    x |= static_cast<std::uint64_t>(byte & 127) << shift;
    if (byte < 128) return x;
  }
  throw UserError(Exit::io, "{}: not a number at byte {}", file_, at_);
}

bool TraceReader::next(TraceStep& step) {
  step.sessions.clear();
  if (at_ == bytes_.size()) return false;
  for (std::uint64_t left = number(); left > 0; --left) {
    TraceStep::Of of{
        .slot = static_cast<std::int64_t>(number()), .rows = static_cast<std::int64_t>(number()), .selected = {}};
    for (std::int64_t i = 0; i < layers_ * kv_heads_; ++i) {
      std::vector<std::int32_t> rows;
      std::int64_t row = -1;
      for (std::uint64_t count = number(); count > 0; --count) {
        row += static_cast<std::int64_t>(number()) + 1;
        if (row < 0 || row >= of.rows)
          throw UserError(Exit::io, "{}: row {} of {} at byte {}", file_, row, of.rows, at_);
        rows.push_back(static_cast<std::int32_t>(row));
      }
      of.selected.push_back(std::move(rows));
    }
    step.sessions.push_back(std::move(of));
  }
  return true;
}

}  // namespace longhaul
