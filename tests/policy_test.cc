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
  for (const char* type : {"bf16", "int8", "fp8", "int4"}) {
    const KvPolicy policy = load_policy("offload", {std::string("kv_dtype=") + type});
    CHECK(name_of(policy.kv_dtype) == type);
    CHECK(parse_policy(print_policy(policy), "printed") == policy);
  }
  for (double resident : {0.0, 0.1, 1.0 / 3, 0.999})
    for (std::int64_t tile : {64, 4096}) {
      const KvPolicy policy{.name = "x y", .resident = resident, .tile_rows = tile, .recent_rows = 2 * tile};
      CHECK(parse_policy(print_policy(policy), "printed") == policy);
    }
}

TEST_CASE("what answers is told in the words that jobs of earlier versions have in their records") {
  CHECK(print_policy(answering(load_policy("stream"))) ==
        "kv_dtype = 'bf16'\n"
        "name = ''\n"
        "recent_rows = 128\n"
        "resident = 0.0\n"
        "select = 'all'\n"
        "tile_rows = 1024\n");
  CHECK(print_policy(answering(load_policy("offload"))) ==
        "cache = 0.0\n"
        "combine = 'mean'\n"
        "dense_layers = []\n"
        "kv_dtype = 'bf16'\n"
        "label_bits = 4\n"
        "label_dims = 32\n"
        "labels = 'document'\n"
        "look_ahead = 'none'\n"
        "min_rows = 256\n"
        "name = ''\n"
        "recent_rows = 128\n"
        "repair = true\n"
        "resident = 0.0\n"
        "select = 'labels'\n"
        "share = '1/16'\n"
        "sinks = 4\n"
        "tail = 'mean'\n"
        "tile_rows = 1024\n"
        "top_p = 1.0\n"
        "window = 32\n");
}

TEST_CASE("policies answer alike where they differ only in where rows live and when they move") {
  auto same = [](const KvPolicy& a, const KvPolicy& b) { return answering(a) == answering(b); };
  const KvPolicy offload = load_policy("offload");
  CHECK(same(offload, load_policy("on-demand")));
  CHECK(same(offload, load_policy("sparse-resident")));
  CHECK(same(load_policy("dense"), load_policy("stream")));
  for (const char* set : {"cache=2.0", "resident=0.5", "tile_rows=64", "tile_rows=\"auto\"", "recent_rows=256",
                          "look_ahead=\"hidden\"", "eager_layers=[0, 1]"}) {
    CAPTURE(set);
    CHECK(same(offload, load_policy("offload", {set})));
  }
  for (const char* set : {"share=\"1/8\"", "min_rows=64", "top_p=0.9", "sinks=8", "window=64", "combine=\"max\"",
                          "label_dims=16", "label_bits=8", "tail=\"none\"", "dense_layers=[0]", "kv_dtype=\"int8\""}) {
    CAPTURE(set);
    CHECK_FALSE(same(offload, load_policy("offload", {set})));
  }
  // Unrepaired, what was predicted is what is attended.
  const KvPolicy published = load_policy("published-offload");
  CHECK_FALSE(same(published, load_policy("published-offload", {"eager_layers=[0]"})));
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
  names("select = \"some\"", "\"some\" is unknown; known: all, labels, recent, heavy");
  names("tile_rows = 100", "multiple of 64");
  names("tile_rows = -64", "tile_rows");
  names("tile_rows = \"64\"", "\"auto\"");
  names("resident = 1.5", "resident");
  names("resident = \"most\"", "\"auto\"");
  names("resident = 1.0\ntile_rows = 64", "'tile_rows' has no meaning");
  names("resident = ", "p.toml:1");
  names("share = \"1/16\"", "'share' has no meaning");
  names("select = \"labels\"\nshare = 0", "'share' must be");
  names("select = \"labels\"\nshare = \"1/0\"", "'share' must be");
  names("select = \"labels\"\nrows = 0", "'rows' must be");
  names("select = \"labels\"\nrows = 512\nshare = 0.5", "give one of them");
  names("select = \"labels\"\nrows = 20", "always attended (36)");
  names("select = \"labels\"\nrepair = false", "predicts nothing");
  names("select = \"labels\"\nrepair = false\nlook_ahead = \"auto\"", "predicts nothing where that is faster");
  names("select = \"labels\"\neager_layers = [1]", "predicts nothing, so 'eager_layers'");
  names("select = \"labels\"\ndense_layers = [1, 0]", "ascending");
  names("select = \"labels\"\nlabels = \"best\"", "\"best\" is unknown");
  names("select = \"labels\"\nlabel_bits = 5", "4, 8 or 16");
  names("select = \"labels\"\nlabels = \"exact\"\nlabel_dims = 8", "'label_dims' has no meaning");
  names("kv_dtype = \"int3\"", "\"int3\" is unknown; known: bf16, int8, fp8, int4");
  names("kv_dtype = 8", "'kv_dtype' must be a text");
  names("select = \"recent\"\nwindow = 8", "'window' has no meaning");
  names("select = \"heavy\"\nlabels = \"qk\"", "'labels' has no meaning");
  names("select = \"labels\"\nresident = 1.0\ncache = 2.0", "'cache' has no meaning");
  CHECK_THROWS_AS(load_policy("no-such-policy"), UserError);
}

TEST_CASE("policy fields can be set one by one") {
  const KvPolicy policy = load_policy("offload", {"share=1/8", "labels=qk", "label_dims=1/16", "cache=2.0"});
  CHECK(policy.share == 0.125);
  CHECK(policy.labels == Labels::qk);
  CHECK(policy.dims(128) == 8);
  CHECK(policy.dims(64) == 4);
  CHECK(policy.cache == 2.0);
  CHECK(load_policy("offload", {"rows=300"}).budget(100000) == 300);
  CHECK(load_policy("offload", {"resident=1.0"}).resident == 1.0);
  CHECK(load_policy("offload", {"select=all"}).select == Select::all);
  CHECK(parse_policy(print_policy(policy), "printed") == policy);
  CHECK_THROWS_AS(load_policy("offload", {"share"}), UserError);
  CHECK_THROWS_AS(load_policy("offload", {"shares=1"}), UserError);
  CHECK_THROWS_AS(load_policy("dense", {"share=1/8"}), UserError);
  CHECK_THROWS_AS(load_policy("offload", {"share=1/8\nrows=3"}), UserError);
}

TEST_CASE("a budget counts everything that is attended") {
  const KvPolicy policy = load_policy("offload");
  for (std::int64_t n : {1, 255, 256, 4095, 4096, 5000, 1 << 20}) {
    CHECK(policy.budget(n) == std::min(n, std::max<std::int64_t>(256, n / 16)));
    if (n >= 4096) CHECK(policy.budget(n) * 16 <= n);
  }
}
