// SPDX-License-Identifier: Apache-2.0
#include "plan/plan.h"

#include <tuple>

#include "base/text.h"

namespace fairlead::plan {
namespace {

template <typename T>
bool same(const std::shared_ptr<const T>& a, const std::shared_ptr<const T>& b) {
  return a == b || (a != nullptr && b != nullptr && *a == *b);
}

}  // namespace

std::string VirtualServerKey::text() const {
  if (mark != 0) {
    return "FWM " + std::to_string(mark) + (address.is_v4() ? "" : " IPv6");
  }
  return net::SocketAddress{address, port}.text() + "/" + std::string(net::text(protocol));
}

bool operator==(const ClassPolicy& a, const ClassPolicy& b) {
  return a.masquerade == b.masquerade && a.if_empty == b.if_empty &&
         a.allowed_sources == b.allowed_sources && same(a.servers, b.servers);
}

bool operator==(const VirtualServer& a, const VirtualServer& b) {
  const auto plain = [](const VirtualServer& v) {
    return std::tie(v.key, v.kind, v.owner, v.scheduler, v.persistence, v.persistence_prefix,
                    v.one_packet, v.drain_timeout, v.on_node_interface);
  };
  return plain(a) == plain(b) && a.classes == b.classes && same(a.hairpin, b.hairpin);
}

}  // namespace fairlead::plan

std::size_t std::hash<fairlead::plan::VirtualServerKey>::operator()(
    const fairlead::plan::VirtualServerKey& key) const noexcept {
  std::size_t seed = std::hash<fairlead::net::IpAddress>{}(key.address);
  fairlead::hash_mix(seed, (static_cast<std::size_t>(fairlead::net::number(key.port)) << 8U) |
                               static_cast<std::size_t>(key.protocol));
  fairlead::hash_mix(seed, key.mark);
  return seed;
}
