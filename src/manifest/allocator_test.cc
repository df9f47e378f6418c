// SPDX-License-Identifier: Apache-2.0
#include "manifest/allocator.h"

#include <algorithm>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <string>
#include <vector>

namespace fairlead::manifest {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

net::IpAddress ip(const std::string& text) { return *net::IpAddress::parse(text); }
net::IpPrefix range(const std::string& text) { return *net::IpPrefix::parse(text); }

api::Service service(const std::string& name) {
  api::Service made;
  made.meta.key = {"shop", name};
  made.ports = {{"http", net::Protocol::kTcp, net::Port{80}, net::Port{80}, {}}};
  return made;
}

api::Service with_ip(const std::string& name, const std::string& address) {
  api::Service made = service(name);
  made.cluster_ips = {ip(address)};
  return made;
}

api::Service node_port(const std::string& name, std::uint16_t port = 0) {
  api::Service made = service(name);
  made.type = api::ServiceType::kNodePort;
  made.ports[0].node_port = net::Port{port};
  return made;
}

std::string addresses(const api::Service& made) {
  std::string out;
  for (const net::IpAddress& address : made.cluster_ips) {
    out += (out.empty() ? "" : ",") + address.text();
  }
  return out;
}

/// An allocator and what it has delivered so far.
struct World {
  explicit World(AllocatorOptions options = {}, Memory memory = {})
      : allocator(std::move(options), std::move(memory)) {}

  /// Names of the services that changed.
  std::vector<std::string> put(const std::vector<api::Service>& services) {
    for (const api::Service& each : services) {
      allocator.put(std::make_shared<const api::Service>(each));
    }
    return settle();
  }
  std::vector<std::string> settle() {
    std::vector<std::string> changed;
    for (const auto& each : allocator.settle()) {
      changed.push_back(each->meta.key.name);
      now[each->meta.key.name] = *each;
    }
    return changed;
  }
  std::vector<std::string> errors() const {
    std::vector<std::string> out;
    for (const AllocationError& error : allocator.errors()) {
      out.push_back(error.service.text() + ": " + error.field + ": " + error.problem);
    }
    return out;
  }
  std::string ips(const std::string& name) const { return addresses(now.at(name)); }
  int port(const std::string& name, std::size_t index = 0) const {
    return net::number(now.at(name).ports[index].node_port);
  }

