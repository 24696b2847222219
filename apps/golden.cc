#include "apps/golden.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/error.h"
#include "runtime/checkpoint/model_source.h"
#include "runtime/engine/engine.h"

namespace longhaul {
namespace {

template <class T>
std::vector<T> read_all(const Safetensors& file, const std::string& name, std::string_view dtype) {
  auto found = file.tensors().find(name);
  if (found == file.tensors().end()) throw UserError(Exit::io, "golden file holds no tensor '{}'", name);
  const TensorInfo& info = file.expect(name, dtype, found->second.shape);
  std::vector<T> out(static_cast<std::size_t>(info.bytes) / sizeof(T));
  file.read(info, 0, info.bytes, reinterpret_cast<std::byte*>(out.data()));
  return out;
}

struct SquaredError {
  double error = 0, reference = 0;
  std::int64_t count = 0;
  std::vector<double> positions;  // the normalised error of each

  /// Of one position.
  void add(const float* got, const float* want, std::int64_t n) {
    double own = 0, own_reference = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const double d = static_cast<double>(got[i]) - want[i];
      own += d * d;
      own_reference += static_cast<double>(want[i]) * want[i];
    }
    error += own;
    reference += own_reference;
    positions.push_back(own / own_reference);
    count += n;
  }
  double nmse() const { return error / reference; }
  double median() const {
    std::vector<double> sorted = positions;
    std::ranges::sort(sorted);
    return sorted[sorted.size() / 2];
  }
};

}  // namespace

Golden load_golden(const std::filesystem::path& path) {
  const Safetensors file = Safetensors::open_file(path);
  Golden golden{.input_ids = read_all<std::int32_t>(file, "input_ids", "I32"),
                .greedy_ids = read_all<std::int32_t>(file, "greedy_ids", "I32"),
                .logits = read_all<float>(file, "logits", "F32"),
                .greedy_margin = read_all<float>(file, "greedy_margin", "F32"),
                .rows = 0,
                .vocab = 0};
  const auto& shape = file.tensors().at("logits").shape;
  if (shape.size() != 2 || golden.greedy_margin.size() != golden.greedy_ids.size() || golden.input_ids.size() < 2)
    throw UserError(Exit::io, "{}: not a golden file", path.string());
  golden.rows = shape[0];
  golden.vocab = shape[1];
  return golden;
}

GoldenResult compare_golden(Device& device, const std::filesystem::path& model_dir, const Golden& golden,
                            EngineOptions options) {
  const ModelSource model(model_dir.string());
  const ModelConfig config = model.config();
  const Checkpoint weights = model.weights();
  const auto inputs = static_cast<std::int64_t>(golden.input_ids.size());
  const auto answers = static_cast<std::int64_t>(golden.greedy_ids.size());
  const std::int64_t unscored = inputs - golden.rows;  // positions before the first golden row
  if (golden.vocab != config.vocab || unscored < 0)
    throw UserError(Exit::io, "golden logits do not belong to the model in {}", model_dir.string());
  options.max_len = inputs + answers;
  options.max_sessions = 1;
  Engine engine(device, config, weights, options);

  std::int64_t position = 0;
  SquaredError prefilled, decoded;
  auto scored = [&](SquaredError& sum) {
    return [&, scored_row = &sum](std::int64_t rows, const float* logits) {
      for (std::int64_t i = 0; i < rows; ++i, ++position)
        if (position >= unscored && position < inputs)
          scored_row->add(logits + i * config.vocab, golden.logits.data() + (position - unscored) * config.vocab,
                          config.vocab);
    };
  };
  {
    Session whole(0, golden.input_ids, {}, 1, {});
    engine.set_logits_tap(scored(prefilled));
    engine.prefill(whole);
  }

  // The same positions again, decoded one by one after a short prefill; then on along the golden greedy answer.
  position = 0;
  const std::int64_t first = std::max<std::int64_t>(1, unscored);
  Session session(0, {golden.input_ids.begin(), golden.input_ids.begin() + first}, {}, inputs + answers, {});
  std::vector<std::int32_t> picked;
  auto score = scored(decoded);
  engine.set_logits_tap([&](std::int64_t rows, const float* logits) {
    score(rows, logits);
    const float* last = logits + (rows - 1) * config.vocab;
    if (position >= inputs)
      picked.push_back(static_cast<std::int32_t>(std::max_element(last, last + config.vocab) - last));
  });
  engine.prefill(session);
  for (std::int64_t i = first; i < inputs + answers - 1; ++i) {
    session.force(i < inputs ? golden.input_ids[static_cast<std::size_t>(i)]
                             : golden.greedy_ids[static_cast<std::size_t>(i - inputs)]);
    Session* one = &session;
    engine.step({&one, 1});
  }

  GoldenResult result{.nmse = std::max(prefilled.nmse(), decoded.nmse()),
                      .nmse_median = std::max(prefilled.median(), decoded.median()),
                      .rms = std::sqrt(decoded.error / static_cast<double>(decoded.count)),
                      .greedy_equal = 0,
                      .greedy_total = 0};
  check(picked.size() == golden.greedy_ids.size(), "one pick for each greedy position");
  for (std::size_t i = 0; i < picked.size(); ++i) {
    if (golden.greedy_margin[i] <= 6 * result.rms) continue;
    ++result.greedy_total;
    result.greedy_equal += picked[i] == golden.greedy_ids[i];
  }
  return result;
}

}  // namespace longhaul
