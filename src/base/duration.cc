// SPDX-License-Identifier: Apache-2.0
#include "base/duration.h"

#include <array>
#include <charconv>
#include <string>
#include <utility>

namespace fairlead {
namespace {

struct Unit {
  std::string_view name;
  double nanoseconds;
};
// Longer names first where one begins like another.
constexpr std::array<Unit, 8> kUnits = {{{"ns", 1},
                                         {"us", 1e3},
                                         {"\u00b5s", 1e3},
                                         {"\u03bcs", 1e3},
                                         {"ms", 1e6},
                                         {"s", 1e9},
                                         {"m", 60e9},
                                         {"h", 3600e9}}};
constexpr double kLongest = 9e18;

}  // namespace

Result<std::chrono::nanoseconds> parse_duration(std::string_view text) {
  const auto bad = [&] {
    return fail(ErrorKind::kInvalidInput,
                "\"" + std::string(text) + "\" is not a duration (such as 30s, 1m30s, 250ms or 0)");
  };
  if (text == "0") {
    return std::chrono::nanoseconds(0);
  }
  std::string_view rest = text;
  double total = 0;
  if (rest.empty()) {
    return bad();
  }
  while (!rest.empty()) {
    if (rest.front() != '.' && (rest.front() < '0' || rest.front() > '9')) {
      return bad();
    }
    double number = 0;
    const auto [end, error] =
        std::from_chars(rest.data(), rest.data() + rest.size(), number, std::chars_format::fixed);
    if (error != std::errc{}) {
      return bad();
    }
    rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
    const Unit* unit = nullptr;
    for (const Unit& candidate : kUnits) {
      if (rest.starts_with(candidate.name)) {
        unit = &candidate;
        break;
      }
    }
    if (unit == nullptr) {
      return bad();
    }
    rest.remove_prefix(unit->name.size());
    total += number * unit->nanoseconds;
    if (total > kLongest) {
      return bad();
    }
  }
  return std::chrono::nanoseconds(static_cast<std::int64_t>(total));
}

}  // namespace fairlead
