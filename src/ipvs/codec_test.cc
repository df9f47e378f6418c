// SPDX-License-Identifier: Apache-2.0
#include "ipvs/codec.h"

#include <array>
#include <bit>
#include <cerrno>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/genetlink.h>
#include <linux/ip_vs.h>
#include <linux/netlink.h>
#include <string>
#include <vector>

#include "netlink/generic.h"

namespace fairlead::ipvs {
namespace {

using netlink::Attributes;
using netlink::Request;
using testing::ElementsAre;

constexpr std::uint16_t kFamily = 0x1c;

ServiceId id(const std::string& socket, net::Protocol protocol = net::Protocol::kTcp) {
  const auto parsed = *net::SocketAddress::parse(socket);
  ServiceId out;
  out.address = parsed.address;
  out.port = parsed.port;
  out.protocol = protocol;
  return out;
}

ServiceId mark(std::uint32_t value, net::Family family) {
  ServiceId out;
  out.address = net::IpAddress::any(family);
  out.fwmark = value;
  return out;
}

RealServer real(const std::string& socket, std::uint32_t weight = 1,
                ForwardMethod method = ForwardMethod::kMasquerade) {
  const auto parsed = *net::SocketAddress::parse(socket);
  RealServer out;
  out.address = parsed.address;
  out.port = parsed.port;
  out.weight = weight;
  out.method = method;
  return out;
}

// The kernel's own messages have the shape of our requests, so one decodes what the other encoded.
Attributes attributes_of(const Request& request) {
  return Attributes::parse(request.bytes().subspan(sizeof(nlmsghdr) + sizeof(genlmsghdr)));
}

TEST(Codec, VirtualServersRoundTrip) {
  const std::vector<VirtualServer> servers = {
      {.id = id("10.96.0.1:80")},
      {.id = id("10.96.0.1:53", net::Protocol::kUdp), .scheduler = "wrr", .flags = kFlagOnePacket},
      {.id = id("10.96.0.1:9", net::Protocol::kSctp), .scheduler = "none"},
      {.id = id("10.96.0.2:0"), .flags = kFlagPersistent, .timeout = 10800, .netmask = 24},
      {.id = id("10.96.0.3:1"), .netmask = 0},
      {.id = id("[2001:db8::1]:443"), .scheduler = "fifteen-letters", .netmask = 128},
      {.id = id("[2001:db8::2]:65535"),
       .flags = kFlagPersistent | kFlagSched1 | kFlagSched2 | kFlagSched3,
       .timeout = 0xffffffff,
       .netmask = 64},
      {.id = mark(1, net::Family::kIpv4)},
      {.id = mark(0xffffffff, net::Family::kIpv6), .netmask = 128},
  };
  for (const VirtualServer& server : servers) {
    for (const Op& op : {Op(AddVirtualServer{server}), Op(SetVirtualServer{server})}) {
      const auto decoded = decode_virtual_server(attributes_of(encode(kFamily, op)));
      EXPECT_TRUE(decoded == server) << text(op);
    }
  }
}

TEST(Codec, RealServersRoundTrip) {
  RealServer limited = real("10.0.0.1:8080", 0);
  limited.upper_threshold = 100;
  limited.lower_threshold = 80;
  const std::vector<RealServer> servers = {
      limited,
      real("10.0.0.1:0", 65535, ForwardMethod::kTunnel),
      real("[2001:db8::1]:8080", 0x7fffffff, ForwardMethod::kDirectRouting),
      real("10.0.0.2:1", 1, ForwardMethod::kLocalNode),
      real("10.0.0.2:2", 1, ForwardMethod::kBypass),
  };
  for (const RealServer& server : servers) {
    const ServiceId service = id("10.96.0.1:80");
    for (const Op& op : {Op(AddRealServer{service, server}), Op(SetRealServer{service, server})}) {
      // The family given is the wrong one: the message's own counts.
      const auto decoded =
          decode_real_server(attributes_of(encode(kFamily, op)), net::Family::kIpv6);
      EXPECT_TRUE(decoded && decoded->server == server) << text(op);
    }
  }
}

TEST(Codec, CommandsAndLayout) {
  struct Case {
    Op op;
    std::uint8_t command;
  };
  const ServiceId service = id("10.96.0.1:80");
  const RealServer server = real("10.0.0.1:8080");
  const std::vector<Case> cases = {
      {AddVirtualServer{{.id = service}}, IPVS_CMD_NEW_SERVICE},
      {SetVirtualServer{{.id = service}}, IPVS_CMD_SET_SERVICE},
      {DeleteVirtualServer{service}, IPVS_CMD_DEL_SERVICE},
      {AddRealServer{service, server}, IPVS_CMD_NEW_DEST},
      {SetRealServer{service, server}, IPVS_CMD_SET_DEST},
      {DeleteRealServer{service, server.socket()}, IPVS_CMD_DEL_DEST},
  };
  for (const Case& c : cases) {
    const Request request = encode(kFamily, c.op);
    std::vector<std::uint16_t> types;
    netlink::for_each_message(request.bytes(), [&](const netlink::Message& message) {
      EXPECT_EQ(message.type, kFamily);
      EXPECT_EQ(message.flags, NLM_F_REQUEST);
      ASSERT_TRUE(message.header<genlmsghdr>());
      EXPECT_EQ(message.header<genlmsghdr>()->cmd, c.command) << text(c.op);
      EXPECT_TRUE(netlink::for_each_attribute(
          message.attribute_bytes(sizeof(genlmsghdr)),
          [&](std::uint16_t type, const netlink::Attribute&) { types.push_back(type); }));
    });
    if (c.command < IPVS_CMD_NEW_DEST) {
      EXPECT_THAT(types, ElementsAre(IPVS_CMD_ATTR_SERVICE));
    } else {
      EXPECT_THAT(types, ElementsAre(IPVS_CMD_ATTR_SERVICE, IPVS_CMD_ATTR_DEST));
    }
  }
}

TEST(Codec, AWildSchedulerNameStaysAMessage) {
  const VirtualServer server{.id = id("10.96.0.1:80"), .scheduler = std::string(100000, 'x')};
  const auto decoded =
      decode_virtual_server(attributes_of(encode(kFamily, AddVirtualServer{server})));
  EXPECT_EQ(decoded.value_or(VirtualServer{}).scheduler, std::string(64, 'x'));
}

TEST(Codec, SkipsWhatIsNotOurs) {
  const auto with = [](std::uint16_t af, std::uint16_t protocol, std::size_t address_size) {
    Request request = netlink::generic_request(kFamily, IPVS_CMD_NEW_SERVICE, 1);
    const auto nest = request.begin(IPVS_CMD_ATTR_SERVICE);
    const std::vector<std::uint8_t> bytes(address_size, 1);
    request.put_u16(IPVS_SVC_ATTR_AF, af);
    request.put_u16(IPVS_SVC_ATTR_PROTOCOL, protocol);
    request.put_bytes(IPVS_SVC_ATTR_ADDR, bytes);
    request.put_be16(IPVS_SVC_ATTR_PORT, Be16(80));
    request.put_string(IPVS_SVC_ATTR_SCHED_NAME, "rr");
    request.put_bytes(IPVS_SVC_ATTR_FLAGS, std::array<std::uint8_t, 8>{2, 0, 0, 0, 255});
    request.put_u32(IPVS_SVC_ATTR_TIMEOUT, 0);
    request.put_u32(IPVS_SVC_ATTR_NETMASK, 0xffffffff);
    request.put_u32(60000 & NLA_TYPE_MASK, 1);  // from a later kernel
    request.end(nest);
    return decode_virtual_server(attributes_of(request));
  };
  const auto plain = with(2, 6, 16);
  ASSERT_TRUE(plain.has_value());
  EXPECT_EQ(plain.value_or(VirtualServer{}).flags, 0U);  // kFlagHashed is the kernel's own
  EXPECT_TRUE(with(2, 6, 4));
  EXPECT_FALSE(with(2, 1, 16));    // ICMP: the kernel keeps it, no packet matches
  EXPECT_FALSE(with(2, 262, 16));  // 262 is 6 in eight bits
  EXPECT_FALSE(with(7, 6, 16));
  EXPECT_FALSE(with(10, 6, 4));
  EXPECT_FALSE(decode_virtual_server(Attributes::parse({})));
  EXPECT_FALSE(decode_real_server(Attributes::parse({}), net::Family::kIpv4));
  EXPECT_FALSE(decode_info(Attributes::parse({})));
  EXPECT_EQ(decode_timeouts(Attributes::parse({})), Timeouts{});
}

TEST(Codec, TimeoutsOfZeroAreLeftOut) {
  const Request request = encode_set_config(kFamily, {.tcp = 900, .tcp_fin = 0, .udp = 1});
  const auto sent = attributes_of(request);
  EXPECT_EQ(decode_timeouts(sent), (Timeouts{.tcp = 900, .tcp_fin = 0, .udp = 1}));
  EXPECT_FALSE(sent[IPVS_CMD_ATTR_TIMEOUT_TCP_FIN]);
}

TEST(Codec, TruncatedMessagesAreNoObjects) {
  const Request whole = encode(kFamily, AddVirtualServer{{.id = id("10.96.0.1:80")}});
  const auto bytes = whole.bytes().subspan(sizeof(nlmsghdr) + sizeof(genlmsghdr));
  for (std::size_t size = 0; size + 1 < bytes.size(); ++size) {
    EXPECT_FALSE(decode_virtual_server(Attributes::parse(bytes.first(size)))) << size;
  }
}

constexpr std::string_view kTitle =
    "IP Virtual Server version 1.2.1 (size=4096)\n"
    "Prot LocalAddress:Port Scheduler Flags\n"
    "  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n";

struct ProcResult {
  bool good = true;
  std::vector<std::string> lines;
};

ProcResult parse_proc(const std::string& text, std::size_t piece) {
  ProcResult result;
  ProcParser parser([&](ProcEntry&& entry) {
    result.lines.push_back(entry.id.text());
    for (const ObservedRealServer& r : entry.real_servers) {
      result.lines.push_back("  " + r.server.socket().text() + " " +
                             std::to_string(static_cast<unsigned>(r.server.method)) + " " +
                             std::to_string(r.server.weight) + " " +
                             std::to_string(r.active_connections) + " " +
                             std::to_string(r.inactive_connections));
    }
  });
  for (std::size_t at = 0; at < text.size() && result.good; at += piece) {
    result.good = parser.feed(std::string_view(text).substr(at, piece));
  }
  result.good = result.good && parser.finish();
  return result;
}

TEST(ProcText, ReadsTheKernelsShapes) {
  const std::string text =
      std::string(kTitle) +
      "UDP  0A000064:0035 rr ops  \n"
      "  -> 0A01000C:0035      Tunnel  1      0          0         \n"
      "TCP  0A000064:0050 wrr  \n"
      "  -> 0A01000B:1F90      Masq    3      2          3         \n"
      "  -> [2001:0db8:0000:0000:0000:0000:0000:0009]:0000      Tunnel  0      0          0        "
      " \n"
      "TCP  0A000064:01BB sh  persistent 60000 FFFFFF00\n"
      "ICMP 0A000064:0000 rr  \n"
      "  -> 0A01000B:0000      Masq    3      2          3         \n"
      "SCTP  0A000064:270F wlc  \n"
      "TCP  [2001:0db8:000f:0000:0000:0000:0000:0100]:0050 wlc persistent 30000 40000000\n"
      "  -> [2001:0db8:0000:0000:0000:0000:0000:0011]:0050      Route   1      -1         1        "
      " \n"
      "TCP  [0000:0000:0000:0000:0000:ffff:0a00:0001]:0050 rr \n"
      "FWM  00000007 lc persistent 36000 FFFFFFFF\n"
      "  -> 0A01000B:0000      Local   1      0          0         \n"
      "FWM  00000008 mh \n";
  for (const std::size_t piece : {std::size_t{1}, std::size_t{7}, std::size_t{100000}}) {
    const ProcResult result = parse_proc(text, piece);
    EXPECT_TRUE(result.good);
    EXPECT_THAT(result.lines, ElementsAre("10.0.0.100:53/UDP", "  10.1.0.12:53 2 1 0 0",
                                          "10.0.0.100:80/TCP", "  10.1.0.11:8080 0 3 2 3",
                                          "  [2001:db8::9]:0 2 0 0 0", "10.0.0.100:443/TCP",
                                          "10.0.0.100:9999/SCTP", "[2001:db8:f::100]:80/TCP",
                                          "  [2001:db8::11]:80 3 1 0 1", "[::ffff:a00:1]:80/TCP"));
  }
  EXPECT_TRUE(parse_proc("", 1).good);
  EXPECT_TRUE(parse_proc(std::string(kTitle), 1000).lines.empty());
}

TEST(ProcText, DoubtsOtherShapes) {
  for (const std::string line : {
           "TCP  0A00064:0050 rr  \n", "TCP  0A000064 rr  \n", "TCP\n", "\n",
           "TCP  [2001:db8::1]:0050 rr \n",
           "  -> 0A01000B:1F90      Masq    3      2          3         \n",  // of nothing
           "TCP  0A000064:0050 rr  \n  -> 0A01000B:1F90      Masq    3      2\n",
           "TCP  0A000064:0050 rr  \n  -> 0A01000B:1F90      Masq    3      2          3 4\n",
           "TCP  0A000064:0050 rr  \n  -> 0A01000B:1F90      Nat     3      2          3\n",
           "TCP  0A000064:0050 rr  \n  -> 0A01000B:1F90      Masq    x      2          3\n",
           "TCP  0A000064:0050 rr  \n  -> 0A01000B:1F90      Masq    3",  // cut off
       }) {
    EXPECT_FALSE(parse_proc(std::string(kTitle) + line, 1000).good) << line;
  }
}

TEST(Describe, TellsWhatTheErrnoMeansHere) {
  struct Case {
    Op op;
    int errno_value;
    std::string want;
  };
  const ServiceId service = id("10.96.0.1:80");
  const RealServer server = real("10.0.0.7:80");
  const std::vector<Case> cases = {
      {AddVirtualServer{{.id = service, .scheduler = "wrx"}}, ENOENT,
       "add virtual server 10.96.0.1:80/TCP: no such scheduler \"wrx\" (ENOENT)"},
      {SetVirtualServer{{.id = service}}, ESRCH,
       "set virtual server 10.96.0.1:80/TCP: no such virtual server (ESRCH)"},
      {DeleteVirtualServer{mark(7, net::Family::kIpv6)}, ESRCH,
       "delete virtual server FWM 7 IPv6: no such virtual server (ESRCH)"},
      {AddRealServer{service, server}, EEXIST,
       "add real server 10.0.0.7:80 to 10.96.0.1:80/TCP: already exists (EEXIST)"},
      {SetRealServer{service, server}, ENOENT,
       "set real server 10.0.0.7:80 of 10.96.0.1:80/TCP: no such real server (ENOENT)"},
      {DeleteRealServer{service, server.socket()}, EPERM,
       "delete real server 10.0.0.7:80 from 10.96.0.1:80/TCP: kernel: Operation not permitted "
       "(EPERM)"},
  };
  for (const Case& c : cases) {
    const Error error = describe(c.op, Error::from_errno(c.errno_value, "kernel"));
    EXPECT_EQ(error.text(), c.want);
    EXPECT_EQ(error.errno_value(), c.errno_value);
    EXPECT_EQ(error.kind(), Error::from_errno(c.errno_value, "").kind());
  }
}

TEST(ServiceIdHash, DiffersWhereIdsDiffer) {
  const std::hash<ServiceId> hash;
  EXPECT_EQ(hash(id("10.96.0.1:80")), hash(id("10.96.0.1:80")));
  EXPECT_NE(hash(id("10.96.0.1:80")), hash(id("10.96.0.1:81")));
  EXPECT_NE(hash(id("10.96.0.1:80")), hash(id("10.96.0.2:80")));
  EXPECT_NE(hash(id("10.96.0.1:80")), hash(id("10.96.0.1:80", net::Protocol::kUdp)));
  EXPECT_NE(hash(mark(7, net::Family::kIpv4)), hash(mark(7, net::Family::kIpv6)));
}

TEST(ConnectionTest, LinesOfProc) {
  const auto v4 =
      parse_connection("TCP C0000201 9C40 0A600001 0050 C6336401 1F90 ESTABLISHED     899 ");
  ASSERT_TRUE(v4);
  EXPECT_EQ(v4->protocol, net::Protocol::kTcp);
  EXPECT_EQ(v4->client.text(), "192.0.2.1:40000");
  EXPECT_EQ(v4->virtual_server.text(), "10.96.0.1:80");
  EXPECT_EQ(v4->server.text(), "198.51.100.1:8080");
  EXPECT_EQ(v4->state, "ESTABLISHED");
  EXPECT_EQ(v4->expires, 899U);
  const auto v6 = parse_connection(
      "UDP 2001:0db8:0000:0000:0000:0000:0000:0001 9C40 2001:0db8:0000:0000:0000:0000:0000:0002 "
      "0035 "
      "2001:0db8:0000:0000:0000:0000:0000:0003 0035 UDP             300");
  ASSERT_TRUE(v6);
  EXPECT_EQ(v6->client.text(), "[2001:db8::1]:40000");
  EXPECT_EQ(v6->server.text(), "[2001:db8::3]:53");
}

TEST(ConnectionTest, OtherLinesAreNone) {
  for (const char* line :
       {"Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData", "",
        "TCP", "TCP C0000201 9C40 0A600001 0050 C6336401 1F90 ESTABLISHED",
        "IP  C0000201 0000 0A600001 0000 C6336401 0000 NONE 10",
        "TCP C000020 9C40 0A600001 0050 C6336401 1F90 ESTABLISHED 1"}) {
    EXPECT_FALSE(parse_connection(line)) << line;
  }
}

}  // namespace
}  // namespace fairlead::ipvs
