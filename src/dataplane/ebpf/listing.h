// SPDX-License-Identifier: Apache-2.0
// What the maps hold, for people: read from the maps alone, by any process that may.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "bpf/tables.h"
#include "plan/plan.h"

namespace fairlead::dataplane::ebpf {

struct Totals {
  std::uint64_t connections = 0, in_packets = 0, out_packets = 0, in_bytes = 0, out_bytes = 0;
};

struct ListedRealServer {
  net::SocketAddress socket;
  std::string forwarding;    // nat, direct, tunnel, fullnat
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

/// Totals are those of connections that have ended and of those that live.
[[nodiscard]] Result<Listing> list_table(bpf::Tables& tables);

struct ListedConnection {
  net::Protocol protocol = net::Protocol::kTcp;
  net::SocketAddress client, virtual_server, server;
  std::string state;          // as kernel IPVS calls it
  std::uint32_t expires = 0;  // seconds
};

/// Connections, and clients bound by persistence as such with port 0 and state NONE. `now` in
/// ticks.
[[nodiscard]] Result<std::vector<ListedConnection>> list_connections(bpf::Tables& tables,
                                                                     std::uint32_t now);

/// Names of enum fl_event, in its order.
[[nodiscard]] std::vector<std::string_view> event_names();

}  // namespace fairlead::dataplane::ebpf
