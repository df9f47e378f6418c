// SPDX-License-Identifier: Apache-2.0
// A network namespace of the test's own, for the routes that programs look up.
#pragma once

namespace fairlead::packets {

/// Leads to 198.51.100.0/24 and 2001:db8:2::/64, with an MTU of 1500.
inline constexpr const char* kServerDevice = "servers";

/// Moves the process into a new namespace with forwarding on and `kServerDevice`. Throws
/// std::runtime_error with the step that failed.
void become_router();

}  // namespace fairlead::packets
