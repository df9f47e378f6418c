// SPDX-License-Identifier: Apache-2.0
// Room in the array of slots. Pure.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>

#include "event/loop.h"

namespace fairlead::dataplane::ebpf {

/// What was freed rests before it is given out again: a program may still be reading it.
inline constexpr event::Duration kExtentRest = std::chrono::seconds(1);

class Extents {
 public:
  /// Slot 0 is not given out.
  explicit Extents(std::uint32_t size);

  /// First fit. nullopt: no room.
  [[nodiscard]] std::optional<std::uint32_t> take(std::uint32_t length, event::TimePoint now);
  /// Marks as taken what an earlier process took. False if it is not free.
  [[nodiscard]] bool reserve(std::uint32_t base, std::uint32_t length);
  void release(std::uint32_t base, std::uint32_t length, event::TimePoint now);

 private:
  struct Resting {
    event::TimePoint since;
    std::uint32_t base, length;
  };
  void settle(event::TimePoint now);
  void insert(std::uint32_t base, std::uint32_t length);

  std::map<std::uint32_t, std::uint32_t> free_;  // base -> length; neighbours are merged
  std::deque<Resting> resting_;
};

}  // namespace fairlead::dataplane::ebpf
