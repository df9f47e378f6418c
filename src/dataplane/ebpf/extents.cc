// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ebpf/extents.h"

#include <iterator>

namespace fairlead::dataplane::ebpf {

Extents::Extents(std::uint32_t size) {
  if (size > 1) {
    free_[1] = size - 1;
  }
}

std::optional<std::uint32_t> Extents::take(std::uint32_t length, event::TimePoint now) {
  settle(now);
  for (auto at = free_.begin(); at != free_.end(); ++at) {
    if (at->second >= length) {
      const auto [base, room] = *at;
      free_.erase(at);
      if (room > length) {
        free_[base + length] = room - length;
      }
      return base;
    }
  }
  return std::nullopt;
}

bool Extents::reserve(std::uint32_t base, std::uint32_t length) {
  auto at = free_.upper_bound(base);
  if (at == free_.begin()) {
    return false;
  }
  --at;
  const auto [start, room] = *at;
  if (base + length > start + room) {
    return false;
  }
  free_.erase(at);
  if (base > start) {
    free_[start] = base - start;
  }
  if (start + room > base + length) {
    free_[base + length] = start + room - (base + length);
  }
  return true;
}

void Extents::release(std::uint32_t base, std::uint32_t length, event::TimePoint now) {
  resting_.push_back({now, base, length});
}

void Extents::settle(event::TimePoint now) {
  while (!resting_.empty() && now - resting_.front().since >= kExtentRest) {
    insert(resting_.front().base, resting_.front().length);
    resting_.pop_front();
  }
}

void Extents::insert(std::uint32_t base, std::uint32_t length) {
  auto next = free_.lower_bound(base);
  if (next != free_.end() && next->first == base + length) {
    length += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == base) {
      before->second += length;
      return;
    }
  }
  free_[base] = length;
}

}  // namespace fairlead::dataplane::ebpf
