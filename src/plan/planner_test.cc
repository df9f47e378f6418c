// SPDX-License-Identifier: Apache-2.0
#include "plan/planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "plan/test_rig.h"

namespace fairlead::plan {
namespace {

using namespace fairlead::test;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(Planner, StartsEmpty) {
  Rig rig(facts({"192.0.2.1"}));
  EXPECT_TRUE(rig.planner().full().empty());
  EXPECT_TRUE(rig.planner().update({}).empty());
}

TEST(Planner, UnchangedVirtualServersProduceNothing) {
  Rig rig;
  rig.put(service("ns/web").cluster("10.96.0.1").tcp("a", 80).tcp("b", 81),
          slice("ns/web-1", "web", {tcp("a", 8080), tcp("b", 8081)}, {"10.1.0.1"}));
  const VirtualServerPtr kept = rig.find("10.96.0.1:80");
  EXPECT_THAT(
      changes(rig.put(slice("ns/web-1", "web", {tcp("a", 8080), tcp("b", 8082)}, {"10.1.0.1"}))),
      ElementsAre("put 10.96.0.1:81/TCP cluster-ip: 10.1.0.1:8082"));
  EXPECT_EQ(rig.find("10.96.0.1:80"), kept);
}

TEST(Planner, VirtualServersOfAServicePortShareTheirRealServers) {
  Rig rig(facts({"192.0.2.1"}));
  const auto web_slice = slice("ns/web-1", "web", {tcp("a", 8080)}, {"10.1.0.1@node-1"});
  rig.put(service("ns/web").cluster("10.96.0.1").tcp("a", 80), web_slice);
  rig.put(service("ns/web").cluster("10.96.0.1").external({"198.51.100.1"}).tcp("a", 80, 30080));
  const auto first = rig.find("10.96.0.1:80");
  for (const char* socket : {"10.96.0.1:80", "198.51.100.1:80", "192.0.2.1:30080"}) {
    for (const ClassPolicy& policy : rig.find(socket)->classes) {
      EXPECT_EQ(policy.servers, first->classes.front().servers) << socket;
    }
    EXPECT_EQ(rig.find(socket)->hairpin, first->hairpin) << socket;
  }
}

TEST(Planner, ALocalEndpointThatDoesNotServeIsAChangeToo) {
  Rig rig;
  rig.put(service("ns/web").cluster("10.96.0.1").tcp("", 80),
          slice("ns/web-1", "web", {tcp("", 80)}, {"10.1.0.1"}));
  EXPECT_THAT(changes(rig.put(slice("ns/web-1", "web", {tcp("", 80)},
                                    {"10.1.0.1", "10.1.0.2@node-1 not-ready"}))),
              ElementsAre("put 10.96.0.1:80/TCP cluster-ip: 10.1.0.1:80"));
  EXPECT_THAT(*rig.find("10.96.0.1:80")->hairpin,
              ElementsAre(net::SocketAddress{ip("10.1.0.2"), port(80)}));
}

TEST(Planner, OldestOwnsAndTheOtherTakesOver) {
  Rig rig;
  rig.put(
      service("ns/young").cluster("10.96.0.2").external({"198.51.100.1"}).tcp("", 80).created(9));
  EXPECT_THAT(
      changes(rig.put(
          service("ns/zold").cluster("10.96.0.1").external({"198.51.100.1"}).tcp("", 80).created(5),
          slice("ns/zold-1", "zold", {tcp("", 80)}, {"10.1.0.1"}))),
      ElementsAre("put 10.96.0.1:80/TCP cluster-ip: 10.1.0.1:80",
                  "put 198.51.100.1:80/TCP external-ip: 10.1.0.1:80"));
  EXPECT_EQ(rig.find("198.51.100.1:80")->owner, "ns/zold");
  EXPECT_THAT(
      rig.problems(),
      ElementsAre(AllOf(HasSubstr("Service ns/young: spec.externalIPs: 198.51.100.1:80/TCP"),
                        HasSubstr("belongs to ns/zold"))));
  EXPECT_THAT(rig.planner().take_changed_problems(), ElementsAre(key("ns/young"), key("ns/zold")));
  EXPECT_THAT(rig.planner().take_changed_problems(), IsEmpty());

  EXPECT_THAT(changes(rig.erase(api::Kind::kService, "ns/zold")),
              ElementsAre("put 198.51.100.1:80/TCP external-ip:", "remove 10.96.0.1:80/TCP"));
  EXPECT_EQ(rig.find("198.51.100.1:80")->owner, "ns/young");
  EXPECT_THAT(rig.problems(), IsEmpty());
  EXPECT_THAT(rig.planner().take_changed_problems(), ElementsAre(key("ns/young"), key("ns/zold")));
}

TEST(Planner, ChangesOfAWaitingClaimAreSilentUntilItTakesOver) {
  Rig rig;
  const auto claimant = [](const char* name, const char* address, std::int64_t created) {
    return service(name).cluster(address).external({"198.51.100.1"}).tcp("", 80).created(created);
  };
  rig.put(claimant("ns/a", "10.96.0.1", 1), claimant("ns/b", "10.96.0.2", 2));
  EXPECT_THAT(changes(rig.put(slice("ns/b-1", "b", {tcp("", 80)}, {"10.1.0.2"}))),
              ElementsAre("put 10.96.0.2:80/TCP cluster-ip: 10.1.0.2:80"));
  EXPECT_THAT(changes(rig.put(service("ns/a").cluster("10.96.0.1").tcp("", 80).created(1))),
              ElementsAre("put 198.51.100.1:80/TCP external-ip: 10.1.0.2:80"));
}

TEST(Planner, OwnershipOrder) {
  struct Row {
    std::string name;
    ServiceBuilder a;
    ServiceBuilder b;
    std::string owner;  // of 198.51.100.1:80
  };
  const auto external = [](const std::string& name) {
    return service(name)
        .cluster("10.96.1." + std::to_string(name.back()))
        .external({"198.51.100.1"})
        .tcp("", 80);
  };
  const auto cluster = [](const char* name) {
    return service(name).cluster("198.51.100.1").tcp("", 80);
  };
  const auto balancer = [](const char* name) {
    return service(name).cluster("10.96.0.8").load_balancer({"198.51.100.1"}).tcp("", 80);
  };
  const auto node_port = [](const char* name) {
    return service(name).cluster("10.96.0.7").tcp("", 7, 80);
  };
  for (const Row& row : std::vector<Row>{
           {"by name", external("ns/a"), external("ns/b"), "ns/a"},
           {"by age", external("ns/a").created(2), external("ns/b").created(1), "ns/b"},
           {"unknown age is youngest", external("ns/a"), external("ns/b").created(1), "ns/b"},
           {"cluster ip beats age", external("ns/a").created(1), cluster("ns/b").created(2),
            "ns/b"},
           {"load balancer beats external", external("ns/a"), balancer("ns/b"), "ns/b"},
           {"node port beats external", external("ns/a"), node_port("ns/b"), "ns/b"},
           {"load balancer beats node port", node_port("ns/a"), balancer("ns/b"), "ns/b"},
           {"cluster ip beats load balancer", balancer("ns/a"), cluster("ns/b"), "ns/b"}}) {
    for (const bool a_first : {true, false}) {
      Rig rig(facts({"198.51.100.1"}));
      rig.put(a_first ? row.a : row.b);
      rig.put(a_first ? row.b : row.a);
      EXPECT_EQ(rig.find("198.51.100.1:80")->owner, row.owner) << row.name << " " << a_first;
      EXPECT_EQ(rig.problems().size(), 1U) << row.name;
    }
  }
}

TEST(Planner, RecreatedServiceLosesItsAge) {
  Rig rig;
  const auto claimant = [](const char* name, const char* address, std::int64_t created) {
    return service(name).cluster(address).external({"198.51.100.1"}).tcp("", 80).created(created);
  };
  rig.put(claimant("ns/b", "10.96.0.2", 1), claimant("ns/a", "10.96.0.1", 2));
  EXPECT_EQ(rig.find("198.51.100.1:80")->owner, "ns/b");
  EXPECT_THAT(changes(rig.put(claimant("ns/b", "10.96.0.2", 3))),
              ElementsAre("put 198.51.100.1:80/TCP external-ip:"));
  EXPECT_EQ(rig.find("198.51.100.1:80")->owner, "ns/a");
}

TEST(Planner, AKeyMovesBetweenServicesInOneUpdate) {
  Rig rig;
  rig.put(service("ns/a").cluster("10.96.0.1").tcp("", 80),
          slice("ns/a-1", "a", {tcp("", 80)}, {"10.1.0.1"}),
          slice("ns/b-1", "b", {tcp("", 80)}, {"10.1.0.2"}));
  rig.store().erase(api::Kind::kService, key("ns/a"));
  EXPECT_THAT(changes(rig.put(service("ns/b").cluster("10.96.0.1").tcp("", 80))),
              ElementsAre("put 10.96.0.1:80/TCP cluster-ip: 10.1.0.2:80"));
}

TEST(Planner, NodeAddressesComeAndGo) {
  Rig rig(facts({"192.0.2.1"}));
  rig.put(service("ns/a").cluster("10.96.0.1").tcp("", 80, 30080),
          service("ns/b").cluster("10.96.0.2").external({"192.0.2.2"}).tcp("", 80),
          service("ns/c").cluster("10.96.0.3").tcp("", 80));
  EXPECT_TRUE(rig.planner().set_node(facts({"192.0.2.1"})).empty());
  EXPECT_THAT(
      changes(rig.planner().set_node(facts({"192.0.2.1", "192.0.2.2"}))),
      ElementsAre("put 192.0.2.2:80/TCP external-ip:", "put 192.0.2.2:30080/TCP node-port:"));
  EXPECT_TRUE(rig.find("192.0.2.2:80")->on_node_interface);
  EXPECT_THAT(changes(rig.planner().set_node(facts({"192.0.2.2"}))),
              ElementsAre("remove 192.0.2.1:30080/TCP"));
}

TEST(Planner, NodeFactsWithoutEffectChangeNothing) {
  Rig rig(facts({"192.0.2.1"}));
  rig.put(service("ns/a").cluster("10.96.0.1").tcp("", 80, 30080));
  auto other = facts({"192.0.2.1"});
  other.zone = "zone-b";
  other.node_ips = ips({"203.0.113.1"});
  other.pod_cidrs = cidrs({"10.1.0.0/24"});
  EXPECT_TRUE(rig.planner().set_node(other).empty());
}

TEST(Planner, PodCidrMattersIfItTellsPods) {
  model::ModelOptions options;
  options.local_detection = model::LocalDetection::kNodeCidr;
  Rig rig(facts({"192.0.2.1"}), options);
  rig.put(service("ns/a").cluster("10.96.0.1").tcp("", 80));
  auto other = facts({"192.0.2.1"});
  other.pod_cidrs = cidrs({"10.1.0.0/24"});
  EXPECT_EQ(rig.planner().set_node(other).put.size(), 1U);
  EXPECT_TRUE(rig.find("10.96.0.1:80")->policy(ClientClass::kExternal).masquerade);
}

TEST(Planner, NodeNameDecidesWhatIsLocal) {
  Rig rig;
  rig.put(service("ns/a").cluster("10.96.0.1").tcp("", 80),
          slice("ns/a-1", "a", {tcp("", 80)}, {"10.1.0.1@other"}));
  auto renamed = facts({});
  renamed.name = "other";
  EXPECT_THAT(changes(rig.planner().set_node(renamed)),
              ElementsAre("put 10.96.0.1:80/TCP cluster-ip: 10.1.0.1:80(local)"));
}

TEST(Planner, ProblemsFollowTheirService) {
  Rig rig;
  rig.put(service("ns/a")
              .cluster("10.96.0.1")
              .external({"127.0.0.1"})
              .tcp("", 80)
              .annotation("fairlead.io/scheduler", "wrx"));
  EXPECT_THAT(
      rig.problems(),
      ElementsAre(
          AllOf(HasSubstr("Service ns/a: metadata.annotations[fairlead.io/scheduler]: \"wrx\"")),
          HasSubstr("Service ns/a: spec.externalIPs: 127.0.0.1 is a loopback address")));
  EXPECT_EQ(rig.planner().problems(key("ns/a")).size(), 2U);
  EXPECT_EQ(rig.find("10.96.0.1:80")->scheduler.name, "rr");
  EXPECT_THAT(rig.planner().take_changed_problems(), ElementsAre(key("ns/a")));
  rig.erase(api::Kind::kService, "ns/a");
  EXPECT_THAT(rig.problems(), IsEmpty());
  EXPECT_THAT(rig.planner().take_changed_problems(), ElementsAre(key("ns/a")));
}

TEST(Planner, SettingsReachTheVirtualServer) {
  Rig rig;
  rig.put(service("ns/a")
              .cluster("10.96.0.1")
              .udp("dns", 53)
              .tcp("dns-tcp", 53)
              .annotation("fairlead.io/scheduler", "sh")
              .annotation("fairlead.io/scheduler-flags", "sh-port")
              .annotation("fairlead.io/weights", "10.1.0.1=5")
              .annotation("fairlead.io/one-packet", "true")
              .annotation("fairlead.io/drain-timeout", "1m30s"),
          slice("ns/a-1", "a", {udp("dns", 53), tcp("dns-tcp", 53)}, {"10.1.0.1", "10.1.0.2"}));
  EXPECT_THAT(rig.lines(), ElementsAre("10.96.0.1:53/TCP cluster-ip: 10.1.0.1:53*5 10.1.0.2:53",
                                       "10.96.0.1:53/UDP cluster-ip: 10.1.0.1:53*5 10.1.0.2:53"));
  const auto udp_server = rig.find("10.96.0.1:53", net::Protocol::kUdp);
  EXPECT_EQ(udp_server->scheduler, (Scheduler{"sh", 0x10}));
  EXPECT_TRUE(udp_server->one_packet);
  EXPECT_EQ(udp_server->drain_timeout, std::chrono::seconds(90));
  EXPECT_FALSE(rig.find("10.96.0.1:53")->one_packet);
}

TEST(Planner, ForwardingOfAllButNodePorts) {
  Rig rig(test::facts({"192.0.2.1"}));
  rig.put(service("ns/a")
              .cluster("10.96.0.1")
              .tcp("", 80, 30080)
              .annotation("fairlead.io/forwarding", "direct"),
          slice("ns/a-1", "a", {tcp("", 80)}, {"10.1.0.1"}));
  const auto method_of = [&](std::string_view socket) {
    return rig.find(socket)->policy(ClientClass::kPod).servers->front().method.forwarding;
  };
  EXPECT_EQ(method_of("10.96.0.1:80"), Forwarding::kDirectRouting);
  EXPECT_EQ(method_of("192.0.2.1:30080"), Forwarding::kMasquerade);
  EXPECT_THAT(rig.problems(), testing::IsEmpty());

  // An endpoint more: each of the two lists changes, and is still shared.
  rig.put(slice("ns/a-1", "a", {tcp("", 80)}, {"10.1.0.1", "10.1.0.2"}));
  EXPECT_EQ(rig.find("10.96.0.1:80")->policy(ClientClass::kPod).servers->size(), 2U);
  EXPECT_EQ(method_of("192.0.2.1:30080"), Forwarding::kMasquerade);

  rig.put(slice("ns/a-1", "a", {tcp("", 8080)}, {"10.1.0.1"}));
  EXPECT_EQ(method_of("10.96.0.1:80"), Forwarding::kMasquerade);
  EXPECT_THAT(rig.problems(),
              ElementsAre(HasSubstr("Service ns/a: metadata.annotations[fairlead.io/forwarding]: "
                                    "direct leaves the port as it is, but port 80 leads to "
                                    "endpoints on port 8080")));
}

TEST(Planner, TwoPortsOfOneServiceOnOneKey) {
  Rig rig;
  rig.put(service("ns/a").cluster("10.96.0.1").tcp("b", 80).tcp("a", 80));
  EXPECT_EQ(rig.find("10.96.0.1:80")->owner, "ns/a:a");
  EXPECT_THAT(rig.problems(), ElementsAre(AllOf(HasSubstr("Service ns/a: spec.clusterIPs"),
                                                HasSubstr("ns/a:b, already belongs to ns/a:a"))));
}

}  // namespace
}  // namespace fairlead::plan
