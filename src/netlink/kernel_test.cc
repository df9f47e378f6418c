// SPDX-License-Identifier: Apache-2.0
// The contract suite on the kernel, and comparisons with the system's own tools (ip, ipset,
// conntrack). Each test gets a network namespace of its own, never the caller's.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/if.h>
#include <netinet/in.h>
#include <optional>
#include <poll.h>
#include <sched.h>
#include <string>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

#include "base/byte_order.h"
#include "base/check.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "base/unique_fd.h"
#include "netlink/conntrack.h"
#include "netlink/contract.h"
#include "netlink/socket_diag.h"

namespace fairlead::netlink {
namespace {

using namespace std::chrono_literals;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
using ::testing::Not;

ino_t namespace_inode() {
  struct stat info{};
  FAIRLEAD_CHECK(::stat("/proc/thread-self/ns/net", &info) == 0);
  return info.st_ino;
}

void enter_new_namespace() {
  const ino_t before = namespace_inode();
  if (::unshare(CLONE_NEWNET) != 0) {
    ::perror("a network namespace of our own is needed (root)");
    ::_exit(77);
  }
  FAIRLEAD_CHECK(namespace_inode() != before);
  const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::string_view("lo").copy(static_cast<char*>(request.ifr_name), IFNAMSIZ - 1);
  request.ifr_flags = IFF_UP;
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): the only form ioctl has
  FAIRLEAD_CHECK(::ioctl(fd.get(), SIOCSIFFLAGS, &request) == 0);
}

template <typename T>
std::unique_ptr<T> take(Result<std::unique_ptr<T>> made) {
  if (!made) {
    FAIRLEAD_CHECK(made.error().kind() == ErrorKind::kUnavailable);
    return nullptr;
  }
  return std::move(*made);
}

std::string run(const std::vector<std::string>& argv, std::string_view input = "") {
  const auto output = run_program(argv, input, 60s);
  EXPECT_TRUE(output) << output.error().text();
  return output.value_or("");
}

std::vector<std::string> lines(std::string_view text) {
  std::vector<std::string> out;
  for (const std::string_view line : split(text, '\n')) {
    if (!trim(line).empty()) {
      out.emplace_back(trim(line));
    }
  }
  std::ranges::sort(out);
  return out;
}

bool have_dummy() {
  return run_program({"ip", "link", "add", "probe0", "type", "dummy"}, "", 10s).has_value() &&
         run_program({"ip", "link", "del", "probe0"}, "", 10s).has_value();
}

net::IpAddress ip(std::string_view text) { return net::IpAddress::parse(text).value(); }
net::SocketAddress socket_address(std::string_view text) {
  return net::SocketAddress::parse(text).value();
}

class KernelTest : public ::testing::Test {
 protected:
  void SetUp() override { enter_new_namespace(); }
};

// --- ipset ---------------------------------------------------------------------------------------

struct ToolCase {
  SetType type;
  net::Family family;
  std::string create;                // what follows `ipset create x`
  std::vector<std::string> members;  // as ipset lists them
};

std::vector<ToolCase> tool_cases() {
  const std::string v4 = " family inet hashsize 1024 maxelem 65536";
  const std::string v6 = " family inet6 hashsize 1024 maxelem 65536";
  using net::Family;
  return {
      {SetType::kHashIp, Family::kIpv4, "hash:ip" + v4, {"10.96.0.1", "10.96.0.2"}},
      {SetType::kHashIp, Family::kIpv6, "hash:ip" + v6, {"2001:db8::1"}},
      {SetType::kHashIpPort,
       Family::kIpv4,
       "hash:ip,port" + v4,
       {"10.96.0.1,tcp:80", "10.96.0.1,udp:80", "10.96.0.1,sctp:80"}},
      {SetType::kHashIpPort, Family::kIpv6, "hash:ip,port" + v6, {"2001:db8::1,sctp:80"}},
      {SetType::kHashIpPortIp,
       Family::kIpv4,
       "hash:ip,port,ip" + v4,
       {"198.18.0.1,tcp:80,198.18.0.1"}},
      {SetType::kHashIpPortIp,
       Family::kIpv6,
       "hash:ip,port,ip" + v6,
       {"2001:db8::1,tcp:80,2001:db8::1"}},
      {SetType::kHashIpPortNet,
       Family::kIpv4,
       "hash:ip,port,net" + v4,
       {"203.0.113.1,tcp:80,10.0.0.0/8", "203.0.113.1,tcp:80,10.1.1.1"}},
      {SetType::kHashIpPortNet,
       Family::kIpv6,
       "hash:ip,port,net" + v6,
       {"2001:db8::1,tcp:80,2001:db8:1::/48", "2001:db8::1,tcp:80,2001:db8::9"}},
      {SetType::kBitmapPort, Family::kIpv4, "bitmap:port range 0-65535", {"0", "30080", "65535"}},
  };
}

std::vector<std::string> tool_members(const std::string& name) {
  const std::string listing = run({"ipset", "list", name});
  const std::size_t start = listing.find("Members:\n");
  EXPECT_NE(start, std::string::npos) << listing;
  return lines(std::string_view(listing).substr(start + 9));
}

std::vector<SetOp> as_ops(const std::string& set, SetType type,
                          const std::vector<SetMember>& members) {
  std::vector<SetOp> ops;
  ops.reserve(members.size());
  for (const SetMember& member : members) {
    ops.push_back({SetOp::Kind::kAdd, set, type, member});
  }
  return ops;
}

TEST_F(KernelTest, SetsAgreeWithTheTool) {
  const auto sets = take(make_ipset());
  if (sets == nullptr) {
    GTEST_SKIP() << "the kernel has no ipset";
  }
  for (const ToolCase& c : tool_cases()) {
    SCOPED_TRACE(c.create);
    std::vector<std::string> create = {"ipset", "create", "theirs"};
    for (const std::string_view word : split(c.create, ' ')) {
      create.emplace_back(word);
    }
    run(create);
    std::vector<std::string> want = c.members;
    std::ranges::sort(want);
    for (const std::string& member : want) {
      run({"ipset", "add", "theirs", member});
    }
    // What the tool wrote, we read ...
    const auto read = sets->members("theirs");
    ASSERT_TRUE(read) << read.error().text();
    std::vector<std::string> texts;
    for (const SetMember& member : *read) {
      texts.push_back(member.text(c.type));
    }
    std::ranges::sort(texts);
    EXPECT_EQ(texts, want);
    const auto header = sets->header("theirs");
    ASSERT_TRUE(header) << header.error().text();
    const SetSpec spec{.name = "theirs", .type = c.type, .family = c.family};
    EXPECT_EQ(*header, std::optional(spec));
    // ... what we write, the tool reads, and takes for what it would have made itself ...
    SetSpec ours = spec;
    ours.name = "ours";
    ASSERT_TRUE(sets->create(ours));
    for (const Status& status : sets->apply(as_ops("ours", c.type, *read))) {
      EXPECT_TRUE(status) << status.error().text();
    }
    EXPECT_EQ(tool_members("ours"), want);
    create[2] = "ours";
    create.emplace_back("-exist");
    run(create);
    // ... and the two are of one kind.
    const Status swapped = sets->swap("ours", "theirs");
    EXPECT_TRUE(swapped) << swapped.error().text();
    EXPECT_TRUE(sets->destroy("ours"));
    EXPECT_TRUE(sets->destroy("theirs"));
  }
}

TEST_F(KernelTest, SetOfForeignType) {
  const auto sets = take(make_ipset());
  if (sets == nullptr) {
    GTEST_SKIP() << "the kernel has no ipset";
  }
  run({"ipset", "create", "KUBE-CLUSTER-IP", "hash:net"});
  const auto header = sets->header("KUBE-CLUSTER-IP");
  ASSERT_FALSE(header);
  EXPECT_EQ(header.error().kind(), ErrorKind::kInvalidInput);
  EXPECT_THAT(header.error().text(), HasSubstr("hash:net"));
  run({"ipset", "create", "KUBE-NODE-PORT-TCP", "bitmap:port", "range", "30000-32767"});
  const auto range = sets->header("KUBE-NODE-PORT-TCP");
  ASSERT_FALSE(range);
  EXPECT_THAT(range.error().text(), HasSubstr("type bitmap:port of range 30000-32767"));
}

TEST_F(KernelTest, SetWithExtensions) {
  // Made by somebody with counters and comments: readable all the same.
  const auto sets = take(make_ipset());
  if (sets == nullptr) {
    GTEST_SKIP() << "the kernel has no ipset";
  }
  run({"ipset", "create", "x", "hash:ip,port", "counters", "comment", "timeout", "600"});
  run({"ipset", "add", "x", "10.96.0.1,tcp:80", "comment", "why"});
  const auto members = sets->members("x");
  ASSERT_TRUE(members);
  ASSERT_EQ(members->size(), 1U);
  EXPECT_EQ(members->front().text(SetType::kHashIpPort), "10.96.0.1,tcp:80");
}

TEST_F(KernelTest, ReferencedSet) {
  const auto sets = take(make_ipset());
  if (sets == nullptr) {
    GTEST_SKIP() << "the kernel has no ipset";
  }
  ASSERT_TRUE(sets->create({.name = "used", .type = SetType::kHashIp}));
  if (!run_program(
          {"iptables", "-A", "INPUT", "-m", "set", "--match-set", "used", "dst", "-j", "ACCEPT"},
          "", 10s)) {
    GTEST_SKIP() << "no rules with sets here";
  }
  const Status status = sets->destroy("used");
  ASSERT_FALSE(status);
  EXPECT_THAT(status.error().text(), HasSubstr("destroy set used: the set is in use"));
  ASSERT_TRUE(sets->create({.name = "spare", .type = SetType::kHashIp}));
  EXPECT_TRUE(sets->swap("used", "spare"));
}

// --- rtnetlink -----------------------------------------------------------------------------------

TEST_F(KernelTest, AddressesAgreeWithTheTool) {
  const auto route = take(make_route());
  ASSERT_NE(route, nullptr);
  run({"ip", "link", "add", "a0", "type", "veth", "peer", "name", "a1"});
  run({"ip", "link", "set", "a0", "up"});
  run({"ip", "addr", "add", "192.0.2.1", "peer", "192.0.2.2/32", "dev", "a0"});
  run({"ip", "addr", "add", "198.51.100.1/24", "dev", "a0"});
  run({"ip", "addr", "add", "2001:db8:1::1/64", "dev", "a1"});
  const InterfaceIndex a1 = route->find("a1").value().value_or(InterfaceIndex{});
  const std::vector<AddressOp> ops = {{AddressOp::Kind::kAdd, a1, ip("10.96.0.1")},
                                      {AddressOp::Kind::kAdd, a1, ip("2001:db8::1")}};
  for (const Status& status : route->apply(ops)) {
    EXPECT_TRUE(status) << status.error().text();
  }
  const std::string shown = run({"ip", "-o", "addr", "show", "dev", "a1"});
  EXPECT_THAT(shown, HasSubstr("inet 10.96.0.1/32 scope global a1"));
  EXPECT_THAT(shown, HasSubstr("inet6 2001:db8::1/128 scope global nodad"));
  const auto all = route->addresses().value();
  std::vector<std::string> ours;
  ours.reserve(all.size());
  for (const InterfaceAddress& address : all) {
    ours.push_back(address.address.text());
  }
  EXPECT_THAT(ours, IsSupersetOf({"127.0.0.1", "192.0.2.1", "198.51.100.1", "2001:db8:1::1",
                                  "10.96.0.1", "2001:db8::1"}));
  EXPECT_THAT(ours, Not(Contains("192.0.2.2"))) << "the peer's address";
  EXPECT_EQ(ours.size(), lines(run({"ip", "-o", "addr", "show"})).size());
}

TEST_F(KernelTest, DeviceOfAnotherKind) {
  const auto route = take(make_route());
  ASSERT_NE(route, nullptr);
  run({"ip", "link", "add", "kube-ipvs0", "type", "veth", "peer", "name", "a1"});
  const auto device = route->ensure_dummy("kube-ipvs0");
  ASSERT_FALSE(device);
  EXPECT_EQ(device.error().text(),
            "device kube-ipvs0 exists, but is not a dummy device (it is a veth)");
}

TEST_F(KernelTest, DummyIsLeftDown) {
  if (!have_dummy()) {
    GTEST_SKIP() << "the kernel has no dummy devices";
  }
  const auto route = take(make_route());
  ASSERT_NE(route, nullptr);
  ASSERT_TRUE(route->ensure_dummy("kube-ipvs0"));
  const std::string shown = run({"ip", "-d", "-o", "link", "show", "kube-ipvs0"});
  EXPECT_THAT(shown, HasSubstr("dummy"));
  EXPECT_THAT(shown, HasSubstr("state DOWN"));
  EXPECT_THAT(shown, Not(HasSubstr(",UP")));
  // One that somebody else made (kube-proxy) is taken as it is.
  run({"ip", "link", "add", "other0", "type", "dummy"});
  EXPECT_EQ(route->ensure_dummy("other0").value(), route->find("other0").value());
}

bool readable(int fd, int milliseconds) {
  pollfd polled{fd, POLLIN, 0};
  return ::poll(&polled, 1, milliseconds) == 1;
}

TEST_F(KernelTest, MonitorTells) {
  const auto monitor = take(make_address_monitor("kube-ipvs0"));
  ASSERT_NE(monitor, nullptr);
  EXPECT_FALSE(monitor->drain());
  for (const char* address : {"10.96.0.1/32", "2001:db8::1/128"}) {
    for (const char* what : {"add", "del"}) {
      run({"ip", "addr", what, address, "dev", "lo"});
      EXPECT_TRUE(readable(monitor->fd(), 5000)) << what << address;
      EXPECT_TRUE(monitor->drain());
      EXPECT_FALSE(monitor->drain());
      EXPECT_FALSE(readable(monitor->fd(), 0));
    }
  }
  run({"ip", "link", "add", "a0", "type", "veth", "peer", "name", "a1"});
  EXPECT_TRUE(readable(monitor->fd(), 5000));
  EXPECT_TRUE(monitor->drain());
}

TEST_F(KernelTest, MonitorIgnoresADevice) {
  for (const bool existed : {false, true}) {
    if (existed) {
      run({"ip", "link", "add", "kube-ipvs0", "type", "veth", "peer", "name", "a1"});
    }
    const auto monitor = take(make_address_monitor("kube-ipvs0"));
    ASSERT_NE(monitor, nullptr);
    if (!existed) {
      run({"ip", "link", "add", "kube-ipvs0", "type", "veth", "peer", "name", "a1"});
      EXPECT_TRUE(monitor->drain()) << "the peer is news";
    }
    run({"ip", "addr", "add", "10.96.0.1/32", "dev", "kube-ipvs0"});
    run({"ip", "addr", "add", "2001:db8::1/128", "dev", "kube-ipvs0"});
    EXPECT_TRUE(readable(monitor->fd(), 5000));
    EXPECT_FALSE(monitor->drain());
    run({"ip", "addr", "add", "10.96.0.1/32", "dev", "a1"});
    EXPECT_TRUE(monitor->drain());
    // Made anew, with another index.
    run({"ip", "link", "del", "kube-ipvs0"});
    EXPECT_TRUE(monitor->drain());
    run({"ip", "link", "add", "spare", "type", "veth", "peer", "name", "a1"});
    run({"ip", "link", "add", "kube-ipvs0", "type", "veth", "peer", "name", "a2"});
    EXPECT_TRUE(monitor->drain());
    run({"ip", "addr", "add", "10.96.0.1/32", "dev", "kube-ipvs0"});
    EXPECT_FALSE(monitor->drain());
    // Under another name it is a device like any other.
    run({"ip", "link", "set", "kube-ipvs0", "name", "other"});
    EXPECT_TRUE(monitor->drain());
    run({"ip", "addr", "add", "10.96.0.2/32", "dev", "other"});
    EXPECT_TRUE(monitor->drain());
    run({"ip", "link", "del", "other"});
    run({"ip", "link", "del", "spare"});
  }
}

TEST_F(KernelTest, MonitorThatLostNews) {
  const auto monitor = take(make_address_monitor("kube-ipvs0"));
  const auto route = take(make_route());
  ASSERT_TRUE(monitor != nullptr && route != nullptr);
  for (int round = 0; round < 10; ++round) {
    std::vector<AddressOp> ops;
    ops.reserve(1000);
    for (int i = 0; i < 1000; ++i) {
      ops.push_back({round % 2 == 0 ? AddressOp::Kind::kAdd : AddressOp::Kind::kDelete,
                     InterfaceIndex{1},
                     ip("10.96." + std::to_string(i / 250) + "." + std::to_string(1 + (i % 250)))});
    }
    for (const Status& status : route->apply(ops)) {
      ASSERT_TRUE(status) << status.error().text();
    }
  }
  EXPECT_TRUE(monitor->drain());
  EXPECT_FALSE(monitor->drain());
}

// --- conntrack -----------------------------------------------------------------------------------

Flow flow(net::Protocol protocol, std::string_view client, std::string_view service,
          std::string_view endpoint) {
  return {.protocol = protocol,
          .original = {.source = socket_address(client), .destination = socket_address(service)},
          .reply = {.source = socket_address(endpoint), .destination = socket_address(client)}};
}

void insert(const Flow& f) {
  std::vector<std::string> argv = {"conntrack", "-I", "-p",
                                   std::string(net::lower_text(f.protocol))};
  const auto add = [&](std::initializer_list<std::string> words) {
    argv.insert(argv.end(), words);
  };
  const auto port = [](const net::SocketAddress& a) { return std::to_string(net::number(a.port)); };
  add({"-s", f.original.source.address.text(), "-d", f.original.destination.address.text()});
  add({"--sport", port(f.original.source), "--dport", port(f.original.destination)});
  add({"-r", f.reply.source.address.text(), "-q", f.reply.destination.address.text()});
  add({"--reply-port-src", port(f.reply.source), "--reply-port-dst", port(f.reply.destination)});
  add({"-t", "600"});
  if (f.protocol == net::Protocol::kTcp) {
    add({"--state", "ESTABLISHED"});
  } else if (f.protocol == net::Protocol::kSctp) {
    add({"--state", "ESTABLISHED", "--orig-vtag", "1", "--reply-vtag", "2"});
  }
  run(argv);
}

std::vector<std::string> dumped(Conntrack& table, net::Family family, net::Protocol protocol) {
  std::vector<std::string> out;
  const Status status = table.dump(family, protocol, [&](const Flow& f) {
    EXPECT_EQ(f.protocol, protocol);
    out.push_back(f.original.source.text() + " " + f.original.destination.text() + " " +
                  f.reply.source.text() + " " + f.reply.destination.text());
  });
  EXPECT_TRUE(status) << status.error().text();
  std::ranges::sort(out);
  return out;
}

TEST_F(KernelTest, FlowsAgreeWithTheTool) {
  const auto table = take(make_conntrack());
  ASSERT_NE(table, nullptr);
  const Status probe = table->dump(net::Family::kIpv4, net::Protocol::kUdp, [](const Flow&) {});
  if (!probe && probe.error().kind() == ErrorKind::kUnavailable) {
    GTEST_SKIP() << probe.error().text();
  }
  ASSERT_TRUE(probe) << probe.error().text();
  using net::Family;
  using net::Protocol;
  const Flow udp = flow(Protocol::kUdp, "198.51.100.9:4000", "10.96.0.10:53", "198.18.1.1:5353");
  const Flow untranslated =
      flow(Protocol::kUdp, "198.51.100.9:4001", "10.96.0.10:53", "10.96.0.10:53");
  const Flow tcp = flow(Protocol::kTcp, "198.51.100.9:4000", "10.96.0.10:53", "198.18.1.1:5353");
  const Flow sctp = flow(Protocol::kSctp, "198.51.100.9:4000", "10.96.0.10:53", "198.18.1.1:5353");
  const Flow udp6 =
      flow(Protocol::kUdp, "[2001:db8:9::9]:4000", "[2001:db8::10]:53", "[2001:db8:1::1]:5353");
  for (const Flow& f : {udp, untranslated, tcp, sctp, udp6}) {
    insert(f);
  }
  EXPECT_THAT(dumped(*table, Family::kIpv4, Protocol::kUdp),
              ElementsAre("198.51.100.9:4000 10.96.0.10:53 198.18.1.1:5353 198.51.100.9:4000",
                          "198.51.100.9:4001 10.96.0.10:53 10.96.0.10:53 198.51.100.9:4001"));
  EXPECT_THAT(dumped(*table, Family::kIpv4, Protocol::kTcp), ::testing::SizeIs(1));
  EXPECT_THAT(dumped(*table, Family::kIpv4, Protocol::kSctp), ::testing::SizeIs(1));
  EXPECT_THAT(dumped(*table, Family::kIpv6, Protocol::kTcp), ::testing::IsEmpty());
  EXPECT_THAT(dumped(*table, Family::kIpv6, Protocol::kUdp),
              ElementsAre("[2001:db8:9::9]:4000 [2001:db8::10]:53 [2001:db8:1::1]:5353 "
                          "[2001:db8:9::9]:4000"));
  const std::vector<Flow> gone = {udp, udp6, sctp, udp};
  for (const Status& status : table->remove(gone)) {
    EXPECT_TRUE(status) << status.error().text();
  }
  EXPECT_EQ(lines(run({"conntrack", "-L", "-f", "ipv4"})).size(), 2U);
  EXPECT_EQ(lines(run({"conntrack", "-L", "-f", "ipv6"})).size(), 0U);
  EXPECT_THAT(dumped(*table, Family::kIpv4, Protocol::kUdp), ::testing::SizeIs(1));
  EXPECT_THAT(dumped(*table, Family::kIpv4, Protocol::kTcp), ::testing::SizeIs(1));
}

TEST_F(KernelTest, FlowsOfOtherZonesAreLeftAlone) {
  const auto table = take(make_conntrack());
  ASSERT_NE(table, nullptr);
  if (!run_program({"conntrack", "-I", "-p", "udp", "-s", "198.51.100.9", "-d", "10.96.0.10",
                    "--sport", "1", "--dport", "53", "-t", "600", "-w", "7"},
                   "", 10s)) {
    GTEST_SKIP() << "no conntrack zones here";
  }
  EXPECT_THAT(dumped(*table, net::Family::kIpv4, net::Protocol::kUdp), ::testing::IsEmpty());
}

// --- sock_diag -----------------------------------------------------------------------------------

sockaddr_in6 to_v6(std::string_view text, std::uint16_t port) {
  sockaddr_in6 to{};
  to.sin6_family = AF_INET6;
  to.sin6_port = Be16(port).raw();
  const net::IpAddress address = ip(text);
  const auto bytes = address.bytes();
  if (address.is_v4()) {
    to.sin6_addr.s6_addr[10] = to.sin6_addr.s6_addr[11] = 0xff;
  }
  std::ranges::copy(bytes, std::end(to.sin6_addr.s6_addr) - bytes.size());
  return to;
}

/// A UDP socket of IPv6, which can also be connected to v4-mapped addresses.
UniqueFd udp_to(std::string_view address, std::uint16_t port) {
  UniqueFd fd(::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const sockaddr_in6 to = to_v6(address, port);
  FAIRLEAD_CHECK(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0);
  return fd;
}

UniqueFd udp4_to(std::uint16_t port) {
  UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = Be16(port).raw();
  to.sin_addr.s_addr = Be32(INADDR_LOOPBACK).raw();
  FAIRLEAD_CHECK(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0);
  return fd;
}

std::uint64_t cookie_of(const UniqueFd& fd) {
  std::uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  FAIRLEAD_CHECK(::getsockopt(fd.get(), SOL_SOCKET, SO_COOKIE, &cookie, &size) == 0);
  return cookie;
}

/// What the next read fails with.
int error_of(const UniqueFd& fd) {
  char byte = 0;
  return ::recv(fd.get(), &byte, 1, 0) < 0 ? errno : 0;
}

TEST_F(KernelTest, ConnectedUdpSocketsAreFoundAndClosed) {
  const auto diag = take(make_socket_diag());
  ASSERT_NE(diag, nullptr);
  const auto before = diag->connected_udp();
  if (!before && before.error().kind() == ErrorKind::kUnavailable) {
    GTEST_SKIP() << before.error().text();
  }
  ASSERT_TRUE(before) << before.error().text();
  EXPECT_THAT(*before, ::testing::IsEmpty());
  const UniqueFd unconnected(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  std::vector<UniqueFd> opened;
  opened.push_back(udp4_to(5301));
  opened.push_back(udp_to("127.0.0.1", 5302));
  opened.push_back(udp_to("::1", 5303));
  opened.push_back(udp_to("::1", 5304));

  auto found = diag->connected_udp();
  ASSERT_TRUE(found) << found.error().text();
  std::ranges::sort(*found, {}, [](const UdpSocket& socket) { return socket.remote.port; });
  ASSERT_EQ(found->size(), opened.size());
  const std::vector<std::string> remotes = {"127.0.0.1:5301", "127.0.0.1:5302", "[::1]:5303",
                                            "[::1]:5304"};
  for (std::size_t i = 0; i < opened.size(); ++i) {
    EXPECT_EQ((*found)[i].remote.text(), remotes[i]);
    EXPECT_EQ((*found)[i].local.address, (*found)[i].remote.address);
    EXPECT_EQ((*found)[i].cookie, cookie_of(opened[i]));
  }

  // The last one stays: what is asked for has its addresses, but is another socket.
  found->back().cookie ^= 1;
  for (const Status& status : diag->destroy(*found)) {
    if (!status && status.error().kind() == ErrorKind::kUnavailable) {
      GTEST_SKIP() << status.error().text();
    }
    EXPECT_TRUE(status) << status.error().text();
  }
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(error_of(opened[i]), ECONNABORTED) << remotes[i];
  }
  EXPECT_EQ(error_of(opened[3]), EAGAIN);
  EXPECT_THAT(*diag->connected_udp(), ::testing::SizeIs(1));
  // Gone already.
  for (const Status& status : diag->destroy(*found)) {
    EXPECT_TRUE(status) << status.error().text();
  }
}

}  // namespace

World make_world() {
  enter_new_namespace();
  return {.route = take(make_route()), .sets = take(make_ipset()), .has_dummy = have_dummy()};
}

}  // namespace fairlead::netlink
