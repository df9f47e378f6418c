// SPDX-License-Identifier: Apache-2.0
// What the tests of the plane stand on: maps in memory, a host without devices.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include "bpf/flows.h"
#include "bpf/memory_tables.h"
#include "dataplane/ebpf/keys.h"
#include "dataplane/ebpf/listing.h"
#include "dataplane/ebpf/plane.h"

namespace fairlead::dataplane::ebpf {

/// Maps that outlive a plane, as pinned ones do.
class SharedTables final : public bpf::Tables {
 public:
  explicit SharedTables(bpf::MemoryTables& target) : t_(target) {}
  std::span<bpf::fl_vs> vs() override { return t_.vs(); }
  std::span<bpf::fl_vs_counts> vs_counts() override { return t_.vs_counts(); }
  std::span<bpf::fl_rs> rs() override { return t_.rs(); }
  std::span<bpf::fl_rs_counts> rs_counts() override { return t_.rs_counts(); }
  std::span<bpf::fl_slot> slots() override { return t_.slots(); }
  bpf::fl_filter& filter() override { return t_.filter(); }
  bpf::fl_config& config() override { return t_.config(); }
  bpf::fl_pressure& pressure() override { return t_.pressure(); }
  std::size_t flow_capacity() const override { return t_.flow_capacity(); }
  Result<std::vector<bpf::NumberEntry>> numbers() override { return t_.numbers(); }
  std::vector<Status> put_numbers(std::span<const bpf::NumberEntry> e) override {
    return t_.put_numbers(e);
  }
  std::vector<Status> erase_numbers(std::span<const bpf::fl_vs_key> k) override {
    return t_.erase_numbers(k);
  }
  Result<std::vector<bpf::ClassEntry>> classes() override { return t_.classes(); }
  Status put_class(const bpf::ClassEntry& e) override { return t_.put_class(e); }
  Status erase_class(const bpf::fl_prefix& p) override { return t_.erase_class(p); }
  Result<std::vector<bpf::DeviceEntry>> devices() override { return t_.devices(); }
  Status put_device(const bpf::DeviceEntry& e) override { return t_.put_device(e); }
  Status erase_device(std::uint32_t i) override { return t_.erase_device(i); }
  Status read_flows(bpf::Cursor& c, std::size_t n, std::vector<bpf::FlowEntry>& o) override {
    return t_.read_flows(c, n, o);
  }
  Result<bpf::fl_flow> find_flow(const bpf::fl_tuple& k) override { return t_.find_flow(k); }
  Status erase_flows(std::span<const bpf::fl_tuple> k) override { return t_.erase_flows(k); }
  Result<std::vector<bool>> end_connections(std::span<const bpf::fl_tuple> k,
                                            std::uint32_t now) override {
    return t_.end_connections(k, now);
  }
  Status read_clients(bpf::Cursor& c, std::size_t n, std::vector<bpf::ClientEntry>& o) override {
    return t_.read_clients(c, n, o);
  }
  Status erase_clients(std::span<const bpf::fl_client_key> k) override {
    return t_.erase_clients(k);
  }
  Result<bpf::fl_socket_peer> find_socket_peer(const bpf::fl_socket_key& k) override {
    return t_.find_socket_peer(k);
  }
  std::vector<std::uint64_t> events() override { return t_.events(); }

 private:
  bpf::MemoryTables& t_;
};

/// The node's connected UDP sockets, by cookie; they outlive a plane.
struct FakeSockets {
  std::map<std::uint64_t, net::SocketAddress> remotes;
  std::vector<std::string> looks;  // for which servers each look was
  std::optional<Error> error;
};

class FakeHost final : public Host {
 public:
  FakeHost(bpf::MemoryTables& tables, FakeSockets& sockets) : tables_(tables), sockets_(sockets) {}
  Result<std::unique_ptr<bpf::Tables>> open() override {
    return std::make_unique<SharedTables>(tables_);
  }
  Status take_over() override { return {}; }
  Result<std::vector<bpf::Device>> attach(bool, std::map<std::string, std::string>&) override {
    bpf::Device device;
    device.interface = 2;
    device.name = "eth0";
    device.hide4 = *net::IpAddress::parse("192.0.2.1");
    return std::vector{device};
  }
  Status attach_sockets() override { return {}; }
  Result<std::size_t> close_udp_sockets(const std::set<net::IpAddress>& servers,
                                        const IsStale& is_stale) override {
    std::string& look = sockets_.looks.emplace_back();
    for (const net::IpAddress& server : servers) {
      look += (look.empty() ? "" : " ") + server.text();
    }
    if (sockets_.error) {
      return fail(*sockets_.error);
    }
    return std::erase_if(sockets_.remotes, [&](const auto& socket) {
      return servers.contains(socket.second.address) && is_stale(socket.first, socket.second);
    });
  }
  void set_on_change(std::function<void(TimePoint)>) override {}