  Allocator allocator;
  std::map<std::string, api::Service> now;
};

AllocatorOptions ranges(const std::vector<std::string>& texts) {
  AllocatorOptions options;
  options.service_ranges.clear();
  for (const std::string& text : texts) {
    options.service_ranges.push_back(range(text));
  }
  return options;
}

struct FamilyCase {
  std::string name;
  std::vector<std::string> ranges;
  std::function<void(api::Service&)> change;
  std::string want_families;
  std::string want_error;  // a part
};

constexpr auto kV4 = net::Family::kIpv4;
constexpr auto kV6 = net::Family::kIpv6;
using Policy = api::Service::FamilyPolicy;

class Families : public testing::TestWithParam<FamilyCase> {};

TEST_P(Families, OfClusterIps) {
  World world(ranges(GetParam().ranges));
  api::Service subject = service("web");
  GetParam().change(subject);
  world.put({subject});
  std::string families;
  for (const net::IpAddress& address : world.now.at("web").cluster_ips) {
    families += address.is_v4() ? "4" : "6";
  }
  EXPECT_EQ(families, GetParam().want_families);
  if (GetParam().want_error.empty()) {
    EXPECT_THAT(world.errors(), IsEmpty());
  } else {
    EXPECT_THAT(world.errors(), ElementsAre(HasSubstr(GetParam().want_error)));
  }
}

const std::vector<std::string> only4 = {"10.96.0.0/16"};
const std::vector<std::string> dual = {"10.96.0.0/16", "2001:db8:1::/112"};
const std::vector<std::string> dual6_first = {"2001:db8:1::/112", "10.96.0.0/16"};

INSTANTIATE_TEST_SUITE_P(
    All, Families,
    testing::Values(
        FamilyCase{"Default", only4, [](auto&) {}, "4", ""},
        FamilyCase{"DefaultOfFirstRange", dual6_first, [](auto&) {}, "6", ""},
        FamilyCase{"SingleStays", dual, [](auto& s) { s.family_policy = Policy::kSingleStack; },
                   "4", ""},
        FamilyCase{"Named", dual, [](auto& s) { s.ip_families = {kV6}; }, "6", ""},
        FamilyCase{"NamedWithoutRange", only4, [](auto& s) { s.ip_families = {kV6}; }, "",
                   "shop/web: spec.clusterIP: no IPv6 range"},
        FamilyCase{"PreferDual", dual, [](auto& s) { s.family_policy = Policy::kPreferDualStack; },
                   "46", ""},
        FamilyCase{"PreferDualWithOneRange", only4,
                   [](auto& s) { s.family_policy = Policy::kPreferDualStack; }, "4", ""},
        FamilyCase{"RequireDual", dual,
                   [](auto& s) { s.family_policy = Policy::kRequireDualStack; }, "46", ""},
        FamilyCase{"RequireDualWithOneRange", only4,
                   [](auto& s) { s.family_policy = Policy::kRequireDualStack; }, "4",
                   "no IPv6 range"},
        FamilyCase{"SecondToExplicit", dual,
                   [](auto& s) {
                     s.family_policy = Policy::kRequireDualStack;
                     s.cluster_ips = {ip("2001:db8::5")};
                   },
                   "64", ""},
        FamilyCase{"ExplicitNeedsNoRange", only4,
                   [](auto& s) { s.cluster_ips = {ip("2001:db8::5")}; }, "6", ""},
        FamilyCase{"ExplicitOfAnotherFamily", dual,
                   [](auto& s) {
                     s.cluster_ips = {ip("2001:db8::5")};
                     s.ip_families = {kV4};
                   },
                   "4", "2001:db8::5 has no place"},
        FamilyCase{"Headless", dual, [](auto& s) { s.headless = true; }, "", ""},
        FamilyCase{"ExternalName", dual, [](auto& s) { s.type = api::ServiceType::kExternalName; },
                   "", ""}),
    [](const testing::TestParamInfo<FamilyCase>& param) { return param.param.name; });

TEST(Allocator, ValuesAreKnownAndInTheUpperPart) {
  World world;
  world.put({service("web"), node_port("api")});
  // Part of what users see: may not change between versions.
  EXPECT_EQ(world.ips("web"), "10.96.148.111");
  EXPECT_EQ(world.ips("api"), "10.96.67.98");
  EXPECT_EQ(world.port("api"), 31770);
  EXPECT_EQ(world.port("web"), 0);
}

TEST(Allocator, ResultDoesNotDependOnOrder) {
  std::vector<api::Service> services;
  services.reserve(300);
  for (int i = 0; i < 300; ++i) {
    services.push_back(node_port("s" + std::to_string(i)));
  }
  World forward;
  forward.put(services);
  World backward;
  std::ranges::reverse(services);
  backward.put(services);
  EXPECT_EQ(forward.now, backward.now);
  EXPECT_EQ(forward.allocator.memory(), backward.allocator.memory());
  EXPECT_THAT(forward.errors(), IsEmpty());
}

TEST(Allocator, AdditionsMoveNobodyWithinAProcess) {
  World world(ranges({"10.96.0.0/24"}));
  world.put({service("m"), service("n")});
  const std::string m = world.ips("m");
  const std::string n = world.ips("n");
  for (int i = 0; i < 200; ++i) {
    const std::string name = "a" + std::to_string(i);
    EXPECT_THAT(world.put({service(name)}), ElementsAre(name));
  }
  api::Service edited = service("m");
  edited.ports[0].port = net::Port{81};
  EXPECT_THAT(world.put({edited}), ElementsAre("m"));
  EXPECT_EQ(world.ips("m"), m);
  EXPECT_EQ(world.ips("n"), n);
  EXPECT_THAT(world.put({edited}), IsEmpty());
}

TEST(Allocator, AllOfASmallRangeIsUsedThenItIsAnError) {
  World world(ranges({"10.96.0.0/27"}));
  std::vector<api::Service> services;
  services.reserve(31);
  for (int i = 10; i < 41; ++i) {
    services.push_back(service("s" + std::to_string(i)));
  }
  world.put(services);
  // 32 less the network's and the broadcast address.
  EXPECT_THAT(world.errors(),
              ElementsAre(HasSubstr("shop/s40: spec.clusterIP: all addresses of 10.96.0.0/27")));
  EXPECT_EQ(world.ips("s40"), "");
  // Room again: the one that went without gets it.
  const std::string freed = world.ips("s10");
  world.allocator.erase({"shop", "s10"});
  EXPECT_THAT(world.settle(), ElementsAre("s40"));
  EXPECT_EQ(world.ips("s40"), freed);
  EXPECT_THAT(world.errors(), IsEmpty());
}

TEST(Allocator, SecondRangeWhenTheFirstIsFull) {
  World world(ranges({"10.96.0.0/32", "10.97.0.0/31"}));
  world.put({service("a"), service("b"), service("c"), service("d")});
  EXPECT_EQ(world.ips("a"), "10.96.0.0");
  EXPECT_THAT(world.errors(), ElementsAre(HasSubstr("all addresses of 10.96.0.0/32,10.97.0.0/31")));
}

TEST(Allocator, ExplicitValuesWin) {
  World probe;
  probe.put({node_port("web")});
  // Another takes by hand what would have been given: from the start ...
  api::Service explicit_one = node_port("zz", static_cast<std::uint16_t>(probe.port("web")));
  explicit_one.cluster_ips = {ip(probe.ips("web"))};
  World world;
  world.put({node_port("web"), explicit_one});
  EXPECT_EQ(world.ips("zz"), probe.ips("web"));
  EXPECT_NE(world.ips("web"), probe.ips("web"));
  EXPECT_NE(world.port("web"), probe.port("web"));
  EXPECT_THAT(world.errors(), IsEmpty());
  // ... or later.
  EXPECT_THAT(probe.put({explicit_one}), ElementsAre("web", "zz"));
  EXPECT_EQ(probe.ips("zz"), world.ips("zz"));
  EXPECT_EQ(probe.ips("web"), world.ips("web"));
  EXPECT_EQ(probe.port("web"), world.port("web"));
  EXPECT_THAT(probe.errors(), IsEmpty());
}

TEST(Allocator, DisplacedServiceKeepsItsExplicitValues) {
  World world;
  api::Service mixed = node_port("mixed", 30500);
  world.put({mixed});
  const std::string given = world.ips("mixed");
  // One takes its address by hand, the other wants its explicit port, in the same batch.
  world.put({with_ip("a", given), node_port("b", 30500)});
  EXPECT_EQ(world.port("mixed"), 30500);
  EXPECT_NE(world.ips("mixed"), given);
  EXPECT_NE(world.ips("mixed"), "");
  EXPECT_THAT(world.errors(), ElementsAre("shop/b: spec.ports[0].nodePort: 30500/TCP is already "
                                          "used by Service shop/mixed; change one of them"));
}

TEST(Allocator, ConflictsNameBothAndHeal) {
  World world;
  world.put({with_ip("b", "10.96.7.7"), with_ip("a", "10.96.7.7")});
  EXPECT_EQ(world.ips("a"), "10.96.7.7");
  EXPECT_EQ(world.ips("b"), "");
  EXPECT_THAT(world.errors(), ElementsAre("shop/b: spec.clusterIP: 10.96.7.7 is already used by "
                                          "Service shop/a; change one of them"));
  // An edit of the holder does not hand it over.
  api::Service edited = with_ip("a", "10.96.7.7");
  edited.ports[0].port = net::Port{81};
  EXPECT_THAT(world.put({edited}), ElementsAre("a"));
  EXPECT_EQ(world.ips("b"), "");
  EXPECT_THAT(world.put({with_ip("a", "10.96.7.8")}), ElementsAre("a", "b"));
  EXPECT_EQ(world.ips("b"), "10.96.7.7");
  EXPECT_THAT(world.errors(), IsEmpty());
}

TEST(Allocator, HolderStaysThoughANewcomerSortsFirst) {
  World world;
  world.put({with_ip("m", "10.96.7.7")});
  world.put({with_ip("a", "10.96.7.7"), with_ip("m", "10.96.7.7")});
  EXPECT_EQ(world.ips("m"), "10.96.7.7");
  EXPECT_EQ(world.ips("a"), "");
}

TEST(Allocator, ValuesAreHandedOverWithinABatch) {
  World world;
  world.put({with_ip("a", "10.96.7.7"), with_ip("b", "10.96.7.8")});
  world.put({with_ip("a", "10.96.7.8"), with_ip("b", "10.96.7.7")});
  EXPECT_EQ(world.ips("a") + " " + world.ips("b"), "10.96.7.8 10.96.7.7");
  EXPECT_THAT(world.errors(), IsEmpty());
}

TEST(NodePorts, ProtocolsMayShareAnExplicitNumber) {
  World world;
  api::Service udp = node_port("b", 30100);
  udp.ports[0].protocol = net::Protocol::kUdp;
  world.put({node_port("a", 30100), udp});
  EXPECT_THAT(world.errors(), IsEmpty());
  world.put({node_port("c", 30100)});
  EXPECT_THAT(world.errors(), ElementsAre(HasSubstr("shop/c: spec.ports[0].nodePort: 30100/TCP is "
                                                    "already used by Service shop/a")));
}

TEST(NodePorts, OneNumberForBothProtocolsOfAPort) {
  api::Service dns = node_port("dns");
  dns.ports = {{"dns", net::Protocol::kUdp, net::Port{53}, net::Port{53}, {}},
               {"dns-tcp", net::Protocol::kTcp, net::Port{53}, net::Port{53}, {}},
               {"metrics", net::Protocol::kTcp, net::Port{9153}, net::Port{9153}, {}}};
  World world;
  world.put({dns});
  EXPECT_NE(world.port("dns", 0), 0);
  EXPECT_EQ(world.port("dns", 0), world.port("dns", 1));
  EXPECT_NE(world.port("dns", 0), world.port("dns", 2));
  dns.ports[0].node_port = net::Port{30053};
  World other;
  other.put({dns});
  EXPECT_EQ(other.port("dns", 1), 30053);
}

TEST(NodePorts, SameNumberTwiceInOneServiceIsAnError) {
  api::Service twice = node_port("web", 30100);
  twice.ports.push_back({"b", net::Protocol::kTcp, net::Port{81}, net::Port{81}, net::Port{30100}});
  World world;
  world.put({twice});
  EXPECT_THAT(world.errors(), ElementsAre(HasSubstr("used by spec.ports[0].nodePort of the same")));
  EXPECT_EQ(world.port("web", 0), 30100);
  EXPECT_EQ(world.port("web", 1), 0);
}

TEST(NodePorts, LoadBalancersMayGoWithout) {
  api::Service balancer = service("web");
  balancer.type = api::ServiceType::kLoadBalancer;
  World world;
  world.put({balancer});
  EXPECT_NE(world.port("web"), 0);
  balancer.allocate_node_ports = false;
  world.put({balancer});
  EXPECT_EQ(world.port("web"), 0);
  balancer.external_policy_local = true;
  world.put({balancer});
  EXPECT_NE(net::number(world.now.at("web").health_check_node_port), 0);
}

TEST(NodePorts, ExhaustionNamesTheRange) {
  AllocatorOptions options;
  options.first_node_port = net::Port{30000};
  options.last_node_port = net::Port{30001};
  World world(options);
  world.put({node_port("a"), node_port("b"), node_port("c")});
  EXPECT_THAT(
      world.errors(),
      ElementsAre(HasSubstr("shop/c: spec.ports[0].nodePort: all node ports of 30000-30001")));
}

TEST(Memory, RoundTripAndErrors) {
  World world;
  world.put({node_port("web"), node_port("api")});
  const std::string text = world.allocator.memory().text();
  EXPECT_THAT(text, HasSubstr("shop/web clusterIP/IPv4 10.96."));
  EXPECT_THAT(text, HasSubstr("shop/web nodePort/80 3"));
  const Result<Memory> again = Memory::parse("# comment\n\n" + text);
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(*again, world.allocator.memory());
  EXPECT_THAT(Memory::parse("shop/web x\n").error().text(), HasSubstr("line 1 is not"));
  EXPECT_FALSE(Memory::parse("web clusterIP/IPv4 10.96.0.1\n").has_value());
}

TEST(Memory, IsPreferredToTheHashWhileItFits) {
  const Memory memory = *Memory::parse(
      "shop/a clusterIP/IPv4 10.96.200.1\n"
      "shop/b clusterIP/IPv4 10.99.0.1\n"    // out of range by now
      "shop/c clusterIP/IPv4 10.96.200.3\n"  // taken by hand by now
      "shop/d clusterIP/IPv4 nonsense\n"
      "shop/n nodePort/80 30999\n"
      "shop/gone clusterIP/IPv4 10.96.200.9\n");
  World world({}, memory);
  world.put({service("a"), service("b"), service("c"), service("d"), node_port("n"),
             with_ip("x", "10.96.200.3")});
  EXPECT_EQ(world.ips("a"), "10.96.200.1");
  EXPECT_THAT(world.ips("b"), HasSubstr("10.96."));
  EXPECT_NE(world.ips("c"), "10.96.200.3");
  EXPECT_THAT(world.ips("d"), HasSubstr("10.96."));
  EXPECT_EQ(world.port("n"), 30999);
  // Who returns gets back what it had.
  world.put({service("gone")});
  EXPECT_EQ(world.ips("gone"), "10.96.200.9");
}

TEST(Memory, RemembersThroughRestartsWhateverIsAdded) {
  AllocatorOptions options = ranges({"10.96.0.0/25"});
  World first(options);
  std::vector<api::Service> services;
  services.reserve(300);
  for (int i = 0; i < 50; ++i) {
    services.push_back(service("m" + std::to_string(i)));
  }
  first.put(services);
  std::vector<api::Service> more = services;
  for (int i = 0; i < 50; ++i) {
    more.push_back(service("a" + std::to_string(i)));
  }
  World second(options, *Memory::parse(first.allocator.memory().text()));
  second.put(more);
  for (const api::Service& each : services) {
    EXPECT_EQ(second.ips(each.meta.key.name), first.ips(each.meta.key.name));
  }
}

TEST(Memory, ForgetsOnlyWhenThereIsTooMuch) {
  Memory memory;
  memory.set({{"a", "b"}, "clusterIP/IPv4"}, "10.96.0.1");
  memory.forget_excess([](const api::ObjectKey&) { return false; });
  EXPECT_NE(memory.find({{"a", "b"}, "clusterIP/IPv4"}), nullptr);
  for (int i = 0; i < 5000; ++i) {
    memory.set({{"a", std::to_string(i)}, "clusterIP/IPv4"}, "10.96.0.1");
  }
  memory.forget_excess([](const api::ObjectKey& key) { return key.name == "b"; });
  EXPECT_NE(memory.find({{"a", "b"}, "clusterIP/IPv4"}), nullptr);
  EXPECT_EQ(memory.find({{"a", "1"}, "clusterIP/IPv4"}), nullptr);
}

}  // namespace
}  // namespace fairlead::manifest
