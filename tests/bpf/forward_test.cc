// SPDX-License-Identifier: Apache-2.0
// Servers that get the client's packet as it is (direct routing, tunnels), and full NAT.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bpf/helpers.h"
#include "fixture.h"

namespace fairlead::packets {
namespace {

using testing::HasSubstr;

struct Method {
  std::string name;
  bpf::fl_forwarding forwarding;
  bpf::fl_tunnel tunnel = bpf::FL_IPIP;
  std::string type;          // of the tunnel
  std::uint32_t bytes4 = 0;  // that an IPv4 tunnel adds
};
const Method kDirect{"direct", bpf::FL_DIRECT, bpf::FL_IPIP, "", 0};
const Method kIpip{"ipip", bpf::FL_TUNNEL, bpf::FL_IPIP, "ipip", 20};
const Method kGue{"gue", bpf::FL_TUNNEL, bpf::FL_GUE, "gue:6080", 32};
const Method kGre{"gre", bpf::FL_TUNNEL, bpf::FL_GRE, "gre", 24};

struct Cell {
  const Family* family;
  const Family* outside;  // of the server
  const Method* method;
  std::uint8_t protocol;
};

class AsItIs : public testing::TestWithParam<Cell>, public Base {
 protected:
  AsItIs() : Base(*GetParam().family), m(*GetParam().method), outside(*GetParam().outside) {
    protocol = GetParam().protocol;
  }

  [[nodiscard]] Server place() const {
    return {
        .address = outside.at(outside.server, 80), .forwarding = m.forwarding, .tunnel = m.tunnel};
  }
  std::uint32_t add() {
    return programs.add({.address = vip(), .protocol = protocol, .servers = {place()}});
  }
  [[nodiscard]] bool is_tunnel() const { return !m.type.empty(); }
  [[nodiscard]] std::uint32_t overhead() const {
    return m.bytes4 + (is_tunnel() && outside.name == "v6" ? 20U : 0U);
  }
  /// The client's packet as the server sees it.
  [[nodiscard]] Bytes arrived(const Verdict& verdict) const {
    if (!is_tunnel()) {
      return verdict.frame;
    }
    const Opened opened = open_tunnel(verdict.frame);
    EXPECT_EQ(opened.outer, outside.node + " > " + outside.server);
    EXPECT_EQ(opened.type, m.type);
    return opened.inner;
  }

