// SPDX-License-Identifier: Apache-2.0
#include "netlink/contract.h"

#include <algorithm>
#include <cerrno>
#include <gmock/gmock.h>
#include <optional>
#include <string>
#include <vector>

namespace fairlead::netlink {

namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

net::IpAddress ip(std::string_view text) { return net::IpAddress::parse(text).value(); }

SetMember member(std::string_view address, net::Protocol protocol = net::Protocol::kTcp,
                 std::uint16_t port = 0, std::string_view second = "") {
  SetMember m;
  m.ip = ip(address);
  m.protocol = protocol;
  m.port = net::Port{port};
  if (second.find('/') != std::string_view::npos) {
    m.second = net::IpPrefix::parse(second).value();
  } else if (!second.empty()) {
    m.second = net::IpPrefix::host(ip(second));
  }
  return m;
}

SetMember port_member(std::uint16_t port) {
  SetMember m;
  m.port = net::Port{port};
  return m;
}

SetSpec spec(std::string name, SetType type, net::Family family = net::Family::kIpv4) {
  SetSpec s;
  s.name = std::move(name);
  s.type = type;
  s.family = family;
  return s;
}

std::vector<Status> apply(IpSet& sets, const SetSpec& s, SetOp::Kind kind,
                          const std::vector<SetMember>& members) {
  std::vector<SetOp> ops;
  ops.reserve(members.size());
  for (const SetMember& m : members) {
    ops.push_back({.kind = kind, .set = s.name, .type = s.type, .member = m});
  }
  return sets.apply(ops);
}

std::vector<std::string> texts(IpSet& sets, const SetSpec& s) {
  const auto members = sets.members(s.name);
  if (!members) {
    return {"error: " + members.error().text()};
  }
  std::vector<std::string> out;
  for (const SetMember& m : *members) {
    out.push_back(m.text(s.type));
  }
  std::ranges::sort(out);
  return out;
}

std::string errors(const std::vector<Status>& results) {
  std::string out;
  for (const Status& status : results) {
    out += status ? "" : status.error().text() + "\n";
  }
  return out;
}

class IpSetContract : public ::testing::Test {
 protected:
  void SetUp() override {
    if (world_.sets == nullptr) {
      GTEST_SKIP() << "no ipset here";
    }
  }
  IpSet& sets() { return *world_.sets; }

 private:
  World world_ = make_world();
};

TEST_F(IpSetContract, HeaderOfNoSet) {
  const auto header = sets().header("no-such-set");
  ASSERT_TRUE(header) << header.error().text();
  EXPECT_FALSE(header->has_value());
}

TEST_F(IpSetContract, HeaderGivesWhatWasCreated) {
  for (const SetType type : {SetType::kHashIp, SetType::kHashIpPort, SetType::kHashIpPortIp,
                             SetType::kHashIpPortNet, SetType::kBitmapPort}) {
    for (const net::Family family : {net::Family::kIpv4, net::Family::kIpv6}) {
      SetSpec s =
          spec("t-" + std::string(text(type)) + std::string(net::text(family)), type, family);
      s.max_elements = 70000;
      const Status status = sets().create(s);
      ASSERT_TRUE(status) << status.error().text();
      const auto header = sets().header(s.name);
      ASSERT_TRUE(header) << header.error().text();
      if (type == SetType::kBitmapPort) {
        s.family = net::Family::kIpv4;
        s.max_elements = SetSpec{}.max_elements;
      }
      EXPECT_EQ(*header, std::optional(s));
    }
  }
}

TEST_F(IpSetContract, CreateTwice) {
  ASSERT_TRUE(sets().create(spec("a", SetType::kHashIp)));
  const Status again = sets().create(spec("a", SetType::kHashIp));
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().kind(), ErrorKind::kAlreadyExists);
  EXPECT_THAT(again.error().text(), HasSubstr("create set a"));
}

