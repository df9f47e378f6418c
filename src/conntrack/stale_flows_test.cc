// SPDX-License-Identifier: Apache-2.0
#include "conntrack/stale_flows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "netlink/fake_conntrack.h"

namespace fairlead::conntrack {
namespace {

using net::Protocol;

net::SocketAddress socket_address(std::string_view text) {
  return net::SocketAddress::parse(text).value();
}

plan::VirtualServerPtr virtual_server(std::string_view address, Protocol protocol,
                                      const std::vector<std::string>& endpoints) {
  const net::SocketAddress socket = socket_address(address);
  auto servers = std::make_shared<std::vector<plan::RealServer>>();
  for (const std::string& endpoint : endpoints) {
    const net::SocketAddress parsed = socket_address(endpoint);
    plan::RealServer server;
    server.address = parsed.address;
    server.port = parsed.port;
    servers->push_back(server);
  }
  auto server = std::make_shared<plan::VirtualServer>();
  server->key = {.address = socket.address, .port = socket.port, .protocol = protocol};
  for (plan::ClassPolicy& policy : server->classes) {
    policy.servers = servers;
  }
  return server;
}

netlink::Flow flow(Protocol protocol, std::string_view destination, std::string_view reply_source) {
  const bool is_v4 = socket_address(destination).address.is_v4();
  const net::SocketAddress client =
      socket_address(is_v4 ? "198.51.100.9:40000" : "[2001:db8:9::9]:40000");
  return {.protocol = protocol,
          .original = {.source = client, .destination = socket_address(destination)},
          .reply = {.source = socket_address(reply_source), .destination = client}};
}

// One DNS-like service in all its addresses, one without endpoints, one over SCTP, one over IPv6.
std::vector<plan::VirtualServerPtr> servers() {
  const std::vector<std::string> endpoints = {"198.18.1.1:5353", "198.18.1.2:5353"};
  return {
      virtual_server("10.96.0.10:53", Protocol::kUdp, endpoints),
      virtual_server("10.96.0.10:53", Protocol::kTcp, endpoints),
      virtual_server("192.0.2.1:30053", Protocol::kUdp, endpoints),  // node port
      virtual_server("203.0.113.7:53", Protocol::kUdp, endpoints),   // load balancer
      virtual_server("203.0.113.8:53", Protocol::kUdp, endpoints),   // external IP
      virtual_server("10.96.0.99:53", Protocol::kUdp, {}),           // nobody serves
      virtual_server("10.96.0.11:132", Protocol::kSctp, {"198.18.1.3:132"}),
      virtual_server("[2001:db8:96::10]:53", Protocol::kUdp, {"[2001:db8:1::1]:5353"}),
  };
}

struct Case {
  std::string name;
  Protocol protocol;
  std::string destination;
  std::string reply_source;
  bool want_stale;
};
std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }

class Staleness : public ::testing::TestWithParam<Case> {};

TEST_P(Staleness, Decides) {
  StaleFlows stale;
  for (const auto& server : servers()) {
    stale.expect(*server);
  }
  const Case& c = GetParam();
  EXPECT_EQ(stale.is_stale(flow(c.protocol, c.destination, c.reply_source)), c.want_stale)
      << c.name;
}

// The numbers are those of kube-proxy-ipvs.md section 10.9.
INSTANTIATE_TEST_SUITE_P(
    Cases, Staleness,
    ::testing::ValuesIn(std::vector<Case>{
        {"131 removed endpoint", Protocol::kUdp, "10.96.0.10:53", "198.18.1.9:5353", true},
        {"132 serving endpoint", Protocol::kUdp, "10.96.0.10:53", "198.18.1.2:5353", false},
        {"133 old port of an endpoint", Protocol::kUdp, "10.96.0.10:53", "198.18.1.1:53", true},
        {"134 never translated", Protocol::kUdp, "10.96.0.10:53", "10.96.0.10:53", true},
        {"135 TCP", Protocol::kTcp, "10.96.0.10:53", "198.18.1.9:5353", false},
        {"135 SCTP to the same address", Protocol::kSctp, "10.96.0.10:53", "198.18.1.9:5353",
         false},
        {"136 port of no service", Protocol::kUdp, "10.96.0.10:54", "198.18.1.9:5353", false},
        {"137 node port, removed endpoint", Protocol::kUdp, "192.0.2.1:30053", "198.18.1.9:5353",
         true},
        {"137 node port, serving endpoint", Protocol::kUdp, "192.0.2.1:30053", "198.18.1.1:5353",
         false},
        {"137 number of a node port at an address that is not the node's", Protocol::kUdp,
         "192.0.2.200:30053", "192.0.2.200:30053", false},
        {"138 load balancer, removed endpoint", Protocol::kUdp, "203.0.113.7:53", "198.18.1.9:5353",
         true},
        {"138 external IP, removed endpoint", Protocol::kUdp, "203.0.113.8:53", "198.18.1.9:5353",
         true},
        {"139 nobody serves any more", Protocol::kUdp, "10.96.0.99:53", "198.18.1.1:5353", false},
        {"SCTP, removed endpoint", Protocol::kSctp, "10.96.0.11:132", "198.18.1.9:132", true},
        {"SCTP, serving endpoint", Protocol::kSctp, "10.96.0.11:132", "198.18.1.3:132", false},
        {"SCTP, never translated", Protocol::kSctp, "10.96.0.11:132", "10.96.0.11:132", false},
        {"IPv6, removed endpoint", Protocol::kUdp, "[2001:db8:96::10]:53", "[2001:db8:1::9]:5353",
         true},
        {"IPv6, serving endpoint", Protocol::kUdp, "[2001:db8:96::10]:53", "[2001:db8:1::1]:5353",
         false},
    }));

TEST(StaleFlows, EndpointNamedBesideThePlan) {
  // 140: terminating but serving, so no real server of the plan.
  StaleFlows stale;
  stale.expect(*virtual_server("10.96.0.10:53", Protocol::kUdp, {"198.18.1.1:5353"}));
  const std::vector<net::SocketAddress> terminating = {socket_address("198.18.1.4:5353")};
  stale.expect({.address = socket_address("10.96.0.10:53").address,
                .port = net::Port{53},
                .protocol = Protocol::kUdp},
               terminating);
  EXPECT_FALSE(stale.is_stale(flow(Protocol::kUdp, "10.96.0.10:53", "198.18.1.4:5353")));
  EXPECT_FALSE(stale.is_stale(flow(Protocol::kUdp, "10.96.0.10:53", "198.18.1.1:5353")));
  EXPECT_TRUE(stale.is_stale(flow(Protocol::kUdp, "10.96.0.10:53", "198.18.1.9:5353")));
}

TEST(StaleFlows, AnyClientClassCounts) {
  auto server = std::make_shared<plan::VirtualServer>(
      *virtual_server("10.96.0.10:53", Protocol::kUdp, {"198.18.1.1:5353"}));
  const auto pods = virtual_server("10.96.0.10:53", Protocol::kUdp, {"198.18.1.2:5353"});
  server->classes[static_cast<std::size_t>(plan::ClientClass::kPod)] =
      pods->policy(plan::ClientClass::kPod);
  StaleFlows stale;
  stale.expect(*server);
  EXPECT_FALSE(stale.is_stale(flow(Protocol::kUdp, "10.96.0.10:53", "198.18.1.1:5353")));
  EXPECT_FALSE(stale.is_stale(flow(Protocol::kUdp, "10.96.0.10:53", "198.18.1.2:5353")));
}

TEST(RemoveStale, DeletesOnlyStaleOnes) {
  netlink::FakeConntrack table;
  table.flows = {flow(Protocol::kUdp, "10.96.0.10:53", "198.18.1.9:5353"),
                 flow(Protocol::kUdp, "203.0.113.7:53", "198.18.1.1:5353"),
                 flow(Protocol::kTcp, "10.96.0.10:53", "198.18.1.9:5353"),
                 flow(Protocol::kUdp, "[2001:db8:96::10]:53", "[2001:db8:1::9]:5353")};
  const auto kept = std::vector<netlink::Flow>{table.flows[1], table.flows[2]};
  const Removed removed = remove_stale(table, servers());
  EXPECT_EQ(removed.count, 2U);
  EXPECT_TRUE(removed.errors.empty());
  EXPECT_EQ(table.flows.size(), kept.size());
  for (std::size_t i = 0; i < kept.size(); ++i) {
    EXPECT_EQ(table.flows[i].original, kept[i].original);
  }
  EXPECT_EQ(table.calls("remove"), 1U);
}

TEST(RemoveStale, ReadsNothingForTcp) {
  // 141: only TCP endpoints changed.
  netlink::FakeConntrack table;
  const std::vector<plan::VirtualServerPtr> tcp = {
      virtual_server("10.96.0.10:53", Protocol::kTcp, {"198.18.1.1:5353"})};
  EXPECT_EQ(remove_stale(table, tcp).count, 0U);
  EXPECT_EQ(table.total_calls(), 0U);
}

TEST(RemoveStale, ReadsOnlyFamiliesAndProtocolsInUse) {
  netlink::FakeConntrack table;
  const std::vector<plan::VirtualServerPtr> udp = {
      virtual_server("10.96.0.10:53", Protocol::kUdp, {"198.18.1.1:5353"})};
  EXPECT_EQ(remove_stale(table, udp).count, 0U);
  EXPECT_EQ(table.calls("dump"), 1U);
  EXPECT_EQ(table.total_calls(), 1U);
}

TEST(RemoveStale, OneFailureLeavesTheRest) {
  netlink::FakeConntrack table;
  table.flows = {flow(Protocol::kUdp, "10.96.0.10:53", "198.18.1.9:5353"),
                 flow(Protocol::kUdp, "203.0.113.7:53", "198.18.1.9:5353")};
  table.fail_next("remove", "10.96.0.10",
                  {.error = Error::from_errno(EPERM, "no"), .when = netlink::Fault::When::kBefore});
  const Removed removed = remove_stale(table, servers());
  EXPECT_EQ(removed.count, 1U);
  EXPECT_EQ(removed.errors.size(), 1U);
  EXPECT_EQ(table.flows.size(), 1U);
}

}  // namespace
}  // namespace fairlead::conntrack
