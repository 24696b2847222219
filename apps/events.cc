#include "apps/events.h"

#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <mutex>

#include "runtime/batch/record.h"

namespace longhaul {
namespace {

class EventSink final : public spdlog::sinks::base_sink<std::mutex> {
  void sink_it_(const spdlog::details::log_msg& message) override {
    auto text = [](spdlog::string_view_t view) { return std::string(view.data(), view.size()); };
    fmt::print(stderr, "{}",
               record_line({{"event", "log"},
                            {"level", text(spdlog::level::to_string_view(message.level))},
                            {"message", text(message.payload)}}));
  }
  void flush_() override { std::fflush(stderr); }
};

}  // namespace

void log_as_events() { spdlog::default_logger()->sinks() = {std::make_shared<EventSink>()}; }

std::string error_event(const std::string& message, std::optional<Exit> exit) {
  nlohmann::ordered_json event{{"event", "error"}};
  if (exit) event["exit"] = static_cast<int>(*exit);
  event["message"] = message;
  return record_line(event);
}

}  // namespace longhaul
