// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ebpf/listing.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <netinet/in.h>
#include <unordered_map>

#include "bpf/flows.h"
#include "bpf/kernel_tables.h"
#include "dataplane/ebpf/keys.h"
#include "dataplane/ebpf/scheduling.h"
#include "dataplane/ebpf/sweep.h"

namespace fairlead::dataplane::ebpf {
namespace {

constexpr std::array<std::string_view, bpf::FL_TCP_STATES> kTcpStates = {
    "NONE",  "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT", "TIME_WAIT",
    "CLOSE", "CLOSE_WAIT",  "LAST_ACK", "LISTEN",   "SYNACK"};
constexpr std::array<std::string_view, bpf::FL_SCTP_STATES> kSctpStates = {
    "NONE",     "INIT1",       "INIT",   "C-SENT",     "C-REPLIED",  "C-WAIT",   "COOKIE",
    "C-ECHOED", "ESTABLISHED", "S-SENT", "S-RECEIVED", "S-ACK-SENT", "REJECTED", "CLOSED"};
constexpr std::array<std::string_view, 4> kServerStates = {"free", "up", "draining", "gone"};

template <std::size_t kSize>
std::string name(const std::array<std::string_view, kSize>& names, std::size_t index) {
  return std::string(index < kSize ? names[index] : "?");
}

std::string state_name(std::uint8_t protocol, std::uint32_t state) {
  switch (protocol) {
    case IPPROTO_TCP:
      return name(kTcpStates, state);
    case IPPROTO_SCTP:
      return name(kSctpStates, state);
    default:
      return "UDP";
  }
}

template <typename Counts>
Totals totals_of(const Counts& counts) {
  return {counts.connections, counts.in_packets, counts.out_packets, counts.in_bytes,
          counts.out_bytes};
}

void add(Totals& totals, const bpf::FlowEntry& flow) {
  if (flow.value.kind == bpf::FL_FORWARD) {
    totals.in_packets += flow.value.packets;
    totals.in_bytes += flow.value.bytes;
  } else if (flow.value.kind == bpf::FL_REPLY) {
    totals.out_packets += flow.value.packets;
    totals.out_bytes += flow.value.bytes;
  }
}

template <typename Visit>
Status each_flow(bpf::Tables& tables, const Visit& visit) {
  bpf::Cursor cursor;
  std::vector<bpf::FlowEntry> flows;
  while (!cursor.at_end) {
    flows.clear();
    if (Status status = tables.read_flows(cursor, kSweepSlice, flows); !status) {
      return status;
    }
    std::ranges::for_each(flows, visit);
  }
  return {};
}

net::SocketAddress socket_of(const bpf::fl_addr& address, __be16 port) {
  return {bpf::to_address(address), bpf::to_port(port)};
}

std::uint32_t seconds_left(std::uint32_t silence, std::uint32_t timeout) {
  return static_cast<std::int32_t>(silence) < 0 || silence < timeout
             ? (timeout - (static_cast<std::int32_t>(silence) < 0 ? 0 : silence)) /
                   FL_TICKS_PER_SECOND
             : 0;
}

plan::ForwardingMethod method_of(const bpf::fl_rs& real) {
  plan::ForwardingMethod method{.forwarding = static_cast<plan::Forwarding>(real.forwarding)};
  if (method.forwarding == plan::Forwarding::kTunnel) {
    method.tunnel = static_cast<plan::TunnelType>(real.tunnel);
    method.tunnel_port = bpf::to_port(real.tunnel_port);
  }
  return method;
}

class PinnedView final : public View {
 public:
  explicit PinnedView(std::unique_ptr<bpf::Tables> tables) : tables_(std::move(tables)) {}
  Result<Listing> table() override { return list_table(*tables_); }
  Result<std::vector<ListedConnection>> connections() override {
    return list_connections(*tables_, bpf::ticks(std::chrono::steady_clock::now()));
  }
  std::vector<std::pair<std::string, std::uint64_t>> events() override {
    const std::vector<std::string_view> names = event_names();
    const std::vector<std::uint64_t> counts = tables_->events();
    std::vector<std::pair<std::string, std::uint64_t>> events;
    for (std::size_t i = 0; i < std::min(names.size(), counts.size()); ++i) {
      events.emplace_back(names[i], counts[i]);
    }
    return events;
  }

