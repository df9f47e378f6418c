// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <type_traits>
#include <variant>

#include "base/text.h"
#include "ipvs/client.h"

namespace fairlead::ipvs {

std::string ServiceId::text() const {
  if (fwmark != 0) {
    return "FWM " + std::to_string(fwmark) + " " + std::string(net::text(address.family()));
  }
  return net::SocketAddress{address, port}.text() + "/" + std::string(net::text(protocol));
}

std::string text(const Op& op) {
  return std::visit(
      [](const auto& o) -> std::string {
        using T = std::decay_t<decltype(o)>;
        if constexpr (std::is_same_v<T, AddVirtualServer>) {
          return "add virtual server " + o.server.id.text();
        } else if constexpr (std::is_same_v<T, SetVirtualServer>) {
          return "set virtual server " + o.server.id.text();
        } else if constexpr (std::is_same_v<T, DeleteVirtualServer>) {
          return "delete virtual server " + o.id.text();
        } else if constexpr (std::is_same_v<T, AddRealServer>) {
          return "add real server " + o.server.socket().text() + " to " + o.id.text();
        } else if constexpr (std::is_same_v<T, SetRealServer>) {
          return "set real server " + o.server.socket().text() + " of " + o.id.text();
        } else {
          static_assert(std::is_same_v<T, DeleteRealServer>);
          return "delete real server " + o.server.text() + " from " + o.id.text();
        }
      },
      op);
}

}  // namespace fairlead::ipvs

std::size_t std::hash<fairlead::ipvs::ServiceId>::operator()(
    const fairlead::ipvs::ServiceId& id) const noexcept {
  std::size_t seed = std::hash<fairlead::net::IpAddress>{}(id.address);
  fairlead::hash_mix(seed, (std::size_t{id.fwmark} << 24U) |
                               (std::size_t{fairlead::net::number(id.port)} << 8U) |
                               static_cast<std::size_t>(id.protocol));
  return seed;
}
