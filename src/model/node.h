// SPDX-License-Identifier: Apache-2.0
// What the model has to know of the node it runs for, and how it was told to behave.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <unordered_set>
#include <vector>

#include "api/objects.h"
#include "model/types.h"
#include "net/address.h"

namespace fairlead::model {

/// Facts that may change while we run.
struct NodeFacts {
  std::string name;
  std::string zone;  // empty: unknown
  /// Of the Node object: internal before external ones.
  std::vector<net::IpAddress> node_ips;
  /// All addresses on interfaces of the node, but for those that data planes made themselves.
  /// Loopback and IPv6 link-local ones do not count and may be left out or not.
  std::vector<net::IpAddress> interface_addresses;
  std::vector<net::IpPrefix> pod_cidrs;

  friend bool operator==(const NodeFacts&, const NodeFacts&) = default;
};

/// All but the interface addresses, which the object does not tell; a caller without a kernel to
/// ask takes the node's IPs for them.
[[nodiscard]] NodeFacts node_facts(const api::Node& node);

/// Which of the node's addresses take node ports.
struct NodePortAddresses {
  bool primary = false;              // those of its addresses that are IPs of the Node object
  std::vector<net::IpPrefix> cidrs;  // else those in here; a family without any entry: all of it
};

/// How a data plane tells pods from others; decides what must be masqueraded.
enum class LocalDetection { kClusterCidr, kNodeCidr, kInterface };

/// Choices that shape the result and hold for a whole run.
struct ModelOptions {
  bool ipv4 = true;
  bool ipv6 = true;
  Scheduler default_scheduler;
  NodePortAddresses node_port_addresses;
  std::vector<net::IpPrefix> cluster_cidrs;
  LocalDetection local_detection = LocalDetection::kClusterCidr;
  bool masquerade_all = false;
  /// Bit of the firewall marks that rules set on what is to be masqueraded.
  std::uint32_t masquerade_mark = 0x4000;
};

/// Facts and options, worked out once for many services.
class NodeContext {
 public:
  NodeContext(NodeFacts facts, ModelOptions options);

  [[nodiscard]] const NodeFacts& facts() const { return facts_; }
  [[nodiscard]] const ModelOptions& options() const { return options_; }
  [[nodiscard]] bool supports(net::Family family) const {
    return family == net::Family::kIpv4 ? options_.ipv4 : options_.ipv6;
  }
  /// Sorted, without duplicates; of both families.
  [[nodiscard]] const std::vector<net::IpAddress>& node_port_addresses() const {
    return node_port_addresses_;
  }
  [[nodiscard]] bool on_interface(const net::IpAddress& address) const {
    return interface_addresses_.contains(address);
  }
  /// Whether pods can be told from others in this family. If not, only what the node itself sends
  /// is masqueraded on its way to a ClusterIP, as it leaves with that ClusterIP for its source.
  [[nodiscard]] bool detects_pods(net::Family family) const {
    return detects_pods_[family == net::Family::kIpv4 ? 0 : 1];
  }

 private:
  NodeFacts facts_;
  ModelOptions options_;
  std::unordered_set<net::IpAddress> interface_addresses_;
  std::vector<net::IpAddress> node_port_addresses_;
  std::array<bool, 2> detects_pods_{};
};

}  // namespace fairlead::model
