#include "runtime/batch/convert.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/base/file.h"
#include "runtime/batch/input.h"
#include "runtime/batch/stop_signals.h"

namespace longhaul {
namespace fs = std::filesystem;
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kLongest = std::chrono::minutes(10);  // a converter that takes longer hangs
constexpr int kUnknown = 255;                        // an exit code that nobody could read

struct Kind {
  std::vector<std::string_view> endings;
  std::vector<std::string_view> programs;  // the first that is there
  std::string_view packages;
};

const std::array<Kind, 2> kKinds{
    {{{".pdf"}, {"pdftotext"}, "pdftotext (package poppler-utils)"},
     {{".html", ".htm", ".xhtml"}, {"pandoc", "w3m", "lynx"}, "pandoc, w3m or lynx (packages of these names)"}}};

/// `file` is an absolute path, so it is never read as a flag.
std::vector<std::string> arguments(const std::string& name, const std::string& file) {
  if (name == "pdftotext") return {"-q", "-enc", "UTF-8", file, "-"};
  if (name == "pandoc") return {"--from", "html", "--to", "plain", "--wrap", "none", file};
  if (name == "w3m") return {"-dump", "-T", "text/html", "-O", "UTF-8", "-cols", "120", file};
  return {"-dump", "-nolist", "-force_html", "-display_charset=UTF-8", "-width=120", file};
}

std::string find_program(std::string_view name) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path != nullptr ? path : "/usr/bin:/bin");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const fs::path file = fs::path(folder) / name;
    if (!folder.empty() && ::access(file.c_str(), X_OK) == 0) return file;
  }
  return "";
}

const Kind* kind_of(const fs::path& file) {
  std::string ending = file.extension().string();
  std::ranges::transform(ending, ending.begin(), [](unsigned char c) { return std::tolower(c); });
  for (const Kind& kind : kKinds)
    if (std::ranges::find(kind.endings, ending) != kind.endings.end()) return &kind;
  return nullptr;
}

/// A program whose stdout is read; it is ended with this object, and so is what it has started. Reading and waiting
/// throw Stopped.
class Child {
 public:
  Child(const std::string& program, const std::vector<std::string>& arguments) {
    std::array<int, 2> ends{-1, -1};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw DocumentError("conversion_failed", std::strerror(errno));
    out_ = ends[0];
    std::vector<char*> argv{const_cast<char*>(program.c_str())};
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    posix_spawn_file_actions_t files;
    ::posix_spawn_file_actions_init(&files);
    ::posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_adddup2(&files, ends[1], STDOUT_FILENO);
    ::posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawnattr_t attributes;  // a process group of its own
    ::posix_spawnattr_init(&attributes);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    error_ = ::posix_spawn(&process_, program.c_str(), &files, &attributes, argv.data(), environ);
    ::posix_spawnattr_destroy(&attributes);
    ::posix_spawn_file_actions_destroy(&files);
    ::close(ends[1]);
    if (error_ != 0) process_ = -1;
    else ends_with_us(process_);
  }
  Child(const Child&) = delete;
  ~Child() {
    if (process_ > 0) {
      ::kill(-process_, SIGKILL);  // while its leader is not reaped, the group is no other's
      ends_with_us(0);
      ::waitpid(process_, nullptr, 0);
    }
    ::close(out_);
  }
  int error() const { return error_; }
  /// False where it takes too long.
  bool read_all(std::string& text) const {
    std::array<char, 1 << 16> piece;
    while (Clock::now() < end_) {
      stop_if_asked();
      pollfd ready{.fd = out_, .events = POLLIN, .revents = 0};
      const int n = ::poll(&ready, 1, 100);  // ms: a signal may come just before
      if (n < 0 && errno != EINTR) return false;
      if (n <= 0) continue;
      const ssize_t got = ::read(out_, piece.data(), piece.size());
      if (got < 0 && errno != EINTR) return false;
      if (got == 0) return true;
      if (got > 0) text.append(piece.data(), static_cast<std::size_t>(got));
    }
    return false;
  }
  /// Its exit code; none where it takes too long.
  std::optional<int> wait() const {
    for (; Clock::now() < end_; ::poll(nullptr, 0, 1)) {
      stop_if_asked();
      siginfo_t ended{};
      if (::waitid(P_PID, static_cast<id_t>(process_), &ended, WEXITED | WNOHANG | WNOWAIT) != 0)
        return kUnknown;  // whoever started us has children reaped unseen
      if (ended.si_pid != 0) return ended.si_code == CLD_EXITED ? ended.si_status : 128 + ended.si_status;
    }
    return {};
  }

 private:
  const Clock::time_point end_ = Clock::now() + kLongest;
  int out_ = -1, error_ = 0;
  pid_t process_ = -1;
};

}  // namespace

std::optional<Converter> find_converter(const fs::path& file) {
  const Kind* kind = kind_of(file);
  if (kind == nullptr) return {};
  for (const std::string_view name : kind->programs)
    if (std::string program = find_program(name); !program.empty()) return Converter{program, std::string(name)};
  throw UserError(Exit::usage, "{}: to read it takes {}, and none is installed", file.string(), kind->packages);
}

std::string convert(const Converter& converter, const fs::path& file) {
  auto fail = [&](const std::string& why) {
    throw DocumentError("conversion_failed", fmt::format("{}: {} {}", file.string(), converter.name, why));
  };
  std::error_code gone;
  Child child(converter.program, arguments(converter.name, fs::absolute(file, gone).string()));
  if (child.error() != 0) fail(fmt::format("cannot be run: {}", std::strerror(child.error())));
  std::string text;
  const std::optional<int> exit = child.read_all(text) ? child.wait() : std::nullopt;
  stop_if_asked();  // a signal may have ended the program, too
  if (!exit) fail("takes longer than ten minutes");
  if (*exit != 0) fail(fmt::format("fails with exit code {}", *exit));
  return text;
}

}  // namespace longhaul
