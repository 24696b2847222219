// The fingerprint of a model's weights, and which channel file a model is given.
#include "runtime/labels/find_channels.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/base/file.h"
#include "paths.h"
#include "runtime/checkpoint/fingerprint.h"
#include "tests/support/catch.h"
#include "tests/support/scratch_dir.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::contains;
using test::ScratchDir;

const fs::path kModel = LONGHAUL_SOURCE_DIR "/tests/data/families/llama3_gqa";

std::string fingerprint(const fs::path& model) {
  return weights_fingerprint(load_model_config(model), Safetensors::open_model(model));
}

/// A safetensors file of these tensors.
void write_tensors(const fs::path& file, const std::map<std::string, std::pair<TensorInfo, std::string>>& tensors) {
  json header = json::object();
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const std::size_t begin = data.size();
    data += tensor.second;
    header[name] = {
        {"dtype", tensor.first.dtype}, {"shape", tensor.first.shape}, {"data_offsets", {begin, data.size()}}};
  }
  const std::string text = header.dump();
  std::string length(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> 8 * i & 0xff);
  std::ofstream(file, std::ios::binary) << length << text << data;
}

/// A copy of the model in `files` files, each tensor's bytes changed by `change`.
template <class Change>
fs::path copy_model(const ScratchDir& dir, const std::string& name, std::size_t files, const Change& change) {
  const fs::path to = dir.path() / name;
  fs::create_directories(to);
  fs::copy_file(kModel / "config.json", to / "config.json");
  const Safetensors weights = Safetensors::open_model(kModel);
  std::vector<std::map<std::string, std::pair<TensorInfo, std::string>>> shards(files);
  json map = json::object();
  std::size_t next = 0;
  for (const auto& [tensor, info] : weights.tensors()) {
    std::string bytes(static_cast<std::size_t>(info.bytes), '\0');
    weights.read(info, 0, info.bytes, reinterpret_cast<std::byte*>(bytes.data()));
    change(tensor, bytes);
    map[tensor] = fmt::format("model-{}.safetensors", next % files);
    shards[next++ % files].emplace(tensor, std::pair(info, bytes));
  }
  if (files == 1) {
    write_tensors(to / "model.safetensors", shards[0]);
  } else {
    for (std::size_t i = 0; i < files; ++i) write_tensors(to / fmt::format("model-{}.safetensors", i), shards[i]);
    std::ofstream(to / "model.safetensors.index.json") << json{{"metadata", json::object()}, {"weight_map", map}};
  }
  return to;
}

ChannelFile plain_file(const fs::path& model) {
  const ModelConfig config = load_model_config(model);
  ChannelFile file{.model = "m", .fingerprint = fingerprint(model), .shape = shape_of(config)};
  HeadChannels head;
  for (auto& ranking : head.rankings)
    for (std::int32_t c = 0; c < config.head_dim; ++c) ranking.push_back(c);
  file.heads.assign(static_cast<std::size_t>(config.layers * config.kv_heads), head);
  return file;
}

TEST_CASE("a fingerprint knows the weights, not the files they lie in") {
  ScratchDir dir;
  const std::string own = fingerprint(kModel);
  CHECK(own.size() == 16);
  auto keep = [](const std::string&, std::string&) {};
  CHECK(fingerprint(copy_model(dir, "one", 1, keep)) == own);
  CHECK(fingerprint(copy_model(dir, "three", 3, keep)) == own);
  for (std::size_t place : {0, 1}) {
    auto change = [&](const std::string& name, std::string& bytes) {
      if (name == "model.norm.weight") bytes[place * (bytes.size() - 1)] ^= 1;
    };
    CHECK(fingerprint(copy_model(dir, "changed" + std::to_string(place), 1, change)) != own);
  }
  const fs::path turned = copy_model(dir, "turned", 1, keep);
  json config = json::parse(read_file(turned / "config.json"));
  config["rope_parameters"]["rope_theta"] = 12345.0;
  config.erase("rope_theta");
  std::ofstream(turned / "config.json") << config;
  CHECK(fingerprint(turned) != own);
}

TEST_CASE("the flag's file, else the one beside the model, else a shipped one, else none") {
  ScratchDir dir;
  const fs::path model = copy_model(dir, "m", 1, [](const std::string&, std::string&) {});
  const ModelConfig config = load_model_config(model);
  const Checkpoint weights = Safetensors::open_model(model);
  auto find = [&](const std::string& file = {}) { return find_channels(model, config, weights, file); };
  CHECK_FALSE(find().has_value());

  ChannelFile file = plain_file(model);
  const std::string given = dir.write("given.json", print_channels(file));
  CHECK(find(given)->where == "--channels " + given);
  std::ofstream(model / "channels.json") << print_published(file);
  CHECK(find()->where == (model / "channels.json").string());
  CHECK(find(given)->where == "--channels " + given);

  auto refused = [&](const std::string& name, Exit exit, const std::string& words) {
    try {
      find(name);
      FAIL_CHECK("found; expected: " << words);
    } catch (const UserError& e) {
      CHECK(e.code == exit);
      CHECK_THAT(e.what(), contains(words));
    }
  };
  refused("absent.json", Exit::usage, "--channels absent.json: no such file");
  refused(dir.path(), Exit::usage, "is not a regular file");
  refused(dir.write("bad.json", "{"), Exit::usage, "bad.json: not valid JSON");
  file.fingerprint[0] = file.fingerprint[0] == '0' ? '1' : '0';
  refused(dir.write("other.json", print_channels(file)), Exit::usage, "made for other weights of this shape");
  std::ofstream(model / "channels.json") << print_channels(file);
  refused("", Exit::bad_model, "channels.json: made for other weights of this shape");
}

TEST_CASE("shipped channel files are whole, in our words, and found by their weights") {
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(LONGHAUL_SOURCE_DIR "/config/channels")) {
    const std::string text = read_file(entry.path());
    const json model = json::parse(text).at("model");
    const ModelShape shape{model.at("layers"), model.at("q_heads"), model.at("kv_heads"), model.at("head_dim")};
    const ChannelFile file = parse_channels(text, "f", shape, model.at("fingerprint"));
    CHECK(print_channels(file) + "\n" == text);
    CHECK(file.fitted_dims == std::min<std::int64_t>(32, shape.head_dim));
    CHECK(text.size() < 1 << 20);
    ++files;
  }
  CHECK(shipped_channels().size() == files);
  const fs::path demo = LONGHAUL_SOURCE_DIR "/apps/demo/demo-7m";
  const auto found = find_channels(demo, load_model_config(demo), Safetensors::open_model(demo));
  REQUIRE(found);
  CHECK(found->where == "channels shipped for demo-7m");
}

}  // namespace
}  // namespace longhaul