TEST_F(IpSetContract, NameTooLong) {
  const Status status = sets().create(spec(std::string(32, 'x'), SetType::kHashIp));
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().kind(), ErrorKind::kInvalidInput);
  EXPECT_TRUE(sets().create(spec(std::string(31, 'x'), SetType::kHashIp)));
}

TEST_F(IpSetContract, Destroy) {
  ASSERT_TRUE(sets().create(spec("a", SetType::kHashIp)));
  EXPECT_TRUE(sets().destroy("a"));
  const Status again = sets().destroy("a");
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().kind(), ErrorKind::kNotFound);
}

TEST_F(IpSetContract, MembersOfNoSet) {
  const auto members = sets().members("no-such-set");
  ASSERT_FALSE(members);
  EXPECT_EQ(members.error().kind(), ErrorKind::kNotFound);
}

TEST_F(IpSetContract, MembersOfEachType) {
  struct Case {
    SetType type;
    net::Family family;
    std::vector<SetMember> members;
    std::vector<std::string> want;  // sorted
  };
  using net::Protocol;
  const std::vector<Case> cases = {
      {SetType::kHashIp, net::Family::kIpv4, {member("10.96.0.1")}, {"10.96.0.1"}},
      {SetType::kHashIp, net::Family::kIpv6, {member("2001:db8::1")}, {"2001:db8::1"}},
      {SetType::kHashIpPort,
       net::Family::kIpv4,
       {member("10.96.0.1", Protocol::kTcp, 80), member("10.96.0.1", Protocol::kUdp, 53),
        member("10.96.0.1", Protocol::kSctp, 65535)},
       {"10.96.0.1,sctp:65535", "10.96.0.1,tcp:80", "10.96.0.1,udp:53"}},
      {SetType::kHashIpPort,
       net::Family::kIpv6,
       {member("2001:db8::1", Protocol::kSctp, 80)},
       {"2001:db8::1,sctp:80"}},
      {SetType::kHashIpPortIp,
       net::Family::kIpv4,
       {member("198.18.0.1", Protocol::kTcp, 80, "198.18.0.1")},
       {"198.18.0.1,tcp:80,198.18.0.1"}},
      {SetType::kHashIpPortIp,
       net::Family::kIpv6,
       {member("2001:db8::1", Protocol::kUdp, 80, "2001:db8::1")},
       {"2001:db8::1,udp:80,2001:db8::1"}},
      {SetType::kHashIpPortNet,
       net::Family::kIpv4,
       {member("203.0.113.1", Protocol::kTcp, 80, "10.0.0.0/8"),
        member("203.0.113.1", Protocol::kTcp, 80, "0.0.0.0/1"),
        member("203.0.113.1", Protocol::kTcp, 80, "10.1.1.1/32")},
       {"203.0.113.1,tcp:80,0.0.0.0/1", "203.0.113.1,tcp:80,10.0.0.0/8",
        "203.0.113.1,tcp:80,10.1.1.1"}},
      {SetType::kHashIpPortNet,
       net::Family::kIpv6,
       {member("2001:db8::1", Protocol::kTcp, 80, "2001:db8:1::/48"),
        member("2001:db8::1", Protocol::kTcp, 80, "8000::/1"),
        member("2001:db8::1", Protocol::kTcp, 80, "::102:304/128")},
       {"2001:db8::1,tcp:80,2001:db8:1::/48", "2001:db8::1,tcp:80,8000::/1",
        "2001:db8::1,tcp:80,::102:304"}},
      {SetType::kBitmapPort,
       net::Family::kIpv4,
       {port_member(30080), port_member(0), port_member(65535)},
       {"0", "30080", "65535"}},
  };
  int number = 0;
  for (const Case& c : cases) {
    const SetSpec s = spec("set" + std::to_string(number++), c.type, c.family);
    SCOPED_TRACE(std::string(text(c.type)) + " " + std::string(net::text(c.family)));
    ASSERT_TRUE(sets().create(s));
    EXPECT_EQ(errors(apply(sets(), s, SetOp::Kind::kAdd, c.members)), "");
    EXPECT_EQ(texts(sets(), s), c.want);
    auto read = sets().members(s.name).value();
    auto given = c.members;
    std::ranges::sort(read);
    std::ranges::sort(given);
    EXPECT_EQ(read, given);
    // Both are success when there is nothing to do.
    EXPECT_EQ(errors(apply(sets(), s, SetOp::Kind::kAdd, c.members)), "");
    EXPECT_EQ(errors(apply(sets(), s, SetOp::Kind::kDelete, c.members)), "");
    EXPECT_EQ(errors(apply(sets(), s, SetOp::Kind::kDelete, c.members)), "");
    EXPECT_THAT(texts(sets(), s), IsEmpty());
  }
}

