#include "runtime/checkpoint/safetensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <utility>

#include "runtime/checkpoint/json_file.h"

namespace longhaul {
namespace {

using nlohmann::json;
// The format's own limit is 100 MB, of which parsing would take seconds and gigabytes. This is 60,000 tensors in one
// file; an index has the names of all files.
constexpr std::int64_t kMaxHeader = 8'000'000, kMaxIndex = 25'000'000;
constexpr std::size_t kMaxDimensions = 16;
constexpr std::int64_t kLengthBytes = 8;  // little-endian length of the header, before it

/// Bytes of one element, or 0 for a type that we do not know.
std::int64_t element_bytes(std::string_view dtype) {
  static const std::map<std::string_view, std::int64_t> sizes = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"U16", 2}, {"I16", 2}, {"F16", 2},
      {"BF16", 2}, {"U32", 4}, {"I32", 4}, {"F32", 4},     {"U64", 8},     {"I64", 8}, {"F64", 8}};
  const auto found = sizes.find(dtype);
  return found == sizes.end() ? 0 : found->second;
}

/// One entry of the header; `offset` still counts from the start of the data.
TensorInfo parse_tensor(const json& entry, const std::string& where) {
  JsonObject object(entry, where);
  TensorInfo info{};
  info.dtype = object.require("dtype", object.text("dtype"));
  const std::int64_t element = element_bytes(info.dtype);
  if (element == 0) object.refuse("dtype", "BF16, F16, F32, F64, BOOL, I8 to I64, U8 to U64, F8_E4M3 or F8_E5M2");

  // A list of sizes that fit in 63 bits.
  const auto sizes = [&](const char* key) {
    const json* value = object.take(key);
    if (!value) object.missing(key);
    std::vector<std::int64_t> list;
    bool good = value->is_array() && value->size() <= kMaxDimensions;
    for (std::size_t i = 0; good && i < value->size(); ++i) {
      const json& one = (*value)[i];
      good = one.is_number_unsigned() && one.get<std::uint64_t>() <= static_cast<std::uint64_t>(INT64_MAX);
      if (good) list.push_back(one.get<std::int64_t>());
    }
    if (!good) object.refuse(key, fmt::format("a list of whole numbers, at most {}", kMaxDimensions));
    return list;
  };
  info.shape = sizes("shape");
  const auto span = sizes("data_offsets");
  if (span.size() != 2 || span[0] > span[1]) object.refuse("data_offsets", "[begin, end]");
  object.finish();

  info.offset = span[0];
  info.bytes = span[1] - span[0];
  std::int64_t bytes = element;
  for (const std::int64_t size : info.shape)
    if (__builtin_mul_overflow(bytes, size, &bytes))
      throw UserError(Exit::bad_model, "{}: the shape [{}] is too large for any file", where,
                      fmt::join(info.shape, ", "));
  if (bytes != info.bytes)
    throw UserError(Exit::bad_model, "{}: {} [{}] takes {} bytes, but data_offsets give it {}", where, info.dtype,
                    fmt::join(info.shape, ", "), bytes, info.bytes);
  return info;
}

/// The format demands that the tensors cover the data exactly: anything else is a damaged or hostile file.
void check_cover(const std::map<std::string, TensorInfo>& tensors, std::int64_t data_bytes, const std::string& file) {
  std::vector<std::pair<const std::string, TensorInfo> const*> order;
  for (const auto& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.offset, a->second.bytes) < std::pair(b->second.offset, b->second.bytes);
  });
  std::int64_t end = 0;
  std::string before = "the start of the data";
  for (const auto* tensor : order) {
    const auto& [name, info] = *tensor;
    if (info.offset < end) throw UserError(Exit::bad_model, "{}: tensor {} overlaps {}", file, quoted(name), before);
    if (info.offset > end)
      throw UserError(Exit::bad_model, "{}: a hole of {} bytes between {} and tensor {}", file, info.offset - end,
                      before, quoted(name));
    end += info.bytes;
    before = "tensor " + quoted(name);
    if (end > data_bytes)
      throw UserError(Exit::bad_model, "{}: truncated: {} ends {} bytes past the end of the file", file, before,
                      end - data_bytes);
  }
  if (end != data_bytes)
    throw UserError(Exit::bad_model, "{}: {} bytes after the last tensor; is it the file that the header describes?",
                    file, data_bytes - end);
}

