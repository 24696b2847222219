// Channel files in both formats: what is read from them, and every way in which they can be wrong.
#include "runtime/labels/channel_file.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <sstream>

#include "kernels/base/types.h"
#include "paths.h"
#include "runtime/labels/label_bases.h"
#include "runtime/tokenizer/base64.h"
#include "tests/support/catch.h"

namespace longhaul {
namespace {

using nlohmann::json;
using test::contains;

constexpr ModelShape kLlama{2, 32, 8, 128};  // two layers of Llama-3.1-8B
constexpr ModelShape kSmall{2, 4, 2, 8};

std::string published_text() {
  std::ostringstream text;
  text << std::ifstream(LONGHAUL_SOURCE_DIR "/tests/data/channels/Llama-3.1-8B-2-layers.json").rdbuf();
  return text.str();
}

ChannelFile random_file(std::uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, 100);
  ChannelFile file{.where = "f",
                   .model = "small",
                   .fingerprint = "0123456789abcdef",
                   .shape = kSmall,
                   .texts = {{"a \"book\".txt", 1000}, {"b.txt", 0}},
                   .fitted_dims = 3};
  for (int i = 0; i < 4; ++i) {
    HeadChannels& head = file.heads.emplace_back();
    for (auto& ranking : head.rankings) {
      ranking.resize(8);
      std::iota(ranking.begin(), ranking.end(), 0);
      std::shuffle(ranking.begin(), ranking.end(), random);
    }
    for (auto* map : {&head.key_map, &head.query_map})
      for (int j = 0; j < 24; ++j) map->push_back(to_float(to_bf16(normal(random))));
  }
  return file;
}

ChannelFile parse_small(const std::string& text) { return parse_channels(text, "f", kSmall, "0123456789abcdef"); }

/// Checks that the text is refused as a mistake in usage, in one line that begins with the file's name.
void check_refused(const std::string& text, const std::string& words, const ModelShape& shape = kSmall) {
  INFO(text.substr(0, 200));
  try {
    parse_channels(text, "f", shape, "0123456789abcdef");
    FAIL_CHECK("was read; expected: " << words);
  } catch (const UserError& e) {
    CHECK(e.code == Exit::usage);
    CHECK_THAT(e.what(), contains(words));
    CHECK(std::string(e.what()).starts_with("f: "));
    CHECK(std::string(e.what()).find('\n') == std::string::npos);
  }
}

TEST_CASE("the published file: a KV head's list, or its group's by the sum of ranks") {
  const std::string text = published_text();
  const ChannelFile file = parse_channels(text, "f", kLlama, "");
  const json root = json::parse(text);
  REQUIRE(file.heads.size() == 16);
  CHECK(file.fitted_dims == 0);
  for (std::size_t l = 0; l < 2; ++l)
    for (std::size_t h = 0; h < 8; ++h) {
      const HeadChannels& head = file.heads[l * 8 + h];
      const std::string key = fmt::format("model.layers.{}.self_attn.", l);
      CHECK(head.rankings[ranking_of(Labels::k)] == root[key + "k_proj"][h].get<std::vector<std::int32_t>>());
      for (Labels by : {Labels::q, Labels::qk}) {
        std::vector<std::pair<std::size_t, std::int32_t>> sums(128);
        for (std::int32_t c = 0; c < 128; ++c) {
          sums[c].second = c;
          for (std::size_t i = 4 * h; i < 4 * h + 4; ++i) {
            const json& list = root[fmt::format("{}{}_proj", key, kRankings[ranking_of(by)])][i];
            sums[c].first += std::find(list.begin(), list.end(), c) - list.begin();
          }
        }
        std::sort(sums.begin(), sums.end());
        for (std::size_t i = 0; i < 128; ++i) CHECK(head.rankings[ranking_of(by)][i] == sums[i].second);
      }
      CHECK(head.rankings[ranking_of(Labels::rms)].empty());
    }
}

TEST_CASE("what is written is read back, in both formats") {
  const ChannelFile file = random_file();
  const std::string text = print_channels(file);
  const ChannelFile back = parse_small(text);
  CHECK(back.heads == file.heads);
  CHECK(back.texts == file.texts);
  CHECK(back.fitted_dims == 3);
  CHECK(back.model == "small");
  CHECK(print_channels(back) == text);
  CHECK(text == print_channels(random_file()));

  ChannelFile published = parse_small(print_published(file));
  for (std::size_t i = 0; i < 4; ++i)
    for (Labels by : {Labels::q, Labels::k, Labels::qk})
      CHECK(published.heads[i].rankings[ranking_of(by)] == file.heads[i].rankings[ranking_of(by)]);
  CHECK(print_published(published) == print_published(file));
  const json root = json::parse(print_published(file));
  CHECK(root.size() == 6);
  CHECK(root.at("model.layers.1.self_attn.qk_proj").size() == 4);
  CHECK(root.at("model.layers.1.self_attn.k_proj").size() == 2);
}

TEST_CASE("published files that are wrong") {
  const json good = json::parse(print_published(random_file()));
  auto with = [&](auto&& change) {
    json root = good;
    change(root);
    return root.dump();
  };
  const std::string q0 = "model.layers.0.self_attn.q_proj";
  check_refused("", "not valid JSON");
  check_refused("{\"a\": ", "not valid JSON");
  check_refused("[]", "expected a JSON object, found array");
  check_refused("{}", "holds no rankings");
  check_refused(with([](json& r) { r["weights"] = 1; }), "the key \"weights\" is unknown");
  for (const char* key : {"model.layers.x.self_attn.q_proj", "model.layers.-1.self_attn.q_proj", "model.layers._proj",
                          "model.layers.0.self_attn.v_proj", "model.layers.0.self_attn.rms_proj",
                          "model.layers.0.mlp.q_proj", "model.layers.99999999999999999999.self_attn.q_proj"})
    check_refused(with([&](json& r) { r[key] = r[q0]; }), "is unknown");
  check_refused(with([&](json& r) { r["model.layers.2.self_attn.q_proj"] = r[q0]; }), "it has a layer 2, this model's");
  check_refused(with([&](json& r) { r.erase("model.layers.1.self_attn.k_proj"); }),
                "layer 1, KV head 1 has no k ranking");
  check_refused(with([&](json& r) { r[q0].erase(0); }), "4 query heads or 2 KV heads");
  check_refused(with([&](json& r) { r[q0] = 3; }), "4 query heads or 2 KV heads");
  check_refused(with([&](json& r) { r[q0][2] = "a"; }), q0 + ", head 2: not a ranking");
  check_refused(with([&](json& r) { r[q0][2] = json::array(); }), "not a ranking");
  for (const json& bad : {json(8), json(-1), json(1.5), json("1"), json(nullptr), json(18446744073709551615u)})
    check_refused(with([&](json& r) { r[q0][1][3] = bad; }), "is no channel of this model, whose heads have 0 to 7");
  check_refused(with([&](json& r) { r[q0][1][3] = r[q0][1][4]; }), "is ranked twice");
  check_refused(published_text(), "query heads or 2 KV heads");
  check_refused(published_text(), "is no channel of this model", {2, 32, 8, 64});
}

TEST_CASE("our files that are wrong") {
  const json good = json::parse(print_channels(random_file()));
  auto with = [&](auto&& change) {
    json root = good;
    change(root);
    return root.dump();
  };
  check_refused(with([](json& r) { r["format"] = "longhaul-channels-9"; }), "\"longhaul-channels-9\" is unknown");
  check_refused(with([](json& r) { r["format"] = 1; }), "\"format\" is 1; expected a string");
  check_refused(with([](json& r) { r["extra"] = 1; }), "the key \"extra\" is unknown");
  check_refused(with([](json& r) { r.erase("model"); }), "\"model\" is missing");
  check_refused(with([](json& r) { r["model"].erase("kv_heads"); }), "\"kv_heads\" is missing");
  for (const char* key : {"layers", "q_heads", "kv_heads", "head_dim"})
    check_refused(with([&](json& r) { r["model"][key] = 16; }), "made for another model: it has ");
  check_refused(with([](json& r) { r["model"]["head_dim"] = 0; }), "a whole number from 1");
  check_refused(with([](json& r) { r["model"]["fingerprint"] = "beef"; }),
                "other weights of this shape (fingerprint \"beef\", these have 0123456789abcdef)");
  check_refused(with([](json& r) { r["texts"] = 1; }), "\"texts\" is not a list");
  check_refused(with([](json& r) { r["texts"][0]["tokens"] = -1; }), "\"tokens\" is -1");
  check_refused(with([](json& r) { r["fitted_dims"] = 9; }),
                "\"fitted_dims\" is 9; expected a whole number from 0 to 8");
  check_refused(with([](json& r) { r["fitted_dims"] = 4; }), "\"key_map\" has 48 bytes; 32 numbers in bf16 take 64");
  check_refused(with([](json& r) { r["fitted_dims"] = 0; }), "the key \"key_map\" is unknown");
  check_refused(with([](json& r) { r.erase("layers"); }), "\"layers\" is missing");
  check_refused(with([](json& r) { r["layers"].erase(0); }), "\"layers\" is not a list of 2");
  check_refused(with([](json& r) { r["layers"][1].erase(0); }), "layer 1 is not a list of 2 KV heads");
  check_refused(with([](json& r) { r["layers"][1][0] = 7; }), "layer 1, KV head 0: expected a JSON object");
  check_refused(with([](json& r) { r["layers"][1][0].erase("abs"); }), "layer 1, KV head 0 has no abs ranking");
  check_refused(with([](json& r) { r["layers"][1][0].erase("query_map"); }), "\"query_map\" is missing");
  check_refused(with([](json& r) { r["layers"][1][0]["rms"][2] = 8; }), "layer 1, KV head 0: rms: \"8\" is no channel");
  check_refused(with([](json& r) { r["layers"][0][1]["key_map"] = "x"; }), "\"key_map\" is not base64");
  std::vector<std::uint8_t> bytes(48);
  bytes[6] = 0x80, bytes[7] = 0x7f;  // infinity in bf16
  check_refused(with([&](json& r) { r["layers"][0][1]["key_map"] = to_base64(bytes); }), "not finite");
}

TEST_CASE("bases of rankings are unit vectors, and those of the fit its first rows") {
  const ChannelFile file = random_file();
  for (Labels by : {Labels::q, Labels::k, Labels::qk, Labels::abs, Labels::rms, Labels::pairs}) {
    const LabelBases maps = bases(file, by, 5);
    CHECK(maps.dims == 5);
    REQUIRE(maps.maps.size() == 4 * 2 * 5 * 8);
    for (std::size_t i = 0; i < maps.maps.size(); ++i) {
      const auto channel = static_cast<std::size_t>(file.heads[i / 80].rankings[ranking_of(by)][i / 8 % 5]);
      CHECK(maps.maps[i] == (i % 8 == channel ? 1 : 0));
    }
  }
  const LabelBases fitted = bases(file, Labels::fitted, 2);
  REQUIRE(fitted.maps.size() == 4 * 2 * 2 * 8);
  for (std::size_t i = 0; i < fitted.maps.size(); ++i) {
    const HeadChannels& head = file.heads[i / 32];
    CHECK(fitted.maps[i] == (i / 16 % 2 == 0 ? head.key_map : head.query_map)[i % 16]);
  }
  CHECK_THROWS_WITH(bases(file, Labels::fitted, 4), contains("3 dimensions for labels = \"fitted\", fewer than the 4"));
  CHECK_THROWS_WITH(bases(file, Labels::rms, 9), contains("8 dimensions for labels = \"rms\", fewer than the 9"));
  const ChannelFile published = parse_small(print_published(file));
  CHECK_THROWS_WITH(bases(published, Labels::rms, 2), contains("f: holds nothing for labels = \"rms\""));
  CHECK_THROWS_WITH(bases(published, Labels::fitted, 2), contains("f: holds nothing for labels = \"fitted\""));

  ModelConfig config{};
  config.layers = 2, config.kv_heads = 1, config.head_dim = 8;
  const LabelBases exact = exact_bases(config);
  CHECK(exact.dims == 8);
  REQUIRE(exact.maps.size() == 2 * 2 * 8 * 8);
  for (std::size_t i = 0; i < exact.maps.size(); ++i) CHECK(exact.maps[i] == (i % 64 / 8 == i % 8 ? 1 : 0));
}

TEST_CASE("base64 is RFC 4648") {
  const std::string text = "foobar";
  const char* known[] = {"", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};
  for (std::size_t n = 0; n <= text.size(); ++n) {
    const std::vector<std::uint8_t> bytes(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(n));
    CHECK(to_base64(bytes) == known[n]);
    CHECK(from_base64(known[n]) == bytes);
  }
  for (const char* bad : {"Z", "Zg=", "Zg", "Z===", "====", "Zh==", "Zm9=", "Zg==Zm9v", "Zm9\n", "Z m9", "Zm9v="})
    CHECK(from_base64(bad) == std::nullopt);
}

}  // namespace
}  // namespace longhaul