  const Method& m;
  const Family& outside;
};

TEST_P(AsItIs, ThePacketArrivesUnchangedButForItsHop) {
  const std::uint32_t service = add();
  for (int round = 0; round < 3; ++round) {
    Packet request{client(), vip(), protocol};
    request.tcp_flags = round == 0 ? kSyn : kAck;
    request.payload = static_cast<std::size_t>(round) * 333;
    request.traffic_class = 0x2a;
    const Verdict there = programs.in(build(request));
    ASSERT_EQ(there.action, kRedirect);
    const Bytes seen = arrived(there);
    EXPECT_EQ(read(seen).ttl, 63);
    request.ttl = 63;
    EXPECT_EQ(Bytes(seen.begin() + 14, seen.end()), [&] {
      const Bytes same = build(request);
      return Bytes(same.begin() + 14, same.end());
    }());
    if (is_tunnel()) {
      const Opened opened = open_tunnel(there.frame);
      EXPECT_EQ(opened.ttl, 63);
      EXPECT_EQ(opened.traffic_class, 0x2a);
    }
  }
  EXPECT_EQ(programs.flow_count(), 1U);
  const auto flow = programs.forward_flow(client(), vip(), protocol);
  ASSERT_TRUE(flow);
  EXPECT_EQ(flow->packets, 3U);
  EXPECT_EQ(programs.counts(programs.server_number(service, 0)).connections, 1U);
}

TEST_P(AsItIs, TooLongForTheWay) {
  if (!bpf::has_helper(BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_check_mtu)) {
    GTEST_SKIP() << "route lookups of this kernel tell no MTU";
  }
  add();
  Packet request{client(), vip(), protocol};
  request.dont_fragment = true;
  const std::size_t headers = build(request).size() - 14;
  request.payload = 1500 - overhead() - headers;
  EXPECT_EQ(arrived(programs.in(build(request))).size(), 14 + 1500 - overhead());
  request.payload += 1;
  const Verdict verdict = programs.in(build(request));
  ASSERT_EQ(verdict.action, kRedirect);
  const Read answer = read(verdict.frame);
  EXPECT_EQ(answer.text(), f.virtual_server + " > " + f.client);
  EXPECT_EQ(answer.icmp_type, f.name == "v4" ? 3 : 2);
  EXPECT_EQ(answer.icmp_code, f.name == "v4" ? 4 : 0);
  EXPECT_EQ(answer.icmp_rest, 1500 - overhead());
  EXPECT_EQ(answer.quoted_source + " > " + answer.quoted_destination, client() + " > " + vip());
  EXPECT_EQ(programs.event(bpf::FL_EVENT_TOO_BIG), 1U);
}

TEST_P(AsItIs, TheLastHop) {
  add();
  Packet request{client(), vip(), protocol};
  request.ttl = 1;
  const Verdict verdict = programs.in(build(request));
  ASSERT_EQ(verdict.action, kRedirect);
  const Read answer = read(verdict.frame);
  EXPECT_EQ(answer.text(), f.virtual_server + " > " + f.client);
  EXPECT_EQ(answer.icmp_type, f.name == "v4" ? 11 : 3);
}

TEST_P(AsItIs, ErrorsAboutTheServersAnswersReachTheServer) {
  add();
  in(client(), vip());
  Packet answer{vip(), client(), protocol};
  answer.tcp_flags = kAck;
  const std::uint8_t type = f.name == "v4" ? 3 : 2;
  const Bytes error =
      build_error(f.router, f.virtual_server, type, f.name == "v4" ? 4 : 0, build(answer));
  const Verdict verdict = programs.in(error);
  ASSERT_EQ(verdict.action, kRedirect);
  const Read seen = read(arrived(verdict));
  EXPECT_EQ(seen.text(), f.router + " > " + f.virtual_server);
  EXPECT_EQ(seen.icmp_type, type);
}

TEST_P(AsItIs, AServerThatIsTheNodeItself) {
  Server here = place();
  here.address = outside.at(outside.node, 80);
  here.is_local = true;
  programs.add({.address = vip(), .protocol = protocol, .servers = {here}});
  const Bytes request = build({client(), vip(), protocol});
  const Verdict verdict = programs.in(request);
  EXPECT_EQ(verdict.action, kPass);
  EXPECT_EQ(verdict.frame, request);
}

TEST_P(AsItIs, NoWayToTheServer) {
  Server away = place();
  away.address = outside.name == "v4" ? "203.0.113.77:80" : "[2001:db8:77::1]:80";
  programs.add({.address = vip(), .protocol = protocol, .servers = {away}});
  EXPECT_EQ(in(client(), vip()).action, kShot);
  EXPECT_EQ(programs.event(bpf::FL_EVENT_NO_ROUTE), 1U);
}

TEST_P(AsItIs, AConnectionEndsByItsTimeout) {
  const std::uint32_t service = add();
  const std::uint32_t server = programs.server_number(service, 0);
  in(client(), vip());
  programs.age(client(), vip(), 4000, protocol);
  in(client(), vip());
  EXPECT_EQ(programs.flow_count(), 1U);
  const bpf::fl_rs_counts counts = programs.counts(server);
  EXPECT_EQ(counts.connections, 2U);
  EXPECT_EQ(counts.active + counts.inactive, 1U);
  EXPECT_EQ(counts.in_packets, 1U);
}

// --- Errors of routers between the node and a tunnel's server ---

class TunnelErrors : public AsItIs {
 protected:
  struct Kind {
    std::uint8_t type, code;
  };
  [[nodiscard]] static Kind too_big(const Family& family) {
    return family.name == "v4" ? Kind{3, 4} : Kind{2, 0};
  }
  [[nodiscard]] static Kind port_unreachable(const Family& family) {
    return family.name == "v4" ? Kind{3, 3} : Kind{1, 4};
  }
  [[nodiscard]] static Kind hops_exceeded(const Family& family) {
    return family.name == "v4" ? Kind{11, 0} : Kind{3, 0};
  }
  [[nodiscard]] static Kind host_unreachable(const Family& family) {
    return family.name == "v4" ? Kind{3, 1} : Kind{1, 3};
  }

