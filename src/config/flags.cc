// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <functional>
#include <string_view>

#include <CLI/CLI.hpp>

#include "base/duration.h"
#include "base/text.h"
#include "config/config.h"

namespace fairlead::config {
namespace {

constexpr int kDefaultHealthzPort = 10256;
constexpr int kDefaultMetricsPort = 10249;

// Values as they stand on the command line; turned into a Config in one place, so that all
// mistakes can be told at once.
struct Raw {
  std::string manifests, kubeconfig, master, hostname_override, bind_address = "0.0.0.0";
  std::string service_cluster_ip_range = "10.96.0.0/16";
  std::string allocation_file = "/var/lib/fairlead/allocations";
  std::string cluster_cidr, detect_local_mode, bridge, prefix, nodeport_addresses;
  std::string proxy_mode, scheduler, exclude_cidrs;
  std::string tcp_timeout = "0", tcpfin_timeout = "0", udp_timeout = "0";
  std::string sync_period = "30s", min_sync_period = "0", drain_timeout = "15m";
  std::string healthz = "0.0.0.0:10256", metrics = "127.0.0.1:10249";
  int healthz_port = kDefaultHealthzPort;
  int metrics_port = kDefaultMetricsPort;
  double qps = 5;
  int burst = 10;
  std::string pin_dir = "/sys/fs/bpf/fairlead", cgroup, sockets = "node", devices;
  std::uint32_t max_connections = 262'144;
  int masquerade_bit = 14;
  bool masquerade_all = false, strict_arp = false, hard_fail = false, fast_path = false;
  int verbosity = 0;
};

// kube-proxy's flags that concern other modes or later work. A drop-in has to take them.
constexpr auto kAccepted = std::to_array<std::string_view>({"kube-api-content-type",
                                                            "feature-gates",
                                                            "show-hidden-metrics-for-version",
                                                            "vmodule",
                                                            "logging-format",
                                                            "log-flush-frequency",
                                                            "log-text-info-buffer-size",
                                                            "log-json-info-buffer-size",
                                                            "boot-id-file",
                                                            "machine-id-file",
                                                            "iptables-sync-period",
                                                            "iptables-min-sync-period",
                                                            "oom-score-adj",
                                                            "conntrack-max-per-core",
                                                            "conntrack-min",
                                                            "conntrack-tcp-timeout-established",
                                                            "conntrack-tcp-timeout-close-wait",
                                                            "conntrack-udp-timeout",
                                                            "conntrack-udp-timeout-stream",
                                                            "config-sync-period"});
constexpr auto kAcceptedBool = std::to_array<std::string_view>(
    {"profiling", "iptables-localhost-nodeports", "conntrack-tcp-be-liberal",
     "log-text-split-stream", "log-json-split-stream", "logtostderr"});

class Mistakes {
 public:
  void add(std::string_view flag, std::string_view text) {
    texts_.push_back("--" + std::string(flag) + ": " + std::string(text));
  }
  [[nodiscard]] bool any() const { return !texts_.empty(); }
  [[nodiscard]] std::string text() const { return join(texts_, "\n"); }

