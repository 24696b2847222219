#include "runtime/checkpoint/gguf.h"

#include <fmt/ranges.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>

#include "kernels/base/bytes.h"
#include "runtime/checkpoint/json_file.h"

namespace longhaul {
namespace {

using nlohmann::json;

// Real files stay far below each: a vocabulary of 262,144 tokens has a header of 12 MB and less than a million strings.
constexpr std::int64_t kMaxHeader = 100'000'000;
constexpr std::int64_t kMaxElements = 4'000'000;  // of all lists together
constexpr std::int64_t kMaxKeys = 100'000, kMaxTensors = 1'000'000;
constexpr std::int64_t kMaxName = 65'535, kMaxDimensions = 4;
constexpr std::int64_t kLeastKey = 8 + 4 + 1, kLeastTensor = 8 + 4 + 8 + 4 + 8;  // bytes of an entry

enum class ValueType : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

std::string_view type_name(std::uint32_t type) {
  static const std::map<std::uint32_t, std::string_view> names = {
      {0, "F32"},      {1, "F16"},     {2, "Q4_0"},     {3, "Q4_1"},   {6, "Q5_0"},    {7, "Q5_1"},   {8, "Q8_0"},
      {9, "Q8_1"},     {10, "Q2_K"},   {11, "Q3_K"},    {12, "Q4_K"},  {13, "Q5_K"},   {14, "Q6_K"},  {15, "Q8_K"},
      {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"}, {22, "IQ2_S"},
      {23, "IQ4_XS"},  {24, "I8"},     {25, "I16"},     {26, "I32"},   {27, "I64"},    {28, "F64"},   {29, "IQ1_M"},
      {30, "BF16"},    {34, "TQ1_0"},  {35, "TQ2_0"},   {39, "MXFP4"}, {40, "NVFP4"}};
  const auto found = names.find(type);
  return found == names.end() ? "" : found->second;
}

}  // namespace

const GgufBlock* gguf_block(std::string_view dtype) {
  static const std::map<std::string_view, GgufBlock> blocks = {{"F32", {1, 4}},      {"F16", {1, 2}},
                                                               {"BF16", {1, 2}},     {"Q8_0", {32, 34}},
                                                               {"Q4_K", {256, 144}}, {"Q6_K", {256, 210}}};
  const auto found = blocks.find(dtype);
  return found == blocks.end() ? nullptr : &found->second;
}

namespace {

/// Reads the header front to back through a buffer.
class HeaderReader {
 public:
  using ReadAt = std::function<void(std::int64_t offset, std::int64_t bytes, std::byte* out)>;
  HeaderReader(std::string where, std::int64_t file_bytes, ReadAt read_at)
      : where_(std::move(where)),
        end_(std::min(file_bytes, kMaxHeader)),
        whole_(file_bytes <= kMaxHeader),
        read_at_(std::move(read_at)) {}

  std::int64_t at() const { return at_; }
  std::int64_t left() const { return end_ - at_; }
  const std::string& where() const { return where_; }

  template <class T>
  T take(const char* what) {
    T value;
    bytes(reinterpret_cast<char*>(&value), sizeof(T), what);
    return value;
  }
  /// A count or length of which each takes at least `least` bytes.
  std::int64_t count(const char* what, std::int64_t least, std::int64_t most) {
    const auto value = take<std::uint64_t>(what);
    if (value > static_cast<std::uint64_t>(most) || static_cast<std::int64_t>(value) > left() / least)
      throw UserError(Exit::bad_model, "{}: {} is {} at byte {}, more than {}", where_, what, value, at_ - 8,
                      value > static_cast<std::uint64_t>(most) ? fmt::format("the {} that we take", most)
                                                               : fmt::format("{} bytes can hold", left()));
    return static_cast<std::int64_t>(value);
  }
  std::string text(const char* what, std::int64_t most) {
    std::string out(static_cast<std::size_t>(count(what, 1, most)), '\0');
    bytes(out.data(), std::ssize(out), what);
    return out;
  }

 private:
  void bytes(char* out, std::int64_t count, const char* what) {
    if (count > left())
      throw UserError(Exit::bad_model, "{}: {} at byte {}", where_,
                      whole_ ? fmt::format("truncated: the file ends in {}", what)
                             : fmt::format("a header of more than {} bytes", kMaxHeader),
                      at_);
    while (count > 0) {
      if (at_ == buffer_begin_ + std::ssize(buffer_)) {
        buffer_begin_ = at_;
        buffer_.resize(static_cast<std::size_t>(std::min<std::int64_t>(left(), 1 << 18)));
        read_at_(at_, std::ssize(buffer_), buffer_.data());
      }
      const std::int64_t from = at_ - buffer_begin_, n = std::min(count, std::ssize(buffer_) - from);
      std::memcpy(out, buffer_.data() + from, static_cast<std::size_t>(n));
      out += n;
      at_ += n;
      count -= n;
    }
  }

