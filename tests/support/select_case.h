// Sessions that select together, in whatever shape, for tests that compare devices.
#pragma once
#include <numeric>

#include "tests/support/cuda_rig.h"
#include "tests/support/labels.h"

namespace longhaul::test::selecting {

using Rows = std::vector<std::int32_t>;

/// Sessions that decode together; `slots` there are, each with labels, a basis and mass of its own.
struct Case {
  std::int64_t slots, kv_heads, group, d, capacity, dims, bits;
  std::vector<StepSpan> spans{};
  DType act = DType::f32;
  SelectBy by = SelectBy::labels;
  Combine combine = Combine::mean;
  float top_p = 1;
  float scale = 1 / std::sqrt(static_cast<float>(d));

  std::int64_t q_heads = kv_heads * group, q_stride = q_heads * d + 8;
  Labels labels{slots * kv_heads, d, capacity, dims, bits};
  Tensor q{act, 0};
  std::vector<float> mass{};
  std::int64_t chunk = 0, form_stride = 0;  // of queries in three forms
  Tensor older{act, 0};
  std::vector<float> tails{};  // [slots, tail_fit_floats] behind each slot's bases, where there are forms

  void add(std::int64_t slot, std::int64_t rows, std::int64_t budget, std::int64_t sinks, std::int64_t window) {
    auto i = [](std::int64_t x) { return static_cast<std::int32_t>(x); };
    spans.push_back({i(slot), i(rows), i(rows), i(budget), i(sinks), i(window)});
  }
  std::int64_t count() const { return static_cast<std::int64_t>(spans.size()); }
  std::int64_t stride() const {
    std::int64_t most = 0;
    for (const StepSpan& s : spans) most = std::max<std::int64_t>(most, std::min(s.budget, s.rows));
    return most + 3;
  }

  /// Codes and queries of every kind; `kinds` few give many rows that tie.
  void fill(Random& random, double deviation = 3, std::int64_t kinds = 0) {
    labels.random_basis(random);
    q = random.normal(act, count() * q_stride, deviation);
    const Tensor noise =
        random.normal(DType::bf16, bits == 16 ? static_cast<std::int64_t>(labels.codes.size()) / 2 : 0);
    if (bits == 16) std::copy(noise.bytes.begin(), noise.bytes.end(), labels.codes.begin());
    else
      for (std::byte& b : labels.codes) b = static_cast<std::byte>(random.integer(0, 255));
    for (std::int64_t h = 0; kinds > 0 && h < labels.kv_heads; ++h)
      for (std::int64_t r = kinds; r < capacity; ++r)
        for (std::int64_t j = 0; j < dims; ++j) put_code(h, r, j, code(h, r * 7 % kinds, j));
  }
  std::byte& byte_of(std::int64_t h, std::int64_t row, std::int64_t j) {
    return labels.codes[(h * labels.blocks + row / 64) * label_block_bytes(dims, bits) + j * bits * 8 +
                        row % (bits == 4 ? 32 : 64)];
  }
  int code(std::int64_t h, std::int64_t row, std::int64_t j) {
    const int both = static_cast<int>(byte_of(h, row, j));
    return bits == 8 ? both : row % 64 < 32 ? both & 15 : both >> 4;
  }
  void put_code(std::int64_t h, std::int64_t row, std::int64_t j, int code) {
    std::byte& at = byte_of(h, row, j);
    if (bits == 8) at = static_cast<std::byte>(code);
    else if (row % 64 < 32) at = (at & std::byte{0xf0}) | static_cast<std::byte>(code);
    else at = (at & std::byte{0x0f}) | static_cast<std::byte>(code << 4);
  }
  /// Scores that float32 holds exactly: small integers for queries and steps, and the basis picks channels.
  void make_whole(Random& random) {
    scale = 1;
    for (std::int64_t i = 0; i < q.size; ++i) q.set(i, static_cast<double>(random.integer(-20, 20)));
    for (std::int64_t h = 0; h < labels.kv_heads; ++h)
      for (std::int64_t j = 0; j < dims; ++j) {
        labels.step(h)[j] = 0.5f;
        for (std::int64_t i = 0; i < d; ++i) labels.query_map(h)[j * d + i] = i == j;
      }
  }

  /// Older forms of the queries, all as the first or none, and some of what labels leave out. After fill().
  void fill_forms(Random& random, std::int64_t chunk_, bool alike, double deviation = 3) {
    chunk = chunk_, form_stride = count() * q_heads * d + 16;
    older = random.normal(act, 2 * form_stride, deviation);
    for (std::int64_t i = 0; alike && i < count() * q_heads * d; ++i)
      for (std::int64_t form = 0; form < 2; ++form)
        older.set(form * form_stride + i, q.get(i / (q_heads * d) * q_stride + i % (q_heads * d)));
    const Tensor beside =
        random.normal(DType::f32, slots * tail_fit_floats(q_heads, kv_heads, d), 1 / std::sqrt(static_cast<double>(d)));
    tails.clear();
    for (double x : beside.values()) tails.push_back(static_cast<float>(x));
  }
  /// Whole numbers, for make_whole().
  void make_forms_whole(Random& random) {
    for (std::int64_t i = 0; i < older.size; ++i) older.set(i, static_cast<double>(random.integer(-20, 20)));
    for (float& x : tails) x = static_cast<float>(random.integer(-1, 1));
  }

