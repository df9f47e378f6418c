// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ipvs/sets.h"

#include <span>

#include "base/text.h"

namespace fairlead::dataplane::ipvs {
namespace {

using netlink::SetType;

constexpr std::array<SetInfo, kSetCount> kSets = {{
    {"KUBE-LOOP-BACK", "KUBE-6-LOOP-BACK", SetType::kHashIpPortIp},
    {"KUBE-CLUSTER-IP", "KUBE-6-CLUSTER-IP", SetType::kHashIpPort},
    {"KUBE-EXTERNAL-IP", "KUBE-6-EXTERNAL-IP", SetType::kHashIpPort},
    {"KUBE-EXTERNAL-IP-LOCAL", "KUBE-6-EXTERNAL-IP-LOCAL", SetType::kHashIpPort},
    {"KUBE-LOAD-BALANCER", "KUBE-6-LOAD-BALANCER", SetType::kHashIpPort},
    {"KUBE-LOAD-BALANCER-FW", "KUBE-6-LOAD-BALANCER-FW", SetType::kHashIpPort},
    {"KUBE-LOAD-BALANCER-LOCAL", "KUBE-6-LOAD-BALANCER-LOCAL", SetType::kHashIpPort},
    {"KUBE-LOAD-BALANCER-SOURCE-IP", "KUBE-6-LOAD-BALANCER-SOURCE-IP", SetType::kHashIpPortIp},
    {"KUBE-LOAD-BALANCER-SOURCE-CIDR", "KUBE-6-LOAD-BALANCER-SOURCE-CID", SetType::kHashIpPortNet},
    {"KUBE-NODE-PORT-TCP", "KUBE-6-NODE-PORT-TCP", SetType::kBitmapPort},
    {"KUBE-NODE-PORT-LOCAL-TCP", "KUBE-6-NODE-PORT-LOCAL-TCP", SetType::kBitmapPort},
    {"KUBE-NODE-PORT-UDP", "KUBE-6-NODE-PORT-UDP", SetType::kBitmapPort},
    {"KUBE-NODE-PORT-LOCAL-UDP", "KUBE-6-NODE-PORT-LOCAL-UDP", SetType::kBitmapPort},
    {"KUBE-NODE-PORT-SCTP-HASH", "KUBE-6-NODE-PORT-SCTP-HASH", SetType::kHashIpPort},
    {"KUBE-NODE-PORT-LOCAL-SCTP-HASH", "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS", SetType::kHashIpPort},
    {"KUBE-HEALTH-CHECK-NODE-PORT", "KUBE-6-HEALTH-CHECK-NODE-PORT", SetType::kBitmapPort},
    {"KUBE-IPVS-IPS", "KUBE-6-IPVS-IPS", SetType::kHashIp},
    {"FAIRLEAD-NODE-PORT", "FAIRLEAD-6-NODE-PORT", SetType::kHashIpPort},
}};

Claim member_claim(SetId set, net::Family family, netlink::SetMember member) {
  return {Claim::Kind::kMember, set, family, member};
}

/// No virtual server has port 0, so that this meets none.
net::IpAddress as_address(std::uint32_t mark, net::Family family) {
  std::array<std::uint8_t, 16> bytes{};
  for (std::size_t i = 0; i < 4; ++i) {
    bytes.at(12 + i) = static_cast<std::uint8_t>(mark >> (24 - 8 * i));
  }
  return net::IpAddress::from_bytes(family == net::Family::kIpv4 ? std::span(bytes).last(4)
                                                                 : std::span(bytes));
}

Claim key_claim(SetId set, const plan::VirtualServerKey& key) {
  netlink::SetMember member;
  member.ip = key.mark == 0 ? key.address : as_address(key.mark, key.address.family());
  member.protocol = key.protocol;
  member.port = key.port;
  return member_claim(set, key.address.family(), member);
}

Claim address_member_claim(const net::IpAddress& address) {
  netlink::SetMember member;
  member.ip = address;
  return member_claim(SetId::kIpvsIps, address.family(), member);
}

Claim bound_address_claim(const net::IpAddress& address) {
  Claim claim;
  claim.kind = Claim::Kind::kAddress;
  claim.family = address.family();
  claim.member.ip = address;
  return claim;
}

Claim hairpin_claim(const net::SocketAddress& endpoint, net::Protocol protocol) {
  netlink::SetMember member;
  member.ip = endpoint.address;
  member.protocol = protocol;
  member.port = endpoint.port;
  member.second = net::IpPrefix::host(endpoint.address);
  return member_claim(SetId::kLoopBack, endpoint.address.family(), member);
}

SetId set_of(plan::AddressKind kind, net::Protocol protocol) {
  switch (kind) {
    case plan::AddressKind::kClusterIp:
      return SetId::kClusterIp;
    case plan::AddressKind::kExternalIp:
      return SetId::kExternalIp;
    case plan::AddressKind::kLoadBalancerIp:
      return SetId::kLoadBalancer;
    case plan::AddressKind::kFirewallMark:
      return SetId::kOwnedNodePorts;
    case plan::AddressKind::kNodePort:
      break;
  }
  switch (protocol) {
    case net::Protocol::kTcp:
      return SetId::kNodePortTcp;
    case net::Protocol::kUdp:
      return SetId::kNodePortUdp;
    case net::Protocol::kSctp:
      break;
  }
  return SetId::kNodePortSctp;
}

Claim port_claim(SetId set, const plan::VirtualServerKey& key) {
  netlink::SetMember member;
  member.port = key.port;
  return member_claim(set, key.address.family(), member);
}

}  // namespace

const SetInfo& info(SetId id) { return kSets.at(static_cast<std::size_t>(id)); }

std::string set_name(SetId id, net::Family family) {
  return std::string(family == net::Family::kIpv4 ? info(id).name : info(id).name_v6);
}

std::string Claim::text() const {
  if (kind == Kind::kAddress) {
    return "address " + member.ip.text();
  }
  return "member " + member.text(info(set).type) + " of set " + set_name(set, family);
}

std::vector<Claim> claims(const plan::VirtualServer& server) {
  std::vector<Claim> wanted;
  const SetId set = set_of(server.kind, server.key.protocol);
  wanted.push_back(info(set).type == SetType::kBitmapPort ? port_claim(set, server.key)
                                                          : key_claim(set, server.key));
  if (server.kind == plan::AddressKind::kNodePort) {
    wanted.push_back(key_claim(SetId::kOwnedNodePorts, server.key));
  } else if (server.kind == plan::AddressKind::kClusterIp || !server.on_node_interface) {
    wanted.push_back(address_member_claim(server.key.address));
    wanted.push_back(bound_address_claim(server.key.address));
  }
  if (server.hairpin != nullptr) {
    for (const net::SocketAddress& endpoint : *server.hairpin) {
      wanted.push_back(hairpin_claim(endpoint, server.key.protocol));
    }
  }
  return wanted;
}

std::vector<Claim> ownership_claims(const plan::VirtualServerKey& key) {
  return {key_claim(SetId::kClusterIp, key),       key_claim(SetId::kExternalIp, key),
          key_claim(SetId::kExternalIpLocal, key), key_claim(SetId::kLoadBalancer, key),
          key_claim(SetId::kNodePortSctp, key),    key_claim(SetId::kOwnedNodePorts, key)};
}

Claim owned_node_port_claim(const plan::VirtualServerKey& key) {
  return key_claim(SetId::kOwnedNodePorts, key);
}

Claim ownership_mark(net::Family family) {
  netlink::SetMember member;
  member.ip = *net::IpAddress::parse(family == net::Family::kIpv4 ? "127.0.0.1" : "::1");
  member.port = net::Port{1};
  return member_claim(SetId::kOwnedNodePorts, family, member);
}

Claim node_port_bitmap_claim(const plan::VirtualServerKey& key) {
  const SetId set = set_of(plan::AddressKind::kNodePort, key.protocol);
  return info(set).type == SetType::kBitmapPort ? port_claim(set, key) : key_claim(set, key);
}

}  // namespace fairlead::dataplane::ipvs

std::size_t std::hash<fairlead::dataplane::ipvs::Claim>::operator()(
    const fairlead::dataplane::ipvs::Claim& claim) const noexcept {
  const auto& member = claim.member;
  std::size_t seed =
      (static_cast<std::size_t>(claim.kind) << 8U) | static_cast<std::size_t>(claim.set);
  fairlead::hash_mix_value(seed, member.ip);
  fairlead::hash_mix(seed, (static_cast<std::size_t>(member.protocol) << 16U) |
                               fairlead::net::number(member.port));
  fairlead::hash_mix_value(seed, member.second.address());
  return seed;
}
