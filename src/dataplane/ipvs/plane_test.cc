// SPDX-License-Identifier: Apache-2.0
// The plane on a kernel in memory: order, ownership, restart, drains, drift, faults.
#include "dataplane/ipvs/plane.h"

#include <algorithm>
#include <cerrno>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <random>

#include "dataplane/ipvs/fake_iptables.h"
#include "ipvs/fake_kernel.h"
#include "netlink/fake_conntrack.h"
#include "netlink/fake_ipset.h"
#include "netlink/fake_route.h"

namespace fairlead::dataplane::ipvs {
namespace {

namespace kernel = fairlead::ipvs;
using netlink::Fault;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;
using namespace std::chrono_literals;

class FakeSysctl final : public Sysctl {
 public:
  std::map<std::string, std::string> values;
  Result<bool> ensure(const Setting& setting) override {
    return std::exchange(values[setting.name], setting.value) != setting.value;
  }
};

// The kernel outlives the planes that work on it, so that a restart can be played.
struct Bed {
  kernel::FakeKernel ipvs;
  netlink::FakeRoute route;
  netlink::FakeIpSet sets;
  netlink::FakeConntrack conntrack;
  FakeIptables iptables;
  FakeSysctl sysctl;
  TimePoint now{std::chrono::hours(1)};
  PlaneConfig config;
  std::unique_ptr<Plane> plane;

  Bed() {
    for (const net::Family family : {net::Family::kIpv4, net::Family::kIpv6}) {
      IptablesConfig rules;
      rules.family = family;
      config.families.push_back(rules);
    }
    config.kernel_release = "6.1.0";
    const auto eth0 = route.add_device("eth0", "");
    route.add_address(eth0, *net::IpAddress::parse("192.0.2.1"));
  }

  // Forwards to the fakes without owning them.
  struct Ipvs final : kernel::Client {
    explicit Ipvs(kernel::Client& t) : target(t) {}
    kernel::Client& target;
    Result<kernel::Info> info() override { return target.info(); }
    Result<kernel::Timeouts> timeouts() override { return target.timeouts(); }
    Status set_timeouts(const kernel::Timeouts& t) override { return target.set_timeouts(t); }
    Result<std::vector<kernel::ObservedVirtualServer>> dump() override { return target.dump(); }
    Result<std::vector<kernel::ObservedVirtualServer>> dump_exactly() override {
      return target.dump_exactly();
    }
    Result<std::optional<kernel::ObservedVirtualServer>> get(const kernel::ServiceId& id) override {
      return target.get(id);
    }
    std::vector<Status> apply(std::span<const kernel::Op> ops) override {
      return target.apply(ops);
    }
  };
  struct Routes final : netlink::Route {
    explicit Routes(netlink::Route& t) : target(t) {}
    netlink::Route& target;
    Result<std::optional<netlink::InterfaceIndex>> find(const std::string& n) override {
      return target.find(n);
    }
    Result<netlink::InterfaceIndex> ensure_dummy(const std::string& n) override {
      return target.ensure_dummy(n);
    }
    Status delete_device(netlink::InterfaceIndex i) override { return target.delete_device(i); }
    Result<std::vector<netlink::Link>> links() override { return target.links(); }
    Result<std::vector<netlink::InterfaceAddress>> addresses() override {
      return target.addresses();
    }
    std::vector<Status> apply(std::span<const netlink::AddressOp> ops) override {
      return target.apply(ops);
    }
  };
  struct Sets final : netlink::IpSet {
    explicit Sets(netlink::IpSet& t) : target(t) {}
    netlink::IpSet& target;
    Result<std::optional<netlink::SetSpec>> header(const std::string& n) override {
      return target.header(n);
    }
    Status create(const netlink::SetSpec& s) override { return target.create(s); }
    Status destroy(const std::string& n) override { return target.destroy(n); }
    Status swap(const std::string& a, const std::string& b) override { return target.swap(a, b); }
    Result<std::vector<netlink::SetMember>> members(const std::string& n) override {
      return target.members(n);
    }
    std::vector<Status> apply(std::span<const netlink::SetOp> ops) override {
      return target.apply(ops);
    }
  };
  struct Flows final : netlink::Conntrack {
    explicit Flows(netlink::Conntrack& t) : target(t) {}
    netlink::Conntrack& target;
    Status dump(net::Family f, net::Protocol p,
                const std::function<void(const netlink::Flow&)>& on_flow) override {
      return target.dump(f, p, on_flow);
    }
    std::vector<Status> remove(std::span<const netlink::Flow> flows) override {
      return target.remove(flows);
    }
  };
  struct Tables final : Iptables {
    explicit Tables(Iptables& t) : target(t) {}
    Iptables& target;
    Result<bool> ensure(const IptablesConfig& c) override { return target.ensure(c); }
    Status cleanup(net::Family f) override { return target.cleanup(f); }
  };
  struct Sysctls final : Sysctl {
    explicit Sysctls(Sysctl& t) : target(t) {}
    Sysctl& target;
    Result<bool> ensure(const Setting& s) override { return target.ensure(s); }
  };

