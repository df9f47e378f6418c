// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <string>

#include "event/loop.h"

namespace fairlead::dataplane {

/// A failed object's error and the time of its next try. Pure but for the time passed in.
struct Retry {
  std::string error;
  unsigned attempts = 0;
  event::TimePoint next;

  /// Doubles from 1 s up to 60 s; `spread` (any hash) shifts by up to a quarter, so that objects
  /// that failed together are not retried together.
  void failed(std::string text, event::TimePoint now, std::size_t spread) {
    error = std::move(text);
    const auto base = std::chrono::milliseconds(1000LL << std::min(attempts, 6U));
    const auto capped = std::min(base, std::chrono::milliseconds(60'000));
    next = now + capped + (capped * static_cast<long>(spread % 256)) / 1024;
    ++attempts;
  }
};

}  // namespace fairlead::dataplane