  std::string where_;
  std::int64_t at_ = 0, end_;
  bool whole_;
  ReadAt read_at_;
  std::int64_t buffer_begin_ = 0;
  std::vector<std::byte> buffer_;
};

class MetadataReader {
 public:
  explicit MetadataReader(HeaderReader& in) : in_(in) {}

  void read_entry(json& metadata) {
    const std::string key = in_.text("a key's length", kMaxName);
    where_ = fmt::format("{}: key {}", in_.where(), quoted(key));
    const auto type = in_.take<std::uint32_t>("a value's type");
    json value = type == static_cast<std::uint32_t>(ValueType::array) ? list() : one(type);
    if (!metadata.emplace(key, std::move(value)).second) throw UserError(Exit::bad_model, "{}: appears twice", where_);
  }

 private:
  json list() {
    const auto type = in_.take<std::uint32_t>("a list's type");
    const std::int64_t count = in_.count("a list's length", 1, kMaxElements);
    elements_ += count;
    if (elements_ > kMaxElements)
      throw UserError(Exit::bad_model, "{}: the metadata's lists have more than {} elements", where_, kMaxElements);
    json::array_t values;
    values.reserve(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) values.push_back(one(type));
    return values;
  }

  json one(std::uint32_t type) {
    const char* what = "a value";
    switch (static_cast<ValueType>(type)) {
      case ValueType::u8:
        return in_.take<std::uint8_t>(what);
      case ValueType::i8:
        return in_.take<std::int8_t>(what);
      case ValueType::u16:
        return in_.take<std::uint16_t>(what);
      case ValueType::i16:
        return in_.take<std::int16_t>(what);
      case ValueType::u32:
        return in_.take<std::uint32_t>(what);
      case ValueType::i32:
        return unsigned_if_positive(in_.take<std::int32_t>(what));
      case ValueType::u64:
        return in_.take<std::uint64_t>(what);
      case ValueType::i64:
        return unsigned_if_positive(in_.take<std::int64_t>(what));
      case ValueType::f32:
        return finite(in_.take<float>(what));
      case ValueType::f64:
        return finite(in_.take<double>(what));
      case ValueType::string:
        return in_.text("a string's length", kMaxHeader);
      case ValueType::boolean: {
        const auto bit = in_.take<std::uint8_t>(what);
        if (bit > 1) throw UserError(Exit::bad_model, "{}: {} is neither true (1) nor false (0)", where_, bit);
        return bit == 1;
      }
      case ValueType::array:
        throw UserError(Exit::bad_model, "{}: lists of lists are not supported", where_);
    }
    throw UserError(Exit::bad_model, "{}: unknown value type {}", where_, type);
  }

  json finite(double value) const {
    if (!std::isfinite(value)) throw UserError(Exit::bad_model, "{}: is no finite number", where_);
    return value;
  }
  /// As a JSON parser keeps whole numbers.
  static json unsigned_if_positive(std::int64_t value) {
    return value < 0 ? json(value) : json(static_cast<std::uint64_t>(value));
  }