  /// What a router quotes: the tunnel's packet.
  [[nodiscard]] Bytes sent(std::size_t payload = 500) {
    Packet request{client(), vip(), protocol};
    request.dont_fragment = true;
    request.payload = payload;
    return programs.in(build(request)).frame;
  }
  [[nodiscard]] Bytes error(const Kind& kind, const Bytes& about, std::uint32_t mtu = 0) const {
    return build_error(outside.router, outside.node, kind.type, kind.code, about, mtu);
  }
  void expect_told(const Verdict& verdict, const Kind& kind, std::uint32_t rest) const {
    ASSERT_EQ(verdict.action, kRedirect);
    const Read told = read(verdict.frame);
    EXPECT_EQ(told.text(), f.virtual_server + " > " + f.client);
    EXPECT_EQ(told.icmp_type, kind.type);
    EXPECT_EQ(told.icmp_code, kind.code);
    EXPECT_EQ(told.icmp_rest, rest);
    EXPECT_EQ(told.quoted_source + " > " + told.quoted_destination, client() + " > " + vip());
  }
};

TEST_P(TunnelErrors, TheClientLearnsWhatFits) {
  add();
  const std::uint32_t mtu = f.name == "v4" ? 1000 : 1400;
  expect_told(programs.in(error(too_big(outside), sent(), mtu)), too_big(f), mtu - overhead());
  EXPECT_EQ(programs.event(bpf::FL_EVENT_TOO_BIG), 1U);
  EXPECT_EQ(programs.flow_count(), 1U);
}

TEST_P(TunnelErrors, NoClientIsToldLessThanItsFamilysLeast) {
  add();
  const std::uint32_t least = f.name == "v4" ? 68 : 1280;
  const Bytes packet = sent();
  expect_told(programs.in(error(too_big(outside), packet, least + overhead())), too_big(f), least);
  EXPECT_EQ(programs.in(error(too_big(outside), packet, least + overhead() - 1)).action, kShot);
  EXPECT_EQ(programs.event(bpf::FL_EVENT_NO_ROUTE), 1U);
}

TEST_P(TunnelErrors, TheClientLearnsThatThereIsNoWay) {
  add();
  const Bytes packet = sent();
  const bool same = f.name == outside.name;
  expect_told(programs.in(error(port_unreachable(outside), packet)),
              same ? port_unreachable(f) : host_unreachable(f), 0);
  expect_told(programs.in(error(hops_exceeded(outside), packet)),
              same ? hops_exceeded(f) : host_unreachable(f), 0);
}

TEST_P(TunnelErrors, LittleIsQuotedByOldRouters) {
  add();
  Bytes packet = sent();
  const std::size_t inside = open_tunnel(packet).inner.size() - 14;
  const std::size_t network = f.name == "v4" ? 20 : 40;
  const std::size_t least = packet.size() - inside + network + 8;
  for (std::size_t length = packet.size(); length >= least; --length) {
    packet.resize(length);
    expect_told(programs.in(error(port_unreachable(outside), packet)),
                f.name == outside.name ? port_unreachable(f) : host_unreachable(f), 0);
  }
  for (std::size_t length = least - 5; length > 14 + 8; --length) {
    packet.resize(length);
    const Bytes unclear = error(port_unreachable(outside), packet);
    const Verdict verdict = programs.in(unclear);
    EXPECT_EQ(verdict.action, kPass) << length;
    EXPECT_EQ(verdict.frame, unclear) << length;
  }
}

TEST_P(TunnelErrors, WhatIsNotAboutOurTunnelsPasses) {
  add();
  const Bytes packet = sent();
  const auto passes = [&](const Bytes& frame) {
    const Verdict verdict = programs.in(frame);
    return verdict.action == kPass && verdict.frame == frame;
  };
  Bytes to_another = packet;
  to_another.at(14 + (outside.name == "v4" ? 19 : 39)) ^= 1U;
  EXPECT_TRUE(passes(error(port_unreachable(outside), to_another))) << "another server";
  const Kind parameter_problem = outside.name == "v4" ? Kind{12, 0} : Kind{4, 0};
  EXPECT_TRUE(passes(error(parameter_problem, packet)))
      << "what the tunnel's header is to blame for";
  programs.age(client(), vip(), 4000, protocol);
  programs.set_server_state(programs.server_number(1, 0), bpf::FL_RS_GONE);
  in(client(), vip());  // ends the connection
  EXPECT_TRUE(passes(error(port_unreachable(outside), packet))) << "no connection";
}

std::vector<Cell> cells() {
  std::vector<Cell> all;
  for (const std::uint8_t protocol :
       {std::uint8_t{IPPROTO_TCP}, std::uint8_t{IPPROTO_UDP}, std::uint8_t{IPPROTO_SCTP}}) {
    for (const Family* family : {&kV4, &kV6}) {
      all.push_back({family, family, &kDirect, protocol});
      for (const Family* outside : {&kV4, &kV6}) {
        for (const Method* method : {&kIpip, &kGue, &kGre}) {
          all.push_back({family, outside, method, protocol});
        }
      }
    }
  }
  return all;
}
std::vector<Cell> tunnel_cells() {
  std::vector<Cell> all = cells();
  std::erase_if(all, [](const Cell& cell) { return cell.method == &kDirect; });
  return all;
}
std::string name_of(const testing::TestParamInfo<Cell>& param) {
  return param.param.family->name + "in" + param.param.outside->name + param.param.method->name +
         std::to_string(param.param.protocol);
}
INSTANTIATE_TEST_SUITE_P(Packets, AsItIs, testing::ValuesIn(cells()), name_of);
INSTANTIATE_TEST_SUITE_P(Packets, TunnelErrors, testing::ValuesIn(tunnel_cells()), name_of);

class Forward : public testing::TestWithParam<const Family*>, public Base {
 protected:
  Forward() : Base(*GetParam()) {}

