#include "kernels/base/pcie_link.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "kernels/base/system_file.h"

namespace longhaul {
namespace {

/// Gigatransfers a second of a lane, and the share of them that are data.
constexpr std::array<std::pair<double, double>, 6> kGenerations{
    {{2.5, 0.8}, {5, 0.8}, {8, 128.0 / 130}, {16, 128.0 / 130}, {32, 128.0 / 130}, {64, 242.0 / 256}}};

/// "16.0 GT/s PCIe"; 0 for "Unknown".
int generation(const std::string& speed) {
  const double rate = std::strtod(speed.c_str(), nullptr);
  const auto known = std::ranges::find(kGenerations, rate, &std::pair<double, double>::first);
  return known == kGenerations.end() ? 0 : static_cast<int>(known - kGenerations.begin()) + 1;
}

int lanes(const std::filesystem::path& file) {
  const auto width = number_in(file).value_or(0);
  return width >= 1 && width <= 32 ? static_cast<int>(width) : 0;
}

}  // namespace

double PcieLink::peak_GBps() const {
  if (!known() || gen > static_cast<int>(kGenerations.size())) return 0;
  const auto [rate, data] = kGenerations[static_cast<std::size_t>(gen - 1)];
  return rate * data * width / 8;
}

PcieLink pcie_link(const std::string& id, const std::filesystem::path& root) {
  const auto folder = root / "sys/bus/pci/devices" / id;
  return {.gen = generation(first_line(folder / "current_link_speed")),
          .width = lanes(folder / "current_link_width"),
          .max_gen = generation(first_line(folder / "max_link_speed")),
          .max_width = lanes(folder / "max_link_width")};
}

}  // namespace longhaul
