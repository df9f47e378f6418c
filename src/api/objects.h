// SPDX-License-Identifier: Apache-2.0
// Kubernetes objects as plain values, with only the fields Fairlead uses. Decoders fill the API
// server's defaults, so code behind them never meets an absent optional it has to interpret.
// Values compare equal when nothing that we use differs; resourceVersion is therefore not in them.
#pragma once

#include <chrono>
#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "net/address.h"

namespace fairlead::api {

/// Namespace and name; Nodes have an empty namespace.
struct ObjectKey {
  std::string ns;
  std::string name;

  /// `ns/name`, or `name` without a namespace.
  [[nodiscard]] std::string text() const { return ns.empty() ? name : ns + "/" + name; }
  friend auto operator<=>(const ObjectKey&, const ObjectKey&) = default;
};

/// An object with several holders, none of which changes it.
template <typename Object>
using Shared = std::shared_ptr<const Object>;

using Labels = std::map<std::string, std::string>;

struct Meta {
  ObjectKey key;
  std::string uid;
  std::int64_t creation_time = 0;  // Unix seconds; 0 unknown
  Labels labels;
  /// Only the ones we read: prefixes `fairlead.io/` and `kube-router.io/service.`.
  Labels annotations;
  bool deleting = false;  // deletionTimestamp is set

  friend bool operator==(const Meta&, const Meta&) = default;
};

/// A container port by number or by name.
using TargetPort = std::variant<net::Port, std::string>;

struct ServicePort {
  std::string name;
  net::Protocol protocol = net::Protocol::kTcp;
  net::Port port{};
  TargetPort target_port;  // defaults to `port`
  net::Port node_port{};   // 0: none

  friend bool operator==(const ServicePort&, const ServicePort&) = default;
};

enum class ServiceType { kClusterIp, kNodePort, kLoadBalancer, kExternalName };

struct Service {
  Meta meta;
  ServiceType type = ServiceType::kClusterIp;
  std::vector<ServicePort> ports;
  Labels selector;
  /// From clusterIPs, else clusterIP. Empty for headless services and ones not allocated yet.
  std::vector<net::IpAddress> cluster_ips;
  bool headless = false;  // clusterIP: None
  std::vector<net::Family> ip_families;
  enum class FamilyPolicy { kUnset, kSingleStack, kPreferDualStack, kRequireDualStack };
  FamilyPolicy family_policy = FamilyPolicy::kUnset;
  std::vector<net::IpAddress> external_ips;
  /// status.loadBalancer.ingress[].ip with ipMode absent or VIP.
  std::vector<net::IpAddress> load_balancer_ips;
  std::vector<net::IpPrefix> source_ranges;
  /// Set for sessionAffinity ClientIP; the API's default is 10800 s.
  std::optional<std::chrono::seconds> client_ip_affinity;
  bool external_policy_local = false;
  bool internal_policy_local = false;
  bool publish_not_ready_addresses = false;
  bool allocate_node_ports = true;  // allocateLoadBalancerNodePorts
  net::Port health_check_node_port{};

  friend bool operator==(const Service&, const Service&) = default;
};

struct Endpoint {
  net::IpAddress address;  // addresses[0]: the only one that proxies use
  std::string node_name;   // empty: unknown
  std::string zone;
  std::vector<std::string> zone_hints;
  std::vector<std::string> node_hints;
  bool ready = true;
  bool serving = true;
  bool terminating = false;

  friend bool operator==(const Endpoint&, const Endpoint&) = default;
};

struct EndpointPort {
  std::string name;
  net::Protocol protocol = net::Protocol::kTcp;
  net::Port port{};

  friend bool operator==(const EndpointPort&, const EndpointPort&) = default;
};

/// One slice of one family. Of its metadata only the key and the service's name are kept. Slices of
/// type FQDN, ports without a number and endpoints of the wrong family are left out by the decoder.
struct EndpointSlice {
  Meta meta;
  std::string service_name;  // label kubernetes.io/service-name; same namespace
  net::Family family = net::Family::kIpv4;
  std::vector<EndpointPort> ports;
  std::vector<Endpoint> endpoints;

  [[nodiscard]] ObjectKey service() const { return {meta.key.ns, service_name}; }
  friend bool operator==(const EndpointSlice&, const EndpointSlice&) = default;
};

struct Node {
  Meta meta;
  std::vector<net::IpAddress> internal_ips;
  std::vector<net::IpAddress> external_ips;
  std::vector<net::IpPrefix> pod_cidrs;
  bool leaving = false;  // has taint ToBeDeletedByClusterAutoscaler

  friend bool operator==(const Node&, const Node&) = default;
};

struct ContainerPort {
  std::string name;
  net::Protocol protocol = net::Protocol::kTcp;
  net::Port port{};

  friend bool operator==(const ContainerPort&, const ContainerPort&) = default;
};

/// Only manifests have pods: slices are derived from them.
struct Pod {
  Meta meta;
  std::string node_name;
  std::vector<net::IpAddress> ips;
  /// Of the containers, then of init containers that keep running (restartPolicy Always): a named
  /// target port is the first of its name.
  std::vector<ContainerPort> ports;
  bool host_network = false;
  /// Condition Ready is True. A status without any conditions, as written by hand, counts as ready
  /// in phase Running or without one.
  bool ready = false;
  bool finished = false;  // phase Succeeded or Failed

  friend bool operator==(const Pod&, const Pod&) = default;
};

/// The pre-slice object; only manifests have it. Turned into slices as the mirroring controller
/// does.
struct Endpoints {
  struct Address {
    net::IpAddress ip;
    std::string node_name;
    friend bool operator==(const Address&, const Address&) = default;
  };
  struct Subset {
    std::vector<Address> addresses;
    std::vector<Address> not_ready_addresses;
    std::vector<EndpointPort> ports;
    friend bool operator==(const Subset&, const Subset&) = default;
  };
  Meta meta;
  std::vector<Subset> subsets;

  friend bool operator==(const Endpoints&, const Endpoints&) = default;
};

}  // namespace fairlead::api

template <>
struct std::hash<fairlead::api::ObjectKey> {
  std::size_t operator()(const fairlead::api::ObjectKey& key) const noexcept {
    return std::hash<std::string>{}(key.name) ^ (std::hash<std::string>{}(key.ns) << 1U);
  }
};
