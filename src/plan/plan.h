// SPDX-License-Identifier: Apache-2.0
// The desired state in IPVS words, the same for every data plane. Values are immutable and shared
// by pointer: planner and data plane hold the same objects, also across threads.
#pragma once

#include <array>
#include <chrono>
#include <compare>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/types.h"
#include "net/address.h"

namespace fairlead::plan {

/// Identity of a virtual server: address, port and protocol; or family and firewall mark, and then
/// the address is the family's unspecified one, without a port, and the protocol TCP.
struct VirtualServerKey {
  net::IpAddress address;
  net::Port port{};
  net::Protocol protocol = net::Protocol::kTcp;
  std::uint32_t mark = 0;

  /// `10.96.0.1:80/TCP`, `[2001:db8::1]:53/UDP`, `FWM 7`, `FWM 7 IPv6`.
  [[nodiscard]] std::string text() const;
  friend auto operator<=>(const VirtualServerKey&, const VirtualServerKey&) = default;
};

using model::AddressKind;
using model::Forwarding;
using model::ForwardingMethod;
using model::Scheduler;
using model::text;
using model::Thresholds;
using model::TunnelType;

struct RealServer {
  net::IpAddress address;
  net::Port port{};
  ForwardingMethod method;
  bool is_local = false;  // on this node
  std::uint32_t weight = 1;
  Thresholds thresholds{};

  [[nodiscard]] net::SocketAddress socket() const { return {address, port}; }
  friend auto operator<=>(const RealServer&, const RealServer&) = default;
};
/// Sorted by address and port, without duplicates; never null.
using RealServers = std::shared_ptr<const std::vector<RealServer>>;

/// Who sends: a host outside the cluster, a pod, or a process on a node.
enum class ClientClass : std::uint8_t { kExternal, kPod, kNode };
inline constexpr std::size_t kClientClasses = 3;

/// What becomes of a connection when the class's set is empty.
enum class EmptyVerdict : std::uint8_t { kReject, kDrop };

/// How one client class is served. All classes of a virtual server share one set until traffic
/// policies tell them apart.
struct ClassPolicy {
  RealServers servers;
  bool masquerade = false;
  std::vector<net::IpPrefix> allowed_sources;  // empty: everyone
  EmptyVerdict if_empty = EmptyVerdict::kReject;
};

struct VirtualServer {
  VirtualServerKey key;
  AddressKind kind = AddressKind::kClusterIp;
  std::string owner;  // service port: `ns/name:port`, or `ns/name` if the port has no name
  Scheduler scheduler;
  /// Session affinity per client address.
  std::optional<std::chrono::seconds> persistence;
  /// Leading bits of the address by which clients are told apart; unset: all.
  std::optional<std::uint8_t> persistence_prefix;
  bool one_packet = false;
  /// How long a removed real server may keep its connections; unset: the data plane's default.
  std::optional<std::chrono::seconds> drain_timeout;
  /// The address is already on one of the node's own interfaces: it must not be bound a second
  /// time. Always so for node ports and firewall marks; never for ClusterIPs, which are bound
  /// whoever else has them.
  bool on_node_interface = false;
  std::array<ClassPolicy, kClientClasses> classes;
  /// Local endpoints of this service port in whatever state: a pod that reaches itself through the
  /// virtual server must be masqueraded, or it would see its own address as the peer. Sorted,
  /// without duplicates; never null.
  std::shared_ptr<const std::vector<net::SocketAddress>> hairpin;

  [[nodiscard]] const ClassPolicy& policy(ClientClass c) const {
    return classes[static_cast<std::size_t>(c)];
  }
};
/// Compares contents, not pointers.
[[nodiscard]] bool operator==(const ClassPolicy& a, const ClassPolicy& b);
[[nodiscard]] bool operator==(const VirtualServer& a, const VirtualServer& b);

using VirtualServerPtr = std::shared_ptr<const VirtualServer>;

/// A change of the plan. `put` replaces or adds; keys are unique within a delta, and both lists
/// are sorted by key.
struct Delta {
  std::vector<VirtualServerPtr> put;
  std::vector<VirtualServerKey> removed;

  [[nodiscard]] bool empty() const { return put.empty() && removed.empty(); }
};

}  // namespace fairlead::plan

template <>
struct std::hash<fairlead::plan::VirtualServerKey> {
  std::size_t operator()(const fairlead::plan::VirtualServerKey& key) const noexcept;
};
