// When a batch's prompts are prefilled and when they decode: prompts are admitted to free places and prefilled one
// after the other, and by turns with that those that are there take steps together.
//
// The first in the queue is the next: it waits for a slot and for its own rows' room in the host store, and nobody
// overtakes it, so a long document is not kept waiting by short ones. When nobody decodes all room is free, and the
// plan has room for the longest.
#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/base/error.h"
#include "runtime/batch/job.h"
#include "runtime/batch/stop_signals.h"
#include "runtime/engine/prefill_work.h"

namespace longhaul {

/// How many prompts stand together at the front.
std::int64_t BatchJob::group_size() const {
  const std::int64_t group = ready_.front().group;
  if (group < 0) return 1;
  return std::ranges::find_if(ready_, [&](const Ready& r) { return r.group != group; }) - ready_.begin();
}

/// For so many prompts at the front.
bool BatchJob::has_room(const Engine& engine, std::int64_t prompts) const {
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < prompts; ++i) rows.push_back(ready_[static_cast<std::size_t>(i)].rows());
  return engine.has_room(rows);
}

bool BatchJob::may_admit(const Engine& engine, const std::vector<Active>& active, std::int64_t free) const {
  if (ready_.empty()) return false;
  if (active.empty()) return true;
  const std::int64_t prompts = std::min(group_size(), engine.options().max_sessions);
  if (free < prompts || !has_room(engine, prompts)) return false;
  const bool none_done = std::ssize(stats_.ttft) == std::ssize(active);
  return !none_done && !ready_.front().alone && !active.front().alone;
}

void BatchJob::run(Engine& engine, BatchOutput& output, BatchJournal& journal) {
  std::vector<Active> active;
  std::vector<std::int64_t> free_slots;
  for (std::int64_t slot = 0; slot < engine.options().max_sessions; ++slot) free_slots.push_back(slot);
  auto take_out = [&] {
    const auto ended = std::erase_if(active, [&](Active& a) {
      if (!a.done()) return false;
      free_slots.push_back(a.session.slot());
      engine.release(a.session);
      answer(a, output);
      return true;
    });
    if (ended > 0) tell_working(journal, active);
  };
  try {
    while (!ready_.empty() || incoming_ || !active.empty()) {
      prefill(engine, journal, free_slots, active);
      take_out();  // an answer may be a prefill's token alone
      if (active.empty()) continue;
      decode(engine, active);
      take_out();
    }
  } catch (const DeviceError& e) {
    journal.crashed(fmt::format("device failure: {}", e.what()));
    throw;
  }
}

/// What a crash may be the fault of: while others wait for a prefill to end, that alone.
void BatchJob::tell_working(BatchJournal& journal, const std::vector<Active>& active) const {
  std::vector<std::string> keys;
  if (incoming_)
    for (const Ready& r : incoming_->ready) keys.push_back(requests_[r.index].content);
  if (!incoming_ || turns_.taken())
    for (const Active& a : active) keys.push_back(requests_[a.index].content);
  journal.working(keys);
}

/// The prefills' turn: of the prompts that there is a place for, one after the other.
void BatchJob::prefill(Engine& engine, BatchJournal& journal, std::vector<std::int64_t>& free_slots,
                       std::vector<Active>& active) {
  const std::int64_t slots = engine.options().max_sessions;
  double given = 0;  // while others decode
  while (incoming_ || may_admit(engine, active, std::ssize(free_slots))) {
    const auto coming = incoming_ ? std::ssize(incoming_->sessions) : 1;
    const double turn = active.empty() ? std::numeric_limits<double>::infinity()
                                       : turns_.work(std::ssize(active), slots - coming) - given;
    if (turn <= 0) return;
    if (!incoming_) {
      admit(engine, free_slots);
      tell_working(journal, active);
    }
    const bool others = !active.empty();
    const double work = advance(engine, active, turn);
    if (others) given += work;
    if (!incoming_) tell_working(journal, active);
  }
}

