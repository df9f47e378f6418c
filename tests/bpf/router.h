// SPDX-License-Identifier: Apache-2.0
// A network namespace of the test's own, for the routes that programs look up.
#pragma once

namespace fairlead::packets {

/// Leads to 198.51.100.0/24 and 2001:db8:2::/64, with an MTU of 1500.
inline constexpr const char* kServerDevice = "servers";
/// Leads to 192.0.2.0/24 and 2001:db8:1::/64.
inline constexpr const char* kClientDevice = "clients";
/// Link address of 198.51.100.1, 192.0.2.10 and their like, the only neighbours that are known.
inline constexpr const char* kNeighbour = "02:00:00:00:00:77";

/// Moves the process into a new namespace with forwarding on and these devices. Throws
/// std::runtime_error with the step that failed.
void become_router();

}  // namespace fairlead::packets