 private:
  std::vector<std::string> texts_;
};

std::vector<net::IpPrefix> prefixes(std::string_view flag, std::string_view value,
                                    Mistakes& mistakes) {
  std::vector<net::IpPrefix> result;
  if (trim(value).empty()) {
    return result;
  }
  for (const std::string_view piece : split(value, ',')) {
    if (auto prefix = net::IpPrefix::parse(piece)) {
      result.push_back(*prefix);
    } else {
      mistakes.add(flag, prefix.error().text());
    }
  }
  return result;
}

void at_most_one_per_family(std::string_view flag, const std::vector<net::IpPrefix>& values,
                            Mistakes& mistakes) {
  for (const net::Family family : {net::Family::kIpv4, net::Family::kIpv6}) {
    if (std::ranges::count(values, family, &net::IpPrefix::family) > 1) {
      mistakes.add(flag, "give at most one CIDR for " + std::string(net::text(family)));
    }
  }
}

template <typename Target>
Target duration(std::string_view flag, std::string_view value, Mistakes& mistakes) {
  const auto parsed = parse_duration(value);
  if (!parsed) {
    mistakes.add(flag, parsed.error().text());
    return {};
  }
  // Rounded up: a small positive wish must not turn into 0, which means something else.
  return std::chrono::ceil<Target>(*parsed);
}

// `ip`, `ip:port` or `[v6]:port`; an empty address keeps the default, port 0 switches it off.
std::optional<net::SocketAddress> listen_address(std::string_view flag, std::string_view value,
                                                 std::string_view fallback, int port,
                                                 Mistakes& mistakes) {
  const std::string_view text = trim(value).empty() ? fallback : trim(value);
  net::SocketAddress result;
  if (const auto with_port = net::SocketAddress::parse(text)) {
    result = *with_port;
  } else if (const auto bare = net::IpAddress::parse(text)) {
    result = {*bare, net::Port{static_cast<std::uint16_t>(port)}};
  } else {
    mistakes.add(flag, "\"" + std::string(value) + "\" is not ADDRESS or ADDRESS:PORT");
    return std::nullopt;
  }
  // Either way of saying 0 switches the server off.
  return port == 0 || net::number(result.port) == 0 ? std::nullopt : std::optional(result);
}

LocalMode local_mode(const Raw& raw, Mistakes& mistakes) {
  constexpr std::string_view kFlag = "detect-local-mode";
  if (raw.detect_local_mode.empty() || raw.detect_local_mode == "ClusterCIDR") {
    return LocalMode::kClusterCidr;
  }
  if (raw.detect_local_mode == "NodeCIDR") {
    return LocalMode::kNodeCidr;
  }
  if (raw.detect_local_mode == "BridgeInterface") {
    if (raw.bridge.empty()) {
      mistakes.add("pod-bridge-interface", "is needed by --detect-local-mode BridgeInterface");
    }
    return LocalMode::kBridgeInterface;
  }
  if (raw.detect_local_mode == "InterfaceNamePrefix") {
    if (raw.prefix.empty()) {
      mistakes.add("pod-interface-name-prefix",
                   "is needed by --detect-local-mode InterfaceNamePrefix");
    }
    return LocalMode::kInterfaceNamePrefix;
  }
  mistakes.add(kFlag,
               "must be ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix, is \"" +
                   raw.detect_local_mode + "\"");
  return LocalMode::kClusterCidr;
}

void node_port_addresses(const Raw& raw, Config& config, Mistakes& mistakes) {
  constexpr std::string_view kFlag = "nodeport-addresses";
  if (trim(raw.nodeport_addresses) == "primary") {
    config.nodeport_addresses_primary = true;
    return;
  }
  if (raw.nodeport_addresses.find("primary") != std::string::npos) {
    mistakes.add(kFlag, "`primary` stands alone; it cannot be mixed with CIDRs");
    return;
  }
  config.nodeport_addresses = prefixes(kFlag, raw.nodeport_addresses, mistakes);
}

Config to_config(const Raw& raw, const std::string& host_name, Mistakes& mistakes) {
  Config config;
  config.manifests = raw.manifests;
  config.kubeconfig = raw.kubeconfig;
  config.master = raw.master;
  config.api_qps = raw.qps;
  config.api_burst = raw.burst;
  if (!raw.manifests.empty() && !(raw.kubeconfig.empty() && raw.master.empty())) {
    mistakes.add("manifests", "cannot be combined with --kubeconfig or --master; give one source");
  }
  config.service_cluster_ip_range =
      prefixes("service-cluster-ip-range", raw.service_cluster_ip_range, mistakes);
  at_most_one_per_family("service-cluster-ip-range", config.service_cluster_ip_range, mistakes);
  config.allocation_file = raw.allocation_file;

  config.node_name = lower(trim(raw.hostname_override.empty() ? host_name : raw.hostname_override));
  if (config.node_name.empty()) {
    mistakes.add("hostname-override", "the node's name must not be empty");
  }
  if (!trim(raw.bind_address).empty()) {
    if (const auto address = net::IpAddress::parse(trim(raw.bind_address))) {
      config.bind_address = *address;
    } else {
      mistakes.add("bind-address", address.error().text());
    }
  }
  config.cluster_cidrs = prefixes("cluster-cidr", raw.cluster_cidr, mistakes);
  at_most_one_per_family("cluster-cidr", config.cluster_cidrs, mistakes);
  config.detect_local_mode = local_mode(raw, mistakes);
  config.pod_bridge_interface = raw.bridge;
  config.pod_interface_name_prefix = raw.prefix;
  node_port_addresses(raw, config, mistakes);

  config.proxy_mode = raw.proxy_mode;
  if (!raw.proxy_mode.empty() && raw.proxy_mode != "ipvs" && raw.proxy_mode != "ebpf") {
    mistakes.add("proxy-mode",
                 "\"" + raw.proxy_mode + "\" is not there yet; use ipvs or ebpf, or leave it out");
  }
  config.ebpf_pin_dir = raw.pin_dir;
  if (!raw.pin_dir.starts_with('/')) {
    mistakes.add("ebpf-pin-dir", "must be an absolute path, is \"" + raw.pin_dir + "\"");
  }
  config.ebpf_cgroup = raw.cgroup;
  config.ebpf_sockets = raw.sockets == "off"   ? SocketScope::kOff
                        : raw.sockets == "all" ? SocketScope::kAll
                                               : SocketScope::kNode;
  config.ebpf_max_connections = raw.max_connections;
  config.ebpf_fast_path = raw.fast_path;
  for (const std::string_view pattern : split(raw.devices, ',')) {
    if (!trim(pattern).empty()) {
      config.ebpf_devices.emplace_back(trim(pattern));
    }
  }
  config.masquerade_bit = raw.masquerade_bit;
  config.masquerade_all = raw.masquerade_all;
  config.ipvs_scheduler = raw.scheduler;
  config.ipvs_exclude_cidrs = prefixes("ipvs-exclude-cidrs", raw.exclude_cidrs, mistakes);
  config.ipvs_strict_arp = raw.strict_arp;
  using std::chrono::milliseconds;
  using std::chrono::seconds;
  config.ipvs_tcp_timeout = duration<seconds>("ipvs-tcp-timeout", raw.tcp_timeout, mistakes);
  config.ipvs_tcpfin_timeout =
      duration<seconds>("ipvs-tcpfin-timeout", raw.tcpfin_timeout, mistakes);
  config.ipvs_udp_timeout = duration<seconds>("ipvs-udp-timeout", raw.udp_timeout, mistakes);
  config.sync_period = duration<milliseconds>("ipvs-sync-period", raw.sync_period, mistakes);
  config.min_sync_period =
      duration<milliseconds>("ipvs-min-sync-period", raw.min_sync_period, mistakes);
  if (config.sync_period == milliseconds(0)) {
    mistakes.add("ipvs-sync-period", "must be greater than 0");
  } else if (config.min_sync_period > config.sync_period) {
    mistakes.add("ipvs-min-sync-period", "must not be greater than --ipvs-sync-period");
  }
  config.drain_timeout = duration<seconds>("drain-timeout", raw.drain_timeout, mistakes);

  config.healthz_bind_address =
      listen_address("healthz-bind-address", raw.healthz, "0.0.0.0", raw.healthz_port, mistakes);
  config.metrics_bind_address =
      listen_address("metrics-bind-address", raw.metrics, "127.0.0.1", raw.metrics_port, mistakes);
  config.bind_address_hard_fail = raw.hard_fail;
  config.verbosity = raw.verbosity;
  return config;
}

void add_plan_flags(CLI::App& app, Raw& raw) {
  app.add_option("--manifests", raw.manifests, "Folder or file of manifests to serve from")
      ->type_name("DIR|FILE");
  app.add_option("--kubeconfig", raw.kubeconfig, "How to reach the API server")->type_name("FILE");
  app.add_option("--master", raw.master, "URL of the API server; overrides the kubeconfig's");
  app.add_option("--hostname-override,--node", raw.hostname_override,
                 "Name of this node (default: the host's name)");
  app.add_option("--proxy-mode", raw.proxy_mode,
                 "Data plane: ebpf or ipvs; empty: ebpf where it can work, else ipvs");
  app.add_option("--service-cluster-ip-range", raw.service_cluster_ip_range,
                 "Where ClusterIPs come from that manifests leave out")
      ->capture_default_str();
  app.add_option("--allocation-file", raw.allocation_file,
                 "Remembers ClusterIPs and node ports that were allocated; empty for none")
      ->capture_default_str();
  app.add_option("--cluster-cidr", raw.cluster_cidr,
                 "Addresses of pods, at most one CIDR a family");
  app.add_option("--nodeport-addresses", raw.nodeport_addresses,
                 "Which addresses take node ports: CIDRs or `primary` (default: all)")
      ->join(',');
  app.add_option("--detect-local-mode", raw.detect_local_mode,
                 "How pods are told from others: ClusterCIDR, NodeCIDR, BridgeInterface, "
                 "InterfaceNamePrefix");
  app.add_option("--pod-bridge-interface", raw.bridge, "For BridgeInterface");
  app.add_option("--pod-interface-name-prefix", raw.prefix, "For InterfaceNamePrefix");
  app.add_option("--ipvs-scheduler", raw.scheduler, "Scheduler of services that name none (rr)");
  app.add_option("--bind-address", raw.bind_address, "Overrides the node's primary address")
      ->capture_default_str();
  app.add_flag("--masquerade-all", raw.masquerade_all, "Masquerade all traffic to ClusterIPs");
  app.add_option("-v,--v", raw.verbosity, "Verbosity; 2 and more shows each step");
}

void add_run_flags(CLI::App& app, Raw& raw) {
  app.add_option("--kube-api-qps", raw.qps, "Requests a second to the API server")
      ->capture_default_str();
  app.add_option("--kube-api-burst", raw.burst, "Requests at once to the API server")
      ->capture_default_str();
  app.add_option("--iptables-masquerade-bit", raw.masquerade_bit,
                 "Bit of the packet mark that asks for masquerading")
      ->capture_default_str()
      ->check(CLI::Range(0, 31));
  app.add_option("--ipvs-exclude-cidrs", raw.exclude_cidrs,
                 "Virtual servers in these CIDRs are never removed")
      ->join(',');
  app.add_flag("--ipvs-strict-arp", raw.strict_arp, "Set arp_ignore=1 and arp_announce=2");
  app.add_option("--ipvs-tcp-timeout", raw.tcp_timeout, "0 leaves the kernel's")
      ->capture_default_str();
  app.add_option("--ipvs-tcpfin-timeout", raw.tcpfin_timeout, "0 leaves the kernel's")
      ->capture_default_str();
  app.add_option("--ipvs-udp-timeout", raw.udp_timeout, "0 leaves the kernel's")
      ->capture_default_str();
  app.add_option("--ipvs-sync-period", raw.sync_period, "How often drift is looked for")
      ->capture_default_str();
  app.add_option("--ipvs-min-sync-period", raw.min_sync_period,
                 "Least time between two runs of changes")
      ->capture_default_str();
  app.add_option("--drain-timeout", raw.drain_timeout,
                 "How long a removed endpoint may keep its connections")
      ->capture_default_str();
  app.add_option("--ebpf-pin-dir", raw.pin_dir,
                 "Where the ebpf plane keeps its maps and links, on a bpffs")
      ->capture_default_str();
  app.add_option("--ebpf-cgroup", raw.cgroup,
                 "cgroup2 folder whose processes may have their sockets translated (default: all)");
  app.add_option("--ebpf-sockets", raw.sockets,
                 "Whose sockets are translated: node (its own processes), all (pods, too), off")
      ->capture_default_str()
      ->check(CLI::IsMember({"off", "node", "all"}));
  app.add_option("--ebpf-max-connections", raw.max_connections,
                 "Connections that the ebpf plane can hold at once")
      ->capture_default_str()
      ->check(CLI::Range(64, 64 << 20));
  app.add_flag(
      "--ebpf-fast-path", raw.fast_path,
      "Packets of answered connections go straight from device to device, past the stack: its "
      "firewall, policies and connection tracking do not see them");
  app.add_option("--ebpf-devices", raw.devices,
                 "Devices to attach to, as name patterns with * (default: all that matter)")
      ->join(',');
  app.add_option("--healthz-bind-address", raw.healthz, "Health server, ADDRESS[:PORT]")
      ->capture_default_str();
  app.add_option("--metrics-bind-address", raw.metrics, "Metrics server, ADDRESS[:PORT]")
      ->capture_default_str();
  app.add_option("--healthz-port", raw.healthz_port, "Deprecated; 0 switches the server off")
      ->capture_default_str();
  app.add_option("--metrics-port", raw.metrics_port, "Deprecated; 0 switches the server off")
      ->capture_default_str();
  app.add_flag("--bind-address-hard-fail", raw.hard_fail, "A failed listen ends the program");
}

void add_accepted_flags(CLI::App& app, std::string& value, bool& is_set) {
  for (const std::string_view name : kAccepted) {
    app.add_option("--" + std::string(name), value, "Accepted for kube-proxy's sake")->group("");
  }
  for (const std::string_view name : kAcceptedBool) {
    app.add_flag("--" + std::string(name), is_set, "Accepted for kube-proxy's sake")->group("");
  }
}

/// Those of them that were given, sorted.
std::vector<std::string> accepted_flags_given(const CLI::App& app) {
  std::vector<std::string> given;
  const auto look_at = [&](std::string_view name) {
    if (app.count("--" + std::string(name)) > 0) {
      given.emplace_back(name);
    }
  };
  std::ranges::for_each(kAccepted, look_at);
  std::ranges::for_each(kAcceptedBool, look_at);
  std::ranges::sort(given);
  return given;
}

// Kubernetes takes `--some_flag` for `--some-flag`. And `--flag=` is an empty value: CLI11 would
// take the next argument for it.
std::vector<std::string> normalised(const std::vector<std::string>& args) {
  std::vector<std::string> result;
  for (const std::string& arg : args) {
    std::string name = arg.starts_with("-v=") ? "-" + arg : arg;
    if (arg.starts_with("--")) {
      const std::size_t equals = std::min(arg.find('='), arg.size());
      std::replace(name.begin(), name.begin() + static_cast<std::ptrdiff_t>(equals), '_', '-');
      if (equals + 1 == arg.size()) {
        name.pop_back();
        result.push_back(std::move(name));
        result.emplace_back();
        continue;
      }
    }
    result.push_back(std::move(name));
  }
  std::ranges::reverse(result);  // CLI11 takes them from the back
  return result;
}

struct Outcome {
  std::optional<Config> config;
  std::string text;
  int exit_code = 0;
};

Result<Outcome> parse(CLI::App& app, const std::vector<std::string>& args, Raw& raw,
                      const std::string& host_name) {
  for (CLI::Option* option : app.get_options()) {
    if (option->get_multi_option_policy() == CLI::MultiOptionPolicy::Throw) {
      option->take_last();
    }
  }
  try {
    app.parse(normalised(args));
  } catch (const CLI::CallForHelp&) {
    return Outcome{std::nullopt, app.help(), 0};
  } catch (const CLI::ParseError& error) {
    return fail(ErrorKind::kInvalidInput, error.what());
  }
  Mistakes mistakes;
  Config config = to_config(raw, host_name, mistakes);
  if (mistakes.any()) {
    return fail(ErrorKind::kInvalidInput, mistakes.text());
  }
  return Outcome{std::move(config), {}, 0};
}

}  // namespace

Result<Parsed> parse_flags(const std::string& program, const std::vector<std::string>& args,
                           const std::string& host_name) {
  CLI::App app("Serves Kubernetes services on this node.", program);
  Raw raw;
  add_plan_flags(app, raw);
  add_run_flags(app, raw);
  std::string accepted_value;
  bool accepted_flag = false;
  add_accepted_flags(app, accepted_value, accepted_flag);
  auto outcome = parse(app, args, raw, host_name);
  if (!outcome) {
    return fail(outcome.error());
  }
  if (outcome->config) {
    outcome->config->ignored_flags = accepted_flags_given(app);
  }
  return Parsed{std::move(outcome->config), std::move(outcome->text), outcome->exit_code};
}

namespace {

Result<ParsedPlan> parse_plan(CLI::App& app, Raw& raw, PlanCommand& command,
                              const std::vector<std::string>& args, const std::string& host_name) {
  add_plan_flags(app, raw);
  auto outcome = parse(app, args, raw, host_name);
  if (!outcome) {
    return fail(outcome.error());
  }
  ParsedPlan parsed{std::nullopt, std::move(outcome->text), outcome->exit_code};
  if (outcome->config) {
    if (outcome->config->manifests.empty()) {
      return fail(ErrorKind::kInvalidInput,
                  "--manifests: is needed: the folder or file to plan for");
    }
    command.config = std::move(*outcome->config);
    parsed.command = std::move(command);
  }
  return parsed;
}

}  // namespace

Result<ParsedPlan> parse_plan_flags(const std::string& program,
                                    const std::vector<std::string>& args,
                                    const std::string& host_name) {
  CLI::App app("Prints what `run` would program; changes nothing and needs no privileges.",
               program);
  Raw raw;
  PlanCommand command;
  app.add_option("-o,--output", command.output, "text, json or ipvsadm")
      ->capture_default_str()
      ->check(CLI::IsMember({"text", "json", "ipvsadm"}));
  return parse_plan(app, raw, command, args, host_name);
}

Result<ParsedPlan> parse_diff_flags(const std::vector<std::string>& args,
                                    const std::string& host_name) {
  CLI::App app(
      "Prints in what the kernel differs from what `run` would program, one line each; changes "
      "nothing. Exit: 0 they are alike, 1 they differ, 2 one of them could not be had.",
      "fairlead diff");
  Raw raw;
  PlanCommand command;
  app.add_option("--ebpf-pin-dir", raw.pin_dir, "Where the ebpf plane keeps its state")
      ->capture_default_str();
  return parse_plan(app, raw, command, args, host_name);
}

namespace {

Result<ParsedState> parse_state(CLI::App& app, const std::vector<std::string>& args,
                                StateCommand& command) {
  app.add_option("--ebpf-pin-dir", command.pin_dir, "Where the ebpf plane keeps its state")
      ->capture_default_str();
  try {
    app.parse(normalised(args));
  } catch (const CLI::CallForHelp&) {
    return ParsedState{std::nullopt, app.help(), 0};
  } catch (const CLI::ParseError& error) {
    return fail(ErrorKind::kInvalidInput, error.what());
  }
  return ParsedState{std::move(command), {}, 0};
}

}  // namespace

Result<ParsedState> parse_get_flags(const std::vector<std::string>& args) {
  CLI::App app("Prints what the data plane holds in the kernel at this moment.", "fairlead get");
  StateCommand command;
  app.add_option("what", command.what, "table (virtual and real servers) or connections")
      ->required()
      ->check(CLI::IsMember({"table", "connections"}));
  app.add_option("-o,--output", command.output, "text or json")
      ->capture_default_str()
      ->check(CLI::IsMember({"text", "json"}));
  app.add_option("--proxy-mode", command.mode,
                 "Of which data plane, ipvs or ebpf (default: ebpf if it is there, else ipvs)")
      ->check(CLI::IsMember({"ipvs", "ebpf"}));
  return parse_state(app, args, command);
}

Result<ParsedState> parse_doctor_flags(const std::vector<std::string>& args) {
  CLI::App app("Tells what this kernel has for the data planes, and which would be chosen.",
               "fairlead doctor");
  StateCommand command;
  app.add_option("--ebpf-cgroup", command.cgroup,
                 "cgroup2 folder below which socket hooks are tried (default: cgroup2's root)");
  app.add_option("-o,--output", command.output, "text or json")
      ->capture_default_str()
      ->check(CLI::IsMember({"text", "json"}));
  return parse_state(app, args, command);
}

Result<ParsedState> parse_cleanup_flags(const std::vector<std::string>& args) {
  CLI::App app("Removes all that the ebpf data plane has put into this kernel.",
               "fairlead cleanup");
  StateCommand command;
  return parse_state(app, args, command);
}

}  // namespace fairlead::config