  // As after kill -9: nothing of the former plane is asked.
  Status restart() {
    Kernel opened;
    opened.ipvs = std::make_unique<Ipvs>(ipvs);
    opened.route = std::make_unique<Routes>(route);
    opened.sets = std::make_unique<Sets>(sets);
    opened.conntrack = std::make_unique<Flows>(conntrack);
    opened.iptables = std::make_unique<Tables>(iptables);
    opened.sysctl = std::make_unique<Sysctls>(sysctl);
    plane = std::make_unique<Plane>(std::move(opened), config);
    return plane->start(now);
  }
  void apply(const plan::Delta& delta) { plane->apply(delta, now); }
  void advance(std::chrono::milliseconds by) {
    const TimePoint end = now + by;
    while (true) {
      const auto next = plane->next_due();
      if (!next || *next > end) {
        break;
      }
      now = std::max(now, *next);
      plane->run_due(now);
    }
    now = end;
  }
  // `VS scheduler: RS/weight ...`, sorted.
  [[nodiscard]] std::vector<std::string> table() const {
    std::vector<std::string> lines;
    for (const auto& server : ipvs.table()) {
      std::string line = server.server.id.text() + " " + server.server.scheduler + ":";
      std::vector<std::string> reals;
      reals.reserve(server.real_servers.size());
      for (const auto& real : server.real_servers) {
        reals.push_back(real.server.socket().text() + "/" + std::to_string(real.server.weight));
      }
      std::ranges::sort(reals);
      for (const std::string& real : reals) {
        line += " " + real;
      }
      lines.push_back(line);
    }
    return lines;
  }
};

plan::VirtualServerKey key(const std::string& socket,
                           net::Protocol protocol = net::Protocol::kTcp) {
  const auto parsed = *net::SocketAddress::parse(socket);
  return {parsed.address, parsed.port, protocol};
}

struct Make {
  std::string socket = "10.96.0.1:80";
  std::vector<std::string> reals = {"198.51.100.1:8080"};
  plan::AddressKind kind = plan::AddressKind::kClusterIp;
  net::Protocol protocol = net::Protocol::kTcp;
  std::string scheduler = "rr";
  bool on_node_interface = false;
  std::vector<std::string> hairpin = {};
  std::optional<std::chrono::seconds> drain = std::nullopt;
  plan::Thresholds thresholds = {};
};

plan::VirtualServerPtr make(const Make& m) {
  plan::VirtualServer server;
  server.key = key(m.socket, m.protocol);
  server.kind = m.kind;
  server.owner = "shop/web";
  server.scheduler.name = m.scheduler;
  server.on_node_interface = m.on_node_interface || m.kind == plan::AddressKind::kNodePort;
  server.drain_timeout = m.drain;
  std::vector<plan::RealServer> reals;
  for (const std::string& text : m.reals) {
    const auto socket = *net::SocketAddress::parse(text);
    plan::RealServer real;
    real.address = socket.address;
    real.port = socket.port;
    real.thresholds = m.thresholds;
    reals.push_back(real);
  }
  std::ranges::sort(reals);
  const auto shared = std::make_shared<const std::vector<plan::RealServer>>(reals);
  for (auto& policy : server.classes) {
    policy.servers = shared;
  }
  std::vector<net::SocketAddress> hairpin;
  hairpin.reserve(m.hairpin.size());
  for (const std::string& text : m.hairpin) {
    hairpin.push_back(*net::SocketAddress::parse(text));
  }
  server.hairpin = std::make_shared<const std::vector<net::SocketAddress>>(hairpin);
  return std::make_shared<const plan::VirtualServer>(server);
}

TEST(Plane, ProgramsEverythingAVirtualServerNeeds) {
  Bed bed;
  ASSERT_TRUE(bed.restart());
  bed.apply({{make({.hairpin = {"198.51.100.1:8080"}}),
              make({.socket = "192.0.2.1:30080", .kind = plan::AddressKind::kNodePort}),
              make({.socket = "203.0.113.9:80", .kind = plan::AddressKind::kExternalIp}),
              make({.socket = "192.0.2.1:80",
                    .kind = plan::AddressKind::kLoadBalancerIp,
                    .on_node_interface = true})},
             {}});
  EXPECT_THAT(bed.table(), ElementsAre("10.96.0.1:80/TCP rr: 198.51.100.1:8080/1",
                                       "192.0.2.1:80/TCP rr: 198.51.100.1:8080/1",
                                       "192.0.2.1:30080/TCP rr: 198.51.100.1:8080/1",
                                       "203.0.113.9:80/TCP rr: 198.51.100.1:8080/1"));
  EXPECT_THAT(bed.route.address_texts("kube-ipvs0"), ElementsAre("10.96.0.1", "203.0.113.9"));
  EXPECT_THAT(bed.sets.member_texts("KUBE-CLUSTER-IP"), ElementsAre("10.96.0.1,tcp:80"));
  EXPECT_THAT(bed.sets.member_texts("KUBE-EXTERNAL-IP"), ElementsAre("203.0.113.9,tcp:80"));
  EXPECT_THAT(bed.sets.member_texts("KUBE-LOAD-BALANCER"), ElementsAre("192.0.2.1,tcp:80"));
  EXPECT_THAT(bed.sets.member_texts("KUBE-NODE-PORT-TCP"), ElementsAre("30080"));
  EXPECT_THAT(bed.sets.member_texts("FAIRLEAD-NODE-PORT"),
              UnorderedElementsAre("127.0.0.1,tcp:1", "192.0.2.1,tcp:30080"));
  EXPECT_THAT(bed.sets.member_texts("KUBE-IPVS-IPS"), ElementsAre("10.96.0.1", "203.0.113.9"));
  EXPECT_THAT(bed.sets.member_texts("KUBE-LOOP-BACK"),
              ElementsAre("198.51.100.1,tcp:8080,198.51.100.1"));
  EXPECT_EQ(bed.sysctl.values["net/ipv4/vs/conntrack"], "1");
  EXPECT_EQ(bed.iptables.restores, 2);
  const Summary summary = bed.plane->summary();
  EXPECT_EQ(summary.virtual_servers, 4U);
  EXPECT_EQ(summary.real_servers, 4U);
  EXPECT_THAT(summary.failures, IsEmpty());
}

TEST(Plane, AnEndpointChangeTouchesOnlyItsVirtualServer) {
  Bed bed;
  ASSERT_TRUE(bed.restart());
  std::vector<plan::VirtualServerPtr> all;
  for (int i = 1; i < 200; ++i) {
    all.push_back(make({.socket = "10.96.0." + std::to_string(i) + ":80"}));
  }
  bed.apply({all, {}});
  bed.ipvs.reset_calls();
  bed.sets.reset_calls();
  bed.route.reset_calls();
  const int restores = bed.iptables.restores;
  bed.apply({{make({.reals = {"198.51.100.1:8080", "198.51.100.2:8080"}})}, {}});
  EXPECT_EQ(bed.ipvs.total_calls(), 1U);
  EXPECT_EQ(bed.ipvs.calls("apply.op"), 1U);
  EXPECT_EQ(bed.sets.total_calls(), 0U);
  EXPECT_EQ(bed.route.total_calls(), 0U);
  EXPECT_EQ(bed.iptables.restores, restores);
}

TEST(Plane, ARestartChangesNothingThatIsWanted) {
  Bed bed;
  ASSERT_TRUE(bed.restart());
  const plan::Delta whole{
      {make({}), make({.socket = "[2001:db8::1]:80", .reals = {"[2001:db8:2::1]:80"}}),
       make({.socket = "192.0.2.1:30080", .kind = plan::AddressKind::kNodePort})},
      {}};
  bed.apply(whole);
  bed.ipvs.reset_applied();
  const int restores = bed.iptables.restores;
  ASSERT_TRUE(bed.restart());
  bed.apply(whole);
  EXPECT_THAT(bed.ipvs.applied(), IsEmpty());
  EXPECT_EQ(bed.iptables.restores, restores);
  EXPECT_EQ(bed.plane->summary().virtual_servers, 3U);
}

TEST(Plane, ARestartRemovesWhatWentMeanwhile) {
  Bed bed;
  ASSERT_TRUE(bed.restart());
  const auto kept = make({});
  bed.apply({{kept, make({.socket = "10.96.0.2:80"}),
              make({.socket = "10.96.0.3:53", .protocol = net::Protocol::kUdp}),
              make({.socket = "192.0.2.1:30080", .kind = plan::AddressKind::kNodePort})},
             {}});
  ASSERT_TRUE(bed.restart());
  bed.apply({{kept}, {}});
  bed.advance(5s);
  EXPECT_THAT(bed.table(), ElementsAre("10.96.0.1:80/TCP rr: 198.51.100.1:8080/1"));
  EXPECT_THAT(bed.route.address_texts("kube-ipvs0"), ElementsAre("10.96.0.1"));
  EXPECT_THAT(bed.sets.member_texts("KUBE-CLUSTER-IP"), ElementsAre("10.96.0.1,tcp:80"));
  EXPECT_THAT(bed.sets.member_texts("KUBE-NODE-PORT-TCP"), IsEmpty());
  EXPECT_THAT(bed.sets.member_texts("FAIRLEAD-NODE-PORT"), ElementsAre("127.0.0.1,tcp:1"));
  EXPECT_THAT(bed.sets.member_texts("KUBE-IPVS-IPS"), ElementsAre("10.96.0.1"));
}

TEST(Plane, ForeignVirtualServersAreLeftAlone) {
  Bed bed;
  kernel::VirtualServer foreign;
  foreign.id = {*net::IpAddress::parse("203.0.113.50"), net::Port{80}, net::Protocol::kTcp, 0};
  ASSERT_TRUE(bed.ipvs.change(kernel::AddVirtualServer{foreign}));
  ASSERT_TRUE(bed.restart());
  bed.apply({{make({})}, {}});
  ASSERT_TRUE(bed.restart());
  bed.apply({});
  bed.advance(2min);
  EXPECT_THAT(bed.table(), ElementsAre("203.0.113.50:80/TCP rr:"));
}

TEST(Plane, TakesOverFromKubeProxy) {
  Bed bed;
  // What kube-proxy leaves: a node port known only by its bitmap entry.
  ASSERT_TRUE(bed.sets.create({"KUBE-NODE-PORT-TCP", netlink::SetType::kBitmapPort}));
  netlink::SetMember port;
  port.port = net::Port{30080};
  bed.sets.insert("KUBE-NODE-PORT-TCP", port);
  for (const char* address : {"192.0.2.1", "203.0.113.7"}) {
    kernel::VirtualServer server;
    server.id = {*net::IpAddress::parse(address), net::Port{30080}, net::Protocol::kTcp, 0};
    ASSERT_TRUE(bed.ipvs.change(kernel::AddVirtualServer{server}));
  }
  ASSERT_TRUE(bed.restart());
  bed.apply({});
  EXPECT_THAT(bed.table(), ElementsAre("203.0.113.7:30080/TCP rr:")) << "not on the node: foreign";
}

TEST(Plane, ATakeoverThatIsCutShortIsDoneAgain) {
  Bed bed;
  ASSERT_TRUE(bed.sets.create({"KUBE-NODE-PORT-TCP", netlink::SetType::kBitmapPort}));
  netlink::SetMember port;
  port.port = net::Port{30080};
  bed.sets.insert("KUBE-NODE-PORT-TCP", port);
  kernel::VirtualServer server;
  server.id = {*net::IpAddress::parse("192.0.2.1"), net::Port{30080}, net::Protocol::kTcp, 0};
  ASSERT_TRUE(bed.ipvs.change(kernel::AddVirtualServer{server}));
  bed.sets.fail_next("apply", "127.0.0.1", Fault{Error(ErrorKind::kSystem, "killed here")});
  EXPECT_FALSE(bed.restart());
  ASSERT_TRUE(bed.restart());  // and once more before any plan
  ASSERT_TRUE(bed.restart());
  bed.apply({});
  EXPECT_THAT(bed.table(), IsEmpty());
  EXPECT_THAT(bed.sets.member_texts("FAIRLEAD-NODE-PORT"), ElementsAre("127.0.0.1,tcp:1"));
  EXPECT_THAT(bed.sets.member_texts("KUBE-NODE-PORT-TCP"), IsEmpty());
}

TEST(Plane, FurnitureThatFailsIsRetriedWithoutSpinning) {
  Bed bed;
  ASSERT_TRUE(bed.restart());
  bed.apply({{make({})}, {}});
  bed.iptables.set_fault([](std::string_view, const std::string&) -> std::optional<Fault> {
    return Fault{Error(ErrorKind::kTimeout, "lock held"), Fault::When::kBefore};
  });
  bed.iptables.reset_calls();
  for (int runs = 0; runs < 20; ++runs) {
    bed.now = std::max(bed.now, *bed.plane->next_due());
    bed.plane->run_due(bed.now);
    ASSERT_GT(*bed.plane->next_due(), bed.now) << "run " << runs;
  }
  EXPECT_EQ(bed.plane->summary().failures.size(), 2U);
  bed.iptables.set_fault(nullptr);
  bed.advance(2min);
  EXPECT_THAT(bed.plane->summary().failures, IsEmpty());
}

TEST(Plane, ARefusedVirtualServerKeepsTheKernelsReason) {
  Bed bed;
  ASSERT_TRUE(bed.restart());
  bed.ipvs.set_op_fault([](const kernel::Op& op) -> std::optional<Fault> {
    if (std::holds_alternative<kernel::AddVirtualServer>(op)) {
      return Fault{Error::from_errno(EINVAL, kernel::text(op))};
    }
    return std::nullopt;
  });
  bed.apply({{make({})}, {}});
  ASSERT_EQ(bed.plane->summary().failures.size(), 1U);
  EXPECT_THAT(bed.plane->summary().failures[0].error, HasSubstr("EINVAL"));
  EXPECT_EQ(bed.plane->summary().failures[0].attempts, 1U);
  bed.ipvs.set_op_fault(nullptr);
  bed.advance(2s);
  EXPECT_EQ(bed.table().size(), 1U);
}

TEST(Plane, AKernelWithoutRoundRobinIsNamed) {
  Bed bed;
  bed.ipvs.set_known_schedulers({"lc"});
  ASSERT_TRUE(bed.restart());
  bed.apply({{make({})}, {}});
  ASSERT_EQ(bed.plane->summary().failures.size(), 1U);
  EXPECT_THAT(bed.plane->summary().failures[0].error, HasSubstr("modprobe ip_vs_rr"));
}

TEST(Plane, ARereadKeepsDrainDeadlines) {
  Bed bed;
  ASSERT_TRUE(bed.restart());
  const auto both = make({.reals = {"198.51.100.1:8080", "198.51.100.2:8080"}, .drain = 60s});
  const kernel::ServiceId id{*net::IpAddress::parse("10.96.0.1"), net::Port{80},
                             net::Protocol::kTcp, 0};
  bed.apply({{both}, {}});
  bed.ipvs.set_connections(id, *net::SocketAddress::parse("198.51.100.2:8080"), 1, 0);
  bed.apply({{make({.drain = 60s})}, {}});
  kernel::VirtualServer other;
  other.id = id;
  other.scheduler = "lc";
  bed.advance(40s);
  ASSERT_TRUE(bed.ipvs.change(kernel::SetVirtualServer{other}));
  bed.advance(35s);
  EXPECT_THAT(bed.table(), ElementsAre("10.96.0.1:80/TCP rr: 198.51.100.1:8080/1"));
}

TEST(Plane, ConntrackIsCleanedAtMostOnceASecondAndRetried) {
  Bed bed;
  ASSERT_TRUE(bed.restart());
  bed.apply({});
  bed.advance(5s);
  bed.conntrack.reset_calls();
  bed.conntrack.fail_next("dump", "", Fault{Error(ErrorKind::kOverflow, "lost")});
  for (int i = 1; i <= 4; ++i) {
    bed.apply({{make({.socket = "10.96.0.3:53",
                      .reals = {"198.51.100." + std::to_string(i) + ":53"},
                      .protocol = net::Protocol::kUdp})},
               {}});
    bed.advance(100ms);
  }
  EXPECT_EQ(bed.conntrack.calls("dump"), 1U);
  bed.advance(6s);
  EXPECT_EQ(bed.conntrack.calls("dump"), 2U);
}

TEST(Plane, AFailedChangeKeepsWhatItHad) {
  Bed bed;
  ASSERT_TRUE(bed.restart());
  bed.apply({{make({.socket = "203.0.113.9:80", .kind = plan::AddressKind::kExternalIp})}, {}});
  bed.sets.fail_next("apply", "KUBE-LOAD-BALANCER",
                     Fault{Error(ErrorKind::kSystem, "set is full")});
  bed.apply({{make({.socket = "203.0.113.9:80", .kind = plan::AddressKind::kLoadBalancerIp})}, {}});
  EXPECT_THAT(bed.sets.member_texts("KUBE-EXTERNAL-IP"), ElementsAre("203.0.113.9,tcp:80"))
      << "still masqueraded, still ours";
  bed.advance(2s);
  EXPECT_THAT(bed.sets.member_texts("KUBE-LOAD-BALANCER"), ElementsAre("203.0.113.9,tcp:80"));
  EXPECT_THAT(bed.sets.member_texts("KUBE-EXTERNAL-IP"), IsEmpty());
}

TEST(Plane, ExcludedNetworksAreLetGoOfAtRuntimeToo) {
  Bed bed;
  bed.config.exclude_cidrs = {*net::IpPrefix::parse("10.96.0.0/24")};
  ASSERT_TRUE(bed.restart());
  bed.apply({{make({})}, {}});
  bed.apply({{}, {key("10.96.0.1:80")}});
  bed.advance(1min);
  EXPECT_THAT(bed.table(), ElementsAre("10.96.0.1:80/TCP rr: 198.51.100.1:8080/1"));
}

TEST(Plane, ExcludedNetworksKeepWhatTheyHave) {
  Bed bed;
  bed.config.exclude_cidrs = {*net::IpPrefix::parse("10.96.0.0/24")};
  ASSERT_TRUE(bed.restart());
  bed.apply({{make({})}, {}});
  ASSERT_TRUE(bed.restart());
  bed.apply({});
  bed.advance(1min);
  EXPECT_THAT(bed.table(), ElementsAre("10.96.0.1:80/TCP rr: 198.51.100.1:8080/1"));
  EXPECT_THAT(bed.route.address_texts("kube-ipvs0"), ElementsAre("10.96.0.1"));
}

TEST(Plane, ARemovedTcpEndpointDrainsUntilIdle) {
  Bed bed;
  ASSERT_TRUE(bed.restart());
  bed.apply({{make({.reals = {"198.51.100.1:8080", "198.51.100.2:8080"}})}, {}});
  const kernel::ServiceId id{*net::IpAddress::parse("10.96.0.1"), net::Port{80},
                             net::Protocol::kTcp, 0};
  const auto leaving = *net::SocketAddress::parse("198.51.100.2:8080");
  bed.ipvs.set_connections(id, leaving, 1, 0);
  bed.apply({{make({})}, {}});
  bed.advance(1min);
  EXPECT_THAT(bed.table(),
              ElementsAre("10.96.0.1:80/TCP rr: 198.51.100.1:8080/1 198.51.100.2:8080/0"));
  EXPECT_EQ(bed.plane->summary().draining, 1U);
  // The drain is in the kernel: a restart takes it up.
  ASSERT_TRUE(bed.restart());
  bed.apply({{make({})}, {}});
  EXPECT_EQ(bed.plane->summary().draining, 1U);
  bed.ipvs.set_connections(id, leaving, 0, 0);
  bed.advance(15s);
  EXPECT_THAT(bed.table(), ElementsAre("10.96.0.1:80/TCP rr: 198.51.100.1:8080/1"));
  EXPECT_EQ(bed.plane->summary().draining, 0U);
}

TEST(Plane, ADrainHasADeadlineAndAFlapEndsIt) {
  Bed bed;
  ASSERT_TRUE(bed.restart());
  const auto both = make({.reals = {"198.51.100.1:8080", "198.51.100.2:8080"}, .drain = 60s});
  const auto one = make({.drain = 60s});
  const kernel::ServiceId id{*net::IpAddress::parse("10.96.0.1"), net::Port{80},
                             net::Protocol::kTcp, 0};
  bed.apply({{both}, {}});
  bed.ipvs.set_connections(id, *net::SocketAddress::parse("198.51.100.2:8080"), 1, 0);
  bed.apply({{one}, {}});
  bed.advance(30s);
  bed.ipvs.reset_applied();
  bed.apply({{both}, {}});
  ASSERT_EQ(bed.ipvs.applied().size(), 1U) << "reweighted in place";
  EXPECT_TRUE(std::holds_alternative<kernel::SetRealServer>(bed.ipvs.applied()[0]));
  bed.apply({{one}, {}});
  bed.advance(75s);
  EXPECT_THAT(bed.table(), ElementsAre("10.96.0.1:80/TCP rr: 198.51.100.1:8080/1"));
}

TEST(Plane, ADeletedServiceDrainsThenGoesWithAllItsClaims) {
  Bed bed;
  ASSERT_TRUE(bed.restart());
  bed.apply({{make({})}, {}});
  const kernel::ServiceId id{*net::IpAddress::parse("10.96.0.1"), net::Port{80},
                             net::Protocol::kTcp, 0};
  bed.ipvs.set_connections(id, *net::SocketAddress::parse("198.51.100.1:8080"), 1, 0);
  bed.apply({{}, {key("10.96.0.1:80")}});
  bed.advance(30s);
  EXPECT_THAT(bed.table(), ElementsAre("10.96.0.1:80/TCP rr: 198.51.100.1:8080/0"));
  EXPECT_THAT(bed.route.address_texts("kube-ipvs0"), ElementsAre("10.96.0.1"));
  bed.ipvs.set_connections(id, *net::SocketAddress::parse("198.51.100.1:8080"), 0, 0);
  bed.advance(15s);
  EXPECT_THAT(bed.table(), IsEmpty());
  EXPECT_THAT(bed.route.address_texts("kube-ipvs0"), IsEmpty());
  EXPECT_THAT(bed.sets.member_texts("KUBE-CLUSTER-IP"), IsEmpty());
  EXPECT_THAT(bed.sets.member_texts("KUBE-IPVS-IPS"), IsEmpty());
  EXPECT_EQ(bed.plane->summary().virtual_servers, 0U);
}

TEST(Plane, AnAddressStaysAsLongAsAnyPortUsesIt) {
  Bed bed;
  ASSERT_TRUE(bed.restart());
  bed.apply({{make({.reals = {}}), make({.socket = "10.96.0.1:443", .reals = {}})}, {}});
  bed.apply({{}, {key("10.96.0.1:80")}});
  EXPECT_THAT(bed.route.address_texts("kube-ipvs0"), ElementsAre("10.96.0.1"));
  bed.apply({{}, {key("10.96.0.1:443")}});
  EXPECT_THAT(bed.route.address_texts("kube-ipvs0"), IsEmpty());
}

TEST(Plane, AMissingSchedulerConcernsItsServicesOnly) {
  Bed bed;
  bed.ipvs.set_known_schedulers({"rr", "lc"});
  ASSERT_TRUE(bed.restart());
  bed.apply({{make({.scheduler = "mh"}), make({.socket = "10.96.0.2:80", .scheduler = "lc"})}, {}});
  EXPECT_THAT(bed.table(), ElementsAre("10.96.0.1:80/TCP rr: 198.51.100.1:8080/1",
                                       "10.96.0.2:80/TCP lc: 198.51.100.1:8080/1"));
  ASSERT_EQ(bed.plane->summary().failures.size(), 1U);
  EXPECT_THAT(bed.plane->summary().failures[0].object, HasSubstr("mh"));
  bed.ipvs.set_known_schedulers({"rr", "lc", "mh"});
  bed.advance(61s);
  EXPECT_THAT(bed.table(), Contains("10.96.0.1:80/TCP mh: 198.51.100.1:8080/1"));
  EXPECT_THAT(bed.plane->summary().failures, IsEmpty());
}

TEST(Plane, AFailureIsOneKeysAndIsRetried) {
  Bed bed;
  ASSERT_TRUE(bed.restart());
  bed.ipvs.set_op_fault([](const kernel::Op& op) -> std::optional<Fault> {
    if (kernel::text(op).find("198.51.100.66") != std::string::npos) {
      return Fault{Error::from_errno(EINVAL, "not unicast")};
    }
    return std::nullopt;
  });
  bed.apply(
      {{make({.reals = {"198.51.100.1:80", "198.51.100.66:80"}}), make({.socket = "10.96.0.2:80"})},
       {}});
  EXPECT_THAT(bed.table(), ElementsAre("10.96.0.1:80/TCP rr: 198.51.100.1:80/1",
                                       "10.96.0.2:80/TCP rr: 198.51.100.1:8080/1"));
  ASSERT_EQ(bed.plane->summary().failures.size(), 1U);
  EXPECT_EQ(bed.plane->summary().failures[0].object, "10.96.0.1:80/TCP");
  bed.ipvs.set_op_fault(nullptr);
  bed.advance(2s);
  EXPECT_THAT(bed.table(), Contains("10.96.0.1:80/TCP rr: 198.51.100.1:80/1 198.51.100.66:80/1"));
  EXPECT_THAT(bed.plane->summary().failures, IsEmpty());
}

TEST(Plane, AMemberThatFailsKeepsItsVirtualServerOut) {
  Bed bed;
  ASSERT_TRUE(bed.restart());
  bed.sets.fail_next("apply", "10.96.0.1", Fault{Error(ErrorKind::kSystem, "set is full")});
  bed.apply({{make({}), make({.socket = "10.96.0.2:80"})}, {}});
  EXPECT_THAT(bed.table(), ElementsAre("10.96.0.2:80/TCP rr: 198.51.100.1:8080/1"))
      << "not without its masquerade entry";
  bed.advance(2s);
  EXPECT_EQ(bed.table().size(), 2U);
}

TEST(Plane, DriftIsFoundAndMended) {
  Bed bed;
  ASSERT_TRUE(bed.restart());
  bed.apply({{make({}), make({.socket = "10.96.0.2:80"})}, {}});
  const kernel::ServiceId id{*net::IpAddress::parse("10.96.0.1"), net::Port{80},
                             net::Protocol::kTcp, 0};
  ASSERT_TRUE(bed.ipvs.change(kernel::DeleteVirtualServer{id}));
  const auto device = *bed.route.find("kube-ipvs0");
  bed.route.remove_address(*device, *net::IpAddress::parse("10.96.0.2"));
  netlink::SetMember member;
  member.ip = *net::IpAddress::parse("10.96.0.2");
  member.port = net::Port{80};
  bed.sets.erase("KUBE-CLUSTER-IP", member);
  bed.iptables.damage(net::Family::kIpv6);
  bed.sysctl.values["net/ipv4/vs/conntrack"] = "0";
  bed.advance(31s);
  EXPECT_THAT(bed.table(), ElementsAre("10.96.0.1:80/TCP rr: 198.51.100.1:8080/1",
                                       "10.96.0.2:80/TCP rr: 198.51.100.1:8080/1"));
  EXPECT_THAT(bed.route.address_texts("kube-ipvs0"), ElementsAre("10.96.0.1", "10.96.0.2"));
  EXPECT_EQ(bed.sets.member_texts("KUBE-CLUSTER-IP").size(), 2U);
  EXPECT_TRUE(bed.iptables.installed.contains(net::Family::kIpv6));
  EXPECT_EQ(bed.sysctl.values["net/ipv4/vs/conntrack"], "1");
  const std::map<std::string, std::uint64_t, std::less<>> mended = {
      {"address", 1}, {"iptables", 1}, {"set member", 1}, {"sysctl", 1}, {"virtual server", 1}};
  EXPECT_EQ(bed.plane->summary().drift_repaired, mended);
  bed.advance(31s);
  EXPECT_EQ(bed.plane->summary().drift_repaired, mended);
}

TEST(Plane, ThresholdsChangeInPlaceAndSurviveARestart) {
  Bed bed;
  ASSERT_TRUE(bed.restart());
  const auto thresholds = [&] {
    const kernel::RealServer real = bed.ipvs.table().at(0).real_servers.at(0).server;
    return std::pair(real.upper_threshold, real.lower_threshold);
  };
  bed.apply({{make({})}, {}});
  bed.ipvs.reset_applied();
  const plan::Delta limited{{make({.thresholds = {100, 80}})}, {}};
  bed.apply(limited);
  EXPECT_EQ(thresholds(), std::pair(100U, 80U));
  ASSERT_THAT(bed.ipvs.applied(), SizeIs(1));
  EXPECT_TRUE(std::holds_alternative<kernel::SetRealServer>(bed.ipvs.applied().front()));

  bed.ipvs.reset_applied();
  bed.advance(2min);  // audits
  ASSERT_TRUE(bed.restart());
  bed.apply(limited);
  EXPECT_THAT(bed.ipvs.applied(), IsEmpty());
  EXPECT_THAT(bed.plane->summary().drift_repaired, IsEmpty());

  ASSERT_TRUE(bed.restart());
  bed.apply({{make({})}, {}});
  EXPECT_EQ(thresholds(), std::pair(0U, 0U)) << "wanted no more when the process came back";
}

TEST(Plane, FirewallMarksAreOursBySetMembers) {
  Bed bed;
  kernel::VirtualServer foreign;
  foreign.id.address = net::IpAddress::any(net::Family::kIpv4);
  foreign.id.fwmark = 9;
  ASSERT_TRUE(bed.ipvs.change(kernel::AddVirtualServer{foreign}));
  ASSERT_TRUE(bed.restart());
  const auto marked = [](net::Family family) {
    auto server = std::make_shared<plan::VirtualServer>(
        *make({.reals = {family == net::Family::kIpv4 ? "198.51.100.1:0" : "[2001:db8:2::1]:0"}}));
    server->key = {.address = net::IpAddress::any(family), .mark = 7};
    server->kind = plan::AddressKind::kFirewallMark;
    server->on_node_interface = true;
    return server;
  };
  const plan::Delta whole{{marked(net::Family::kIpv4), marked(net::Family::kIpv6)}, {}};
  bed.apply(whole);
  EXPECT_THAT(bed.table(),
              UnorderedElementsAre("FWM 7 IPv4 rr: 198.51.100.1:0/1",
                                   "FWM 7 IPv6 rr: [2001:db8:2::1]:0/1", "FWM 9 IPv4 rr:"));
  EXPECT_THAT(bed.sets.member_texts("FAIRLEAD-NODE-PORT"),
              UnorderedElementsAre("127.0.0.1,tcp:1", "0.0.0.7,tcp:0"));
  EXPECT_THAT(bed.sets.member_texts("FAIRLEAD-6-NODE-PORT"),
              UnorderedElementsAre("::1,tcp:1", "::7,tcp:0"));
  EXPECT_THAT(bed.route.address_texts("kube-ipvs0"), IsEmpty());

  bed.ipvs.reset_applied();
  bed.advance(2min);
  ASSERT_TRUE(bed.restart());
  bed.apply(whole);
  EXPECT_THAT(bed.ipvs.applied(), IsEmpty());

  ASSERT_TRUE(bed.restart());
  bed.apply({});
  bed.advance(5s);
  EXPECT_THAT(bed.table(), ElementsAre("FWM 9 IPv4 rr:"));
  EXPECT_THAT(bed.sets.member_texts("FAIRLEAD-NODE-PORT"), ElementsAre("127.0.0.1,tcp:1"));
}

// Random plans with faults before and after the effect, and kills in between, always end in the
// state of the last plan.
TEST(PlaneProperty, ConvergesThroughFaultsAndRestarts) {
  for (unsigned seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const auto pick = [&](unsigned n) { return static_cast<unsigned>(random() % n); };
    Bed bed;
    const auto faults = [&](std::string_view call, const std::string&) -> std::optional<Fault> {
      if (!call.starts_with("apply") || pick(12) != 0) {
        return std::nullopt;
      }
      const int code = std::array{EINVAL, ENOBUFS, ENOMEM}[pick(3)];
      return Fault{Error::from_errno(code, "injected"),
                   pick(2) == 0 ? Fault::When::kBefore : Fault::When::kAfter};
    };
    ASSERT_TRUE(bed.restart());
    std::map<plan::VirtualServerKey, plan::VirtualServerPtr> wanted;
    bed.apply({});
    for (int step = 0; step < 40; ++step) {
      bed.ipvs.set_fault(faults);
      bed.sets.set_fault(faults);
      bed.route.set_fault(faults);
      plan::Delta delta;
      std::set<plan::VirtualServerKey> used;
      for (unsigned i = pick(4); i > 0; --i) {
        Make m;
        const unsigned address = 1 + pick(4);
        const bool node_port = pick(4) == 0;
        m.kind = node_port ? plan::AddressKind::kNodePort : plan::AddressKind::kClusterIp;
        m.protocol = pick(3) == 0 ? net::Protocol::kUdp : net::Protocol::kTcp;
        m.socket = node_port
                       ? "192.0.2.1:3000" + std::to_string(pick(3))
                       : "10.96.0." + std::to_string(address) + ":8" + std::to_string(pick(3));
        m.reals.clear();
        for (int r = 1; r <= 4; ++r) {
          if (pick(2) == 0) {
            m.reals.push_back("198.51.100." + std::to_string(r) + ":80");
          }
        }
        m.hairpin = m.reals;
        m.drain = 5s;
        const auto server = make(m);
        if (!used.insert(server->key).second) {
          continue;
        }
        if (pick(4) == 0) {
          if (wanted.erase(server->key) != 0) {
            delta.removed.push_back(server->key);
          }
        } else {
          wanted[server->key] = server;
          delta.put.push_back(server);
        }
      }
      bed.apply(delta);
      bed.advance(std::chrono::milliseconds(pick(3000)));
      if (pick(8) == 0) {
        bed.ipvs.set_fault(nullptr);
        bed.sets.set_fault(nullptr);
        bed.route.set_fault(nullptr);
        ASSERT_TRUE(bed.restart());
        plan::Delta whole;
        for (const auto& [k, server] : wanted) {
          whole.put.push_back(server);
        }
        bed.apply(whole);
      }
    }
    bed.ipvs.set_fault(nullptr);
    bed.sets.set_fault(nullptr);
    bed.route.set_fault(nullptr);
    bed.advance(3min);

    Bed fresh;
    ASSERT_TRUE(fresh.restart());
    plan::Delta whole;
    for (const auto& [k, server] : wanted) {
      whole.put.push_back(server);
    }
    fresh.apply(whole);
    EXPECT_EQ(bed.table(), fresh.table());
    EXPECT_EQ(bed.route.address_texts("kube-ipvs0"), fresh.route.address_texts("kube-ipvs0"));
    for (const auto& [name, set] : fresh.sets.sets()) {
      EXPECT_EQ(bed.sets.member_texts(name), fresh.sets.member_texts(name)) << name;
    }
    EXPECT_THAT(bed.plane->summary().failures, IsEmpty());
    if (HasFailure()) {
      break;
    }
  }
}

}  // namespace
}  // namespace fairlead::dataplane::ipvs
