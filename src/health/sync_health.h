// SPDX-License-Identifier: Apache-2.0
// Is the proxy keeping up? Healthy as long as no change has waited longer than the timeout for a
// sync that worked. No changes: healthy for ever; source away: healthy, what is programmed holds.
// Pure: time comes in. Of one thread.
#pragma once

#include <chrono>
#include <map>
#include <optional>

#include "event/loop.h"
#include "net/address.h"

namespace fairlead::health {

/// One moment on both clocks: ages are monotonic, what is printed is not.
struct Now {
  event::TimePoint steady;
  std::chrono::system_clock::time_point wall;
};

struct FamilyHealth {
  bool healthy = true;
  /// Now while healthy; else the last sync that worked (the start if there was none).
  std::chrono::system_clock::time_point last_updated;

  friend bool operator==(const FamilyHealth&, const FamilyHealth&) = default;
};

struct HealthSnapshot {
  std::chrono::system_clock::time_point now;
  std::map<net::Family, FamilyHealth> families;
  /// The node is not about to go (deleted, tainted by the autoscaler).
  bool node_eligible = true;

  [[nodiscard]] bool healthy() const;
  /// The oldest of the families.
  [[nodiscard]] std::chrono::system_clock::time_point last_updated() const;
};

class SyncHealth {
 public:
  /// kube-proxy's timeout is twice the sync period.
  explicit SyncHealth(event::Duration timeout) : timeout_(timeout) {}

  /// The family is served from now on.
  void started(net::Family family, const Now& now);
  /// A change waits. Ignored before `started`.
  void queued(net::Family family, const Now& now);
  /// A sync that began after every change so far has worked.
  void synced(net::Family family, const Now& now);
  [[nodiscard]] HealthSnapshot snapshot(const Now& now, bool node_eligible) const;

 private:
  struct State {
    std::chrono::system_clock::time_point updated;
    std::optional<event::TimePoint> pending_since;
  };
  event::Duration timeout_;
  std::map<net::Family, State> families_;
};

}  // namespace fairlead::health
