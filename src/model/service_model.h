// SPDX-License-Identifier: Apache-2.0
// From the objects of one service to what its ports mean on this node: which addresses, which
// endpoints, how to choose among them. Pure; knows nothing of other services.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "api/objects.h"
#include "model/node.h"
#include "model/types.h"
#include "net/address.h"

namespace fairlead::model {

struct ServiceAddress {
  net::IpAddress address;
  AddressKind kind = AddressKind::kClusterIp;
  /// Already on an interface of the node. Always for node ports, never for ClusterIPs, which are
  /// bound whoever else has them.
  bool on_node_interface = false;
  /// What clients connect to: the service's port, or its node port.
  net::Port port{};
  /// Of kFirewallMark; the address is the unspecified one of the family then, without a port.
  std::uint32_t mark = 0;

  friend auto operator<=>(const ServiceAddress&, const ServiceAddress&) = default;
};

struct ServingEndpoint {
  net::IpAddress address;
  net::Port port{};
  bool is_local = false;
  std::uint32_t weight = 1;

  friend auto operator<=>(const ServingEndpoint&, const ServingEndpoint&) = default;
};

/// One port of a service in one family; or its firewall mark, whose endpoints are those of all
/// ports.
struct ServicePortModel {
  std::string name;  // `ns/name:port`, or `ns/name` if the port has no name
  net::Family family = net::Family::kIpv4;
  net::Protocol protocol = net::Protocol::kTcp;
  /// Without duplicates; where one address and port is of two kinds, the first in the order of
  /// `precedence` stays.
  std::vector<ServiceAddress> addresses;
  /// Who may get new connections; sorted by address and port, without duplicates.
  std::vector<ServingEndpoint> serving;
  /// All endpoints on this node in whatever state; sorted, without duplicates.
  std::vector<net::SocketAddress> local;
  Scheduler scheduler;
  std::optional<std::chrono::seconds> persistence;
  /// With persistence: leading bits by which clients are told apart; unset: all.
  std::optional<std::uint8_t> persistence_prefix;
  std::optional<std::chrono::seconds> drain_timeout;
  /// Of all addresses but node ports.
  ForwardingMethod forwarding;
  Thresholds thresholds;  // of each endpoint
  bool one_packet = false;
};

struct ServiceModel {
  std::vector<ServicePortModel> ports;
  std::vector<Problem> problems;  // sorted, without duplicates
  /// A change of the node's addresses can change this model.
  bool uses_node_addresses = false;
};

/// Which kind of address has the better right to an address and port; smaller wins. ClusterIPs and
/// load-balancer IPs are assigned by the cluster, and so are node ports, while anyone who may write
/// a service can name any external IP: that must never take another service's traffic.
[[nodiscard]] int precedence(AddressKind kind);

/// False for what is not ours to serve: headless, ExternalName, handed to another proxy, without a
/// ClusterIP.
[[nodiscard]] bool is_proxied(const api::Service& service);

/// `slices` are those of this service, in any order; the result does not depend on it.
[[nodiscard]] ServiceModel build(const api::Service& service,
                                 std::span<const api::EndpointSlice* const> slices,
                                 const NodeContext& node);

}  // namespace fairlead::model
