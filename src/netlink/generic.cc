// SPDX-License-Identifier: Apache-2.0
#include "netlink/generic.h"

#include <cerrno>
#include <linux/genetlink.h>
#include <optional>
#include <string>

namespace fairlead::netlink {

Request generic_request(std::uint16_t family, std::uint8_t command, std::uint8_t version,
                        std::uint16_t flags) {
  Request request(family, flags);
  request.put_header(genlmsghdr{.cmd = command, .version = version, .reserved = 0});
  return request;
}

Attributes generic_attributes(const Message& message) {
  return message.attributes(sizeof(genlmsghdr));
}

Result<std::uint16_t> resolve_family(Socket& socket, std::string_view name) {
  const std::string context = "find netlink family \"" + std::string(name) + "\"";
  Request request = generic_request(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1);
  request.put_string(CTRL_ATTR_FAMILY_NAME, name);
  std::optional<std::uint16_t> id;
  const Status status = socket.get(request, [&](const Message& message) {
    if (message.type == GENL_ID_CTRL) {
      id = generic_attributes(message)[CTRL_ATTR_FAMILY_ID].u16();
    }
  });
  if (!status) {
    if (status.error().errno_value() == ENOENT) {
      return tl::unexpected(
          Error(ErrorKind::kUnavailable, context + ": the kernel has none of that name", ENOENT));
    }
    return fail(status.error().in(context));
  }
  if (!id) {
    return fail(ErrorKind::kSystem, context + ": the kernel's answer has no family id");
  }
  return *id;
}

}  // namespace fairlead::netlink