TEST_F(IpSetContract, FailedOpDoesNotStopLaterOnes) {
  const SetSpec s = spec("a", SetType::kHashIpPort);
  ASSERT_TRUE(sets().create(s));
  const std::vector<SetOp> ops = {
      {SetOp::Kind::kAdd, "a", s.type, member("10.96.0.1", net::Protocol::kTcp, 1)},
      {SetOp::Kind::kAdd, "nowhere", s.type, member("10.96.0.1", net::Protocol::kTcp, 2)},
      {SetOp::Kind::kAdd, "a", s.type, member("2001:db8::1", net::Protocol::kTcp, 3)},
      {SetOp::Kind::kAdd, "a", s.type, member("10.96.0.1", net::Protocol::kTcp, 4)},
  };
  const std::vector<Status> results = sets().apply(ops);
  ASSERT_EQ(results.size(), 4U);
  EXPECT_TRUE(results[0]);
  ASSERT_FALSE(results[1]);
  EXPECT_EQ(results[1].error().kind(), ErrorKind::kNotFound);
  EXPECT_THAT(results[1].error().text(), HasSubstr("add 10.96.0.1,tcp:2 to set nowhere"));
  ASSERT_FALSE(results[2]);
  EXPECT_EQ(results[2].error().kind(), ErrorKind::kInvalidInput);
  EXPECT_TRUE(results[3]);
  EXPECT_THAT(texts(sets(), s), ElementsAre("10.96.0.1,tcp:1", "10.96.0.1,tcp:4"));
}

TEST_F(IpSetContract, FullSet) {
  SetSpec s = spec("small", SetType::kHashIpPort);
  s.max_elements = 3;
  ASSERT_TRUE(sets().create(s));
  std::vector<SetMember> four;
  four.reserve(4);
  for (std::uint16_t port = 1; port <= 4; ++port) {
    four.push_back(member("10.96.0.1", net::Protocol::kTcp, port));
  }
  const std::vector<Status> results = apply(sets(), s, SetOp::Kind::kAdd, four);
  EXPECT_TRUE(results[0] && results[1] && results[2]);
  ASSERT_FALSE(results[3]);
  EXPECT_EQ(results[3].error().kind(), ErrorKind::kSystem);
  EXPECT_EQ(results[3].error().text(),
            "add 10.96.0.1,tcp:4 to set small: set small is full (3 members at most)");
  // What is in already stays no error.
  EXPECT_TRUE(apply(sets(), s, SetOp::Kind::kAdd, {four[0]})[0]);
}

TEST_F(IpSetContract, PrefixOfLengthZero) {
  const SetSpec s = spec("a", SetType::kHashIpPortNet);
  ASSERT_TRUE(sets().create(s));
  const auto results = apply(sets(), s, SetOp::Kind::kAdd,
                             {member("203.0.113.1", net::Protocol::kTcp, 80, "0.0.0.0/0")});
  ASSERT_FALSE(results[0]);
  EXPECT_EQ(results[0].error().kind(), ErrorKind::kInvalidInput);
}