/// weight_map of the index: tensor → shard, each shard a plain file name.
std::map<std::string, std::string> read_weight_map(const std::filesystem::path& path) {
  const std::string file = path.string();
  const json document = read_json_file(path, kMaxIndex);
  JsonObject top(document, file);
  top.ignore({"metadata"});  // its total_size is advice; each shard's header proves its own size
  const json* map = top.take("weight_map");
  if (!map || !map->is_object() || map->empty())
    throw UserError(Exit::bad_model, "{}: weight_map must be an object that names at least one tensor", file);
  top.finish();

  std::map<std::string, std::string> shards;
  for (const auto& [tensor, shard] : map->items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : std::string();
    if (name.empty() || name == "." || name == ".." || name.find_first_of(std::string_view("/\\\0", 3)) != name.npos)
      throw UserError(Exit::bad_model, "{}: tensor {} is in {}; expected a file name in the same folder", file,
                      quoted(tensor), shard.is_string() ? quoted(name) : shard.type_name());
    shards.emplace(tensor, name);
  }
  return shards;
}

}  // namespace

void Safetensors::add_file(const std::filesystem::path& path) {
  const std::string file = path.string();
  const std::size_t index = open(path);
  const std::string text = read_header(index);
  const json header = parse_json(text, file + ": header");
  const std::int64_t data = kLengthBytes + static_cast<std::int64_t>(text.size());
  std::map<std::string, TensorInfo> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name != "__metadata__") {
      tensors.emplace(name, parse_tensor(entry, fmt::format("{}: tensor {}", file, quoted(name))));
      continue;
    }
    if (!entry.is_object()) throw UserError(Exit::bad_model, "{}: __metadata__ must be an object of strings", file);
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string())
        throw UserError(Exit::bad_model, "{}: __metadata__: {} must be a string", file, quoted(key));
      metadata_.emplace(key, value.get<std::string>());
    }
  }
  check_cover(tensors, bytes(index) - data, file);
  for (auto& [name, info] : tensors) {
    info.offset += data;
    info.file = index;
    add(name, std::move(info));
  }
}

std::string Safetensors::read_header(std::size_t index) const {
  const std::string file = path(index).string();
  const std::int64_t size = bytes(index);
  if (size < kLengthBytes)
    throw UserError(Exit::bad_model, "{}: {} bytes are no safetensors file; is the download complete?", file, size);
  unsigned char head[kLengthBytes];
  read_at(index, 0, kLengthBytes, reinterpret_cast<std::byte*>(head));
  std::uint64_t length = 0;
  for (int i = kLengthBytes - 1; i >= 0; --i) length = length << 8 | head[i];
  if (length > static_cast<std::uint64_t>(kMaxHeader))
    throw UserError(Exit::bad_model, "{}: a header of {} bytes (the limit is {}): not a safetensors file", file, length,
                    kMaxHeader);
  if (static_cast<std::int64_t>(length) > size - kLengthBytes)
    throw UserError(Exit::bad_model, "{}: truncated: the header has {} bytes, the file {} after its length", file,
                    length, size - kLengthBytes);
  std::string header(length, '\0');
  read_at(index, kLengthBytes, static_cast<std::int64_t>(length), reinterpret_cast<std::byte*>(header.data()));
  if (!header.starts_with('{'))
    throw UserError(Exit::bad_model, "{}: the header does not begin with {{: not a safetensors file", file);
  return header;
}

Safetensors Safetensors::open_file(const std::filesystem::path& file) {
  Safetensors set;
  set.add_file(file);
  return set;
}

Safetensors Safetensors::open_model(const std::filesystem::path& dir) {
  // The reference's order: the single file wins over an index beside it.
  std::error_code failed;
  if (std::filesystem::exists(dir / "model.safetensors", failed)) return open_file(dir / "model.safetensors");
  const auto index = dir / "model.safetensors.index.json";
  if (!std::filesystem::exists(index, failed))
    throw UserError(Exit::bad_model,
                    "{}: neither model.safetensors nor model.safetensors.index.json is there; download the model's "
                    "safetensors files",
                    dir.string());

  const auto weight_map = read_weight_map(index);
  std::set<std::string> shards;  // in name order
  for (const auto& [tensor, shard] : weight_map) shards.insert(shard);
  for (const auto& shard : shards)
    if (!std::filesystem::exists(dir / shard, failed))
      throw UserError(Exit::bad_model, "{}: the shard {} is missing; is the download complete?", index.string(),
                      quoted(shard));
  Safetensors set;
  for (const auto& shard : shards) set.add_file(dir / shard);

  for (const auto& [tensor, shard] : weight_map) {
    const TensorInfo* found = set.find(tensor);
    if (found == nullptr || set.path(found->file).filename() != shard)
      throw UserError(Exit::bad_model, "{}: tensor {} is not in {}", index.string(), quoted(tensor), quoted(shard));
  }
  for (const auto& [tensor, info] : set.tensors())
    if (!weight_map.contains(tensor))
      throw UserError(Exit::bad_model, "{}: tensor {} of {} is not in the weight_map", index.string(), quoted(tensor),
                      set.path(info.file).filename().string());
  return set;
}

}  // namespace longhaul
