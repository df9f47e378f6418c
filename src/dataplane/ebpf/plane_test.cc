// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ebpf/plane.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <random>

#include "bpf/flows.h"
#include "bpf/memory_tables.h"
#include "dataplane/ebpf/keys.h"
#include "dataplane/ebpf/listing.h"

namespace fairlead::dataplane::ebpf {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

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

plan::VirtualServerKey key(const std::string& socket, net::Protocol protocol) {
  const auto parsed = *net::SocketAddress::parse(socket);
  return {parsed.address, parsed.port, protocol};
}

/// `servers`: "198.51.100.1:80" or with a weight "198.51.100.1:80=3".
plan::VirtualServerPtr server(const std::string& socket, const std::vector<std::string>& servers,
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
      now += milliseconds(100);
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

TEST_F(PlaneTest, FirstProgramming) {
  start();
  apply({server("10.96.0.1:80", {"198.51.100.1:80", "198.51.100.2:80=3"}, "wrr"),
         server("10.96.0.1:53", {"198.51.100.1:53"}, "rr", net::Protocol::kUdp)});
  EXPECT_THAT(lines(), ElementsAre("10.96.0.1:53/UDP rr: 198.51.100.1:53",
                                   "10.96.0.1:80/TCP wrr: 198.51.100.2:80(3) 198.51.100.1:80"));
  EXPECT_THAT(list_table(tables)->addresses, SizeIs(1));
  EXPECT_TRUE(in_filter(bpf::FL_INGRESS, "10.96.0.1"));
  EXPECT_TRUE(in_filter(bpf::FL_INGRESS, "192.0.2.1"));  // hides clients
  EXPECT_TRUE(in_filter(bpf::FL_EGRESS, "198.51.100.2"));
  EXPECT_FALSE(in_filter(bpf::FL_EGRESS, "10.96.0.1"));
  const Summary summary = plane->summary();
  EXPECT_EQ(summary.virtual_servers, 2U);
  EXPECT_EQ(summary.real_servers, 3U);
  EXPECT_THAT(summary.failures, IsEmpty());
}

TEST_F(PlaneTest, AddressThatChangesHandsStaysClaimed) {
  start();
  const auto web = server("10.96.0.1:80", {"198.51.100.1:80"});
  auto on_node = std::make_shared<plan::VirtualServer>(*web);
  on_node->on_node_interface = true;
  const auto api = server("10.96.0.1:443", {"198.51.100.2:443"});
  apply({web});
  apply({api}, {web->key, web->key});
  EXPECT_THAT(list_table(tables)->addresses, SizeIs(1));
  apply({web}, {api->key});
  EXPECT_THAT(list_table(tables)->addresses, SizeIs(1));
  apply({on_node, api});
  EXPECT_THAT(list_table(tables)->addresses, SizeIs(1));
  apply({}, {api->key});
  EXPECT_THAT(list_table(tables)->addresses, IsEmpty());
  EXPECT_THAT(lines(), ElementsAre("10.96.0.1:80/TCP rr: 198.51.100.1:80"));
}

TEST_F(PlaneTest, RestartWritesNothingThatIsWanted) {
  start();
  const auto web = server("10.96.0.1:80", {"198.51.100.1:80", "198.51.100.2:80"});
  const auto api = server("10.96.0.2:80", {"198.51.100.3:80"}, "mh");
  apply({web, api});
  tables.vs_counts()[1].cursor[0] = 1;
  const auto before = lines();
  const std::size_t writes = tables.writes();
  const std::vector<bpf::fl_slot> slots(tables.slots().begin(), tables.slots().end());
  plane.reset();
  start();
  apply({server("10.96.0.1:80", {"198.51.100.1:80", "198.51.100.2:80"}), api});
  EXPECT_EQ(lines(), before);
  EXPECT_EQ(tables.writes(), writes);
  EXPECT_EQ(plane->summary().operations, 0U);
  EXPECT_TRUE(std::ranges::equal(slots, tables.slots(), [](const auto& a, const auto& b) {
    return a.rs == b.rs && a.weight == b.weight;
  }));
}

TEST_F(PlaneTest, RestartRemovesWhatIsWantedNoMore) {
  start();
  apply({server("10.96.0.1:80", {"198.51.100.1:80"}), server("10.96.0.2:80", {"198.51.100.2:80"})});
  plane.reset();
  start();
  EXPECT_THAT(lines(), SizeIs(2));  // nothing before the whole plan is known
  apply({server("10.96.0.2:80", {"198.51.100.2:80", "198.51.100.3:80"})});
  EXPECT_THAT(lines(), ElementsAre("10.96.0.2:80/TCP rr: 198.51.100.3:80 198.51.100.2:80"));
  EXPECT_FALSE(in_filter(bpf::FL_INGRESS, "10.96.0.1"));
  EXPECT_FALSE(in_filter(bpf::FL_EGRESS, "198.51.100.1"));
}

TEST_F(PlaneTest, NewServersComeAtTheHeadOfTheWalk) {
  start();
  apply({server("10.96.0.1:80", {"198.51.100.1:80", "198.51.100.2:80"})});
  apply({server("10.96.0.1:80", {"198.51.100.0:80", "198.51.100.1:80", "198.51.100.2:80"})});
  EXPECT_THAT(lines(), ElementsAre("10.96.0.1:80/TCP rr: 198.51.100.0:80 198.51.100.2:80 "
                                   "198.51.100.1:80"));
}

TEST_F(PlaneTest, BusyServerDrainsUntilItIsIdle) {
  start();
  apply({server("10.96.0.1:80", {"198.51.100.1:80", "198.51.100.2:80"})});
  const std::uint32_t leaving = number_of("198.51.100.1:80");
  tables.rs_counts()[leaving].active = 1;
  apply({server("10.96.0.1:80", {"198.51.100.2:80"})});
  EXPECT_THAT(lines(), ElementsAre("10.96.0.1:80/TCP rr: 198.51.100.2:80 "
                                   "198.51.100.1:80(draining)"));
  EXPECT_EQ(plane->summary().draining, 1U);
  EXPECT_EQ(plane->summary().real_servers, 2U);
  EXPECT_TRUE(in_filter(bpf::FL_EGRESS, "198.51.100.1"));
  pass(seconds(5));
  EXPECT_EQ(plane->summary().draining, 1U);
  tables.rs_counts()[leaving].active = 0;
  pass(seconds(1));
  EXPECT_EQ(plane->summary().draining, 0U);
  EXPECT_EQ(plane->summary().real_servers, 1U);
  EXPECT_THAT(lines(), ElementsAre("10.96.0.1:80/TCP rr: 198.51.100.2:80"));
  EXPECT_FALSE(in_filter(bpf::FL_EGRESS, "198.51.100.1"));
}

TEST_F(PlaneTest, ThresholdsChangeInPlace) {
  const auto limited = [](std::uint32_t upper, std::uint32_t lower) {
    auto made = std::make_shared<plan::VirtualServer>(*server("10.96.0.1:80", {"198.51.100.1:80"}));
    auto reals = *made->classes.front().servers;
    reals.front().thresholds = {upper, lower};
    for (plan::ClassPolicy& policy : made->classes) {
      policy.servers = std::make_shared<const std::vector<plan::RealServer>>(reals);
    }
    return made;
  };
  start();
  apply({limited(2, 1)});
  const std::uint32_t number = number_of("198.51.100.1:80");
  const auto listed = [&] { return list_table(tables)->virtual_servers.at(0).real_servers.at(0); };
  EXPECT_EQ(listed().thresholds, (plan::Thresholds{2, 1}));
  EXPECT_FALSE(listed().is_overloaded);

  tables.rs_counts()[number].overloaded = 1;
  apply({limited(1, 1)});
  EXPECT_EQ(listed().thresholds, (plan::Thresholds{1, 1}));
  EXPECT_TRUE(listed().is_overloaded);
  apply({limited(3, 1)});
  EXPECT_FALSE(listed().is_overloaded) << "a higher one lets it in again";
  tables.rs_counts()[number].overloaded = 1;
  apply({server("10.96.0.1:80", {"198.51.100.1:80"})});
  EXPECT_EQ(listed().thresholds, plan::Thresholds{});
  EXPECT_FALSE(listed().is_overloaded);
  EXPECT_EQ(number_of("198.51.100.1:80"), number);
  EXPECT_EQ(plane->summary().operations, 4U);
}

TEST_F(PlaneTest, OnlyChangesCountAsOperations) {
  const auto operations = [&] { return plane->summary().operations; };
  start();
  apply({server("10.96.0.1:80", {"198.51.100.1:80", "198.51.100.2:80"})});
  EXPECT_EQ(operations(), 1U);
  apply({server("10.96.0.1:80", {"198.51.100.1:80", "198.51.100.2:80"})});
  EXPECT_EQ(operations(), 1U);
  apply({server("10.96.0.1:80", {"198.51.100.1:80=2", "198.51.100.2:80"})});
  EXPECT_EQ(operations(), 2U);
  apply({server("10.96.0.1:80", {"198.51.100.1:80=2", "198.51.100.2:80"}, "wrr")});
  EXPECT_EQ(operations(), 3U);
  auto full_nat = std::make_shared<plan::VirtualServer>(
      *server("10.96.0.1:80", {"198.51.100.1:80=2", "198.51.100.2:80"}, "wrr"));
  auto reals = *full_nat->classes.front().servers;
  reals.front().method.forwarding = plan::Forwarding::kFullNat;
  for (plan::ClassPolicy& policy : full_nat->classes) {
    policy.servers = std::make_shared<const std::vector<plan::RealServer>>(reals);
  }
  apply({full_nat});
  EXPECT_EQ(operations(), 4U);
  apply({server("10.96.0.1:80", {"198.51.100.2:80"}, "wrr")});
  EXPECT_EQ(operations(), 6U);  // the server, which is idle, is gone at once
  apply({}, {key("10.96.0.1:80", net::Protocol::kTcp)});
  EXPECT_EQ(operations(), 8U);
  apply({}, {key("10.96.0.1:80", net::Protocol::kTcp)});
  EXPECT_EQ(operations(), 8U);
}

TEST_F(PlaneTest, ServerThatReturnsIsTheSameOne) {
  start();
  apply({server("10.96.0.1:80", {"198.51.100.1:80", "198.51.100.2:80"})});
  const std::uint32_t number = number_of("198.51.100.1:80");
  tables.rs_counts()[number].active = 1;
  apply({server("10.96.0.1:80", {"198.51.100.2:80"})});
  apply({server("10.96.0.1:80", {"198.51.100.1:80", "198.51.100.2:80"})});
  EXPECT_EQ(number_of("198.51.100.1:80"), number);
  EXPECT_EQ(tables.rs()[number].state, bpf::FL_RS_UP);
  EXPECT_EQ(plane->summary().draining, 0U);
}

TEST_F(PlaneTest, DrainEndsAtItsDeadline) {
  start();
  auto web = std::make_shared<plan::VirtualServer>(*server("10.96.0.1:80", {"198.51.100.1:80"}));
  apply({web});
  const std::uint32_t number = number_of("198.51.100.1:80");
  tables.rs_counts()[number].active = 1;
  auto empty = std::make_shared<plan::VirtualServer>(*server("10.96.0.1:80", {}));
  empty->drain_timeout = seconds(3);
  apply({empty});
  pass(seconds(2));
  EXPECT_EQ(tables.rs()[number].state, bpf::FL_RS_DRAINING);
  pass(seconds(2));
  EXPECT_EQ(tables.rs()[number].state, bpf::FL_RS_GONE);  // its connections end
  tables.rs_counts()[number].active = 0;
  pass(seconds(1));
  EXPECT_EQ(tables.rs()[number].state, bpf::FL_RS_FREE);
}

TEST_F(PlaneTest, DrainSurvivesARestartWithItsDeadline) {
  start();
  apply({server("10.96.0.1:80", {"198.51.100.1:80"})});
  const std::uint32_t number = number_of("198.51.100.1:80");
  tables.rs_counts()[number].active = 1;
  auto empty = std::make_shared<plan::VirtualServer>(*server("10.96.0.1:80", {}));
  empty->drain_timeout = seconds(5);
  apply({empty});
  pass(seconds(2));
  plane.reset();
  start();
  apply({empty});
  pass(seconds(2));
  EXPECT_EQ(tables.rs()[number].state, bpf::FL_RS_DRAINING);
  EXPECT_EQ(plane->summary().draining, 1U);
  pass(seconds(2));
  EXPECT_EQ(tables.rs()[number].state, bpf::FL_RS_GONE);
}

TEST_F(PlaneTest, OnePacketSchedulingIsTheProgramsAffair) {
  start();
  auto dns = std::make_shared<plan::VirtualServer>(
      *server("10.96.0.1:53", {"198.51.100.1:53"}, "rr", net::Protocol::kUdp));
  dns->one_packet = true;
  apply({dns});
  EXPECT_THAT(plane->summary().failures, IsEmpty());
  const bpf::fl_vs& placed = tables.vs()[tables.rs()[number_of("198.51.100.1:53")].vs];
  EXPECT_EQ(placed.flags & bpf::FL_VS_ONE_PACKET, bpf::FL_VS_ONE_PACKET);
}

TEST_F(PlaneTest, PersistencePrefixIsOfTheLongForm) {
  start();
  const auto sticky = [](const std::string& socket, const std::string& real,
                         std::optional<std::uint8_t> prefix) {
    auto made = std::make_shared<plan::VirtualServer>(*server(socket, {real}));
    made->persistence = seconds(60);
    made->persistence_prefix = prefix;
    return made;
  };
  const auto placed = [&](const std::string& real) {
    return int{tables.vs()[tables.rs()[number_of(real)].vs].persistence_prefix};
  };
  apply({sticky("10.96.0.1:80", "198.51.100.1:80", 24),
         sticky("[2001:db8::1]:80", "[2001:db8:2::1]:80", 64)});
  EXPECT_EQ(placed("198.51.100.1:80"), 96 + 24);
  EXPECT_EQ(placed("[2001:db8:2::1]:80"), 64);
  EXPECT_EQ(list_table(tables)->virtual_servers.at(0).persistence_prefix, 24);
  EXPECT_EQ(list_table(tables)->virtual_servers.at(1).persistence_prefix, 64);
  apply({sticky("10.96.0.1:80", "198.51.100.1:80", std::nullopt)});
  EXPECT_EQ(placed("198.51.100.1:80"), 128);
  EXPECT_EQ(list_table(tables)->virtual_servers.at(0).persistence_prefix, 32);
}

TEST_F(PlaneTest, FirewallMarksStandInPlaceOfAnAddress) {
  const auto marked = [](net::Family family, const std::string& real) {
    auto made = std::make_shared<plan::VirtualServer>(*server("10.96.0.1:80", {real}));
    made->key = {.address = net::IpAddress::any(family), .mark = 7};
    made->kind = plan::AddressKind::kFirewallMark;
    made->on_node_interface = true;
    return made;
  };
  const auto v4 = marked(net::Family::kIpv4, "198.51.100.1:0");
  const auto v6 = marked(net::Family::kIpv6, "[2001:db8:2::1]:0");
  start();
  apply({v4, v6});
  const auto both = {"FWM 7 rr: 198.51.100.1:0", "FWM 7 IPv6 rr: [2001:db8:2::1]:0"};
  EXPECT_THAT(lines(), testing::ElementsAreArray(both));
  EXPECT_THAT(list_table(tables)->addresses, IsEmpty());
  EXPECT_TRUE(in_filter(bpf::FL_INGRESS, "0.0.0.7"));
  EXPECT_TRUE(in_filter(bpf::FL_INGRESS, "::7"));

  const std::size_t writes = tables.writes();
  plane.reset();
  start();
  apply({v4, v6});
  EXPECT_THAT(lines(), testing::ElementsAreArray(both));
  EXPECT_EQ(tables.writes(), writes);
  pass(seconds(60));  // an audit
  EXPECT_THAT(plane->summary().drift_repaired, IsEmpty());

  // Any protocol may come by it, so that its servers drain as those of TCP do.
  tables.rs_counts()[number_of("198.51.100.1:0")].active = 1;
  apply({}, {v4->key});
  EXPECT_FALSE(lines().empty());
  EXPECT_EQ(plane->summary().draining, 1U);
  tables.rs_counts()[number_of("198.51.100.1:0")].active = 0;
  pass(seconds(1));
  EXPECT_THAT(lines(), ElementsAre("FWM 7 IPv6 rr: [2001:db8:2::1]:0"));
  EXPECT_FALSE(in_filter(bpf::FL_INGRESS, "0.0.0.7"));
}

TEST_F(PlaneTest, UdpServerIsGoneAtOnce) {
  start();
  apply({server("10.96.0.1:53", {"198.51.100.1:53"}, "rr", net::Protocol::kUdp)});
  const std::uint32_t number = number_of("198.51.100.1:53");
  tables.rs_counts()[number].inactive = 1;
  apply({server("10.96.0.1:53", {}, "rr", net::Protocol::kUdp)});
  EXPECT_EQ(tables.rs()[number].state, bpf::FL_RS_GONE);
}

TEST_F(PlaneTest, UdpSocketsOfServersThatLeftAreClosed) {
  config.sockets = bpf::FL_SOCKETS_NODE;
  start();
  const auto udp = net::Protocol::kUdp;
  const auto web = server("10.96.0.1:80", {"198.51.100.1:53", "198.51.100.5:80"});
  const auto other = server("10.96.0.3:53", {"[2001:db8::2]:53"}, "rr", udp);
  apply({web, other, server("10.96.0.1:53", {"198.51.100.2:53", "198.51.100.3:53"}, "rr", udp),
         server("10.96.0.2:53", {"198.51.100.4:53"}, "rr", udp)});
  connect_udp(1, "198.51.100.2:53");
  connect_udp(2, "198.51.100.3:53");
  connect_udp(3, "198.51.100.4:53");
  connect_udp(4, "[2001:db8::2]:53");
  sockets.remotes[5] = *net::SocketAddress::parse("198.51.100.2:53");  // not by the service
  // Two changes in a row and three servers are one look; TCP's notice themselves.
  apply({server("10.96.0.1:53", {"198.51.100.3:53"}, "rr", udp),
         server("10.96.0.1:80", {"198.51.100.5:80"})});
  apply({}, {key("10.96.0.2:53", udp), other->key});
  EXPECT_THAT(open_sockets(), SizeIs(5));
  pass(seconds(5));
  EXPECT_THAT(sockets.looks, ElementsAre("198.51.100.2 198.51.100.4 2001:db8::2"));
  EXPECT_THAT(open_sockets(), ElementsAre(2, 5));
}

TEST_F(PlaneTest, UdpSocketOfAServerInUseIsKept) {
  config.sockets = bpf::FL_SOCKETS_NODE;
  start();
  const auto udp = net::Protocol::kUdp;
  const auto back = server("10.96.0.1:53", {"198.51.100.1:53"}, "rr", udp);
  apply({back});
  connect_udp(1, "198.51.100.1:53");
  tables.rs_counts()[number_of("198.51.100.1:53")].inactive = 1;
  // It comes back before its flows have ended.
  apply({server("10.96.0.1:53", {}, "rr", udp)});
  apply({back});
  pass(seconds(1));
  EXPECT_THAT(open_sockets(), ElementsAre(1));
  // Another service has the same pod.
  apply({server("10.96.0.2:53", {"198.51.100.1:53"}, "rr", udp)}, {});
  apply({server("10.96.0.2:53", {}, "rr", udp)});
  pass(seconds(1));
  EXPECT_THAT(sockets.looks, SizeIs(2));
  EXPECT_THAT(open_sockets(), ElementsAre(1));
  // It leaves, and its number is another's at once.
  tables.rs_counts()[number_of("198.51.100.1:53")].inactive = 0;
  apply({server("10.96.0.1:53", {}, "rr", udp)});
  apply({back});
  pass(seconds(1));
  EXPECT_THAT(open_sockets(), IsEmpty());
}

TEST_F(PlaneTest, UdpSocketsAreLookedForAgainAfterAnError) {
  config.sockets = bpf::FL_SOCKETS_NODE;
  start();
  const auto full = server("10.96.0.1:53", {"198.51.100.1:53"}, "rr", net::Protocol::kUdp);
  const auto empty = server("10.96.0.1:53", {}, "rr", net::Protocol::kUdp);
  apply({full});
  connect_udp(1, "198.51.100.1:53");
  sockets.error = Error(ErrorKind::kTimeout, "no answer");
  apply({empty});
  pass(seconds(1));
  EXPECT_THAT(sockets.looks, SizeIs(1));
  sockets.error.reset();
  pass(seconds(5));
  EXPECT_THAT(sockets.looks, ElementsAre("198.51.100.1", "198.51.100.1"));
  EXPECT_THAT(open_sockets(), IsEmpty());
  // Where the kernel cannot, it is not asked twice.
  sockets.error = Error(ErrorKind::kUnavailable, "cannot");
  for (int i = 0; i < 3; ++i) {
    apply({full});
    apply({empty});
    pass(seconds(1));
  }
  EXPECT_THAT(sockets.looks, SizeIs(3));
}

TEST_F(PlaneTest, UdpSocketsThatAreNotTranslatedAreNoConcern) {
  start();
  apply({server("10.96.0.1:53", {"198.51.100.1:53"}, "rr", net::Protocol::kUdp)});
  apply({server("10.96.0.1:53", {}, "rr", net::Protocol::kUdp)});
  pass(seconds(10));
  EXPECT_THAT(sockets.looks, IsEmpty());
}

TEST_F(PlaneTest, DeletedServiceLetsItsConnectionsEnd) {
  start();
  apply({server("10.96.0.1:80", {"198.51.100.1:80"})});
  const std::uint32_t number = number_of("198.51.100.1:80");
  tables.rs_counts()[number].active = 1;
  apply({}, {key("10.96.0.1:80", net::Protocol::kTcp)});
  EXPECT_THAT(lines(), IsEmpty());
  EXPECT_THAT(list_table(tables)->addresses, IsEmpty());
  EXPECT_EQ(tables.rs()[number].state, bpf::FL_RS_DRAINING);
  EXPECT_TRUE(in_filter(bpf::FL_INGRESS, "10.96.0.1"));  // for the connection that lives
  tables.rs_counts()[number].active = 0;
  pass(seconds(1));
  EXPECT_FALSE(in_filter(bpf::FL_INGRESS, "10.96.0.1"));
  apply({server("10.96.0.1:80", {"198.51.100.1:80"})});
  EXPECT_THAT(lines(), SizeIs(1));
}

TEST_F(PlaneTest, UnknownSchedulerIsToldAndRrServes) {
  start();
  apply({server("10.96.0.1:80", {"198.51.100.1:80"}, "lblc")});
  EXPECT_THAT(lines(), ElementsAre("10.96.0.1:80/TCP rr: 198.51.100.1:80"));
  ASSERT_THAT(plane->summary().failures, SizeIs(1));
  EXPECT_THAT(plane->summary().failures[0].error, HasSubstr("\"lblc\""));
  apply({server("10.96.0.1:80", {"198.51.100.1:80"}, "mh")});
  EXPECT_THAT(lines(), ElementsAre("10.96.0.1:80/TCP mh: 198.51.100.1:80"));
  EXPECT_THAT(plane->summary().failures, IsEmpty());
}

TEST_F(PlaneTest, NoRoomIsOneKeysFailureAndIsTriedAgain) {
  start();
  std::vector<plan::VirtualServerPtr> many;
  for (int i = 1; i <= 64; ++i) {
    many.push_back(server("10.96.0." + std::to_string(i) + ":80", {"198.51.100.1:80"}));
  }
  apply(many);  // room for 63
  EXPECT_THAT(lines(), SizeIs(63));
  ASSERT_THAT(plane->summary().failures, SizeIs(1));
  EXPECT_THAT(plane->summary().failures[0].error, HasSubstr("map vs"));
  apply({}, {key("10.96.0.1:80", net::Protocol::kTcp)});
  pass(seconds(3));
  EXPECT_THAT(lines(), SizeIs(63));
  EXPECT_THAT(plane->summary().failures, IsEmpty());
}

TEST_F(PlaneTest, AuditPutsBackWhatWasTaken) {
  start();
  apply({server("10.96.0.1:80", {"198.51.100.1:80"})});
  const std::vector<bpf::fl_vs_key> keys = {key_of(key("10.96.0.1:80", net::Protocol::kTcp)),
                                            key_of(*net::IpAddress::parse("10.96.0.1"))};
  for (const Status& status : tables.erase_numbers(keys)) {
    ASSERT_TRUE(status);
  }
  EXPECT_THAT(lines(), IsEmpty());
  pass(seconds(31));
  EXPECT_THAT(lines(), SizeIs(1));
  EXPECT_EQ(plane->summary().drift_repaired.at("virtual server"), 1U);
  EXPECT_EQ(plane->summary().drift_repaired.at("address"), 1U);
}

/// Whatever way led there, new connections see the same: random plans, restarts in between, and a
/// plane that is told the last plan at once.
TEST_F(PlaneTest, IncrementsLeadWhereARebuildDoes) {
  std::mt19937 random(1);  // NOLINT(cert-msc51-cpp): a failure must come again
  const auto below = [&](unsigned n) { return static_cast<int>(random() % n); };
  start();
  std::map<plan::VirtualServerKey, plan::VirtualServerPtr> wanted;
  const std::array<const char*, 5> schedulers = {"rr", "wrr", "lc", "sh", "mh"};
  bool is_first = true;
  for (int round = 0; round < 400; ++round) {
    plan::Delta delta;
    for (int i = 0; i < 3; ++i) {
      const std::string socket = "10.96.0." + std::to_string(1 + below(8)) + ":80";
      const auto protocol = below(2) == 0 ? net::Protocol::kTcp : net::Protocol::kUdp;
      if (below(4) == 0) {
        wanted.erase(key(socket, protocol));
        delta.removed.push_back(key(socket, protocol));
        std::erase_if(delta.put, [&](const auto& put) { return put->key == delta.removed.back(); });
        continue;
      }
      std::vector<std::string> servers;
      for (int s = 1; s < 6; ++s) {
        if (below(2) == 0) {
          servers.push_back("198.51.100." + std::to_string(s) + ":80=" + std::to_string(below(4)));
        }
      }
      const auto made = server(socket, servers, schedulers.at(random() % 5), protocol);
      wanted[made->key] = made;
      std::erase(delta.removed, made->key);
      std::erase_if(delta.put, [&](const auto& put) { return put->key == made->key; });
      delta.put.push_back(made);
    }
    if (below(20) == 0) {
      plane.reset();
      start();
      is_first = true;
    }
    if (is_first) {
      delta = {};
      for (const auto& [k, v] : wanted) {
        delta.put.push_back(v);
      }
      is_first = false;
    }
    plane->apply(delta, now);
    pass(milliseconds(600));

    std::map<std::string, std::set<std::string>> want;
    std::map<std::string, std::set<std::string>> have;
    for (const auto& [k, v] : wanted) {
      auto& servers = want[k.text() + " " + v->scheduler.name];
      for (const plan::RealServer& real : *v->classes[0].servers) {
        servers.insert(real.socket().text() + "=" + std::to_string(real.weight));
      }
    }
    const Listing listing = *list_table(tables);
    for (const ListedVirtualServer& each : listing.virtual_servers) {
      auto& servers = have[each.key.text() + " " + each.scheduler];
      for (const ListedRealServer& real : each.real_servers) {
        servers.insert(real.socket.text() + "=" + std::to_string(real.weight));
      }
    }
    ASSERT_EQ(have, want) << "round " << round;
    ASSERT_THAT(plane->summary().failures, IsEmpty()) << "round " << round;
  }
}

// --- Sweep ---------------------------------------------------------------------------------------

struct Connection {
  bpf::fl_tuple forward{}, reply{}, hide{}, unhide{};
};

class SweepTest : public PlaneTest {
 protected:
  void SetUp() override {
    start();
    apply({server("10.96.0.1:80", {"198.51.100.1:8080"})});
    real = number_of("198.51.100.1:8080");
  }
  Connection connect(std::uint16_t port, bool hidden, std::uint32_t silent_seconds) {
    Connection made;
    bpf::fl_flow flow{};
    flow.addr = bpf::to_abi(*net::IpAddress::parse("198.51.100.1"));
    flow.port = bpf::to_abi(net::Port{8080});
    flow.client_port = bpf::to_abi(net::Port{port});
    flow.kind = bpf::FL_FORWARD;
    flow.flags = hidden ? bpf::FL_FLOW_HIDDEN : 0;
    flow.rs = real;
    flow.generation = tables.rs()[real].generation;
    flow.state = bpf::FL_TCP_ESTABLISHED;
    flow.seen = bpf::ticks(now) - silent_seconds * FL_TICKS_PER_SECOND;
    flow.packets = 3;
    flow.bytes = 300;
    made.forward = {bpf::to_abi(*net::IpAddress::parse("192.0.2.9")),
                    bpf::to_abi(*net::IpAddress::parse("10.96.0.1")),
                    flow.client_port,
                    bpf::to_abi(net::Port{80}),
                    IPPROTO_TCP,
                    bpf::FL_INGRESS,
                    0};
    tables.put_flow(made.forward, flow);
    made.reply = bpf::key_of_reply(made.forward, flow);
    bpf::fl_flow other = flow;
    other.kind = bpf::FL_REPLY;
    other.addr = made.forward.daddr;
    other.port = made.forward.dport;
    other.client_port = made.forward.sport;
    other.packets = 2;
    other.bytes = 2000;
    tables.put_flow(made.reply, other);
    if (hidden) {
      made.hide = bpf::key_of_hide(made.forward, flow);
      other.kind = bpf::FL_HIDE;
      other.addr = bpf::to_abi(*net::IpAddress::parse("192.0.2.1"));
      other.port = bpf::to_abi(net::Port{static_cast<std::uint16_t>(2000 + port)});
      tables.put_flow(made.hide, other);
      made.unhide = bpf::key_of_unhide(made.hide, other);
      other.kind = bpf::FL_UNHIDE;
      other.addr = made.forward.saddr;
      other.port = made.forward.sport;
      tables.put_flow(made.unhide, other);
    }
    ++tables.rs_counts()[real].active;
    return made;
  }
  void sweep() { pass(seconds(6)); }

  std::uint32_t real = 0;
};

TEST_F(SweepTest, SilentConnectionsEndWhole) {
  connect(1, false, 901);
  connect(2, true, 901);
  connect(3, true, 10);
  sweep();
  EXPECT_EQ(tables.flow_count(), 4U);
  const bpf::fl_rs_counts& counts = tables.rs_counts()[real];
  EXPECT_EQ(counts.active, 1U);
  EXPECT_EQ(counts.in_packets, 6U);
  EXPECT_EQ(counts.out_bytes, 4000U);
}

TEST_F(SweepTest, OneDirectionKeepsTheOther) {
  const Connection talks = connect(1, false, 901);
  bpf::fl_flow reply = *tables.find_flow(talks.reply);
  reply.seen = bpf::ticks(now);
  tables.put_flow(talks.reply, reply);
  sweep();
  EXPECT_EQ(tables.flow_count(), 2U);
}

TEST_F(SweepTest, ConnectionsOfARemovedServerEnd) {
  connect(1, true, 0);
  tables.rs()[real].state = bpf::FL_RS_GONE;
  sweep();
  EXPECT_EQ(tables.flow_count(), 0U);
  EXPECT_EQ(tables.rs_counts()[real].active, 0U);
}

// What answers need goes by its own silence, for no connection owns it.
TEST_F(SweepTest, OnePacketAnswersExpire) {
  for (const std::uint32_t silent : {10U, 400U}) {
    const Connection made = connect(static_cast<std::uint16_t>(silent), false, silent);
    bpf::fl_flow reply = *tables.find_flow(made.reply);
    reply.flags = bpf::FL_FLOW_ONE_PACKET;
    tables.put_flow(made.reply, reply);
    ASSERT_TRUE(tables.erase_flows(std::span(&made.forward, 1)));
    --tables.rs_counts()[real].active;
  }
  sweep();
  EXPECT_EQ(tables.flow_count(), 1U);
  EXPECT_EQ(tables.rs_counts()[real].out_packets, 2U);
}

TEST_F(SweepTest, OrphansGo) {
  const Connection broken = connect(1, true, 100);
  ASSERT_TRUE(tables.erase_flows(std::span(&broken.forward, 1)));
  --tables.rs_counts()[real].active;
  for (std::uint32_t pass = 0; pass < 3 * kOrphanShare; ++pass) {
    sweep();  // each flow has its turn, and is found once the next of the chain is gone
  }
  EXPECT_EQ(tables.flow_count(), 0U);
}

TEST_F(SweepTest, ClientsExpire) {
  bpf::fl_client_key key{bpf::to_abi(*net::IpAddress::parse("192.0.2.9")), 1};
  bpf::fl_client client{real, tables.rs()[real].generation, bpf::ticks(now),
                        10 * FL_TICKS_PER_SECOND};
  tables.put_client(key, client);
  tables.rs_counts()[real].persistent = 1;
  sweep();
  EXPECT_EQ(tables.client_count(), 1U);
  pass(seconds(11));
  sweep();
  EXPECT_EQ(tables.client_count(), 0U);
  EXPECT_EQ(tables.rs_counts()[real].persistent, 0U);
}

TEST_F(SweepTest, EndedConnectionsLetAServerInAgain) {
  tables.rs()[real].upper = 2;
  tables.rs()[real].lower = 1;
  tables.rs_counts()[real].overloaded = 1;
  connect(1, false, 1000);
  connect(2, false, 0);
  sweep();
  EXPECT_EQ(tables.rs_counts()[real].overloaded, 1U);
  now += seconds(1000);
  sweep();
  EXPECT_EQ(tables.rs_counts()[real].active, 0U);
  EXPECT_EQ(tables.rs_counts()[real].overloaded, 0U);
}

TEST_F(SweepTest, WrongCountersArePutRight) {
  connect(1, false, 0);
  tables.rs_counts()[real].active = 5;
  sweep();
  EXPECT_EQ(tables.rs_counts()[real].active, 5U);  // it may be on its way
  sweep();
  EXPECT_EQ(tables.rs_counts()[real].active, 1U);
  EXPECT_EQ(plane->summary().drift_repaired.at("connection counter"), 1U);
}

// --- Fullness ------------------------------------------------------------------------------------

TEST(PatienceTest, ShrinksWithRoom) {
  const auto share = [](std::size_t flows) {
    Patience patience;
    patience.adapt(flows, 1000, seconds(5));
    return patience.share();
  };
  EXPECT_EQ(share(0), 1);
  EXPECT_EQ(share(500), 1);
  EXPECT_NEAR(share(700), 0.5, 1e-9);
  EXPECT_NEAR(share(900), 1.0 / 60, 1e-9);
  EXPECT_NEAR(share(1000), 1.0 / 60, 1e-9);
}

TEST(PatienceTest, LooksMoreOftenAsTheTableFills) {
  const auto pause = [](std::size_t flows) {
    Patience patience;
    patience.adapt(flows, 1000, seconds(5));
    return patience.pause();
  };
  EXPECT_EQ(pause(0), seconds(5));
  EXPECT_EQ(pause(250), milliseconds(2500));
  EXPECT_EQ(pause(499), milliseconds(250));
  EXPECT_EQ(pause(900), milliseconds(250));
}

TEST(PatienceTest, ComesBackSlowly) {
  Patience patience;
  patience.adapt(1000, 1000, seconds(5));
  patience.adapt(0, 1000, seconds(5));
  EXPECT_NEAR(patience.share(), 2.0 / 60, 1e-9);
  EXPECT_EQ(patience.pause(), milliseconds(250)) << "it looked full a moment ago";
  patience.adapt(0, 1000, milliseconds(2500));
  EXPECT_NEAR(patience.share(), 2.0 / 60 * 1.4142, 1e-4);
  patience.adapt(0, 1000, seconds(60));
  EXPECT_EQ(patience.share(), 1);
}

TEST(TimeoutsTest, OnlyEndedConnectionsWaitLess) {
  bpf::fl_config relaxed{}, pressed{};
  const Timeouts wishes{.tcp = seconds(300), .tcpfin = seconds(30), .udp = seconds(20)};
  set_timeouts(relaxed, wishes, 1);
  set_timeouts(pressed, wishes, 1.0 / 60);
  EXPECT_EQ(relaxed.tcp_timeout[bpf::FL_TCP_ESTABLISHED], 300 * FL_TICKS_PER_SECOND);
  EXPECT_EQ(relaxed.tcp_timeout[bpf::FL_TCP_FIN_WAIT], 30 * FL_TICKS_PER_SECOND);
  EXPECT_EQ(relaxed.tcp_timeout[bpf::FL_TCP_TIME_WAIT], 120 * FL_TICKS_PER_SECOND);
  EXPECT_EQ(relaxed.udp_timeout, 20 * FL_TICKS_PER_SECOND);
  EXPECT_EQ(pressed.tcp_timeout[bpf::FL_TCP_TIME_WAIT], 2 * FL_TICKS_PER_SECOND);
  EXPECT_EQ(pressed.tcp_timeout[bpf::FL_TCP_CLOSE], FL_TICKS_PER_SECOND) << "a second at least";
  for (int state = 0; state < bpf::FL_TCP_STATES; ++state) {
    const bool has_ended = state == bpf::FL_TCP_TIME_WAIT || state == bpf::FL_TCP_CLOSE ||
                           state == bpf::FL_TCP_LAST_ACK;
    EXPECT_EQ(pressed.tcp_timeout[state] < relaxed.tcp_timeout[state], has_ended) << state;
  }
  EXPECT_EQ(pressed.udp_timeout, relaxed.udp_timeout);
}

TEST_F(SweepTest, FullTableMakesRoomSooner) {
  const std::uint32_t usual = tables.config().tcp_timeout[bpf::FL_TCP_TIME_WAIT];
  std::vector<Connection> made;
  for (std::uint16_t port = 1; made.size() * 2 < tables.flow_capacity() * 7 / 10; ++port) {
    made.push_back(connect(port, false, 0));
  }
  sweep();
  EXPECT_NEAR(tables.config().tcp_timeout[bpf::FL_TCP_TIME_WAIT], usual / 2, 1.0 + usual / 100);
  EXPECT_EQ(tables.config().tcp_timeout[bpf::FL_TCP_ESTABLISHED], 900 * FL_TICKS_PER_SECOND);
  EXPECT_LT(*plane->next_due(), now + seconds(1)) << "the next pass must not wait";

  pass(seconds(901));  // all end
  sweep();
  EXPECT_EQ(tables.flow_count(), 0U);
  EXPECT_EQ(tables.config().tcp_timeout[bpf::FL_TCP_TIME_WAIT], usual);
}

// --- Extents -------------------------------------------------------------------------------------

TEST(ExtentsTest, FreedRoomRestsAndMerges) {
  Extents extents(11);
  const TimePoint start{};
  EXPECT_EQ(extents.take(4, start), 1U);
  EXPECT_EQ(extents.take(6, start), 5U);
  EXPECT_FALSE(extents.take(1, start));
  extents.release(1, 4, start);
  extents.release(5, 6, start);
  EXPECT_FALSE(extents.take(1, start + milliseconds(900)));
  EXPECT_EQ(extents.take(10, start + seconds(1)), 1U);
}

TEST(ExtentsTest, ReservesWhatWasTakenBefore) {
  Extents extents(100);
  EXPECT_TRUE(extents.reserve(10, 5));
  EXPECT_FALSE(extents.reserve(12, 1));
  EXPECT_FALSE(extents.reserve(98, 5));
  EXPECT_EQ(extents.take(9, {}), 1U);
  EXPECT_EQ(extents.take(9, {}), 15U);
}

}  // namespace
}  // namespace fairlead::dataplane::ebpf
