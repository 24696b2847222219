// Files read whole, or not at all.
#include "kernels/base/file.h"

#include <sys/stat.h>

#include <thread>

#include "kernels/base/error.h"
#include "tests/support/catch.h"
#include "tests/support/scratch_dir.h"

using namespace longhaul;

TEST_CASE("a file is read to its end, whatever its size, and so is a pipe", "[base]") {
  test::ScratchDir dir;
  for (std::size_t size : {0, 1, 4095, 4096, 100000}) {
    std::string text(size, 'x');
    CHECK(read_file(dir.write("file", text)) == text);
  }
  auto pipe = dir.path() / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  std::thread writer([&] { dir.write("pipe", std::string(50000, 'y')); });
  CHECK(read_file(pipe) == std::string(50000, 'y'));
  writer.join();
}

TEST_CASE("what cannot be read is an error that names it, not a shorter text", "[base]") {
  test::ScratchDir dir;
  auto complaint = [](const std::filesystem::path& file) -> std::string {
    try {
      read_file(file);
    } catch (const UserError& e) {
      CHECK(e.code == Exit::io);
      return e.what();
    }
    return "";
  };
  CHECK_THAT(complaint(dir.path()), test::contains("is a folder, not a file"));
  CHECK_THAT(complaint(dir.path() / "absent"), test::contains("absent: No such file"));
  CHECK_THAT(complaint("/proc/self/mem"), test::contains("/proc/self/mem: cannot be read: Input/output error"));
}