 private:
  bpf::MemoryTables& tables_;
  FakeSockets& sockets_;
};

inline plan::VirtualServerKey key(const std::string& socket, net::Protocol protocol) {
  const auto parsed = *net::SocketAddress::parse(socket);
  return {parsed.address, parsed.port, protocol};
}

/// `servers`: "198.51.100.1:80" or with a weight "198.51.100.1:80=3".
inline plan::VirtualServerPtr server(const std::string& socket,
                                     const std::vector<std::string>& servers,
                                     const std::string& scheduler = "rr",
                                     net::Protocol protocol = net::Protocol::kTcp) {
  auto made = std::make_shared<plan::VirtualServer>();
  made->key = key(socket, protocol);
  made->owner = "ns/web";
  made->scheduler.name = scheduler;
  auto list = std::make_shared<std::vector<plan::RealServer>>();
  for (const std::string& text : servers) {
    const auto parsed = *net::SocketAddress::parse(text.substr(0, text.find('=')));
    plan::RealServer real;
    real.address = parsed.address;
    real.port = parsed.port;
    real.weight = text.find('=') == std::string::npos
                      ? 1
                      : static_cast<std::uint32_t>(std::stoul(text.substr(text.find('=') + 1)));
    list->push_back(real);
  }
  for (plan::ClassPolicy& policy : made->classes) {
    policy.servers = list;
  }
  made->hairpin = std::make_shared<const std::vector<net::SocketAddress>>();
  return made;
}

class PlaneTest : public testing::Test {
 protected:
  void start() {
    plane = std::make_unique<Plane>(std::make_unique<FakeHost>(tables, sockets), config);
    ASSERT_TRUE(plane->start(now));
  }
  void apply(std::vector<plan::VirtualServerPtr> put,
             std::vector<plan::VirtualServerKey> removed = {}) {
    plane->apply({std::move(put), std::move(removed)}, now);
  }
  void pass(Duration time) {
    const TimePoint end = now + time;
    while (now < end) {
      now += std::chrono::milliseconds(100);
      plane->run_due(now);
    }
  }
  /// `10.96.0.1:80/TCP rr: 198.51.100.2:80 198.51.100.1:80(3)`, in walk order; weights if not 1.
  [[nodiscard]] std::vector<std::string> lines() {
    std::vector<std::string> out;
    const Listing listing = *list_table(tables);
    for (const ListedVirtualServer& each : listing.virtual_servers) {
      std::string line = each.key.text() + " " + each.scheduler + ":";
      for (const ListedRealServer& real : each.real_servers) {
        line += " " + real.socket.text();
        line += real.state != "up" ? "(" + real.state + ")"
                : real.weight != 1 ? "(" + std::to_string(real.weight) + ")"
                                   : "";
      }
      out.push_back(line);
    }
    return out;
  }
  [[nodiscard]] std::uint32_t number_of(const std::string& socket) {
    for (std::uint32_t n = 1; n < tables.rs().size(); ++n) {
      const bpf::fl_rs& real = tables.rs()[n];
      if (real.state != bpf::FL_RS_FREE &&
          net::SocketAddress{bpf::to_address(real.addr), bpf::to_port(real.port)}.text() ==
              socket) {
        return n;
      }
    }
    return 0;
  }
  bool in_filter(bpf::fl_point point, const std::string& address) {
    const std::uint32_t bit = bpf::filter_bit(bpf::to_abi(*net::IpAddress::parse(address)));
    return (tables.filter().bits[point][bit / 64] >> (bit % 64) & 1U) != 0;
  }

  /// As the programs do it at connect().
  void connect_udp(std::uint64_t cookie, const std::string& server) {
    const auto remote = *net::SocketAddress::parse(server);
    const std::uint32_t number = number_of(server);
    bpf::fl_socket_key got{};
    got.cookie = cookie;
    got.addr = bpf::to_abi(remote.address);
    got.port = bpf::to_abi(remote.port);
    got.protocol = IPPROTO_UDP;
    bpf::fl_socket_peer peer{};
    peer.rs = number;
    peer.generation = tables.rs()[number].generation;
    tables.put_socket_peer(got, peer);
    sockets.remotes[cookie] = remote;
  }
  [[nodiscard]] std::vector<std::uint64_t> open_sockets() const {
    std::vector<std::uint64_t> out;
    for (const auto& [cookie, remote] : sockets.remotes) {
      out.push_back(cookie);
    }
    return out;
  }

  bpf::MemoryTables tables;
  FakeSockets sockets;
  PlaneConfig config;
  TimePoint now = std::chrono::steady_clock::now();
  std::unique_ptr<Plane> plane;
};

}  // namespace fairlead::dataplane::ebpf