TEST_F(IpSetContract, Swap) {
  const SetSpec a = spec("a", SetType::kHashIp);
  const SetSpec b = spec("b", SetType::kHashIp);
  ASSERT_TRUE(sets().create(a));
  ASSERT_TRUE(sets().create(b));
  ASSERT_TRUE(apply(sets(), a, SetOp::Kind::kAdd, {member("10.96.0.1")})[0]);
  ASSERT_TRUE(apply(sets(), b, SetOp::Kind::kAdd, {member("10.96.0.2")})[0]);
  const Status status = sets().swap("a", "b");
  ASSERT_TRUE(status) << status.error().text();
  EXPECT_THAT(texts(sets(), a), ElementsAre("10.96.0.2"));
  EXPECT_THAT(texts(sets(), b), ElementsAre("10.96.0.1"));
}

TEST_F(IpSetContract, SwapOfUnlikeSets) {
  ASSERT_TRUE(sets().create(spec("ip", SetType::kHashIp)));
  ASSERT_TRUE(sets().create(spec("ip6", SetType::kHashIp, net::Family::kIpv6)));
  ASSERT_TRUE(sets().create(spec("port", SetType::kHashIpPort)));
  for (const char* other : {"ip6", "port"}) {
    const Status status = sets().swap("ip", other);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().kind(), ErrorKind::kInvalidInput) << status.error().text();
  }
  EXPECT_EQ(sets().swap("ip", "none").error().kind(), ErrorKind::kNotFound);
  EXPECT_EQ(sets().swap("none", "ip").error().kind(), ErrorKind::kNotFound);
}

TEST_F(IpSetContract, ManyMembers) {
  const SetSpec s = spec("many", SetType::kHashIpPort);
  ASSERT_TRUE(sets().create(s));
  std::vector<SetMember> many;
  many.reserve(20000);
  for (std::uint16_t i = 0; i < 20000; ++i) {
    many.push_back(member("10.96.0.1", net::Protocol::kTcp, i));
  }
  EXPECT_EQ(errors(apply(sets(), s, SetOp::Kind::kAdd, many)), "");
  auto read = sets().members(s.name).value();
  std::ranges::sort(read);
  EXPECT_EQ(read, many);
  const SetSpec grown = sets().header(s.name).value().value_or(SetSpec{});
  EXPECT_GT(grown.hash_size, s.hash_size) << "a set grows";
}

class RouteContract : public ::testing::Test {
 protected:
  void SetUp() override {
    if (world_.route == nullptr) {
      GTEST_SKIP() << "no rtnetlink here";
    }
  }
  Route& route() { return *world_.route; }
  [[nodiscard]] bool has_dummy() const { return world_.has_dummy; }
  std::vector<std::string> addresses_of(InterfaceIndex interface) {
    std::vector<std::string> out;
    const auto all = route().addresses().value();
    for (const InterfaceAddress& a : all) {
      if (a.interface == interface) {
        out.push_back(a.address.text());
      }
    }
    std::ranges::sort(out);
    return out;
  }

 private:
  World world_ = make_world();
};

TEST_F(RouteContract, LinksTellTheLoopbackDevice) {
  const auto links = route().links().value();
  const auto lo = std::ranges::find(links, "lo", &Link::name);
  ASSERT_NE(lo, links.end());
  EXPECT_EQ(lo->index, route().find("lo").value());
  EXPECT_EQ(lo->kind, "");
  EXPECT_EQ(lo->type, 772);  // ARPHRD_LOOPBACK
  EXPECT_EQ(lo->master, InterfaceIndex{});
}

TEST_F(RouteContract, Find) {
  EXPECT_EQ(route().find("lo").value(), InterfaceIndex{1});
  EXPECT_EQ(route().find("none").value(), std::nullopt);
}

TEST_F(RouteContract, NotADummy) {
  const auto result = route().ensure_dummy("lo");
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().kind(), ErrorKind::kInvalidInput);
  EXPECT_THAT(result.error().text(), HasSubstr("device lo exists, but is not a dummy device"));
}