  [[nodiscard]] std::uint32_t state() const {
    return programs.forward_flow(client(), vip())->state;
  }
};
INSTANTIATE_TEST_SUITE_P(Packets, Forward, testing::Values(&kV4, &kV6),
                         [](const auto& param) { return param.param->name; });

// Half a conversation is seen: the client's half alone moves the state.
TEST_P(Forward, StatesFromTheClientAlone) {
  const std::uint32_t service = programs.add(
      {.address = vip(), .servers = {{.address = server(80), .forwarding = bpf::FL_DIRECT}}});
  const std::uint32_t number = programs.server_number(service, 0);
  in(client(), vip());
  EXPECT_EQ(state(), bpf::FL_TCP_SYN_RECV);
  in(client(), vip(), kAck);
  EXPECT_EQ(state(), bpf::FL_TCP_ESTABLISHED);
  EXPECT_EQ(programs.counts(number).active, 1U);
  in(client(), vip(), kFin | kAck);
  EXPECT_EQ(state(), bpf::FL_TCP_FIN_WAIT);
  EXPECT_EQ(programs.counts(number).inactive, 1U);
  in(client(), vip(), kRst);
  EXPECT_EQ(state(), bpf::FL_TCP_CLOSE);
}

TEST_P(Forward, FromTheTableOfAFlood) {
  const std::uint32_t service = programs.add(
      {.address = vip(), .servers = {{.address = server(80), .forwarding = bpf::FL_TUNNEL}}});
  const std::uint32_t number = programs.server_number(service, 0);
  programs.set_half_open_limit(1);
  in(client(1), vip());
  in(client(2), vip());
  in(client(), vip());
  EXPECT_EQ(programs.flow_count(), 2U);
  ASSERT_EQ(in(client(), vip(), kAck).action, kRedirect);
  EXPECT_EQ(programs.flow_count(), 3U);
  EXPECT_EQ(state(), bpf::FL_TCP_ESTABLISHED);
  EXPECT_EQ(programs.counts(number).active, 3U);
}

// The method is the connection's for its life, whatever becomes of the server's.
TEST_P(Forward, TheMethodStays) {
  const std::uint32_t service = programs.add(
      {.address = vip(), .servers = {{.address = server(80), .forwarding = bpf::FL_DIRECT}}});
  in(client(), vip());
  programs.set_server_forwarding(programs.server_number(service, 0), bpf::FL_MASQUERADE);
  EXPECT_EQ(in(client(), vip(), kAck).action, kRedirect);
  EXPECT_EQ(in(client(2), vip()).action, kPass);
  EXPECT_EQ(in(client(), vip(), kAck).action, kRedirect);
}

// Such a connection and a translated one can have one client port and one server.
TEST_P(Forward, BesideATranslatedConnection) {
  programs.add(
      {.address = vip(), .servers = {{.address = server(80), .forwarding = bpf::FL_DIRECT}}});
  programs.add({.address = vip(81), .servers = {{server(80)}}});
  in(client(), vip());
  EXPECT_EQ(text(in(client(), vip(81))), client() + " > " + server(80));
  programs.age(client(), vip(), 4000);
  in(client(), vip());
  EXPECT_EQ(text(out(server(80), client(), kSyn | kAck)), vip(81) + " > " + client());
}

TEST_P(Forward, FullNatHidesEveryClient) {
  programs.add(
      {.address = vip(), .servers = {{.address = server(), .forwarding = bpf::FL_FULLNAT}}});
  const Verdict there = in(client(), vip());
  EXPECT_EQ(text(there), client() + " > " + server());
  const Read seen = read(programs.out(there.frame).frame);
  EXPECT_THAT(seen.source, HasSubstr(f.node));
  const Verdict back = in(server(), seen.source, kSyn | kAck);
  EXPECT_EQ(text(programs.out(back.frame)), vip() + " > " + client());
}

TEST_P(Forward, CongestionIsNotTheTunnels) {
  programs.add(
      {.address = vip(), .servers = {{.address = server(80), .forwarding = bpf::FL_TUNNEL}}});
  Packet request{client(), vip()};
  request.traffic_class = 0x2b;
  const Opened opened = open_tunnel(programs.in(build(request)).frame);
  EXPECT_EQ(opened.traffic_class, 0x2a);
}

TEST(ForwardV4, ATunnelMayBeCutWhereThePacketMay) {
  for (const bool dont_fragment : {false, true}) {
    Programs programs;
    programs.set_hide(kV4.node, kV6.node);
    programs.add({.address = "203.0.113.1:80",
                  .servers = {{.address = "198.51.100.1:80", .forwarding = bpf::FL_TUNNEL}}});
    Packet request{"192.0.2.10:40000", "203.0.113.1:80"};
    request.dont_fragment = dont_fragment;
    EXPECT_EQ(open_tunnel(programs.in(build(request)).frame).dont_fragment, dont_fragment);
  }
}

TEST_P(Forward, FragmentsFollowTheFirst) {
  protocol = IPPROTO_UDP;
  programs.add({.address = vip(),
                .protocol = IPPROTO_UDP,
                .servers = {{.address = server(80), .forwarding = bpf::FL_DIRECT}}});
  Packet first{client(), vip(), IPPROTO_UDP};
  first.payload = 200;
  first.fragment_offset = 0;
  first.more_fragments = true;
  EXPECT_EQ(programs.in(build(first)).action, kRedirect);
  Packet last = first;
  last.fragment_offset = 64;
  last.more_fragments = false;
  EXPECT_EQ(programs.in(build(last)).action, kRedirect);
}

}  // namespace
}  // namespace fairlead::packets
