#include "apps/eval/evaluation.h"

#include <algorithm>

#include "apps/eval/walk.h"
#include "kernels/base/bytes.h"
#include "kernels/base/error.h"

namespace longhaul::eval {
namespace {

constexpr std::int64_t kForever = std::int64_t{1} << 40;

/// A session whose answer only ends when we say so.
Session open_session(std::int64_t slot, const Document& document) {
  return Session(slot, document.prompt, {}, kForever, {});
}

}  // namespace

/// Documents that are in the dense engine together.
struct Evaluation::Batch {
  const std::vector<Document>& documents;
  std::vector<std::size_t> members;  // of `documents`
  std::vector<Session> prefilled;    // in the dense engine, by member
  std::int64_t max_len;
};

EngineOptions Evaluation::options_of(const Cell& cell, std::int64_t max_len, std::int64_t sessions) const {
  EngineOptions options = engine;
  options.policy = cell.variant.policy;
  options.max_len = max_len;
  options.max_sessions = sessions;
  options.resident = 1;
  options.cache = 0;
  options.bases = cell.bases;
  options.probes.rewinds = true;
  options.probes.steps = steps && cell.variant.policy.selects();
  return options;
}

EngineOptions Evaluation::dense_options(const std::vector<Cell>& cells, std::int64_t max_len,
                                        std::int64_t sessions) const {
  EngineOptions options = options_of(cells[0], max_len, sessions);
  options.probes.adoptable = true;
  options.probes.mass =
      std::ranges::any_of(cells, [](const Cell& cell) { return cell.variant.policy.select == Select::heavy; });
  return options;
}

std::int64_t Evaluation::sessions_that_fit(const std::vector<Cell>& cells, std::int64_t max_len,
                                           std::int64_t wanted) const {
  const std::int64_t left = budget.device_for_plan();
  for (std::int64_t sessions = std::min(wanted, kDecodeTokens);; --sessions) {
    const MemoryPlan dense = plan_memory(model.config, dense_options(cells, max_len, sessions));
    std::int64_t device_bytes = 0, host_bytes = 0;
    for (std::size_t i = 1; i < cells.size(); ++i) {
      const MemoryPlan plan = plan_memory(model.config, options_of(cells[i], max_len, sessions));
      device_bytes = std::max(device_bytes, plan.device_bytes);
      host_bytes = std::max(host_bytes, plan.host_bytes);
    }
    device_bytes += dense.device_bytes;
    host_bytes += dense.host_bytes + budget.program + budget.held + budget.fitting;
    if (device_bytes <= left && host_bytes <= budget.host && device_bytes + host_bytes <= budget.together)
      return sessions;
    if (sessions == 1)
      throw UserError(
          Exit::plan_does_not_fit,
          "a document of {} tokens needs {} of device memory for the dense engine and a policy's beside it, "
          "and {} of host memory; there are {} and {}; use shorter --lengths",
          max_len, format_bytes(device_bytes), format_bytes(host_bytes), format_bytes(left), format_bytes(budget.host));
  }
}

void Evaluation::answer(const Batch& batch, const Cell& cell, Engine& engine, std::vector<Session>& sessions,
                        const std::vector<std::size_t>& pending) const {
  std::vector<StepStats> stats;
  if (engine.options().probes.steps)
    for (std::size_t i = 0; i < pending.size(); ++i)
      stats.emplace_back(model.config, cell.variant.policy, batch.max_len);
  std::vector<Walk> walks;
  walks.reserve(pending.size());
  for (std::size_t i = 0; i < pending.size(); ++i)
    walks.emplace_back(engine, model, batch.documents[batch.members[pending[i]]], sessions[i],
                       stats.empty() ? nullptr : &stats[i]);
  auto finished = [&](std::size_t i) {
    Group group{.items = walks[i].take_items(), .attended = walks[i].attended()};
    if (!stats.empty()) group.steps = stats[i].to_json();
    records.append(cell.key, static_cast<std::int64_t>(batch.members[pending[i]]), cell.labels, std::move(group));
    progress.document_done();
  };
  run_walks(engine, walks, finished, [&](std::int64_t tokens) { progress.stepped(tokens); });
}

void Evaluation::run_cell(const Batch& batch, const Cell& cell, Engine* dense) const {
  std::vector<std::size_t> pending;
  for (std::size_t i = 0; i < batch.members.size(); ++i)
    if (records.find(cell.key, static_cast<std::int64_t>(batch.members[i])) == nullptr) pending.push_back(i);
  if (pending.empty()) return;
  progress.cell(cell.variant.name, cell.variant.share);
  Engine own(device, model.config, model.weights,
             options_of(cell, batch.max_len, static_cast<std::int64_t>(pending.size())));
  std::vector<Session> sessions;
  for (std::size_t i = 0; i < pending.size(); ++i) {
    sessions.push_back(open_session(static_cast<std::int64_t>(i), batch.documents[batch.members[pending[i]]]));
    own.adopt(sessions.back(), *dense, batch.prefilled[pending[i]]);
  }
  answer(batch, cell, own, sessions, pending);
}

void Evaluation::run(const std::vector<Document>& documents, const std::vector<Cell>& cells) const {
  std::vector<std::size_t> pending;
  std::int64_t max_len = 0;
  for (std::size_t i = 0; i < documents.size(); ++i)
    if (std::ranges::any_of(
            cells, [&](const Cell& cell) { return records.find(cell.key, static_cast<std::int64_t>(i)) == nullptr; })) {
      pending.push_back(i);
      max_len = std::max(max_len, documents[i].rows());
    }
  if (pending.empty()) return;
  const auto together =
      static_cast<std::size_t>(sessions_that_fit(cells, max_len, static_cast<std::int64_t>(pending.size())));
  Engine dense(device, model.config, model.weights, dense_options(cells, max_len, static_cast<std::int64_t>(together)));
  for (std::size_t first = 0; first < pending.size(); first += together) {
    Batch batch{documents, {}, {}, max_len};
    for (std::size_t i = first; i < std::min(first + together, pending.size()); ++i) {
      const Document& document = documents[pending[i]];
      batch.members.push_back(pending[i]);
      batch.prefilled.push_back(open_session(static_cast<std::int64_t>(i - first), document));
      dense.prefill(batch.prefilled.back(), [&](const PrefillProgress& p) {
        progress.prefill(static_cast<std::int64_t>(document.prompt.size()), p.done / p.total);
      });
    }
    for (std::size_t c = 1; c < cells.size(); ++c) run_cell(batch, cells[c], &dense);
    // The dense answers come last: their steps write behind the prompts' rows, which the others have adopted by now.
    std::vector<std::size_t> mine;
    std::vector<Session> sessions;
    for (std::size_t i = 0; i < batch.members.size(); ++i)
      if (records.find(cells[0].key, static_cast<std::int64_t>(batch.members[i])) == nullptr) {
        mine.push_back(i);
        sessions.push_back(batch.prefilled[i]);
      }
    progress.cell("dense", "-");
    answer(batch, cells[0], dense, sessions, mine);
  }
}

}  // namespace longhaul::eval
