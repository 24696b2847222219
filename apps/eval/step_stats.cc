#include "apps/eval/step_stats.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/error.h"

namespace longhaul::eval {
namespace {

using Json = nlohmann::ordered_json;

struct Field {
  const char* name;
  double HeadSums::*at;
};
constexpr Field kFields[] = {{"steps", &HeadSums::steps},
                             {"mass", &HeadSums::mass},
                             {"best", &HeadSums::best},
                             {"recall", &HeadSums::recall},
                             {"predicted_steps", &HeadSums::predicted_steps},
                             {"predicted_mass", &HeadSums::predicted_mass},
                             {"predicted_recall", &HeadSums::predicted_recall},
                             {"cosine_steps", &HeadSums::cosine_steps},
                             {"cosine", &HeadSums::cosine},
                             {"attended", &HeadSums::attended},
                             {"rows", &HeadSums::rows},
                             {"reusable", &HeadSums::reusable}};
constexpr const char* kHitNames[] = {"hits_k", "hits_2k", "hits_4k"};

void add(HeadSums& to, const HeadSums& from) {
  for (const Field& field : kFields) to.*field.at += from.*field.at;
  for (int i = 0; i < 3; ++i) to.hits[i] += from.hits[i];
}

std::string mean(double sum, double count) { return count > 0 ? fmt::format("{:.3f}", sum / count) : "-"; }

std::string table_row(const std::string& name, const HeadSums& s, double heads_and_layers, std::int64_t row_bytes) {
  // Bytes that a step of one session would fetch for these heads and layers.
  auto bytes = [&](int i) {
    return s.steps > 0 ? fmt::format("{:.0f}", (s.reusable - s.hits[i]) / s.steps * heads_and_layers *
                                                   static_cast<double>(row_bytes))
                       : std::string("-");
  };
  return fmt::format("| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n", name,
                     mean(s.attended, s.rows), mean(s.mass, s.steps), mean(s.best, s.steps), mean(s.mass, s.best),
                     mean(s.recall, s.steps), mean(s.predicted_recall, s.predicted_steps),
                     mean(s.predicted_mass, s.predicted_steps), mean(s.cosine, s.cosine_steps),
                     mean(s.hits[0], s.reusable), mean(s.hits[1], s.reusable), mean(s.hits[2], s.reusable), bytes(1),
                     bytes(2));
}

}  // namespace

LruRows::LruRows(std::int64_t rows, std::int64_t slots)
    : slots_(slots),
      older_(static_cast<std::size_t>(rows) + 1),
      newer_(static_cast<std::size_t>(rows) + 1),
      held_(static_cast<std::size_t>(rows)) {
  clear();
}

void LruRows::clear() {
  std::fill(held_.begin(), held_.end(), false);
  size_ = 0;
  older_.back() = newer_.back() = static_cast<std::int32_t>(held_.size());
}

void LruRows::unlink(std::int32_t row) {
  const auto at = static_cast<std::size_t>(row);
  newer_[static_cast<std::size_t>(older_[at])] = newer_[at];
  older_[static_cast<std::size_t>(newer_[at])] = older_[at];
}

void LruRows::push_front(std::int32_t row) {
  const auto at = static_cast<std::size_t>(row), end = held_.size();
  older_[at] = older_[end];
  newer_[at] = static_cast<std::int32_t>(end);
  newer_[static_cast<std::size_t>(older_[end])] = row;
  older_[end] = row;
}

// The sentinel's `older_` is the row used most recently, its `newer_` the one used least recently.
void LruRows::use(std::int32_t row) {
  const auto at = static_cast<std::size_t>(row);
  if (held_[at]) {
    unlink(row);
  } else if (size_ == slots_) {
    if (slots_ == 0) return;
    const std::int32_t least = newer_.back();
    unlink(least);
    held_[static_cast<std::size_t>(least)] = false;
  } else {
    ++size_;
  }
  held_[at] = true;
  push_front(row);
}

StepStats::StepStats(const ModelConfig& config, const KvPolicy& policy, std::int64_t max_len)
    : layers_(config.layers),
      kv_heads_(config.kv_heads),
      sinks_(policy.sinks),
      recent_(policy.recent_rows),
      sums_(static_cast<std::size_t>(config.layers * config.kv_heads)) {
  for (std::int64_t i = 0; i < layers_ * kv_heads_; ++i)
    for (int multiple : kMultiples) lru_.emplace_back(max_len, multiple * std::min(policy.budget(max_len), max_len));
}

void StepStats::restart() {
  for (LruRows& lru : lru_) lru.clear();
}

void StepStats::add(const StepProbe& probe, std::int64_t index, std::int64_t rows) {
  check(probe.layers == layers_ && probe.kv_heads == kv_heads_, "the probe is of this model");
  for (std::int64_t layer = 0; layer < layers_; ++layer) {
    const float cosine = probe.cosine[index * layers_ + layer];
    for (std::int64_t head = 0; head < kv_heads_; ++head) {
      const std::int64_t place = (index * layers_ + layer) * kv_heads_ + head;
      HeadSums& sums = sums_[static_cast<std::size_t>(layer * kv_heads_ + head)];
      const std::int32_t count = probe.counts[place];
      sums.rows += static_cast<double>(rows);
      sums.attended += static_cast<double>(count == 0 ? rows : count);
      if (std::isfinite(cosine)) {
        ++sums.cosine_steps;
        sums.cosine += cosine;
      }
      if (count == 0) continue;  // attends every row
      const SelectionQuality& kept = probe.selected[place];
      ++sums.steps;
      sums.mass += kept.mass;
      sums.best += kept.best;
      sums.recall += kept.recall;
      if (std::isfinite(probe.predicted_recall[place])) {
        ++sums.predicted_steps;
        sums.predicted_recall += probe.predicted_recall[place];
        sums.predicted_mass += probe.predicted[place].mass;
      }
      // Ascending rows: the ones worth keeping are between the sinks and the recent window.
      const std::int32_t* list = probe.rows + place * probe.stride;
      const std::int32_t* begin = std::lower_bound(list, list + count, static_cast<std::int32_t>(sinks_));
      const std::int32_t* end =
          std::lower_bound(begin, list + count, static_cast<std::int32_t>(std::max<std::int64_t>(rows - recent_, 0)));
      sums.reusable += static_cast<double>(end - begin);
      for (int i = 0; i < 3; ++i) {
        LruRows& lru = lru_[static_cast<std::size_t>((layer * kv_heads_ + head) * 3 + i)];
        // First all hits of the step, then its uses: a row that is fetched now does not push out one needed now.
        for (const std::int32_t* row = begin; row != end; ++row) sums.hits[i] += lru.holds(*row);
        for (const std::int32_t* row = begin; row != end; ++row) lru.use(*row);
      }
    }
  }
}

Json StepStats::to_json() const {
  Json record{{"layers", layers_}, {"kv_heads", kv_heads_}};
  for (const Field& field : kFields) {
    Json list = Json::array();
    for (const HeadSums& sums : sums_) list.push_back(sums.*field.at);
    record[field.name] = std::move(list);
  }
  for (int i = 0; i < 3; ++i) {
    Json list = Json::array();
    for (const HeadSums& sums : sums_) list.push_back(sums.hits[i]);
    record[kHitNames[i]] = std::move(list);
  }
  return record;
}

void add_json(const nlohmann::json& record, std::vector<HeadSums>& sums) {
  const auto size = record.at("layers").get<std::size_t>() * record.at("kv_heads").get<std::size_t>();
  if (sums.empty()) sums.resize(size);
  auto list = [&](const char* name) {
    auto values = record.at(name).get<std::vector<double>>();
    if (values.size() != sums.size() || size != sums.size())
      throw UserError(Exit::usage, "statistics of another shape");
    return values;
  };
  for (const Field& field : kFields) {
    const auto values = list(field.name);
    for (std::size_t i = 0; i < values.size(); ++i) sums[i].*field.at += values[i];
  }
  for (int n = 0; n < 3; ++n) {
    const auto values = list(kHitNames[n]);
    for (std::size_t i = 0; i < values.size(); ++i) sums[i].hits[n] += values[i];
  }
}

std::string step_table(const std::vector<HeadSums>& sums, std::int64_t layers, std::int64_t row_bytes) {
  std::string table =
      "| layer | attended | mass kept | of top k | ratio | recall | look-ahead recall | its mass | cosine | hits B=k | "
      "2k | 4k | bytes/step 2k | 4k |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n";
  const auto heads = static_cast<std::int64_t>(sums.size()) / layers;
  HeadSums late;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    HeadSums all;
    for (std::int64_t head = 0; head < heads; ++head) add(all, sums[static_cast<std::size_t>(layer * heads + head)]);
    if (layer >= 2) add(late, all);
    table += table_row(std::to_string(layer), all, static_cast<double>(heads), row_bytes);
  }
  if (layers > 2) table += table_row("2 and on", late, static_cast<double>(heads * (layers - 2)), row_bytes);
  return table;
}

}  // namespace longhaul::eval
