// SPDX-License-Identifier: Apache-2.0
#include "model/node.h"

#include <algorithm>
#include <span>
#include <utility>

namespace fairlead::model {
namespace {

bool usable(const net::IpAddress& address) {
  return !address.is_loopback() && !address.is_unspecified() && !address.is_multicast() &&
         (address.is_v4() || !address.is_link_local());
}

bool takes_node_ports(const net::IpAddress& address, const NodeFacts& facts,
                      const NodePortAddresses& chosen) {
  if (chosen.primary) {
    return std::ranges::find(facts.node_ips, address) != facts.node_ips.end();
  }
  bool family_named = false;
  for (const net::IpPrefix& cidr : chosen.cidrs) {
    if (cidr.contains(address)) {
      return true;
    }
    family_named = family_named || cidr.family() == address.family();
  }
  return !family_named;
}

bool has_family(std::span<const net::IpPrefix> prefixes, net::Family family) {
  return std::ranges::any_of(
      prefixes, [&](const net::IpPrefix& prefix) { return prefix.family() == family; });
}

}  // namespace

NodeFacts node_facts(const api::Node& node) {
  NodeFacts facts;
  facts.name = node.meta.key.name;
  if (const auto zone = node.meta.labels.find("topology.kubernetes.io/zone");
      zone != node.meta.labels.end()) {
    facts.zone = zone->second;
  }
  facts.node_ips = node.internal_ips;
  facts.node_ips.insert(facts.node_ips.end(), node.external_ips.begin(), node.external_ips.end());
  facts.pod_cidrs = node.pod_cidrs;
  return facts;
}

NodeContext::NodeContext(NodeFacts facts, ModelOptions options)
    : facts_(std::move(facts)), options_(std::move(options)) {
  for (const net::IpAddress& address : facts_.interface_addresses) {
    if (!usable(address)) {
      continue;
    }
    interface_addresses_.insert(address);
    if (supports(address.family()) &&
        takes_node_ports(address, facts_, options_.node_port_addresses)) {
      node_port_addresses_.push_back(address);
    }
  }
  std::ranges::sort(node_port_addresses_);
  const auto repeated = std::ranges::unique(node_port_addresses_);
  node_port_addresses_.erase(repeated.begin(), repeated.end());

  for (const auto& [index, family] :
       {std::pair(0U, net::Family::kIpv4), std::pair(1U, net::Family::kIpv6)}) {
    switch (options_.local_detection) {
      case LocalDetection::kClusterCidr:
        detects_pods_[index] = has_family(options_.cluster_cidrs, family);
        break;
      case LocalDetection::kNodeCidr:
        detects_pods_[index] = has_family(facts_.pod_cidrs, family);
        break;
      case LocalDetection::kInterface:
        detects_pods_[index] = true;
        break;
    }
  }
}

}  // namespace fairlead::model
