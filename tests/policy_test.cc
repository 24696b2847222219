#include "offload/policy.h"
#include "kernels/base/error.h"
#include "kernels/ops.h"
#include "tests/support/catch.h"

using namespace longhaul;

TEST_CASE("law 12: parse(print(policy)) = policy") {
  for (const std::string& name : shipped_policies()) {
    const KvPolicy policy = load_policy(name);
    CHECK(policy.name == name);
    CHECK(parse_policy(print_policy(policy), "printed") == policy);
  }
  for (double resident : {0.0, 0.1, 1.0 / 3, 0.999})
    for (std::int64_t tile : {64, 4096}) {
      const KvPolicy policy{.name = "x y", .resident = resident, .tile_rows = tile, .recent_rows = 2 * tile};
      CHECK(parse_policy(print_policy(policy), "printed") == policy);
    }
}

TEST_CASE("a bad policy is one line that names the key") {
  auto message = [](const char* text) {
    try {
      parse_policy(text, "p.toml");
    } catch (const UserError& e) {
      CHECK(e.code == Exit::usage);
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  auto names = [&](const char* text, const char* what) {
    CAPTURE(text, message(text));
    CHECK(message(text).find(what) != std::string::npos);
    CHECK(message(text).find('\n') == std::string::npos);
  };
  names("tile_row = 64", "unknown key 'tile_row'");
  names("select = \"some\"", "\"some\" is unknown; known: all");
  names("tile_rows = 100", "multiple of 64");
  names("tile_rows = -64", "tile_rows");
  names("tile_rows = \"64\"", "tile_rows");
  names("resident = 1.5", "resident");
  names("resident = \"most\"", "\"auto\"");
  names("resident = 1.0\ntile_rows = 64", "'tile_rows' has no meaning");
  names("resident = ", "p.toml:1");
  CHECK_THROWS_AS(load_policy("no-such-policy"), UserError);
}
