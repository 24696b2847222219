#include "runtime/model/geometry.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "tests/support/catch.h"
#include "tests/support/scratch_dir.h"

using namespace longhaul;

namespace {

const std::string kSmall =
    "hidden = 64\nlayers = 2\nq_heads = 4\nkv_heads = 2\nhead_dim = 16\nintermediate = 128\nvocab = 100\n"
    "max_position = 512\n";

std::string message_of(const std::string& text) {
  try {
    parse_geometry(text, "g.toml");
  } catch (const UserError& e) {
    CHECK(e.code == Exit::usage);
    return e.what();
  }
  return "accepted";
}

/// The bytes of a shape's KV rows a token and of its weights, in bf16.
std::int64_t kv_bytes(const ModelConfig& c) { return c.layers * c.kv_heads * c.head_dim * 4; }
std::int64_t parameters(const ModelConfig& c) {
  const std::int64_t networks = std::max<std::int64_t>(c.experts, 1);
  const std::int64_t layer = c.hidden * (2 * c.q_heads + 2 * c.kv_heads) * c.head_dim + c.hidden * c.experts +
                             3 * networks * c.hidden * c.intermediate +
                             (c.qkv_bias ? (c.q_heads + 2 * c.kv_heads) * c.head_dim : 0);
  return c.layers * (layer + 2 * c.hidden) + c.hidden + c.vocab * c.hidden * (c.tied_embeddings ? 1 : 2);
}

}  // namespace

TEST_CASE("shipped geometries have their models' sizes") {
  struct Known {
    const char* name;
    std::int64_t parameters, kv_bytes;
  };
  // Parameters as the models' own cards count them.
  for (const Known& known : {Known{"llama-2-7b", 6738415616, 512 << 10},
                             {"llama-2-70b", 68976648192, 320 << 10},
                             {"llama-2-70b-int4", 68976648192, 320 << 10},
                             {"llama-3.1-8b", 8030261248, 128 << 10},
                             {"llama-3.2-1b", 1235814400, 32 << 10},
                             {"mistral-7b", 7241732096, 128 << 10},
                             {"mixtral-8x7b", 46702792704, 128 << 10},
                             {"qwen2.5-7b-1m", 7615616512, 56 << 10}}) {
    CAPTURE(known.name);
    const Geometry geometry = load_geometry(known.name);
    CHECK(geometry.name == known.name);
    CHECK(parameters(geometry.config) == known.parameters);
    CHECK(kv_bytes(geometry.config) == known.kv_bytes);
  }
  CHECK(load_geometry("llama-3.1-8b").config.rope.type == RopeType::llama3);
  CHECK(load_geometry("llama-3.1-8b").config.rope.original_max_position == 8192);
  const DualChunks dual = load_geometry("qwen2.5-7b-1m").config.dual_chunks;
  CHECK((dual.rows == 253952 && dual.reach == 262144 && dual.trained == 262144));
  for (const std::string& name : shipped_geometries()) CHECK_NOTHROW(load_geometry(name));
}

TEST_CASE("a geometry comes from a file, too") {
  const test::ScratchDir dir;
  const auto file = dir.write("small.v2.toml", kSmall + "tied_embeddings = true\n[rope]\ntheta = 500.0\n");
  const Geometry geometry = load_geometry(file.string());
  CHECK(geometry.name == "small.v2");
  CHECK(geometry.config.tied_embeddings);
  CHECK(geometry.config.head_dim == 16);
  CHECK(geometry.config.rope.theta == 500.0);
}

TEST_CASE("a geometry says as what its weights can be packed") {
  CHECK(parse_geometry(kSmall, "g.toml").formats == nullptr);
  const auto formats = parse_geometry(kSmall + "weights = \"fp8\"\n", "g.toml").formats;
  REQUIRE(formats != nullptr);
  CHECK(formats->layouts().size() == 1);
  CHECK(&formats->layout(0) == &formats->layout(1));
  CHECK(formats->names() == "fp8");
}

TEST_CASE("a bad geometry is one line that names the key") {
  auto names = [&](const std::string& text, const char* what) {
    CAPTURE(text, message_of(text));
    CHECK(message_of(text).find(what) != std::string::npos);
    CHECK(message_of(text).find('\n') == std::string::npos);
  };
  CHECK(message_of(kSmall) == "accepted");
  names(kSmall + "heads = 4\n", "unknown key 'heads'");
  names(kSmall + "[rope]\nthetas = 1\n", "unknown key 'rope.thetas'");
  names(kSmall + "[rope]\ntype = \"yarn\"\n", "'rope.type' must be");
  names(kSmall + "[rope]\ntype = \"llama3\"\n", "'rope.original_max_position' is absent");
  names(kSmall + "rope = 1\n", "'rope' must be a table");
  names(kSmall.substr(kSmall.find('\n') + 1), "'hidden' is absent");
  names("hidden = \"64\"\n" + kSmall.substr(kSmall.find('\n') + 1), "'hidden' must be a whole number");
  names(kSmall + "tied_embeddings = 1\n", "'tied_embeddings' must be true or false");
  names(kSmall + "sliding_window = 0\n", "'sliding_window' must be a whole number");
  names(kSmall + "experts = 4\n", "'experts_per_token' is absent");
  names(kSmall + "experts = 4\nexperts_per_token = 5\n", "'experts_per_token' must be a whole number from 1 to 4");
  names(kSmall + "weights = \"int3\"\n", "'weights' must be \"int4\"");
  names(kSmall + "weights = 4\n", "'weights' must be \"int4\"");
  names(kSmall + "dual_chunk = 1\n", "'dual_chunk' must be a table");
  names(kSmall + "[dual_chunk]\nlocal_size = 8\n", "'dual_chunk.chunk_size' is absent");
  names(kSmall + "[dual_chunk]\nchunk_size = 320\n",
        "'dual_chunk.chunk_size' less local_size must be a multiple of 256");
  names(kSmall + "[dual_chunk]\nchunk_size = 256\nlocal_size = 256\n",
        "'dual_chunk.local_size' must be a whole number");
  names(kSmall + "[dual_chunk]\nchunk_size = 256\nsparse = true\n", "unknown key 'dual_chunk.sparse'");
  names(kSmall + "sliding_window = 64\n[dual_chunk]\nchunk_size = 256\n", "'dual_chunk' must be absent where");
  names(kSmall + "layers = 3\n", "g.toml:9");
  CHECK_THROWS_AS(load_geometry("no-such-geometry"), UserError);
}