TEST_F(RouteContract, Dummy) {
  if (!has_dummy()) {
    const auto device = route().ensure_dummy("kube-ipvs0");
    ASSERT_FALSE(device);
    EXPECT_EQ(device.error().kind(), ErrorKind::kUnavailable) << device.error().text();
    GTEST_SKIP() << "the kernel has no dummy devices";
  }
  const auto device = route().ensure_dummy("kube-ipvs0");
  ASSERT_TRUE(device) << device.error().text();
  EXPECT_EQ(route().ensure_dummy("kube-ipvs0").value(), *device);
  EXPECT_EQ(route().find("kube-ipvs0").value(), *device);
  const std::vector<AddressOp> add = {{AddressOp::Kind::kAdd, *device, ip("10.96.0.1")},
                                      {AddressOp::Kind::kAdd, *device, ip("2001:db8::1")}};
  EXPECT_EQ(errors(route().apply(add)), "");
  EXPECT_THAT(addresses_of(*device), ElementsAre("10.96.0.1", "2001:db8::1"));
  const Status gone = route().delete_device(*device);
  EXPECT_TRUE(gone) << gone.error().text();
  EXPECT_EQ(route().find("kube-ipvs0").value(), std::nullopt);
  EXPECT_EQ(route().delete_device(*device).error().kind(), ErrorKind::kNotFound);
}

TEST_F(RouteContract, Addresses) {
  const InterfaceIndex lo{1};
  using Kind = AddressOp::Kind;
  const std::vector<std::string> before = addresses_of(lo);
  EXPECT_THAT(before, ::testing::Contains("127.0.0.1"));
  const std::vector<AddressOp> add = {{Kind::kAdd, lo, ip("10.96.0.1")},
                                      {Kind::kAdd, InterfaceIndex{4711}, ip("10.96.0.9")},
                                      {Kind::kAdd, lo, ip("10.96.0.1")},
                                      {Kind::kAdd, lo, ip("2001:db8::1")},
                                      {Kind::kAdd, lo, ip("2001:db8::1")}};
  const auto results = route().apply(add);
  ASSERT_EQ(results.size(), add.size());
  for (std::size_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(results[i].has_value(), i != 1) << i;
  }
  EXPECT_EQ(results[1].error().kind(), ErrorKind::kNotFound);
  EXPECT_THAT(results[1].error().text(), HasSubstr("add address 10.96.0.9"));
  EXPECT_THAT(addresses_of(lo), ::testing::IsSupersetOf({"10.96.0.1", "2001:db8::1"}));
  const std::vector<AddressOp> remove = {{Kind::kDelete, lo, ip("10.96.0.1")},
                                         {Kind::kDelete, lo, ip("10.96.0.1")},
                                         {Kind::kDelete, lo, ip("2001:db8::1")},
                                         {Kind::kDelete, lo, ip("2001:db8::1")},
                                         {Kind::kDelete, InterfaceIndex{4711}, ip("10.96.0.9")}};
  EXPECT_EQ(errors(route().apply(remove)), "");
  EXPECT_EQ(addresses_of(lo), before);
}

TEST_F(RouteContract, ManyAddresses) {
  const InterfaceIndex lo{1};
  std::vector<AddressOp> ops;
  ops.reserve(2000);
  for (int i = 0; i < 2000; ++i) {
    ops.push_back({AddressOp::Kind::kAdd, lo,
                   ip("10.96." + std::to_string(i / 250) + "." + std::to_string(1 + (i % 250)))});
  }
  EXPECT_EQ(errors(route().apply(ops)), "");
  EXPECT_GE(addresses_of(lo).size(), ops.size());
  for (AddressOp& op : ops) {
    op.kind = AddressOp::Kind::kDelete;
  }
  EXPECT_EQ(errors(route().apply(ops)), "");
  EXPECT_LT(addresses_of(lo).size(), 10U);
}

}  // namespace
}  // namespace fairlead::netlink
