// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "event/loop.h"

namespace fairlead::event {

/// Runs a function when asked to, but not sooner than `min_interval` after the end of its former
/// run. Requests in between coalesce into one run; the first runs in the loop's next turn. A run
/// answers every request and retry made before it began; those made while it runs ask for another
/// one. May be destroyed by the function it runs. Of the loop's thread.
class BoundedRunner {
 public:
  BoundedRunner(Loop& loop, Duration min_interval, std::function<void()> run);
  BoundedRunner(const BoundedRunner&) = delete;
  BoundedRunner& operator=(const BoundedRunner&) = delete;
  ~BoundedRunner();

  void request() { retry_after(Duration::zero()); }
  /// A request that may wait: runs after `delay` (and `min_interval`) unless something asks for
  /// an earlier run.
  void retry_after(Duration delay);
  /// A run is asked for and has not begun.
  [[nodiscard]] bool pending() const { return wanted_.has_value(); }

 private:
  void arm(TimePoint due);
  void fire();

  Loop& loop_;
  Duration min_interval_;
  std::function<void()> run_;
  std::unique_ptr<Timer> timer_;
  std::optional<TimePoint> wanted_;  // the earliest wish
  std::optional<TimePoint> last_end_;
  bool* destroyed_ = nullptr;  // set while running
};

}  // namespace fairlead::event
