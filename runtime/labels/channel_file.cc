#include "runtime/labels/channel_file.h"

#include <bit>
#include <cmath>

#include "kernels/base/types.h"
#include "runtime/checkpoint/json_file.h"
#include "runtime/labels/channel_parts.h"
#include "runtime/tokenizer/base64.h"

namespace longhaul {
namespace {

using nlohmann::json;
using Ordered = nlohmann::ordered_json;

constexpr const char* kFormat = "longhaul-channels-1";
constexpr std::int64_t kMost = 1 << 20;  // of anything that is counted

std::string bf16_text(const std::vector<float>& numbers) {
  std::vector<std::uint8_t> bytes;
  for (float x : numbers) {
    const std::uint16_t bits = to_bf16(x).bits;
    bytes.push_back(static_cast<std::uint8_t>(bits & 0xff));
    bytes.push_back(static_cast<std::uint8_t>(bits >> 8));
  }
  return to_base64(bytes);
}

std::vector<float> read_bf16(JsonObject& head, const char* key, std::int64_t count, const std::string& where,
                             Exit exit) {
  const auto bytes = from_base64(head.require(key, head.text(key)));
  if (!bytes) throw UserError(exit, "{}: \"{}\" is not base64", where, key);
  if (static_cast<std::int64_t>(bytes->size()) != 2 * count)
    throw UserError(exit, "{}: \"{}\" has {} bytes; {} numbers in bf16 take {}", where, key, bytes->size(), count,
                    2 * count);
  std::vector<float> numbers;
  for (std::size_t i = 0; i < bytes->size(); i += 2) {
    numbers.push_back(to_float(bf16{static_cast<std::uint16_t>((*bytes)[i] | (*bytes)[i + 1] << 8)}));
    if (!std::isfinite(numbers.back()))
      throw UserError(exit, "{}: \"{}\" holds a number that is not finite", where, key);
  }
  return numbers;
}

HeadChannels read_head(const json& node, const ChannelFile& file, const std::string& where, Exit exit) {
  JsonObject object(node, where, exit);
  HeadChannels head;
  for (std::size_t i = 0; i < kRankings.size(); ++i) {
    const std::string name(kRankings[i]);
    if (const json* list = object.take(name))
      head.rankings[i] = read_ranking(*list, file.shape.head_dim, where + ": " + name, exit);
  }
  if (file.fitted_dims > 0) {
    head.key_map = read_bf16(object, "key_map", file.fitted_dims * file.shape.head_dim, where, exit);
    head.query_map = read_bf16(object, "query_map", file.fitted_dims * file.shape.head_dim, where, exit);
  }
  object.finish();
  return head;
}

void read_model(const json& node, ChannelFile& file, const ModelShape& shape, const std::string& fingerprint,
                Exit exit) {
  JsonObject model(node, file.where + ": model", exit);
  auto whole = [&](const char* key) { return model.require(key, model.whole(key, 1, kMost)); };
  file.model = model.text("name").value_or("");
  file.shape = {whole("layers"), whole("q_heads"), whole("kv_heads"), whole("head_dim")};
  file.fingerprint = model.require("fingerprint", model.text("fingerprint"));
  model.finish();
  auto words = [](const ModelShape& s) {
    return fmt::format("{} layers, {} query heads, {} KV heads of {}", s.layers, s.q_heads, s.kv_heads, s.head_dim);
  };
  if (file.shape != shape)
    throw UserError(exit, "{}: made for another model: it has {}, this model {}", file.where, words(file.shape),
                    words(shape));
  if (file.fingerprint != fingerprint)
    throw UserError(exit,
                    "{}: made for other weights of this shape (fingerprint {}, these have {}); make a file for these "
                    "by longhaul calibrate",
                    file.where, longhaul::quoted(file.fingerprint), fingerprint);
}

void read_texts(const json& node, ChannelFile& file, Exit exit) {
  if (!node.is_array()) throw UserError(exit, "{}: \"texts\" is not a list", file.where);
  for (const json& one : node) {
    JsonObject text(one, file.where + ": texts", exit);
    file.texts.push_back({text.require("name", text.text("name")),
                          text.require("tokens", text.whole("tokens", 0, std::int64_t{1} << 40))});
    text.finish();
  }
}

ChannelFile read_own(const json& root, const std::string& where, const ModelShape& shape,
                     const std::string& fingerprint, Exit exit) {
  JsonObject object(root, where, exit);
  ChannelFile file{.where = where};
  if (auto format = object.require("format", object.text("format")); format != kFormat)
    throw UserError(exit, "{}: the format {} is unknown; known: {}, and the format that Double Sparsity publishes",
                    where, longhaul::quoted(format), kFormat);
  const json* model = object.take("model");
  if (!model) object.missing("model");
  read_model(*model, file, shape, fingerprint, exit);
  if (const json* texts = object.take("texts")) read_texts(*texts, file, exit);
  file.fitted_dims = object.whole("fitted_dims", 0, shape.head_dim).value_or(0);
  const json* layers = object.take("layers");
  if (!layers) object.missing("layers");
  object.finish();
  if (!layers->is_array() || static_cast<std::int64_t>(layers->size()) != shape.layers)
    throw UserError(exit, "{}: \"layers\" is not a list of {}", where, shape.layers);
  for (std::size_t l = 0; l < layers->size(); ++l) {
    const json& heads = (*layers)[l];
    if (!heads.is_array() || static_cast<std::int64_t>(heads.size()) != shape.kv_heads)
      throw UserError(exit, "{}: layer {} is not a list of {} KV heads", where, l, shape.kv_heads);
    for (std::size_t h = 0; h < heads.size(); ++h)
      file.heads.push_back(read_head(heads[h], file, fmt::format("{}: layer {}, KV head {}", where, l, h), exit));
  }
  return file;
}

}  // namespace

ModelShape shape_of(const ModelConfig& c) { return {c.layers, c.q_heads, c.kv_heads, c.head_dim}; }

std::vector<std::int32_t> read_ranking(const json& list, std::int64_t head_dim, const std::string& where, Exit exit) {
  if (!list.is_array() || list.empty()) throw UserError(exit, "{}: not a ranking: expected a list of channels", where);
  std::vector<bool> seen(static_cast<std::size_t>(head_dim));
  std::vector<std::int32_t> ranking;
  for (const json& channel : list) {
    if (!channel.is_number_unsigned() || channel.get<std::uint64_t>() >= static_cast<std::uint64_t>(head_dim))
      throw UserError(exit, "{}: {} is no channel of this model, whose heads have 0 to {}", where,
                      quoted(channel.dump()), head_dim - 1);
    const auto c = channel.get<std::size_t>();
    if (seen[c]) throw UserError(exit, "{}: the channel {} is ranked twice", where, c);
    seen[c] = true;
    ranking.push_back(static_cast<std::int32_t>(c));
  }
  return ranking;
}

void check_complete(const ChannelFile& file, Exit exit) {
  bool any = file.fitted_dims > 0;
  for (std::size_t i = 0; i < kRankings.size(); ++i) {
    std::size_t absent = file.heads.size(), present = 0;
    for (std::size_t h = 0; h < file.heads.size(); ++h) {
      if (file.heads[h].rankings[i].empty()) absent = h;
      else ++present;
    }
    if (present > 0 && absent < file.heads.size())
      throw UserError(exit, "{}: layer {}, KV head {} has no {} ranking, others have", file.where,
                      static_cast<std::int64_t>(absent) / file.shape.kv_heads,
                      static_cast<std::int64_t>(absent) % file.shape.kv_heads, kRankings[i]);
    any = any || present > 0;
  }
  if (!any) throw UserError(exit, "{}: holds no rankings and no basis", file.where);
}

ChannelFile parse_channels(std::string_view text, const std::string& where, const ModelShape& shape,
                           const std::string& fingerprint, Exit exit) {
  const json root = parse_json(text, where, exit);
  const bool own = root.is_object() && root.contains("format");
  ChannelFile file = own ? read_own(root, where, shape, fingerprint, exit) : read_published(root, where, shape, exit);
  check_complete(file, exit);
  return file;
}

std::string print_channels(const ChannelFile& file) {
  const ModelShape& s = file.shape;
  Ordered root{{"format", kFormat},
               {"model",
                {{"name", file.model},
                 {"layers", s.layers},
                 {"q_heads", s.q_heads},
                 {"kv_heads", s.kv_heads},
                 {"head_dim", s.head_dim},
                 {"fingerprint", file.fingerprint}}},
               {"texts", Ordered::array()},
               {"fitted_dims", file.fitted_dims},
               {"layers", Ordered::array()}};
  for (const CalibrationText& text : file.texts)
    root["texts"].push_back(Ordered{{"name", text.name}, {"tokens", text.tokens}});
  for (std::size_t i = 0; i < file.heads.size(); ++i) {
    Ordered head = Ordered::object();
    for (std::size_t r = 0; r < kRankings.size(); ++r)
      if (!file.heads[i].rankings[r].empty()) head[std::string(kRankings[r])] = file.heads[i].rankings[r];
    if (file.fitted_dims > 0) {
      head["key_map"] = bf16_text(file.heads[i].key_map);
      head["query_map"] = bf16_text(file.heads[i].query_map);
    }
    if (i % static_cast<std::size_t>(s.kv_heads) == 0) root["layers"].push_back(Ordered::array());
    root["layers"].back().push_back(std::move(head));
  }
  return root.dump(-1, ' ', false, Ordered::error_handler_t::replace);  // a file name may be no UTF-8
}

}  // namespace longhaul
