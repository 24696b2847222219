#include "runtime/plan/machine_profile.h"

#include <utility>

#include "kernels/base/durable_file.h"
#include "kernels/base/file.h"
#include "runtime/checkpoint/json_file.h"

namespace longhaul {
namespace {

constexpr std::pair<GatherRoute, const char*> kRoutes[] = {
    {GatherRoute::zero_copy, "zero_copy"}, {GatherRoute::host, "host"}, {GatherRoute::both, "both"}};

const char* name_of(GatherRoute route) {
  for (const auto& [value, name] : kRoutes)
    if (value == route) return name;
  return "";
}

constexpr double kLeastRate = 1e-6, kMostRate = 1e15;
constexpr std::int64_t kVersion = 1;

GatherChoice read_gather(const nlohmann::json& json, const std::string& where) {
  JsonObject gather(json, where, Exit::usage);
  const std::string route = gather.require("route", gather.text("route"));
  const auto* known = std::ranges::find(kRoutes, route, &std::pair<GatherRoute, const char*>::second);
  if (known == std::end(kRoutes)) gather.refuse("route", "zero_copy, host or both");
  const GatherChoice choice{
      .route = known->first,
      .host_share = gather.require("host_share", gather.number("host_share", 0, 1)),
      .host_threads = static_cast<int>(gather.require("host_threads", gather.whole("host_threads", 0, 1 << 16)))};
  gather.finish();
  return choice;
}

LinkProfile read_link(const nlohmann::json& json, const std::string& where) {
  JsonObject link(json, where, Exit::usage);
  auto rate = [&](const char* key, double least) { return link.require(key, link.number(key, least, kMostRate)); };
  LinkProfile profile{.h2d_GBps = rate("h2d_GBps", kLeastRate),
                      .d2h_GBps = rate("d2h_GBps", kLeastRate),
                      .zero_copy_run = rate("zero_copy_run_rows_per_s", 0),
                      .zero_copy_scattered = rate("zero_copy_scattered_rows_per_s", 0),
                      .host_scattered = rate("host_scattered_rows_per_s", 0),
                      .both_scattered = rate("both_scattered_rows_per_s", 0),
                      .gather = {}};
  const nlohmann::json* gather = link.take("gather");
  if (gather == nullptr) link.missing("gather");
  link.finish();
  profile.gather = read_gather(*gather, where + ".gather");
  return profile;
}

DeviceRates read_rates(const nlohmann::json& json, const std::string& where) {
  JsonObject object(json, where, Exit::usage);
  auto rate = [&](const char* key) { return object.require(key, object.number(key, kLeastRate, kMostRate)); };
  const DeviceRates rates{.copy_GBps = rate("copy_GBps"),
                          .product_TFLOPs = rate("product_TFLOPs"),
                          .attention_TFLOPs = rate("attention_TFLOPs"),
                          .pin_GiBps = rate("pin_GiBps")};
  object.finish();
  return rates;
}

}  // namespace

MachineProfile read_machine_profile(const std::filesystem::path& file) {
  const std::string name = file.string();
  const nlohmann::json json = read_json_file(file, 1 << 20, Exit::usage);
  JsonObject top(json, name, Exit::usage);
  if (top.require("version", top.whole("version", 1, 1 << 20)) != kVersion)
    throw UserError(Exit::usage, "{}: a machine profile of another version; run longhaul doctor again", name);
  MachineProfile profile;
  profile.device = top.require("device", top.text("device"));
  const nlohmann::json *link = top.take("link"), *rates = top.take("rates");
  if (link == nullptr) top.missing("link");
  if (rates == nullptr) top.missing("rates");
  top.finish();
  profile.link = read_link(*link, name + ": link");
  profile.rates = read_rates(*rates, name + ": rates");
  return profile;
}

nlohmann::ordered_json to_json(const MachineProfile& profile) {
  const LinkProfile& link = profile.link;
  const DeviceRates& rates = profile.rates;
  return {{"version", kVersion},
          {"device", profile.device},
          {"link",
           {{"h2d_GBps", link.h2d_GBps},
            {"d2h_GBps", link.d2h_GBps},
            {"zero_copy_run_rows_per_s", link.zero_copy_run},
            {"zero_copy_scattered_rows_per_s", link.zero_copy_scattered},
            {"host_scattered_rows_per_s", link.host_scattered},
            {"both_scattered_rows_per_s", link.both_scattered},
            {"gather",
             {{"route", name_of(link.gather.route)},
              {"host_share", link.gather.host_share},
              {"host_threads", link.gather.host_threads}}}}},
          {"rates",
           {{"copy_GBps", rates.copy_GBps},
            {"product_TFLOPs", rates.product_TFLOPs},
            {"attention_TFLOPs", rates.attention_TFLOPs},
            {"pin_GiBps", rates.pin_GiBps}}}};
}

void write_machine_profile(const std::filesystem::path& file, const MachineProfile& profile) {
  const Fd fd(replace_file(system_disk(), "profile", file, -1, to_json(profile).dump(2) + '\n'));
  if (fd < 0) fail_write(file, "");
}

}  // namespace longhaul
