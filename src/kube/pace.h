// SPDX-License-Identifier: Apache-2.0
// How often we knock at the API server. Pure: time and randomness come in as arguments.
#pragma once

#include <optional>

#include "event/loop.h"

namespace fairlead::kube {

/// The waits between failures: 0.8 s, doubling up to 15 s; the real wait lies between that and
/// twice that, so that the nodes of a cluster do not come back all at once. (kube-proxy's reach
/// 60 s: a long time to serve dead endpoints after the server is back.) Two minutes without a
/// failure start it anew.
class Backoff {
 public:
  /// The wait before the next try. `random` is in [0, 1).
  [[nodiscard]] event::Duration next(event::TimePoint now, double random);

 private:
  event::Duration base_{};
  std::optional<event::TimePoint> over_;  // when the last wait given out ends
};

/// Requests per second on average, and as many at once as `burst`. A rate of zero or less: no
/// limit.
class RateLimiter {
 public:
  RateLimiter(double per_second, double burst);
  /// Takes one place in the queue; how long to wait for one's turn.
  [[nodiscard]] event::Duration reserve(event::TimePoint now);

 private:
  double per_second_;
  double burst_;
  double tokens_;  // below zero: places already promised
  std::optional<event::TimePoint> last_;
};

}  // namespace fairlead::kube
