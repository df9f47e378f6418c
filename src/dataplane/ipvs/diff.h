// SPDX-License-Identifier: Apache-2.0
// Desired against known state of one virtual server, and what follows from it. Pure.
#pragma once

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "event/loop.h"
#include "ipvs/client.h"
#include "plan/plan.h"

namespace fairlead::dataplane::ipvs {

using event::TimePoint;

/// One identity in the kernel's words and in the plan's.
[[nodiscard]] fairlead::ipvs::ServiceId id_of(const plan::VirtualServerKey& key);
[[nodiscard]] plan::VirtualServerKey key_of(const fairlead::ipvs::ServiceId& id);

/// What we want the kernel to hold for one virtual server.
struct Desired {
  fairlead::ipvs::VirtualServer server;
  std::vector<fairlead::ipvs::RealServer> real_servers;  // sorted by address and port
};

/// The plan's virtual server in the kernel's words. `scheduler` replaces the plan's scheduler (the
/// kernel lacks it); its flags go with it.
[[nodiscard]] Desired desired(const plan::VirtualServer& server,
                              const std::optional<std::string>& scheduler = std::nullopt);

struct KnownRealServer {
  fairlead::ipvs::RealServer server;
  /// Set while it is unwanted and its connections may end in peace; from then on it goes.
  std::optional<TimePoint> drain_until;
};

/// What the kernel last acknowledged, or showed, for one virtual server.
struct Known {
  fairlead::ipvs::VirtualServer server;
  std::vector<KnownRealServer> real_servers;  // sorted by address and port
};

[[nodiscard]] Known known(const fairlead::ipvs::ObservedVirtualServer& observed);

/// The operations that lead from `known` (null: not in the kernel) to `desired` (null: to be
/// removed). Real servers join before others drain, drain before they leave. An unwanted TCP real
/// server gets weight 0 here and leaves through `finish_drains`; UDP and SCTP ones leave at once.
/// A virtual server leaves when its last real server has left.
[[nodiscard]] std::vector<fairlead::ipvs::Op> diff(const fairlead::ipvs::ServiceId& id,
                                                   const Desired* desired, const Known* known);

/// Books a successful operation.
void acknowledge(std::optional<Known>& known, const fairlead::ipvs::Op& op);

/// Gives every unwanted real server at weight 0 a deadline, takes it from wanted ones. Returns
/// whether any is draining.
bool arm_drains(Known& known, const Desired* desired, TimePoint now,
                std::chrono::seconds drain_timeout);

/// Deletes for draining real servers without connections in `observed`, or past their deadline.
/// Inactive connections count (a half-closed one may still carry a download), unless the whole
/// virtual server is going: then only active ones hold it, or an address nobody wants would be
/// held for two minutes by connections that have merely not been forgotten yet.
[[nodiscard]] std::vector<fairlead::ipvs::Op> finish_drains(
    const Known& known, const fairlead::ipvs::ObservedVirtualServer& observed, bool server_is_going,
    TimePoint now);

}  // namespace fairlead::dataplane::ipvs
