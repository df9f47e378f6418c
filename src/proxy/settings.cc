// SPDX-License-Identifier: Apache-2.0
#include "proxy/settings.h"

#include <algorithm>
#include <sys/utsname.h>
#include <vector>

#include "model/annotations.h"

namespace fairlead::proxy {
namespace {

using dataplane::ipvs::LocalTraffic;

LocalTraffic prefix_of_family(const std::vector<net::IpPrefix>& prefixes, net::Family family) {
  const auto at = std::ranges::find(prefixes, family, &net::IpPrefix::family);
  return at == prefixes.end() ? LocalTraffic{} : LocalTraffic{*at};
}

LocalTraffic local_traffic(const config::Config& config, const model::NodeFacts& node,
                           net::Family family) {
  switch (config.detect_local_mode) {
    case config::LocalMode::kClusterCidr:
      return prefix_of_family(config.cluster_cidrs, family);
    case config::LocalMode::kNodeCidr:
      return prefix_of_family(node.pod_cidrs, family);
    case config::LocalMode::kBridgeInterface:
      return dataplane::ipvs::BridgeInterface{config.pod_bridge_interface};
    case config::LocalMode::kInterfaceNamePrefix:
      return dataplane::ipvs::InterfacePrefix{config.pod_interface_name_prefix};
  }
  return {};
}

}  // namespace

Result<model::ModelOptions> model_options(const config::Config& config) {
  model::ModelOptions options;
  if (!config.ipvs_scheduler.empty()) {
    auto scheduler = model::parse_scheduler(config.ipvs_scheduler);
    if (!scheduler) {
      return fail(scheduler.error().in("--ipvs-scheduler"));
    }
    options.default_scheduler = *scheduler;
  }
  options.node_port_addresses = {config.nodeport_addresses_primary, config.nodeport_addresses};
  options.cluster_cidrs = config.cluster_cidrs;
  options.masquerade_all = config.masquerade_all;
  options.masquerade_mark = std::uint32_t{1} << static_cast<unsigned>(config.masquerade_bit);
  switch (config.detect_local_mode) {
    case config::LocalMode::kClusterCidr:
      options.local_detection = model::LocalDetection::kClusterCidr;
      break;
    case config::LocalMode::kNodeCidr:
      options.local_detection = model::LocalDetection::kNodeCidr;
      break;
    case config::LocalMode::kBridgeInterface:
    case config::LocalMode::kInterfaceNamePrefix:
      options.local_detection = model::LocalDetection::kInterface;
      break;
  }
  return options;
}

dataplane::ipvs::PlaneConfig ipvs_config(const config::Config& config, const model::NodeFacts& node,
                                         bool has_ipv6) {
  dataplane::ipvs::PlaneConfig plane;
  for (const net::Family family : {net::Family::kIpv4, net::Family::kIpv6}) {
    if (family == net::Family::kIpv6 && !has_ipv6) {
      continue;
    }
    dataplane::ipvs::IptablesConfig rules;
    rules.family = family;
    rules.masquerade_bit = config.masquerade_bit;
    rules.masquerade_all = config.masquerade_all;
    rules.local_traffic = local_traffic(config, node, family);
    plane.families.push_back(std::move(rules));
  }
  plane.exclude_cidrs = config.ipvs_exclude_cidrs;
  plane.strict_arp = config.ipvs_strict_arp;
  plane.timeouts = {static_cast<std::uint32_t>(config.ipvs_tcp_timeout.count()),
                    static_cast<std::uint32_t>(config.ipvs_tcpfin_timeout.count()),
                    static_cast<std::uint32_t>(config.ipvs_udp_timeout.count())};
  plane.audit_period = std::chrono::ceil<std::chrono::seconds>(config.sync_period);
  plane.drain_timeout = config.drain_timeout;
  utsname names{};
  if (::uname(&names) == 0) {
    plane.kernel_release = static_cast<const char*>(names.release);
  }
  return plane;
}

dataplane::ebpf::PlaneConfig ebpf_config(const config::Config& config, const model::NodeFacts& node,
                                         std::uint64_t netns_cookie) {
  dataplane::ebpf::PlaneConfig plane;
  if (config.detect_local_mode == config::LocalMode::kClusterCidr) {
    plane.pods = config.cluster_cidrs;
  } else if (config.detect_local_mode == config::LocalMode::kNodeCidr) {
    plane.pods = node.pod_cidrs;
  }
  plane.drain_timeout = config.drain_timeout;
  plane.timeouts = {.tcp = config.ipvs_tcp_timeout,
                    .tcpfin = config.ipvs_tcpfin_timeout,
                    .udp = config.ipvs_udp_timeout};
  switch (config.ebpf_sockets) {
    case config::SocketScope::kOff:
      plane.sockets = bpf::FL_SOCKETS_OFF;
      break;
    case config::SocketScope::kNode:
      plane.sockets = bpf::FL_SOCKETS_NODE;
      break;
    case config::SocketScope::kAll:
      plane.sockets = bpf::FL_SOCKETS_ALL;
      break;
  }
  plane.netns_cookie = netns_cookie;
  plane.audit_period = std::chrono::ceil<std::chrono::seconds>(config.sync_period);
  return plane;
}

dataplane::ebpf::HostConfig ebpf_host_config(const config::Config& config,
                                             const std::string& cgroup_mount) {
  dataplane::ebpf::HostConfig host;
  host.pin_directory = config.ebpf_pin_dir;
  host.sizes.connections = config.ebpf_max_connections;
  host.options.fast_path = config.ebpf_fast_path;
  host.devices.patterns = config.ebpf_devices;
  host.devices.pod_prefix = config.pod_interface_name_prefix;
  host.devices.pod_bridge = config.pod_bridge_interface;
  if (config.ebpf_sockets != config::SocketScope::kOff) {
    host.cgroup = config.ebpf_cgroup.empty() ? cgroup_mount : config.ebpf_cgroup;
  }
  if (config.ebpf_sockets == config::SocketScope::kAll) {
    host.namespaces = "/run/netns";  // where containerd and CRI-O name those of pods
  }
  return host;
}

}  // namespace fairlead::proxy
