// SPDX-License-Identifier: Apache-2.0
#include "event/rate.h"

#include <algorithm>
#include <utility>

namespace fairlead::event {

BoundedRunner::BoundedRunner(Loop& loop, Duration min_interval, std::function<void()> run)
    : loop_(loop),
      min_interval_(min_interval),
      run_(std::move(run)),
      timer_(loop.timer([this] { fire(); })) {}

BoundedRunner::~BoundedRunner() {
  if (destroyed_ != nullptr) {
    *destroyed_ = true;
  }
}

void BoundedRunner::retry_after(Duration delay) {
  const TimePoint wish = loop_.now() + delay;
  if (wanted_ && *wanted_ <= wish) {
    return;
  }
  wanted_ = wish;
  if (destroyed_ == nullptr) {
    arm(wish);
  }
}

void BoundedRunner::arm(TimePoint due) {
  if (last_end_) {
    due = std::max(due, *last_end_ + min_interval_);
  }
  timer_->start(due - loop_.now());
}

void BoundedRunner::fire() {
  wanted_.reset();
  bool destroyed = false;
  destroyed_ = &destroyed;
  // Of its own: the function may destroy this object, and with it `run_`.
  auto run = std::move(run_);
  run();
  if (destroyed) {
    return;
  }
  run_ = std::move(run);
  destroyed_ = nullptr;
  last_end_ = loop_.now();
  if (wanted_) {
    arm(*wanted_);
  }
}

}  // namespace fairlead::event
