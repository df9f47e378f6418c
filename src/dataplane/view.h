// SPDX-License-Identifier: Apache-2.0
// What a data plane holds in the kernel, for people and tools: alike for every plane, read from the
// kernel alone by any process that may, whether a daemon runs or not.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "plan/plan.h"

namespace fairlead::dataplane {

struct Totals {
  std::uint64_t connections = 0, in_packets = 0, out_packets = 0, in_bytes = 0, out_bytes = 0;
};

struct ListedRealServer {
  net::SocketAddress socket;
  plan::ForwardingMethod method;
  std::string state;         // up, draining, gone
  std::uint32_t weight = 0;  // 0 for one that leaves
  plan::Thresholds thresholds;
  bool is_overloaded = false;  // reached the upper threshold, and is not below the lower one yet
  std::uint32_t active = 0, inactive = 0, persistent = 0;
  Totals totals;
};

struct ListedVirtualServer {
  plan::VirtualServerKey key;
  std::string scheduler;
  std::uint32_t persistence = 0;        // seconds
  std::uint8_t persistence_prefix = 0;  // bits of its family's addresses, with persistence
  std::uint64_t refused = 0;
  Totals totals;
  std::vector<ListedRealServer> real_servers;  // in the scheduler's walk order
};

struct Listing {
  std::vector<ListedVirtualServer> virtual_servers;  // sorted by key
  /// Service addresses whose unserved ports are refused; sorted.
  std::vector<net::IpAddress> addresses;
};

struct ListedConnection {
  net::Protocol protocol = net::Protocol::kTcp;
  net::SocketAddress client, virtual_server, server;
  std::string state;          // as kernel IPVS calls it
  std::uint32_t expires = 0;  // seconds
};

class View {
 public:
  View() = default;
  View(const View&) = delete;
  View& operator=(const View&) = delete;
  virtual ~View() = default;

  /// Whatever is in the table, whoever put it there. Kernel IPVS sums its counters up every two
  /// seconds.
  [[nodiscard]] virtual Result<Listing> table() = 0;
  /// And clients that are bound by persistence, as connections from port 0 in state NONE.
  [[nodiscard]] virtual Result<std::vector<ListedConnection>> connections() = 0;
  /// What happened to packets ("refused", "table_full", ...) and how often, where the plane counts.
  [[nodiscard]] virtual std::vector<std::pair<std::string, std::uint64_t>> events() { return {}; }
};

/// In what the kernel differs from the plan, one line each, by object: `10.96.0.1:80/TCP
/// -> 10.0.0.7:8080: weight is 1, planned is 2`. Servers that leave as they should are no
/// difference. Empty: none.
[[nodiscard]] std::vector<std::string> differences(std::span<const plan::VirtualServerPtr> planned,
                                                   const Listing& held);

}  // namespace fairlead::dataplane
