// SPDX-License-Identifier: Apache-2.0
#include "health/sync_health.h"

#include <algorithm>

namespace fairlead::health {

bool HealthSnapshot::healthy() const {
  return std::ranges::all_of(families, [](const auto& entry) { return entry.second.healthy; });
}

std::chrono::system_clock::time_point HealthSnapshot::last_updated() const {
  auto oldest = now;
  for (const auto& [family, health] : families) {
    oldest = std::min(oldest, health.last_updated);
  }
  return oldest;
}

void SyncHealth::started(net::Family family, const Now& now) {
  families_.try_emplace(family, State{.updated = now.wall, .pending_since = {}});
}

void SyncHealth::queued(net::Family family, const Now& now) {
  const auto state = families_.find(family);
  if (state != families_.end() && !state->second.pending_since) {
    state->second.pending_since = now.steady;
  }
}

void SyncHealth::synced(net::Family family, const Now& now) {
  families_[family] = State{.updated = now.wall, .pending_since = {}};
}

HealthSnapshot SyncHealth::snapshot(const Now& now, bool node_eligible) const {
  HealthSnapshot snapshot{.now = now.wall, .families = {}, .node_eligible = node_eligible};
  for (const auto& [family, state] : families_) {
    const bool healthy = !state.pending_since || now.steady - *state.pending_since < timeout_;
    snapshot.families[family] =
        FamilyHealth{.healthy = healthy, .last_updated = healthy ? now.wall : state.updated};
  }
  return snapshot;
}

}  // namespace fairlead::health
