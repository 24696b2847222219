#include "runtime/machine_profile.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "kernels/base/file.h"
#include "runtime/json_file.h"

namespace longhaul {
namespace {

constexpr std::pair<GatherRoute, const char*> kRoutes[] = {
    {GatherRoute::zero_copy, "zero_copy"}, {GatherRoute::host, "host"}, {GatherRoute::both, "both"}};

const char* name_of(GatherRoute route) {
  for (const auto& [value, name] : kRoutes)
    if (value == route) return name;
  return "";
}

constexpr double kMostRate = 1e15;

}  // namespace

MachineProfile read_machine_profile(const std::filesystem::path& file) {
  const nlohmann::json json = read_json_file(file, 1 << 20, Exit::usage);
  JsonObject top(json, file.string(), Exit::usage);
  MachineProfile profile;
  profile.device = top.require("device", top.text("device"));
  const nlohmann::json* link_json = top.take("link");
  if (link_json == nullptr) top.missing("link");
  top.finish();
  JsonObject link(*link_json, file.string() + ": link", Exit::usage);
  auto rate = [&](const char* key) { return link.require(key, link.number(key, 0, kMostRate)); };
  profile.link.h2d_GBps = rate("h2d_GBps");
  profile.link.d2h_GBps = rate("d2h_GBps");
  profile.link.zero_copy_run = rate("zero_copy_run_rows_per_s");
  profile.link.zero_copy_scattered = rate("zero_copy_scattered_rows_per_s");
  profile.link.host_scattered = rate("host_scattered_rows_per_s");
  profile.link.both_scattered = rate("both_scattered_rows_per_s");
  const nlohmann::json* gather_json = link.take("gather");
  if (gather_json == nullptr) link.missing("gather");
  link.finish();
  JsonObject gather(*gather_json, file.string() + ": link.gather", Exit::usage);
  const std::string route = gather.require("route", gather.text("route"));
  const auto* known = std::ranges::find(kRoutes, route, &std::pair<GatherRoute, const char*>::second);
  if (known == std::end(kRoutes)) gather.refuse("route", "zero_copy, host or both");
  profile.link.gather = {
      .route = known->first,
      .host_share = gather.require("host_share", gather.number("host_share", 0, 1)),
      .host_threads = static_cast<int>(gather.require("host_threads", gather.whole("host_threads", 0, 1 << 16)))};
  gather.finish();
  return profile;
}

void write_machine_profile(const std::filesystem::path& file, const MachineProfile& profile) {
  const LinkProfile& link = profile.link;
  const nlohmann::ordered_json json{{"device", profile.device},
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
                                        {"host_threads", link.gather.host_threads}}}}}};
  const std::filesystem::path fresh = file.string() + ".new";
  auto fail = [&](const char* what) {
    throw UserError(Exit::io, "{}: cannot {}: {}", file.string(), what, std::strerror(errno));
  };
  {
    const Fd fd(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    if (fd < 0) fail("write");
    if (!write_all(fd, json.dump(2) + "\n") || ::fsync(fd) != 0) fail("write");
  }
  if (::rename(fresh.c_str(), file.c_str()) != 0) fail("replace");
}

}  // namespace longhaul
