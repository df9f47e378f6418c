// SPDX-License-Identifier: Apache-2.0
// Everything that can be told to the daemon, as one immutable value. Flags are kube-proxy's where
// kube-proxy has one (kube-proxy-process.md section 1.2).
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "net/address.h"

namespace fairlead::config {

enum class LocalMode { kClusterCidr, kNodeCidr, kBridgeInterface, kInterfaceNamePrefix };

/// Whose sockets the ebpf plane translates at connect().
enum class SocketScope { kOff, kNode, kAll };

struct Config {
  // Sources. Manifests exclude the API server; neither given means in-cluster.
  std::string manifests;
  std::string kubeconfig;
  std::string master;
  double api_qps = 5;
  int api_burst = 10;
  /// For services in manifests that name no ClusterIP.
  std::vector<net::IpPrefix> service_cluster_ip_range;
  /// Remembers what such services were given; empty: nothing is remembered.
  std::string allocation_file;

  // The node.
  std::string node_name;  // hostname-override, else the host's name; lower case
  net::IpAddress bind_address;
  std::vector<net::IpPrefix> cluster_cidrs;  // at most one per family
  LocalMode detect_local_mode = LocalMode::kClusterCidr;
  std::string pod_bridge_interface;
  std::string pod_interface_name_prefix;
  bool nodeport_addresses_primary = false;
  std::vector<net::IpPrefix> nodeport_addresses;

  // What is made of it.
  std::string proxy_mode;  // empty: the best one that works
  int masquerade_bit = 14;
  bool masquerade_all = false;
  std::string ipvs_scheduler;  // empty: rr
  std::vector<net::IpPrefix> ipvs_exclude_cidrs;
  bool ipvs_strict_arp = false;
  std::chrono::seconds ipvs_tcp_timeout{0};  // 0: leave the kernel's
  std::chrono::seconds ipvs_tcpfin_timeout{0};
  std::chrono::seconds ipvs_udp_timeout{0};
  std::chrono::milliseconds sync_period{30'000};  // audit of the kernel's state
  std::chrono::milliseconds min_sync_period{0};   // least distance between two runs
  std::chrono::seconds drain_timeout{900};
  std::string ebpf_pin_dir = "/sys/fs/bpf/fairlead";
  std::string ebpf_cgroup;  // empty: where cgroup2 is mounted
  SocketScope ebpf_sockets = SocketScope::kNode;
  std::uint32_t ebpf_max_connections = 262'144;
  bool ebpf_fast_path = false;
  std::vector<std::string> ebpf_devices;  // name patterns; empty: all that matter

  // The process.
  std::optional<net::SocketAddress> healthz_bind_address;
  std::optional<net::SocketAddress> metrics_bind_address;
  bool bind_address_hard_fail = false;
  int verbosity = 0;

  /// Flags of kube-proxy that were given and that we accept without effect yet; for a warning.
  std::vector<std::string> ignored_flags;
};

/// What came of the command line.
struct Parsed {
  /// Unset: print `text` and exit with `exit_code` (help).
  std::optional<Config> config;
  std::string text;
  int exit_code = 0;
};

/// `program` is what usage texts call us; `args` come without it. All mistakes are in one error.
/// `host_name` serves where --hostname-override is not given.
[[nodiscard]] Result<Parsed> parse_flags(const std::string& program,
                                         const std::vector<std::string>& args,
                                         const std::string& host_name);

/// The same for `plan`, which takes the flags that shape the result, and `-o`/`--node`.
struct PlanCommand {
  Config config;
  std::string output = "text";  // text, json, ipvsadm
};
/// `get table|connections`, `cleanup` and `doctor`: what the ebpf plane holds, its end, and whether
/// it could be here.
struct StateCommand {
  std::string what;    // table, connections
  std::string mode;    // ipvs, ebpf; empty: whichever there is
  std::string cgroup;  // doctor; empty: where cgroup2 is mounted
  std::string pin_dir = "/sys/fs/bpf/fairlead";
  std::string output = "text";  // text, json
};
struct ParsedState {
  std::optional<StateCommand> command;
  std::string text;
  int exit_code = 0;
};
[[nodiscard]] Result<ParsedState> parse_get_flags(const std::vector<std::string>& args);
[[nodiscard]] Result<ParsedState> parse_doctor_flags(const std::vector<std::string>& args);
[[nodiscard]] Result<ParsedState> parse_cleanup_flags(const std::vector<std::string>& args);

struct ParsedPlan {
  std::optional<PlanCommand> command;
  std::string text;
  int exit_code = 0;
};
[[nodiscard]] Result<ParsedPlan> parse_plan_flags(const std::string& program,
                                                  const std::vector<std::string>& args,
                                                  const std::string& host_name);
[[nodiscard]] Result<ParsedPlan> parse_diff_flags(const std::vector<std::string>& args,
                                                  const std::string& host_name);

}  // namespace fairlead::config