  std::int64_t scratch_floats() const { return select_floats(count(), q_heads, kv_heads, capacity); }

  SelectArgs args(Rig& rig, std::byte* scratch) const {
    const std::int64_t heads = count() * kv_heads;
    SelectArgs a{};
    a.q = rig.put(q), a.q_stride = q_stride;
    a.batch = {rig.put(spans), count(), capacity};
    a.act = act, a.q_heads = q_heads, a.kv_heads = kv_heads, a.head_dim = d, a.scale = scale;
    a.by = by, a.combine = combine, a.top_p = top_p;
    const std::int64_t codes = static_cast<std::int64_t>(labels.codes.size()) / labels.kv_heads;
    const std::int64_t bases = kv_heads * label_basis_floats(dims, d), tail = std::ssize(tails) / slots;
    const std::int64_t stride = (bases + tail + 1) / 2 * 2;  // operators read a basis by pairs
    std::vector<float> basis;
    for (std::int64_t s = 0; s < slots; ++s) {
      basis.insert(basis.end(), labels.basis.begin() + s * bases, labels.basis.begin() + (s + 1) * bases);
      basis.insert(basis.end(), tails.begin() + s * tail, tails.begin() + (s + 1) * tail);
      basis.resize((s + 1) * stride);
    }
    a.labels = {rig.put(labels.codes), codes, rig.put(basis), dims, bits, kv_heads * codes, stride};
    a.forms = {chunk, rig.put(older), form_stride};
    if (!mass.empty()) a.mass = rig.put(mass);
    a.mass_stride = static_cast<std::int64_t>(mass.size()) / (slots * kv_heads);
    a.mass_session_stride = kv_heads * a.mass_stride;
    a.scratch = reinterpret_cast<float*>(scratch);
    a.out = {rig.put(Rows(heads * this->stride(), -7)), rig.put(Rows(heads, -7)), this->stride()};
    return a;
  }

  /// The list of each place and head; what was not written is -7.
  std::vector<Rows> lists(Rig& rig, const SelectArgs& a) const {
    const std::int64_t heads = count() * kv_heads, n = heads * stride();
    const Rows rows = rig.ints(a.out.rows, n), counts = rig.ints(a.out.count, heads);
    std::vector<Rows> lists;
    for (std::int64_t h = 0; h < heads; ++h) {
      REQUIRE((counts[h] >= 0 && counts[h] < stride()));
      const auto at = rows.begin() + h * stride();
      CHECK(std::all_of(at + counts[h], at + stride(), [](int r) { return r == -7; }));
      lists.emplace_back(at, at + counts[h]);
    }
    return lists;
  }

  std::vector<Rows> run(Rig& rig) const {
    const SelectArgs a = args(rig, rig.put(Tensor(DType::f32, scratch_floats())));
    rig.stream->launch(a);
    return lists(rig, a);
  }
};

/// What any list must be.
inline void check_lists(const Case& c, const std::vector<Rows>& lists) {
  for (std::size_t i = 0; i < lists.size(); ++i) {
    const StepSpan& s = c.spans[i / c.kv_heads];
    const Rows& list = lists[i];
    const auto size = static_cast<std::int64_t>(list.size());
    CHECK(std::adjacent_find(list.begin(), list.end(), std::greater_equal<>()) == list.end());
    REQUIRE(size >= std::min(s.sinks + s.window, s.rows));
    CHECK(list.front() >= 0);
    CHECK(list.back() < s.rows);
    for (int r = 0; r < s.sinks; ++r) CHECK(list[r] == r);
    for (int r = 0; r < s.window; ++r) CHECK(list[size - 1 - r] == s.rows - 1 - r);
    if (c.top_p == 1 && c.by != SelectBy::mass) CHECK(size == std::min(s.budget, s.rows));
  }
}

/// Rows that two sets of lists share, of those in either.
struct Agreement {
  double both = 0, either = 0;
  void add(const std::vector<Rows>& a, const std::vector<Rows>& b) {
    REQUIRE(a.size() == b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      Rows common;
      std::set_intersection(a[i].begin(), a[i].end(), b[i].begin(), b[i].end(), std::back_inserter(common));
      both += static_cast<double>(common.size());
      either += static_cast<double>(a[i].size() + b[i].size() - common.size());
    }
  }
  double jaccard() const { return both / either; }
};

/// A session of up to c.capacity rows with sinks, window and budget of any size that is allowed.
inline void add_any(Case& c, Random& random, std::int64_t slot) {
  const std::int64_t rows = random.integer(1, c.capacity);
  const std::int64_t sinks = random.integer(0, std::min<std::int64_t>(4, rows));
  const std::int64_t window = random.integer(0, std::min<std::int64_t>(70, rows - sinks)), fixed = sinks + window;
  const std::int64_t budgets[] = {fixed, std::max(fixed, rows - 1), rows, rows + 9, random.integer(fixed, rows + 1)};
  c.add(slot, rows, budgets[random.integer(0, 4)], sinks, window);
}

}  // namespace longhaul::test::selecting