  HeaderReader& in_;
  std::string where_;
  std::int64_t elements_ = 0;
};

/// One entry of the table; its offset still counts from the start of the data.
std::pair<const std::string, TensorInfo> read_tensor(HeaderReader& in) {
  const std::string name = in.text("a tensor name's length", kMaxName);
  const std::string where = fmt::format("{}: tensor {}", in.where(), quoted(name));
  const auto dimensions = in.take<std::uint32_t>("a tensor's dimensions");
  if (dimensions < 1 || dimensions > kMaxDimensions)
    throw UserError(Exit::bad_model, "{}: has {} dimensions; expected 1 to {}", where, dimensions, kMaxDimensions);
  TensorInfo info{};
  for (std::uint32_t i = 0; i < dimensions; ++i) {
    const auto size = in.take<std::uint64_t>("a tensor's shape");
    if (size < 1 || size > std::uint64_t{1} << 48)
      throw UserError(Exit::bad_model, "{}: has a dimension of {}", where, size);
    info.shape.insert(info.shape.begin(), static_cast<std::int64_t>(size));  // the file has the row's length first
  }
  const auto type = in.take<std::uint32_t>("a tensor's type");
  info.dtype = type_name(type);
  const GgufBlock* block = gguf_block(info.dtype);
  if (block == nullptr)
    throw UserError(Exit::bad_model, "{}: is of type {}; supported: F32, F16, BF16, Q8_0, Q4_K, Q6_K", where,
                    info.dtype.empty() ? std::to_string(type) : info.dtype);
  if (info.shape.back() % block->values != 0)
    throw UserError(Exit::bad_model, "{}: rows of {} values are no whole blocks of {} ({} each)", where,
                    info.shape.back(), info.dtype, block->values);
  info.bytes = info.shape.back() / block->values * block->bytes;
  for (std::size_t i = 0; i + 1 < info.shape.size(); ++i)
    if (__builtin_mul_overflow(info.bytes, info.shape[i], &info.bytes))
      throw UserError(Exit::bad_model, "{}: the shape [{}] is too large for any file", where,
                      fmt::join(info.shape, ", "));
  const auto offset = in.take<std::uint64_t>("a tensor's offset");
  if (offset > static_cast<std::uint64_t>(INT64_MAX) / 2)
    throw UserError(Exit::bad_model, "{}: offset {} is past the end of any file", where, offset);
  info.offset = static_cast<std::int64_t>(offset);
  return {name, std::move(info)};
}

std::int64_t alignment_of(const json& metadata, const std::string& file) {
  const auto found = metadata.find("general.alignment");
  if (found == metadata.end()) return 32;
  const bool good = found->is_number_unsigned() && found->get<std::uint64_t>() >= 8 &&
                    found->get<std::uint64_t>() <= 1 << 20 && std::has_single_bit(found->get<std::uint64_t>());
  if (!good)
    throw UserError(Exit::bad_model, "{}: general.alignment is {}; expected a power of 2 from 8 to {}", file,
                    found->dump(-1, ' ', false, json::error_handler_t::replace), 1 << 20);
  return found->get<std::int64_t>();
}

}  // namespace

Gguf Gguf::open_file(const std::filesystem::path& path) {
  Gguf gguf;
  const std::size_t index = gguf.open(path);
  const std::string file = path.string();
  HeaderReader in(file, gguf.bytes(index), [&](std::int64_t offset, std::int64_t bytes, std::byte* out) {
    gguf.read_at(index, offset, bytes, out);
  });
  if (in.left() < 24) throw UserError(Exit::bad_model, "{}: {} bytes are no GGUF file", file, in.left());
  if (in.take<std::uint32_t>("the magic") != 0x46554747)  // "GGUF"
    throw UserError(Exit::bad_model, "{}: does not begin with GGUF: not a GGUF file", file);
  const auto version = in.take<std::uint32_t>("the version");
  if (version != 2 && version != 3)
    throw UserError(Exit::bad_model, "{}: GGUF version {} is not supported{}; 2 and 3 are", file, version,
                    version == 0x02000000 || version == 0x03000000 ? " (it is big-endian)" : "");
  const std::int64_t tensors = in.count("the number of tensors", kLeastTensor, kMaxTensors);
  const std::int64_t keys = in.count("the number of keys", kLeastKey, kMaxKeys);
  MetadataReader metadata(in);
  for (std::int64_t i = 0; i < keys; ++i) metadata.read_entry(gguf.metadata_);
  const std::int64_t alignment = alignment_of(gguf.metadata_, file);

  // Tensors follow each other in the table's order, each begins at the next multiple of the alignment: anything else is
  // a damaged or hostile file.
  std::vector<std::pair<const std::string, TensorInfo>> table;
  for (std::int64_t i = 0; i < tensors; ++i) table.push_back(read_tensor(in));
  const std::int64_t data = round_up(in.at(), alignment), data_bytes = gguf.bytes(index) - data;
  std::int64_t end = 0;
  for (auto& [name, info] : table) {
    const std::int64_t expected = round_up(end, alignment);
    if (info.offset != expected)
      throw UserError(Exit::bad_model, "{}: tensor {} begins at byte {} of the data; expected {}", file, quoted(name),
                      info.offset, expected);
    if (info.bytes > data_bytes - expected)
      throw UserError(Exit::bad_model, "{}: truncated: tensor {} ends {} bytes past the end of the file", file,
                      quoted(name), info.bytes - (data_bytes - expected));
    end = expected + info.bytes;
    info.offset += data;
    info.file = index;
    gguf.add(name, std::move(info));
  }
  if (data_bytes > round_up(end, alignment))
    throw UserError(Exit::bad_model, "{}: {} bytes after the last tensor; is it the file that the header describes?",
                    file, data_bytes - end);
  return gguf;
}

}  // namespace longhaul
