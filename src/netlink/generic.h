// SPDX-License-Identifier: Apache-2.0
// Generic netlink: families are found by name.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"
#include "netlink/socket.h"

namespace fairlead::netlink {

/// A request to a generic family: its header is there already.
[[nodiscard]] Request generic_request(std::uint16_t family, std::uint8_t command,
                                      std::uint8_t version, std::uint16_t flags = 0);

/// Attributes of a message of a generic family.
[[nodiscard]] Attributes generic_attributes(const Message& message);

/// Id of the family `name`; asking may load its module. kUnavailable if the kernel has none such.
/// `socket` speaks NETLINK_GENERIC.
[[nodiscard]] Result<std::uint16_t> resolve_family(Socket& socket, std::string_view name);

}  // namespace fairlead::netlink