 private:
  std::unique_ptr<bpf::Tables> tables_;
};

}  // namespace

Result<Listing> list_table(bpf::Tables& tables) {
  const auto numbers = tables.numbers();
  if (!numbers) {
    return fail(numbers.error());
  }
  std::unordered_map<std::uint32_t, Totals> living;  // by real server
  if (Status status =
          each_flow(tables, [&](const bpf::FlowEntry& flow) { add(living[flow.value.rs], flow); });
      !status) {
    return fail(std::move(status.error()));
  }
  const auto reals = tables.rs();
  std::unordered_map<std::uint32_t, std::vector<std::uint32_t>> reals_of;
  for (std::uint32_t number = 1; number < reals.size(); ++number) {
    if (reals[number].state != bpf::FL_RS_FREE) {
      reals_of[reals[number].vs].push_back(number);
    }
  }
  Listing listing;
  for (const bpf::NumberEntry& entry : *numbers) {
    if (is_address_entry(entry.key)) {
      listing.addresses.push_back(bpf::to_address(entry.key.addr));
      continue;
    }
    if (entry.number >= tables.vs().size()) {
      continue;
    }
    const bpf::fl_vs& server = tables.vs()[entry.number];
    ListedVirtualServer listed;
    listed.key = key_from(entry.key.addr, entry.key.port, entry.key.protocol);
    listed.scheduler = text(static_cast<bpf::fl_scheduler>(server.scheduler));
    listed.persistence = server.persistence;
    if (server.persistence != 0) {
      listed.persistence_prefix = static_cast<std::uint8_t>(server.persistence_prefix -
                                                            (listed.key.address.is_v4() ? 96 : 0));
    }
    listed.refused = tables.vs_counts()[entry.number].refused;
    listed.totals = totals_of(tables.vs_counts()[entry.number]);
    std::vector<std::uint32_t>& walk = reals_of[entry.number];
    std::ranges::sort(walk, {}, [&](std::uint32_t number) { return reals[number].position; });
    for (const std::uint32_t number : walk) {
      const bpf::fl_rs& real = reals[number];
      const bpf::fl_rs_counts& counts = tables.rs_counts()[number];
      ListedRealServer each;
      each.socket = socket_of(real.addr, real.port);
      each.method = method_of(real);
      each.state = name(kServerStates, real.state);
      each.weight = real.state == bpf::FL_RS_UP ? real.weight : 0;
      each.thresholds = {real.upper, real.lower};
      each.is_overloaded = counts.overloaded != 0;
      each.active = counts.active;
      each.inactive = counts.inactive;
      each.persistent = counts.persistent;
      each.totals = totals_of(counts);
      const Totals& more = living[number];
      for (Totals* totals : {&each.totals, &listed.totals}) {
        totals->in_packets += more.in_packets;
        totals->out_packets += more.out_packets;
        totals->in_bytes += more.in_bytes;
        totals->out_bytes += more.out_bytes;
      }
      listed.real_servers.push_back(std::move(each));
    }
    listing.virtual_servers.push_back(std::move(listed));
  }
  std::ranges::sort(listing.virtual_servers, {}, &ListedVirtualServer::key);
  std::ranges::sort(listing.addresses);
  return listing;
}

Result<std::vector<ListedConnection>> list_connections(bpf::Tables& tables, std::uint32_t now) {
  std::vector<ListedConnection> listed;
  Status status = each_flow(tables, [&](const bpf::FlowEntry& flow) {
    if (flow.value.kind != bpf::FL_FORWARD) {
      return;
    }
    ListedConnection each;
    each.protocol = static_cast<net::Protocol>(flow.key.protocol);
    each.client = socket_of(flow.key.saddr, flow.key.sport);
    each.virtual_server = socket_of(flow.key.daddr, flow.key.dport);
    each.server = socket_of(flow.value.addr, flow.value.port);
    each.state = state_name(flow.key.protocol, flow.value.state);
    std::uint32_t silence = now - flow.value.seen;
    if (const auto reply = tables.find_flow(bpf::key_of_reply(flow.key, flow.value))) {
      const std::uint32_t other = now - reply->seen;  // either direction keeps it
      silence =
          static_cast<std::int32_t>(other) < static_cast<std::int32_t>(silence) ? other : silence;
    }
    each.expires = seconds_left(
        silence, bpf::timeout_of(tables.config(), flow.key.protocol, flow.value.state));
    listed.push_back(std::move(each));
  });
  if (!status) {
    return fail(std::move(status.error()));
  }
  bpf::Cursor cursor;
  std::vector<bpf::ClientEntry> clients;
  while (!cursor.at_end) {
    if (status = tables.read_clients(cursor, kSweepSlice, clients); !status) {
      return fail(std::move(status.error()));
    }
  }
  for (const bpf::ClientEntry& client : clients) {
    if (client.key.vs >= tables.vs().size() || client.value.rs >= tables.rs().size()) {
      continue;
    }
    const bpf::fl_vs& server = tables.vs()[client.key.vs];
    const bpf::fl_rs& real = tables.rs()[client.value.rs];
    ListedConnection each;
    each.protocol = key_from(server.addr, server.port, server.protocol).protocol;
    each.client = socket_of(client.key.addr, 0);
    each.virtual_server = socket_of(server.addr, server.port);
    each.server = socket_of(real.addr, real.port);
    each.state = "NONE";
    each.expires = seconds_left(now - client.value.seen, client.value.timeout);
    listed.push_back(std::move(each));
  }
  return listed;
}

Result<std::unique_ptr<View>> open_view(const std::string& pin_directory) {
  auto tables = bpf::open_tables(pin_directory);
  if (!tables) {
    return tables.error().kind() == ErrorKind::kNotFound
               ? fail(ErrorKind::kNotFound,
                      "nothing is pinned in " + pin_directory +
                          ": no daemon in ebpf mode has run with this --ebpf-pin-dir")
               : fail(std::move(tables.error()));
  }
  return std::make_unique<PinnedView>(std::move(*tables));
}

std::vector<std::string_view> event_names() {
  return {"new",   "refused",     "dropped",  "table_full", "no_port",  "malformed",
          "stray", "server_gone", "fragment", "reused",     "no_route", "too_big"};
}

}  // namespace fairlead::dataplane::ebpf
