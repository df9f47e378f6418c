// SPDX-License-Identifier: Apache-2.0
#include "plan/print.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>

#include "plan/test_rig.h"

namespace fairlead::plan {
namespace {

using namespace fairlead::test;

/// A bit of everything that has a text of its own.
void fill(Rig& rig) {
  rig.put(
      service("shop/web")
          .cluster("10.96.0.1")
          .cluster("2001:db8::1")
          .external({"127.0.0.1"})
          .tcp("http", 80, 30080)
          .affinity(10800)
          .annotation("fairlead.io/affinity-prefix", "20,64")
          .annotation("fairlead.io/scheduler", "sh")
          .annotation("fairlead.io/scheduler-flags", "sh-port,sh-fallback")
          .annotation("fairlead.io/drain-timeout", "30s"),
      slice("shop/web-4", "web", {tcp("http", 8080)},
            {"198.51.100.10@node-2", "198.51.100.9@node-1"}),
      slice("shop/web-6", "web", {tcp("http", 8080)}, {"2001:db8::9"}),
      service("shop/dns")
          .cluster("10.96.0.10")
          .udp("", 53)
          .annotation("fairlead.io/one-packet", "true")
          .annotation("fairlead.io/weights", "198.51.100.3=0")
          .annotation("fairlead.io/connection-thresholds", "100:80"),
      slice("shop/dns-4", "dns", {udp("", 53)}, {"198.51.100.3"}),
      service("shop/flags")
          .cluster("10.96.0.2")
          .sctp("", 9)
          .annotation("fairlead.io/scheduler-flags", "flag-1,flag-3"),
      service("shop/mh").cluster("10.96.0.3").tcp("", 9).annotation("fairlead.io/scheduler", "mh"));
}

TEST(Print, Ipvsadm) {
  Rig rig(facts({"192.0.2.1"}));
  fill(rig);
  EXPECT_EQ(print_ipvsadm(rig.planner().full().put),
            R"(-A -t 10.96.0.1:80 -s sh -p 10800 -M 255.255.240.0 -b sh-fallback,sh-port
-a -t 10.96.0.1:80 -r 198.51.100.9:8080 -m -w 1
-a -t 10.96.0.1:80 -r 198.51.100.10:8080 -m -w 1
-A -t 10.96.0.3:9 -s mh -b mh-port
-A -t 192.0.2.1:30080 -s sh -p 10800 -M 255.255.240.0 -b sh-fallback,sh-port
-a -t 192.0.2.1:30080 -r 198.51.100.9:8080 -m -w 1
-a -t 192.0.2.1:30080 -r 198.51.100.10:8080 -m -w 1
-A -u 10.96.0.10:53 -s rr -o
-a -u 10.96.0.10:53 -r 198.51.100.3:53 -m -w 0 -x 100 -y 80
-A --sctp-service 10.96.0.2:9 -s rr -b flag-1,flag-3
-A -t [2001:db8::1]:80 -s sh -p 10800 -M 64 -b sh-fallback,sh-port
-a -t [2001:db8::1]:80 -r [2001:db8::9]:8080 -m -w 1
)");
}

TEST(Print, Text) {
  Rig rig(facts({"192.0.2.1"}));
  fill(rig);
  EXPECT_EQ(print_text(rig.planner().full().put, rig.planner().problems()),
            R"(VIRTUAL SERVER        KIND        SERVICE PORT   SCHEDULER                OPTIONS
10.96.0.1:80/TCP      cluster-ip  shop/web:http  sh(sh-fallback,sh-port)  persistent 10800s by /20, drain 30s, masquerade node
  -> 198.51.100.9:8080 weight 1 local
  -> 198.51.100.10:8080 weight 1
10.96.0.3:9/TCP       cluster-ip  shop/mh        mh(mh-port)              masquerade node
192.0.2.1:30080/TCP   node-port   shop/web:http  sh(sh-fallback,sh-port)  persistent 10800s by /20, drain 30s, masquerade external+pod+node
  -> 198.51.100.9:8080 weight 1 local
  -> 198.51.100.10:8080 weight 1
10.96.0.10:53/UDP     cluster-ip  shop/dns       rr                       one-packet, masquerade node
  -> 198.51.100.3:53 weight 0 thresholds 100:80
10.96.0.2:9/SCTP      cluster-ip  shop/flags     rr(flag-1,flag-3)        masquerade node
[2001:db8::1]:80/TCP  cluster-ip  shop/web:http  sh(sh-fallback,sh-port)  persistent 10800s by /64, drain 30s, masquerade node
  -> [2001:db8::9]:8080 weight 1

PROBLEMS
Service shop/web: spec.externalIPs: 127.0.0.1 is a loopback address; it is not served
)");
}

TEST(Print, Json) {
  Rig rig;
  rig.put(service("shop/web").cluster("10.96.0.1").tcp("http", 80).affinity(60),
          slice("shop/web-4", "web", {tcp("http", 8080)}, {"198.51.100.9@node-1"}));
  const std::string json = print_json(rig.planner().full().put, {});
  EXPECT_THAT(json, testing::StartsWith(R"({
  "virtualServers": [
    {
      "address": "10.96.0.1",
      "port": 80,
      "protocol": "TCP",
      "firewallMark": null,
      "kind": "cluster-ip",
      "owner": "shop/web:http",
      "scheduler": "rr",
      "schedulerFlags": [],
      "persistenceSeconds": 60,
      "persistencePrefix": null,
      "onePacket": false,
      "drainSeconds": null,
      "onNodeInterface": false,
      "clients": {
        "external": {
          "masquerade": false,
          "allowedSources": [],
          "ifEmpty": "reject"
        },
)"));
  EXPECT_THAT(json, testing::HasSubstr(R"("hairpin": [
        "198.51.100.9:8080"
      ],
      "realServers": [
        {
          "address": "198.51.100.9",
          "port": 8080,
          "forwarding": "nat",
          "weight": 1,
          "upperThreshold": 0,
          "lowerThreshold": 0,
          "local": true
        }
      ]
    }
  ],
  "problems": []
}
)"));
}

TEST(Print, ClientClassesThatDiffer) {
  const auto servers = [](const char* address) {
    return std::make_shared<const std::vector<RealServer>>(
        1, RealServer{.address = ip(address), .port = port(8080), .method = {}});
  };
  auto server = std::make_shared<VirtualServer>();
  server->key = {ip("198.51.100.1"), port(80), net::Protocol::kTcp};
  server->kind = AddressKind::kExternalIp;
  server->owner = "ns/web";
  server->hairpin = std::make_shared<const std::vector<net::SocketAddress>>();
  for (ClassPolicy& policy : server->classes) {
    policy.servers = servers("10.1.0.2");
  }
  server->classes[static_cast<std::size_t>(ClientClass::kExternal)].servers = servers("10.1.0.1");
  const std::vector<VirtualServerPtr> plan = {server};
  EXPECT_THAT(print_text(plan, {}), testing::EndsWith(R"(
 from external:
  -> 10.1.0.1:8080 weight 1
 from pod:
  -> 10.1.0.2:8080 weight 1
 from node:
  -> 10.1.0.2:8080 weight 1
)"));
  EXPECT_THAT(print_ipvsadm(plan), testing::HasSubstr("-r 10.1.0.1:8080 -m"));
  EXPECT_THAT(print_ipvsadm(plan), testing::Not(testing::HasSubstr("10.1.0.2")));
  EXPECT_THAT(print_json(plan, {}), testing::HasSubstr(R"("ifEmpty": "reject",
          "realServers": [)"));
}

TEST(Print, ForwardingMethods) {
  Rig rig;
  for (const auto& [name, method] :
       {std::pair("d", "direct"), std::pair("e", "ipip"), std::pair("f", "gue:6080"),
        std::pair("g", "gre"), std::pair("h", "fullnat")}) {
    rig.put(service("ns/" + std::string(name))
                .cluster("10.96.0." + std::to_string(name[0] - 'a'))
                .tcp("", 80)
                .annotation("fairlead.io/forwarding", method),
            slice("ns/" + std::string(name) + "-1", name, {tcp("", 80)}, {"198.51.100.1"}));
  }
  EXPECT_EQ(print_ipvsadm(rig.planner().full().put), R"(-A -t 10.96.0.3:80 -s rr
-a -t 10.96.0.3:80 -r 198.51.100.1:80 -g -w 1
-A -t 10.96.0.4:80 -s rr
-a -t 10.96.0.4:80 -r 198.51.100.1:80 -i -w 1 --tun-type ipip
-A -t 10.96.0.5:80 -s rr
-a -t 10.96.0.5:80 -r 198.51.100.1:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-nocsum
-A -t 10.96.0.6:80 -s rr
-a -t 10.96.0.6:80 -r 198.51.100.1:80 -i -w 1 --tun-type gre --tun-nocsum
-A -t 10.96.0.7:80 -s rr
-a -t 10.96.0.7:80 -r 198.51.100.1:80 -m -w 1
)");
  const std::string table = print_text(rig.planner().full().put, {});
  EXPECT_THAT(table, testing::HasSubstr("198.51.100.1:80 weight 1 direct\n"));
  EXPECT_THAT(table, testing::HasSubstr("198.51.100.1:80 weight 1 gue:6080\n"));
}

TEST(Print, FirewallMarks) {
  Rig rig;
  rig.put(service("ns/web")
              .cluster("10.96.0.1")
              .cluster("2001:db8::1")
              .tcp("", 80)
              .annotation("fairlead.io/firewall-mark", "7"),
          slice("ns/web-1", "web", {tcp("", 8080)}, {"198.51.100.1"}));
  const auto plan = rig.planner().full().put;
  EXPECT_THAT(print_ipvsadm(plan), testing::EndsWith(R"(-A -f 7 -s rr
-a -f 7 -r 198.51.100.1:8080 -m -w 1
-A -f 7 -6 -s rr
)"));
  EXPECT_THAT(print_text(plan, {}),
              testing::HasSubstr("\nFWM 7                 firewall-mark  ns/web        rr\n"));
  EXPECT_THAT(print_json(plan, {}), testing::HasSubstr("\"firewallMark\": 7,"));
}

TEST(Print, JsonOfTextThatIsNotUtf8) {
  const std::vector<model::Problem> problems = {{"Service a/b", "field", "\xff"}};
  EXPECT_THAT(print_json({}, problems), testing::HasSubstr("\"what\": \"\xef\xbf\xbd\""));
}

TEST(Print, EmptyPlan) {
  EXPECT_EQ(print_ipvsadm({}), "");
  EXPECT_EQ(print_text({}, {}), "VIRTUAL SERVER  KIND  SERVICE PORT  SCHEDULER  OPTIONS\n");
}

}  // namespace
}  // namespace fairlead::plan
