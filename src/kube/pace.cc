// SPDX-License-Identifier: Apache-2.0
#include "kube/pace.h"

#include <algorithm>
#include <chrono>

namespace fairlead::kube {
namespace {

using std::chrono::duration_cast;
using Seconds = std::chrono::duration<double>;

constexpr event::Duration kFirst = std::chrono::milliseconds(800);
constexpr event::Duration kCap = std::chrono::seconds(15);
constexpr event::Duration kForget = std::chrono::minutes(2);

}  // namespace

event::Duration Backoff::next(event::TimePoint now, double random) {
  if (!over_ || now - *over_ >= kForget) {
    base_ = kFirst;
  } else {
    base_ = std::min(base_ * 2, kCap);
  }
  const event::Duration wait =
      base_ + duration_cast<event::Duration>(Seconds(base_) * std::clamp(random, 0.0, 1.0));
  over_ = now + wait;
  return wait;
}

RateLimiter::RateLimiter(double per_second, double burst)
    : per_second_(per_second), burst_(std::max(burst, 1.0)), tokens_(burst_) {}

event::Duration RateLimiter::reserve(event::TimePoint now) {
  if (per_second_ <= 0) {
    return event::Duration::zero();
  }
  if (last_) {
    tokens_ = std::min(burst_, tokens_ + Seconds(now - *last_).count() * per_second_);
  }
  last_ = now;
  tokens_ -= 1.0;
  if (tokens_ >= 0) {
    return event::Duration::zero();
  }
  return duration_cast<event::Duration>(Seconds(-tokens_ / per_second_));
}

}  // namespace fairlead::kube
