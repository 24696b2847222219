// A made-up proc/ and sys/.
#pragma once
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/support/scratch_dir.h"

namespace longhaul::test {

class FakeSystem {
 public:
  void write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories((root() / path).parent_path());
    std::ofstream(root() / path) << text;
  }
  const std::filesystem::path& root() const { return dir_.path(); }

 private:
  ScratchDir dir_;
};

}  // namespace longhaul::test
