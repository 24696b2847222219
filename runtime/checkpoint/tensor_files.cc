#include "runtime/checkpoint/tensor_files.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "runtime/checkpoint/json_file.h"

namespace longhaul {
namespace {

std::int64_t file_bytes(int fd, const std::filesystem::path& path) {
  struct stat status;
  if (::fstat(fd, &status) != 0) throw UserError(Exit::io, "{}: {}", path.string(), std::strerror(errno));
  if (S_ISDIR(status.st_mode)) throw UserError(Exit::bad_model, "{}: is a folder, not a file", path.string());
  if (!S_ISREG(status.st_mode)) throw UserError(Exit::bad_model, "{}: is not a regular file", path.string());
  return status.st_size;
}

}  // namespace

TensorFiles::TensorFiles(TensorFiles&& other) noexcept
    : files_(std::move(other.files_)), tensors_(std::move(other.tensors_)) {
  other.files_.clear();
}

TensorFiles::~TensorFiles() {
  for (const File& file : files_) ::close(file.fd);
}

std::size_t TensorFiles::open(const std::filesystem::path& path) {
  // O_NONBLOCK: a pipe is refused below instead of waited for.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) throw UserError(Exit::io, "{}: cannot open: {}", path.string(), std::strerror(errno));
  const std::size_t index = files_.size();
  files_.push_back({path, fd, 0});  // from here on the destructor closes it
  files_.back().bytes = file_bytes(fd, path);
  std::string head(static_cast<std::size_t>(std::min<std::int64_t>(files_.back().bytes, 64)), '\0');
  read_at(index, 0, std::ssize(head), reinterpret_cast<std::byte*>(head.data()));
  if (is_lfs_pointer(head))
    throw UserError(Exit::bad_model, "{}: is a Git LFS pointer, not the weights: run `git lfs pull`", path.string());
  if (is_web_page(head))
    throw UserError(Exit::bad_model,
                    "{}: is a web page, not the weights: download the file itself (does the hub ask for a login?)",
                    path.string());
  return index;
}

void TensorFiles::read_at(std::size_t file, std::int64_t offset, std::int64_t bytes, std::byte* out) const {
  const auto& [path, fd, size] = files_[file];
  for (std::int64_t done = 0; done < bytes;) {
    const ssize_t got =
        ::pread(fd, out + done, static_cast<std::size_t>(bytes - done), static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw UserError(Exit::io, "{}: cannot read: {}", path.string(), std::strerror(errno));
    if (got == 0)
      throw UserError(Exit::io, "{}: ends at byte {}, {} bytes before the data that its header names; did it change?",
                      path.string(), offset + done, bytes - done);
    done += got;
  }
}

void TensorFiles::add(const std::string& name, TensorInfo info) {
  const auto [twin, fresh] = tensors_.emplace(name, std::move(info));
  if (!fresh)
    throw UserError(Exit::bad_model, "{}: tensor {} is also in {}", files_.back().path.string(), quoted(name),
                    files_[twin->second.file].path.filename().string());
}

const TensorInfo* TensorFiles::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

std::string TensorFiles::name() const {
  const auto& path = files_.front().path;
  return (files_.size() == 1 ? path : path.parent_path()).string();
}

void TensorFiles::missing(const std::string& name) const {
  throw UserError(Exit::bad_model, "{}: tensor {} is missing; are these the weights that config.json describes?",
                  this->name(), quoted(name));
}

std::string TensorFiles::where(const std::string& name, const TensorInfo& info) const {
  return fmt::format("{}: tensor {}", files_[info.file].path.string(), quoted(name));
}

const TensorInfo& TensorFiles::expect(const std::string& name, std::string_view dtype,
                                      const std::vector<std::int64_t>& shape) const {
  const TensorInfo* info = find(name);
  if (info == nullptr) missing(name);
  if (info->dtype != dtype || info->shape != shape)
    throw UserError(Exit::bad_model, "{} is {} [{}]; expected {} [{}]", where(name, *info), info->dtype,
                    fmt::join(info->shape, ", "), dtype, fmt::join(shape, ", "));
  return *info;
}

void TensorFiles::check_unchanged(const File& file) const {
  if (const auto now = file_bytes(file.fd, file.path); now != file.bytes)
    throw UserError(Exit::io, "{}: had {} bytes when it was opened and has {} now; it must not change while it is read",
                    file.path.string(), file.bytes, now);
}

void TensorFiles::read(const TensorInfo& info, std::int64_t begin, std::int64_t bytes, std::byte* out) const {
  read(info, {.begin = begin, .width = bytes, .pitch = bytes, .count = 1}, out);
}

void TensorFiles::read(const TensorInfo& info, const Stride& s, std::byte* out) const {
  check(s.begin >= 0 && s.width >= 0 && s.pitch >= s.width &&
            (s.count == 0 || s.begin + (s.count - 1) * s.pitch <= info.bytes - s.width),
        "the span to read lies inside the tensor");
  check_unchanged(files_.at(info.file));
  for (std::int64_t i = 0; i < s.count; ++i)
    read_at(info.file, info.offset + s.begin + i * s.pitch, s.width, out + i * s.width);
}

}  // namespace longhaul