/// The next prompt, or as many of those that begin alike as the engine takes together.
std::vector<BatchJob::Ready> BatchJob::take_next(const Engine& engine, std::span<const std::int64_t> slots,
                                                 std::vector<Session>& sessions) {
  std::vector<Ready> next;
  std::int64_t left = std::min(group_size(), std::ssize(slots));
  while (left > 1 && !has_room(engine, left)) --left;
  for (; left > 0; --left) {
    next.push_back(std::move(ready_.front()));
    ready_.pop_front();
    const Ready& one = next.back();
    sessions.emplace_back(slots[sessions.size()], one.prompt, one.sampling, one.max_tokens, model_.eos());
  }
  auto together = [&] {
    std::vector<Session*> all;
    for (Session& session : sessions) all.push_back(&session);
    return engine.shared_rows(all);
  };
  while (next.size() > 1 && together() == 0) {
    ready_.push_front(std::move(next.back()));
    next.pop_back();
    sessions.pop_back();
  }
  return next;
}

void BatchJob::admit(Engine& engine, std::vector<std::int64_t>& free_slots) {
  stop_if_asked();
  Incoming& in = incoming_.emplace();
  in.ready = take_next(engine, free_slots, in.sessions);
  free_slots.erase(free_slots.begin(), free_slots.begin() + std::ssize(in.sessions));
  std::vector<Session*> all;
  for (Session& session : in.sessions) {
    all.push_back(&session);
    in.tokens += session.prompt_size();
    in.work += prompt_work(model_.config, session.prompt_size());
  }
  in.name = title_of(in.ready[0]);
  if (all.size() > 1) in.name += fmt::format(" and {} that begin alike", all.size() - 1);
  stats_.shared_tokens += (std::ssize(all) - 1) * engine.shared_rows(all);
  progress_.prefill(in.name, in.tokens, 0);
  engine.begin_prefill(all);
}

/// Goes on with the prefill by so much work, and says how much it was.
double BatchJob::advance(Engine& engine, std::vector<Active>& active, double turn) {
  stop_if_asked();
  Incoming& in = *incoming_;
  const auto start = Progress::Clock::now();
  const std::int64_t h2d = engine.device().counters().h2d_bytes;
  const PrefillProgress now = engine.advance_prefill(turn, [&](const PrefillProgress& p) {
    tell_left(active, in.work * p.done / p.total, seconds_since(start));
    progress_.prefill(in.name, in.tokens, p.done / p.total);
    stop_if_asked();
  });
  const double seconds = seconds_since(start), work = now.done - in.done;
  in.done = now.done, in.total = now.total;
  turns_.prefilled(work, seconds);
  stats_.prefill_seconds += seconds;
  stats_.prefill_h2d_bytes += engine.device().counters().h2d_bytes - h2d;
  if (!engine.prefilling()) take_in(active);
  return work;
}

/// What has been prefilled decodes from now on.
void BatchJob::take_in(std::vector<Active>& active) {
  Incoming in = *std::exchange(incoming_, std::nullopt);
  work_done_ += in.work;
  work_left_ -= in.work;
  stats_.prompt_tokens += in.tokens;
  const auto now = Progress::Clock::now();
  for (std::size_t i = 0; i < in.ready.size(); ++i) {
    stats_.ttft.push_back(seconds_since(in.start));
    active.push_back({.index = in.ready[i].index,
                      .session = std::move(in.sessions[i]),
                      .alone = in.ready[i].alone,
                      .part = in.ready[i].part,
                      .notes = std::move(in.ready[i].notes),
                      .first_token = now,
                      .last_token = now,
                      .decoder = std::make_unique<StreamDecoder>(model_.tokenizer)});
    look_for_stop(active.back());
  }
}

void BatchJob::decode(Engine& engine, std::vector<Active>& active) {
  stop_if_asked();
  std::vector<Session*> sessions;
  for (Active& a : active) sessions.push_back(&a.session);
  const auto start = Progress::Clock::now();
  engine.step(sessions);
  const double seconds = seconds_since(start);
  turns_.stepped(seconds);
  stats_.decode_seconds += seconds;
  stats_.decoded_tokens += std::ssize(sessions);
  for (Active& a : active) {
    stats_.waits.push_back(seconds_since(std::exchange(a.last_token, Progress::Clock::now())));
    look_for_stop(a);
  }
  tell_left(active, incoming_ ? incoming_->work_behind() : 0);
  progress_.decode(std::ssize(sessions), stats_.decoded_tokens, stats_.decode_seconds);
}

}  // namespace longhaul
