// SPDX-License-Identifier: Apache-2.0
// What a node must serve for given objects, one row per case. Rows are named after the numbered
// behaviour cases of the reference proxy.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>
#include <variant>
#include <vector>

#include "plan/test_rig.h"

namespace fairlead::plan {
namespace {

using namespace fairlead::test;
using testing::ElementsAre;
using testing::IsEmpty;

using Object = std::variant<api::Service, api::EndpointSlice>;

struct Case {
  std::string name;
  std::vector<Object> objects;
  std::vector<std::string> want;
  model::NodeFacts node = facts({"100.101.102.103", "2001:db8::1:1"});
  model::ModelOptions options = {};
};

model::ModelOptions only_v4() {
  model::ModelOptions options;
  options.ipv6 = false;
  return options;
}
model::ModelOptions only_v6() {
  model::ModelOptions options;
  options.ipv4 = false;
  return options;
}
model::ModelOptions node_ports(std::initializer_list<const char*> prefixes) {
  model::ModelOptions options;
  options.node_port_addresses.cidrs = cidrs(prefixes);
  return options;
}
model::ModelOptions primary() {
  model::ModelOptions options;
  options.node_port_addresses.primary = true;
  return options;
}

class Behaviour : public testing::TestWithParam<Case> {};

TEST_P(Behaviour, Plan) {
  Rig rig(GetParam().node, GetParam().options);
  for (const Object& object : GetParam().objects) {
    std::visit([&](const auto& value) { rig.put(value); }, object);
  }
  EXPECT_THAT(rig.lines(), testing::UnorderedElementsAreArray(GetParam().want));
}

std::string case_name(const testing::TestParamInfo<Case>& info) { return info.param.name; }

// A service with a TCP node port in both families.
api::Service web() {
  return service("ns/web").cluster("10.20.30.41").cluster("2020::1").tcp("p80", 80, 3001);
}
api::EndpointSlice web_v4() { return slice("ns/web-4", "web", {tcp("p80", 80)}, {"10.180.0.1"}); }
api::EndpointSlice web_v6() {
  return slice("ns/web-6", "web", {tcp("p80", 80)}, {"2002:ab8::2:1"});
}

INSTANTIATE_TEST_SUITE_P(
    NodePort, Behaviour,
    testing::Values(
        Case{.name = "c01_ipv4",
             .objects = {web(), web_v4(), web_v6()},
             .want = {"10.20.30.41:80/TCP cluster-ip: 10.180.0.1:80",
                      "100.101.102.103:3001/TCP node-port: 10.180.0.1:80"},
             .options = only_v4()},
        Case{.name = "c02_ipv6",
             .objects = {web(), web_v4(), web_v6()},
             .want = {"[2020::1]:80/TCP cluster-ip: [2002:ab8::2:1]:80",
                      "[2001:db8::1:1]:3001/TCP node-port: [2002:ab8::2:1]:80"},
             .options = only_v6()},
        Case{.name = "c01_c02_both",
             .objects = {web(), web_v4(), web_v6()},
             .want = {"10.20.30.41:80/TCP cluster-ip: 10.180.0.1:80",
                      "100.101.102.103:3001/TCP node-port: 10.180.0.1:80",
                      "[2020::1]:80/TCP cluster-ip: [2002:ab8::2:1]:80",
                      "[2001:db8::1:1]:3001/TCP node-port: [2002:ab8::2:1]:80"}},
        Case{.name = "c03_ipv4_service_has_nothing_in_ipv6",
             .objects = {service("ns/web").cluster("10.20.30.41").tcp("p80", 80, 3001), web_v6()},
             .want = {"10.20.30.41:80/TCP cluster-ip:", "100.101.102.103:3001/TCP node-port:"}},
        Case{.name = "c04_udp",
             .objects = {service("ns/dns").cluster("10.20.30.41").udp("dns", 53, 3001),
                         slice("ns/dns-1", "dns", {udp("dns", 53)}, {"10.180.0.1"})},
             .want = {"10.20.30.41:53/UDP cluster-ip: 10.180.0.1:53",
                      "100.101.102.103:3001/UDP node-port: 10.180.0.1:53"},
             .options = node_ports({"0.0.0.0/0"})},
        Case{.name = "c06_no_endpoints",
             .objects = {service("ns/web").cluster("10.20.30.41").tcp("p80", 80, 3001)},
             .want = {"10.20.30.41:80/TCP cluster-ip:", "100.101.102.103:3001/TCP node-port:"}},
        Case{.name = "c07_sctp_on_three_addresses",
             .objects = {service("ns/web").cluster("10.20.30.41").sctp("p80", 80, 3001),
                         slice("ns/web-4", "web", {sctp("p80", 80)}, {"10.180.0.1"})},
             .want = {"10.20.30.41:80/SCTP cluster-ip: 10.180.0.1:80",
                      "100.101.102.103:3001/SCTP node-port: 10.180.0.1:80",
                      "100.101.102.104:3001/SCTP node-port: 10.180.0.1:80",
                      "100.101.102.105:3001/SCTP node-port: 10.180.0.1:80"},
             .node = facts({"100.101.102.103", "100.101.102.104", "100.101.102.105",
                            "2001:db8::1:1", "2001:db8::1:2"})},
        Case{.name = "c10_no_address_matches",
             .objects = {service("ns/web").cluster("10.20.30.41").tcp("p80", 80, 3001)},
             .want = {"10.20.30.41:80/TCP cluster-ip:"},
             .options = node_ports({"198.51.100.0/24"})},
        Case{.name = "c11_only_loopback",
             .objects = {web()},
             .want = {"10.20.30.41:80/TCP cluster-ip:", "[2020::1]:80/TCP cluster-ip:"},
             .node = facts({"127.0.0.1", "::1"})},
        Case{.name = "c12_ipv4_link_local",
             .objects = {service("ns/web").cluster("10.20.30.41").tcp("p80", 80, 3001)},
             .want = {"10.20.30.41:80/TCP cluster-ip:", "169.254.7.7:3001/TCP node-port:"},
             .node = facts({"169.254.7.7"})},
        Case{.name = "c13_ipv6_link_local",
             .objects = {service("ns/web").cluster("2020::1").tcp("p80", 80, 3001)},
             .want = {"[2020::1]:80/TCP cluster-ip:"},
             .node = facts({"fe80::1"})},
        Case{
            .name = "c15_one_number_for_two_protocols",
            .objects = {service("ns/dns")
                            .cluster("10.20.30.41")
                            .tcp("tcp", 53, 3001)
                            .udp("udp", 53, 3001)},
            .want = {"10.20.30.41:53/TCP cluster-ip:", "10.20.30.41:53/UDP cluster-ip:",
                     "100.101.102.103:3001/TCP node-port:", "100.101.102.103:3001/UDP node-port:"}},
        Case{.name = "c17_node_ip_is_load_balancer_ip_too",
             .objects = {service("ns/web")
                             .cluster("10.20.30.41")
                             .load_balancer({"100.101.102.103"})
                             .tcp("p80", 80, 3001)},
             .want = {"10.20.30.41:80/TCP cluster-ip:", "100.101.102.103:80/TCP load-balancer-ip:",
                      "100.101.102.103:3001/TCP node-port:"}},
        Case{.name = "c18_only_the_service_with_node_port",
             .objects = {service("ns/a").cluster("10.20.30.41").tcp("", 80, 3001),
                         service("ns/b").cluster("10.20.30.42").tcp("", 80)},
             .want = {"10.20.30.41:80/TCP cluster-ip:", "10.20.30.42:80/TCP cluster-ip:",
                      "100.101.102.103:3001/TCP node-port:"}}),
    case_name);

Case addresses(std::string name, model::ModelOptions options,
               std::initializer_list<const char*> interfaces,
               const std::vector<std::string>& want) {
  Case out{.name = std::move(name),
           .objects = {service("ns/web").cluster("10.20.30.41").cluster("2020::1").tcp("", 1, 3)},
           .want = {"10.20.30.41:1/TCP cluster-ip:", "[2020::1]:1/TCP cluster-ip:"},
           .node = facts(interfaces),
           .options = std::move(options)};
  for (const std::string& socket : want) {
    out.want.push_back(socket + "/TCP node-port:");
  }
  return out;
}

INSTANTIATE_TEST_SUITE_P(
    NodePortAddresses, Behaviour,
    testing::Values(
        addresses("c19_one_cidr", node_ports({"10.20.30.0/24"}), {"10.20.30.51", "100.200.201.1"},
                  {"10.20.30.51:3"}),
        addresses("c20_zero_cidr", node_ports({"0.0.0.0/0"}),
                  {"10.20.30.51", "100.200.201.1", "127.0.0.1"},
                  {"10.20.30.51:3", "100.200.201.1:3"}),
        addresses("c21_unset", node_ports({}), {"10.20.30.51", "100.200.201.1", "127.0.0.1"},
                  {"10.20.30.51:3", "100.200.201.1:3"}),
        addresses("c22_loopback", node_ports({"127.0.0.0/8"}), {"127.0.0.1", "10.20.30.51"}, {}),
        addresses("c23_two_cidrs", node_ports({"10.20.30.0/24", "100.200.201.0/24"}),
                  {"10.20.30.51", "100.200.201.1", "198.51.100.1"},
                  {"10.20.30.51:3", "100.200.201.1:3"}),
        addresses("c24_zero_cidr_among_others", node_ports({"0.0.0.0/0", "10.20.30.0/24"}),
                  {"10.20.30.51", "100.200.201.1"}, {"10.20.30.51:3", "100.200.201.1:3"}),
        addresses("c25_other_family_named", node_ports({"10.20.30.0/24"}),
                  {"10.20.30.51", "100.200.201.1", "2001:db8::1"},
                  {"10.20.30.51:3", "[2001:db8::1]:3"}),
        addresses("c26_ipv6_cidr", node_ports({"2001:db8::/64"}),
                  {"2001:db8::1", "2001:db8:1::1", "fe80::1"}, {"[2001:db8::1]:3"}),
        addresses("c27_none_inside", node_ports({"1.2.3.0/24"}), {"10.20.30.51"}, {}),
        addresses("primary_takes_the_nodes_ips", primary(), {"10.20.30.51"}, {"10.20.30.51:3"}),
        Case{.name = "primary_needs_the_ip_on_an_interface",
             .objects = {service("ns/web").cluster("10.20.30.41").tcp("", 1, 3)},
             .want = {"10.20.30.41:1/TCP cluster-ip:", "192.0.2.1:3/TCP node-port:"},
             .node = {.name = "node-1",
                      .zone = {},
                      .node_ips = ips({"192.0.2.1", "203.0.113.1"}),
                      .interface_addresses = ips({"192.0.2.1", "198.51.100.1"}),
                      .pod_cidrs = {}},
             .options = primary()}),
    case_name);

api::Service balanced(std::initializer_list<const char*> addresses, int node_port) {
  return service("ns/web").cluster("10.20.30.41").load_balancer(addresses).tcp("", 80, node_port);
}

INSTANTIATE_TEST_SUITE_P(
    Addresses, Behaviour,
    testing::Values(
        Case{.name = "c28_no_endpoints",
             .objects = {service("ns/web").cluster("10.20.30.41").tcp("p80", 80)},
             .want = {"10.20.30.41:80/TCP cluster-ip:"}},
        Case{
            .name = "c29_external_ip",
            .objects =
                {service("ns/web").cluster("10.20.30.41").external({"50.60.70.81"}).tcp("p80", 80)},
            .want = {"10.20.30.41:80/TCP cluster-ip:", "50.60.70.81:80/TCP external-ip:"}},
        Case{.name = "c30_of_its_family_and_not_loopback",
             .objects = {service("ns/web")
                             .cluster("10.20.30.41")
                             .external({"50.60.70.81", "2012::51", "127.0.0.1"})
                             .tcp("p80", 80)},
             .want = {"10.20.30.41:80/TCP cluster-ip:", "50.60.70.81:80/TCP external-ip:"}},
        Case{.name = "c34_load_balancer_without_node_ips",
             .objects = {balanced({"1.2.3.4"}, 3001)},
             .want = {"10.20.30.41:80/TCP cluster-ip:", "1.2.3.4:80/TCP load-balancer-ip:"},
             .node = facts({})},
        // The decoder leaves ipMode Proxy and host names out of load_balancer_ips.
        Case{.name = "c37_c39_nothing_to_serve_of_the_load_balancer",
             .objects = {balanced({}, 3001)},
             .want = {"10.20.30.41:80/TCP cluster-ip:", "100.101.102.103:3001/TCP node-port:"}},
        Case{.name = "c38_vip",
             .objects = {balanced({"1.2.3.4"}, 0)},
             .want = {"10.20.30.41:80/TCP cluster-ip:", "1.2.3.4:80/TCP load-balancer-ip:"}},
        Case{.name = "c40_one_ip_per_family",
             .objects = {service("ns/web")
                             .cluster("10.20.30.41")
                             .cluster("2020::1")
                             .load_balancer({"1.2.3.4", "fd00::4"})
                             .tcp("", 80)},
             .want = {"10.20.30.41:80/TCP cluster-ip:", "1.2.3.4:80/TCP load-balancer-ip:",
                      "[2020::1]:80/TCP cluster-ip:", "[fd00::4]:80/TCP load-balancer-ip:"}},
        Case{.name = "same_address_external_and_load_balancer",
             .objects = {service("ns/web")
                             .cluster("10.20.30.41")
                             .load_balancer({"1.2.3.4"})
                             .external({"1.2.3.4"})
                             .tcp("", 80)},
             .want = {"10.20.30.41:80/TCP cluster-ip:", "1.2.3.4:80/TCP load-balancer-ip:"}}),
    case_name);

INSTANTIATE_TEST_SUITE_P(
    Services, Behaviour,
    testing::Values(
        Case{.name = "c59_headless",
             .objects = {service("ns/web").headless().tcp("", 80)},
             .want = {}},
        Case{.name = "no_cluster_ip_yet",
             .objects = {service("ns/web").external({"50.60.70.81"}).tcp("", 80)},
             .want = {}},
        Case{.name = "c60_external_name",
             .objects = {service("ns/web")
                             .cluster("10.20.30.41")
                             .type(api::ServiceType::kExternalName)
                             .tcp("", 80)},
             .want = {}},
        Case{.name = "c64_other_proxy_even_if_unnamed",
             .objects = {service("ns/web")
                             .cluster("10.20.30.41")
                             .label("service.kubernetes.io/service-proxy-name", "")
                             .tcp("", 80)},
             .want = {}},
        Case{.name = "c65_dual_stack",
             .objects = {service("ns/web").cluster("10.20.30.41").cluster("2020::1").tcp("", 80)},
             .want = {"10.20.30.41:80/TCP cluster-ip:", "[2020::1]:80/TCP cluster-ip:"}},
        Case{
            .name = "c66_two_protocols",
            .objects = {service("ns/dns").cluster("10.20.30.41").tcp("t", 53).udp("u", 53),
                        slice("ns/dns-1", "dns", {tcp("t", 5353), udp("u", 5354)}, {"10.180.0.1"})},
            .want = {"10.20.30.41:53/TCP cluster-ip: 10.180.0.1:5353",
                     "10.20.30.41:53/UDP cluster-ip: 10.180.0.1:5354"}},
        Case{.name = "same_name_in_two_namespaces",
             .objects = {service("a/web").cluster("10.20.30.41").tcp("", 80),
                         service("b/web").cluster("10.20.30.42").tcp("", 80),
                         slice("a/web-1", "web", {tcp("", 80)}, {"10.180.0.1"}),
                         slice("b/web-1", "web", {tcp("", 80)}, {"10.180.0.2"})},
             .want = {"10.20.30.41:80/TCP cluster-ip: 10.180.0.1:80",
                      "10.20.30.42:80/TCP cluster-ip: 10.180.0.2:80"}}),
    case_name);

Case endpoints(std::string name, std::vector<api::EndpointSlice> slices, const std::string& want) {
  Case out{.name = std::move(name),
           .objects = {service("ns/web").cluster("10.20.30.41").tcp("http", 80)},
           .want = {"10.20.30.41:80/TCP cluster-ip:" + want}};
  for (api::EndpointSlice& slice : slices) {
    out.objects.emplace_back(std::move(slice));
  }
  return out;
}

INSTANTIATE_TEST_SUITE_P(
    Endpoints, Behaviour,
    testing::Values(
        endpoints("c68_the_ready_ones",
                  {slice("ns/web-1", "web", {tcp("http", 80)},
                         {"10.0.1.1@node-1", "10.0.1.2@node-2", "10.0.1.3@node-3",
                          "10.0.1.4@node-4 not-ready"})},
                  " 10.0.1.1:80(local) 10.0.1.2:80 10.0.1.3:80"),
        endpoints("c70_in_two_slices_local_wins",
                  {slice("ns/web-1", "web", {tcp("http", 80)}, {"10.0.1.1"}),
                   slice("ns/web-2", "web", {tcp("http", 80)}, {"10.0.1.1@node-1"})},
                  " 10.0.1.1:80(local)"),
        endpoints("in_two_slices_one_is_terminating",
                  {slice("ns/web-1", "web", {tcp("http", 80)}, {"10.0.1.1@node-1 terminating"}),
                   slice("ns/web-2", "web", {tcp("http", 80)}, {"10.0.1.1@node-1"})},
                  " 10.0.1.1:80(local)"),
        endpoints("c71_another_port_name",
                  {slice("ns/web-1", "web", {tcp("old", 80)}, {"10.0.1.1"})}, ""),
        endpoints("another_protocol", {slice("ns/web-1", "web", {udp("http", 80)}, {"10.0.1.1"})},
                  ""),
        endpoints("target_ports_may_differ_per_slice",
                  {slice("ns/web-1", "web", {tcp("http", 8080)}, {"10.0.1.1"}),
                   slice("ns/web-2", "web", {tcp("http", 8081)}, {"10.0.1.1", "10.0.1.2"})},
                  " 10.0.1.1:8080 10.0.1.1:8081 10.0.1.2:8081"),
        endpoints("c74_port_zero", {slice("ns/web-1", "web", {tcp("http", 0)}, {"10.0.1.1"})}, ""),
        endpoints("c76_ipv6_slice_of_ipv4_service",
                  {slice("ns/web-1", "web", {tcp("http", 80)}, {"2001:db8::1"})}, ""),
        endpoints("c77_unknown_service",
                  {slice("ns/other-1", "other", {tcp("http", 80)}, {"10.0.1.1"})}, ""),
        endpoints("c77_other_namespace",
                  {slice("other/web-1", "web", {tcp("http", 80)}, {"10.0.1.1"})}, ""),
        endpoints("c78_no_service_name", {slice("ns/web-1", "", {tcp("http", 80)}, {"10.0.1.1"})},
                  ""),
        endpoints("c80_no_node_name", {slice("ns/web-1", "web", {tcp("http", 80)}, {"10.0.1.1@"})},
                  " 10.0.1.1:80"),
        endpoints("sorted_as_addresses_not_as_text",
                  {slice("ns/web-1", "web", {tcp("http", 80)}, {"10.0.1.10", "10.0.1.9"})},
                  " 10.0.1.9:80 10.0.1.10:80"),
        endpoints("c81_c84_terminating_ones_do_not_serve",
                  {slice("ns/web-1", "web", {tcp("http", 80)},
                         {"10.0.1.1@node-1", "10.0.1.3@node-1 terminating", "10.0.1.4@node-1 dead",
                          "10.0.1.5@node-2"})},
                  " 10.0.1.1:80(local) 10.0.1.5:80"),
        endpoints("nonsense_addresses",
                  {slice("ns/web-1", "web", {tcp("http", 80)},
                         {"127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "10.0.1.1"})},
                  " 10.0.1.1:80")),
    case_name);

TEST(Behaviour, C16C55AffinityOnEveryVirtualServer) {
  Rig rig(facts({"192.0.2.1"}));
  rig.put(service("ns/web")
              .cluster("10.20.30.41")
              .external({"50.60.70.81"})
              .tcp("", 80, 3001)
              .affinity(10800));
  for (const char* socket : {"10.20.30.41:80", "50.60.70.81:80", "192.0.2.1:3001"}) {
    ASSERT_NE(rig.find(socket), nullptr) << socket;
    EXPECT_EQ(rig.find(socket)->persistence, std::chrono::seconds(10800)) << socket;
  }
}

TEST(Behaviour, AffinityByNetworkIsAChangeInPlace) {
  Rig rig;
  const auto web = [] {
    return service("ns/web").cluster("10.20.30.41").cluster("2001:db8::1").tcp("", 80).affinity(60);
  };
  rig.put(web());
  EXPECT_THAT(changes(rig.put(web().annotation("fairlead.io/affinity-prefix", "24"))),
              ElementsAre("put 10.20.30.41:80/TCP cluster-ip:"));
  EXPECT_EQ(rig.find("10.20.30.41:80")->persistence_prefix, 24);
  EXPECT_EQ(rig.find("[2001:db8::1]:80")->persistence_prefix, std::nullopt);
  rig.put(web().annotation("fairlead.io/affinity-prefix", "32,48"));
  EXPECT_EQ(rig.find("10.20.30.41:80")->persistence_prefix, std::nullopt);
  EXPECT_EQ(rig.find("[2001:db8::1]:80")->persistence_prefix, 48);
}

TEST(Behaviour, AFirewallMarkInBothFamilies) {
  Rig rig;
  const auto web = [] {
    return service("ns/web")
        .cluster("10.20.30.41")
        .cluster("2001:db8::1")
        .tcp("a", 80)
        .annotation("fairlead.io/firewall-mark", "7");
  };
  rig.put(web(), slice("ns/web-4", "web", {tcp("a", 8080)}, {"10.1.0.1@node-1", "10.1.0.2"}),
          slice("ns/web-6", "web", {tcp("a", 8080)}, {"2001:db8:1::1"}));
  EXPECT_THAT(rig.lines(),
              ElementsAre("FWM 7 firewall-mark: 10.1.0.1:8080(local) 10.1.0.2:8080",
                          "10.20.30.41:80/TCP cluster-ip: 10.1.0.1:8080(local) 10.1.0.2:8080",
                          "FWM 7 IPv6 firewall-mark: [2001:db8:1::1]:8080",
                          "[2001:db8::1]:80/TCP cluster-ip: [2001:db8:1::1]:8080"));
  const VirtualServerPtr server =
      rig.planner().find({.address = net::IpAddress::any(net::Family::kIpv4), .mark = 7});
  EXPECT_TRUE(server->on_node_interface);
  for (const ClassPolicy& policy : server->classes) {
    EXPECT_FALSE(policy.masquerade);
  }
  EXPECT_THAT(changes(rig.put(web().annotation("fairlead.io/firewall-mark", "8"))),
              ElementsAre("put FWM 8 firewall-mark: 10.1.0.1:8080(local) 10.1.0.2:8080",
                          "put FWM 8 IPv6 firewall-mark: [2001:db8:1::1]:8080", "remove FWM 7",
                          "remove FWM 7 IPv6"));
}

TEST(Behaviour, AFirewallMarkKeepsThePortWhereItIsOfSeveralConnections) {
  Rig rig;
  const auto web = [] {
    return service("ns/web")
        .cluster("10.20.30.41")
        .tcp("a", 80)
        .annotation("fairlead.io/firewall-mark", "7");
  };
  const auto marked = [&](const api::Service& object) {
    rig.put(object);
    return rig.lines().front();
  };
  rig.put(slice("ns/web-4", "web", {tcp("a", 8080), tcp("b", 8081)}, {"10.1.0.1"}));
  EXPECT_EQ(marked(web()), "FWM 7 firewall-mark: 10.1.0.1:8080");
  EXPECT_EQ(marked(web().tcp("b", 81)), "FWM 7 firewall-mark: 10.1.0.1:0");
  EXPECT_EQ(marked(web().affinity(60)), "FWM 7 firewall-mark: 10.1.0.1:0");
  EXPECT_EQ(marked(web().annotation("fairlead.io/forwarding", "ipip")),
            "FWM 7 firewall-mark: 10.1.0.1:0");
}

TEST(Behaviour, TheMasqueradeMarkIsNobodys) {
  model::ModelOptions options;
  options.masquerade_mark = 4;
  Rig rig({}, options);
  rig.put(service("ns/a")
              .cluster("10.20.30.41")
              .tcp("", 80)
              .annotation("fairlead.io/firewall-mark", "7"),
          service("ns/b")
              .cluster("10.20.30.42")
              .tcp("", 80)
              .annotation("fairlead.io/firewall-mark", "8"));
  EXPECT_THAT(rig.lines(), ElementsAre("FWM 8 firewall-mark:", "10.20.30.41:80/TCP cluster-ip:",
                                       "10.20.30.42:80/TCP cluster-ip:"));
  EXPECT_THAT(rig.problems(), ElementsAre(testing::HasSubstr("7 has the bit that marks")));
}

TEST(Behaviour, OneFirewallMarkIsOneServices) {
  Rig rig;
  for (const auto& [name, address] : {std::pair("ns/a", "10.20.30.41"), {"ns/b", "10.20.30.42"}}) {
    rig.put(
        service(name).cluster(address).tcp("", 80).annotation("fairlead.io/firewall-mark", "7"));
  }
  const auto owner = [&] {
    return rig.planner()
        .find({.address = net::IpAddress::any(net::Family::kIpv4), .mark = 7})
        ->owner;
  };
  EXPECT_EQ(owner(), "ns/a");
  EXPECT_THAT(rig.problems(),
              ElementsAre(testing::HasSubstr(
                  "Service ns/b: metadata.annotations[fairlead.io/firewall-mark]: FWM 7, wanted "
                  "by service port ns/b, already belongs to ns/a")));
  rig.erase(api::Kind::kService, "ns/a");
  EXPECT_EQ(owner(), "ns/b");
  EXPECT_THAT(rig.problems(), testing::IsEmpty());
}

TEST(Behaviour, C56AffinityRemovedIsAChangeInPlace) {
  Rig rig;
  rig.put(service("ns/web").cluster("10.20.30.41").tcp("", 80).affinity(10800));
  EXPECT_THAT(changes(rig.put(service("ns/web").cluster("10.20.30.41").tcp("", 80))),
              ElementsAre("put 10.20.30.41:80/TCP cluster-ip:"));
  EXPECT_EQ(rig.find("10.20.30.41:80")->persistence, std::nullopt);
}

TEST(Behaviour, C32ExternalIpOnAnInterfaceIsServedButNotBound) {
  Rig rig(facts({"192.0.2.1"}));
  rig.put(service("ns/web")
              .cluster("10.20.30.41")
              .external({"192.0.2.1", "198.51.100.1"})
              .load_balancer({"198.51.100.2"})
              .tcp("", 80, 3001));
  EXPECT_TRUE(rig.find("192.0.2.1:80")->on_node_interface);
  EXPECT_FALSE(rig.find("198.51.100.1:80")->on_node_interface);
  EXPECT_FALSE(rig.find("198.51.100.2:80")->on_node_interface);
  EXPECT_FALSE(rig.find("10.20.30.41:80")->on_node_interface);
  EXPECT_TRUE(rig.find("192.0.2.1:3001")->on_node_interface);
}

TEST(Behaviour, C52C53C54ServiceAndPortRemoved) {
  Rig rig;
  rig.put(service("ns/web").cluster("10.20.30.41").tcp("a", 80).tcp("b", 8080));
  EXPECT_THAT(changes(rig.put(service("ns/web").cluster("10.20.30.41").tcp("a", 80))),
              ElementsAre("remove 10.20.30.41:8080/TCP"));
  EXPECT_THAT(changes(rig.erase(api::Kind::kService, "ns/web")),
              ElementsAre("remove 10.20.30.41:80/TCP"));
  EXPECT_THAT(rig.lines(), IsEmpty());
}

TEST(Behaviour, C57C58SchedulerFlags) {
  for (const auto& [name, flags] : {std::pair("mh", 0x10U), {"sh", 0U}, {"rr", 0U}}) {
    model::ModelOptions options;
    options.default_scheduler = model::Scheduler{name, flags};
    Rig rig(facts({"192.0.2.1"}), options);
    rig.put(service("ns/web").cluster("10.20.30.41").tcp("", 80, 3001));
    EXPECT_EQ(rig.find("10.20.30.41:80")->scheduler.flags, flags) << name;
    EXPECT_EQ(rig.find("192.0.2.1:3001")->scheduler.name, name);
  }
}

TEST(Behaviour, C61C62ManyServicesComeAndGo) {
  Rig rig(facts({"192.0.2.1"}));
  rig.put(service("ns/a").cluster("10.96.0.1").udp("x", 1234).udp("y", 1235),
          service("ns/b").cluster("10.96.0.2").udp("x", 345, 10001).udp("y", 344, 10002),
          service("ns/c").cluster("10.96.0.3").load_balancer({"1.2.3.4"}).udp("x", 8675, 30061),
          service("ns/d").headless().tcp("x", 80));
  EXPECT_EQ(rig.lines().size(), 2U + 4U + 3U);
  rig.erase(api::Kind::kService, "ns/b");
  rig.erase(api::Kind::kService, "ns/c");
  rig.put(service("ns/a").cluster("10.96.0.1").udp("y", 1235));
  EXPECT_THAT(rig.lines(), ElementsAre("10.96.0.1:1235/UDP cluster-ip:"));
}

TEST(Behaviour, C64HandedToAnotherProxy) {
  Rig rig;
  rig.put(service("ns/web").cluster("10.20.30.41").tcp("", 80));
  EXPECT_THAT(changes(rig.put(service("ns/web")
                                  .cluster("10.20.30.41")
                                  .label("service.kubernetes.io/service-proxy-name", "x")
                                  .tcp("", 80))),
              ElementsAre("remove 10.20.30.41:80/TCP"));
}

TEST(Behaviour, C67C79NothingRelevantChanged) {
  Rig rig;
  const auto web_slice = slice("ns/web-1", "web", {tcp("", 80)}, {"10.0.1.1"});
  rig.put(service("ns/web").cluster("10.20.30.41").tcp("", 80), web_slice);
  EXPECT_THAT(
      changes(rig.put(service("ns/web").cluster("10.20.30.41").tcp("", 80).label("app", "web"))),
      IsEmpty());
  rig.store().put(web_slice);
  EXPECT_TRUE(rig.store().take_dirty().empty());
}

TEST(Behaviour, C69SliceDeleted) {
  Rig rig;
  rig.put(service("ns/web").cluster("10.20.30.41").tcp("", 80),
          slice("ns/web-1", "web", {tcp("", 80)}, {"10.0.1.1"}));
  EXPECT_THAT(changes(rig.erase(api::Kind::kEndpointSlice, "ns/web-1")),
              ElementsAre("put 10.20.30.41:80/TCP cluster-ip:"));
}

TEST(Behaviour, C71PortRenamed) {
  Rig rig;
  rig.put(service("ns/web").cluster("10.20.30.41").tcp("old", 80),
          slice("ns/web-1", "web", {tcp("old", 80)}, {"10.0.1.1"}));
  rig.put(service("ns/web").cluster("10.20.30.41").tcp("new", 80));
  EXPECT_THAT(rig.lines(), ElementsAre("10.20.30.41:80/TCP cluster-ip:"));
  rig.put(slice("ns/web-1", "web", {tcp("new", 80)}, {"10.0.1.2"}));
  EXPECT_THAT(rig.lines(), ElementsAre("10.20.30.41:80/TCP cluster-ip: 10.0.1.2:80"));
  EXPECT_EQ(rig.find("10.20.30.41:80")->owner, "ns/web:new");
}

TEST(Behaviour, C72C73EndpointsMove) {
  Rig rig;
  rig.put(service("ns/web").cluster("10.20.30.41").tcp("", 80),
          slice("ns/web-1", "web", {tcp("", 80)}, {"10.0.1.1"}));
  EXPECT_THAT(changes(rig.put(slice("ns/web-1", "web", {tcp("", 81)}, {"10.0.1.1"}))),
              ElementsAre("put 10.20.30.41:80/TCP cluster-ip: 10.0.1.1:81"));
  EXPECT_THAT(changes(rig.put(slice("ns/web-1", "web", {tcp("", 81)}, {"10.0.1.1", "10.0.1.2"}))),
              ElementsAre("put 10.20.30.41:80/TCP cluster-ip: 10.0.1.1:81 10.0.1.2:81"));
  EXPECT_THAT(changes(rig.put(slice("ns/web-1", "web", {tcp("", 81)}, {"10.0.1.2"}))),
              ElementsAre("put 10.20.30.41:80/TCP cluster-ip: 10.0.1.2:81"));
}

TEST(Behaviour, C68C82HairpinHasEveryLocalEndpoint) {
  Rig rig;
  rig.put(service("ns/web").cluster("10.20.30.41").tcp("", 80),
          slice("ns/web-1", "web", {tcp("", 80)},
                {"10.0.1.5@node-2", "10.0.1.4@node-1 dead", "10.0.1.3@node-1 terminating",
                 "10.0.1.2@node-1 not-ready", "10.0.1.1@node-1"}));
  EXPECT_THAT(*rig.find("10.20.30.41:80")->hairpin,
              ElementsAre(net::SocketAddress{ip("10.0.1.1"), port(80)},
                          net::SocketAddress{ip("10.0.1.2"), port(80)},
                          net::SocketAddress{ip("10.0.1.3"), port(80)},
                          net::SocketAddress{ip("10.0.1.4"), port(80)}));
}

TEST(Behaviour, Masquerade) {
  struct Row {
    std::string name;
    model::ModelOptions options;
    std::vector<bool> cluster_ip;  // external, pod, node
  };
  model::ModelOptions with_cidr;
  with_cidr.cluster_cidrs = cidrs({"10.0.0.0/16"});
  model::ModelOptions other_family;
  other_family.cluster_cidrs = cidrs({"2001:db8::/64"});
  model::ModelOptions all = with_cidr;
  all.masquerade_all = true;
  model::ModelOptions by_node = {};
  by_node.local_detection = model::LocalDetection::kNodeCidr;
  model::ModelOptions by_interface = {};
  by_interface.local_detection = model::LocalDetection::kInterface;
  auto node = facts({"192.0.2.1"});
  node.pod_cidrs = cidrs({"10.0.1.0/24"});
  for (const Row& row :
       std::vector<Row>{{"c11 cluster cidr", with_cidr, {true, false, true}},
                        {"cidr of other family", other_family, {false, false, true}},
                        {"c129 masquerade all", all, {true, true, true}},
                        {"c130 no detector", {}, {false, false, true}},
                        {"node cidr", by_node, {true, false, true}},
                        {"interface", by_interface, {true, false, true}}}) {
    Rig rig(node, row.options);
    rig.put(service("ns/web")
                .cluster("10.20.30.41")
                .external({"50.60.70.81"})
                .load_balancer({"1.2.3.4"})
                .tcp("", 80, 3001));
    const auto masquerade = [&](const char* socket) {
      std::vector<bool> out;
      out.reserve(kClientClasses);
      for (const ClassPolicy& policy : rig.find(socket)->classes) {
        out.push_back(policy.masquerade);
      }
      return out;
    };
    EXPECT_EQ(masquerade("10.20.30.41:80"), row.cluster_ip) << row.name;
    for (const char* socket : {"50.60.70.81:80", "1.2.3.4:80", "192.0.2.1:3001"}) {
      EXPECT_THAT(masquerade(socket), ElementsAre(true, true, true)) << row.name << " " << socket;
    }
  }
}

}  // namespace
}  // namespace fairlead::plan
