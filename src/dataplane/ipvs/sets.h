// SPDX-License-Identifier: Apache-2.0
// Which sets and addresses a virtual server needs besides its entry in the IPVS table. Pure.
// Names, types and membership: kube-proxy-ipvs.md section 4.2.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "netlink/ipset.h"
#include "plan/plan.h"

namespace fairlead::dataplane::ipvs {

/// The sets in kube-proxy's order, then our own. The numbers index kSets.
enum class SetId : std::uint8_t {
  kLoopBack,
  kClusterIp,
  kExternalIp,
  kExternalIpLocal,
  kLoadBalancer,
  kLoadBalancerFw,
  kLoadBalancerLocal,
  kLoadBalancerSourceIp,
  kLoadBalancerSourceCidr,
  kNodePortTcp,
  kNodePortLocalTcp,
  kNodePortUdp,
  kNodePortLocalUdp,
  kNodePortSctp,
  kNodePortLocalSctp,
  kHealthCheckNodePort,
  kIpvsIps,
  /// Ours: which node-port virtual servers we made, for kube-proxy's bitmaps hold only port
  /// numbers, by which nobody could tell our virtual server from a foreign one on the same port.
  /// And which of firewall marks: mark 7 is the member 0.0.0.7,tcp:0, or ::7,tcp:0.
  kOwnedNodePorts,
};
inline constexpr std::size_t kSetCount = 18;

struct SetInfo {
  std::string_view name;     // IPv4
  std::string_view name_v6;  // cut to 31 characters as kube-proxy cuts it
  netlink::SetType type;
};
[[nodiscard]] const SetInfo& info(SetId id);
[[nodiscard]] std::string set_name(SetId id, net::Family family);

/// Something a virtual server needs: membership in a set, or its address bound on kube-ipvs0.
/// Several virtual servers may need the same; it goes when the last one goes.
struct Claim {
  enum class Kind : std::uint8_t { kMember, kAddress };
  Kind kind = Kind::kMember;
  SetId set = SetId::kClusterIp;            // of kMember
  net::Family family = net::Family::kIpv4;  // of the set
  netlink::SetMember member;                // kAddress: only `ip`

  [[nodiscard]] std::string text() const;
  friend auto operator<=>(const Claim&, const Claim&) = default;
};

/// Everything that `server` needs, without duplicates.
[[nodiscard]] std::vector<Claim> claims(const plan::VirtualServer& server);

/// Memberships by which a virtual server found in the kernel is known to be ours.
[[nodiscard]] std::vector<Claim> ownership_claims(const plan::VirtualServerKey& key);
/// The own entry in our set of a node port or a mark.
[[nodiscard]] Claim owned_node_port_claim(const plan::VirtualServerKey& key);
/// A member of our set (an address that no virtual server has) which says that the set is complete:
/// whatever node-port virtual server is not in it, is not ours. Missing before the first start.
[[nodiscard]] Claim ownership_mark(net::Family family);
/// kube-proxy's only trace of a node port: the bitmap entry; for taking over from it.
[[nodiscard]] Claim node_port_bitmap_claim(const plan::VirtualServerKey& key);

}  // namespace fairlead::dataplane::ipvs

template <>
struct std::hash<fairlead::dataplane::ipvs::Claim> {
  std::size_t operator()(const fairlead::dataplane::ipvs::Claim& claim) const noexcept;
};
