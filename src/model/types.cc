// SPDX-License-Identifier: Apache-2.0
#include "model/types.h"

namespace fairlead::model {

std::string_view text(AddressKind kind) {
  switch (kind) {
    case AddressKind::kClusterIp:
      return "cluster-ip";
    case AddressKind::kExternalIp:
      return "external-ip";
    case AddressKind::kLoadBalancerIp:
      return "load-balancer-ip";
    case AddressKind::kNodePort:
      return "node-port";
    case AddressKind::kFirewallMark:
      return "firewall-mark";
  }
  return "?";
}

std::string ForwardingMethod::text() const {
  switch (forwarding) {
    case Forwarding::kMasquerade:
      return "nat";
    case Forwarding::kFullNat:
      return "fullnat";
    case Forwarding::kDirectRouting:
      return "direct";
    case Forwarding::kTunnel:
      break;
  }
  switch (tunnel) {
    case TunnelType::kIpip:
      return "ipip";
    case TunnelType::kGue:
      return "gue:" + std::to_string(net::number(tunnel_port));
    case TunnelType::kGre:
      return "gre";
  }
  return "?";
}

std::string Thresholds::text() const {
  return std::to_string(upper) + (lower == 0 ? "" : ":" + std::to_string(lower));
}

std::string Problem::text() const { return object + ": " + field + ": " + what; }

}  // namespace fairlead::model
