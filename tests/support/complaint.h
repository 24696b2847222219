// What a mistake in a model's files is answered with.
#pragma once
#include <string>

#include "kernels/base/error.h"
#include "tests/support/catch.h"

namespace longhaul::test {

/// The message, one line, of the UserError{code} that `action` throws; or "no error".
template <class Action>
std::string complaint(Action action, Exit code = Exit::bad_model) {
  try {
    action();
  } catch (const UserError& error) {
    CHECK(error.code == code);
    CHECK(std::string(error.what()).find('\n') == std::string::npos);
    return error.what();
  }
  return "no error";
}

}  // namespace longhaul::test
