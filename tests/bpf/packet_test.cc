// SPDX-License-Identifier: Apache-2.0
// Packet in, packet out, and the maps after it. Needs root; touches nothing outside its own maps.
#include <array>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fixture.h"
#include "packets.h"
#include "programs.h"

namespace fairlead::packets {
namespace {

using testing::AnyOf;
using testing::Eq;

INSTANTIATE_TEST_SUITE_P(Packets, ByFamily, testing::Values(&kV4, &kV6),
                         [](const auto& param) { return param.param->name; });

struct Cell {
  const Family* family;
  std::uint8_t protocol;
  bool hidden;
};
class Way : public testing::TestWithParam<Cell>, public Base {
 protected:
  Way() : Base(*GetParam().family) { protocol = GetParam().protocol; }
};

TEST_P(Way, ThereAndBackAgain) {
  programs.add({.address = vip(),
                .protocol = protocol,
                .servers = {{server()}},
                .masquerade = GetParam().hidden});
  for (int round = 0; round < 3; ++round) {
    const std::uint8_t first = round == 0 ? kSyn : kAck;
    Packet request{client(), vip(), protocol};
    request.tcp_flags = first;
    request.payload = static_cast<std::size_t>(round) * 333;
    const Verdict there = programs.in(build(request));
    ASSERT_EQ(there.action, kPass);
    EXPECT_EQ(text(there), client() + " > " + server());

    const Verdict onward = programs.out(there.frame);
    ASSERT_EQ(onward.action, kPass);
    const Read seen = read(onward.frame);
    if (GetParam().hidden) {
      EXPECT_THAT(seen.source, testing::HasSubstr(f.node));
      EXPECT_EQ(seen.destination, server());
    } else {
      EXPECT_EQ(seen.text(), client() + " > " + server());
    }

    Packet answer{server(), seen.source, protocol};
    answer.tcp_flags = round == 0 ? kSyn | kAck : kAck;
    answer.sctp_chunk = 0;
    answer.payload = 77;
    const Verdict back = programs.in(build(answer));
    ASSERT_EQ(back.action, kPass);
    EXPECT_EQ(text(back), server() + " > " + client());
    const Verdict home = programs.out(back.frame);
    ASSERT_EQ(home.action, kPass);
    EXPECT_EQ(text(home), vip() + " > " + client());
  }
  EXPECT_EQ(programs.flow_count(), GetParam().hidden ? 4U : 2U);
  const auto flow = programs.forward_flow(client(), vip(), protocol);
  ASSERT_TRUE(flow);
  EXPECT_EQ(flow->packets, 3U);
}
/// While maps are taken over: a connection that ours do not hold yet.
TEST_P(Way, WhatTheProgramsOfBeforeKnowGoesOn) {
  const Service service{.address = vip(),
                        .protocol = protocol,
                        .servers = {{server()}},
                        .masquerade = GetParam().hidden};
  Programs before(2048);  // of another size, so that it is loaded once for all tests
  before.set_hide(kV4.node, kV6.node);
  before.add(service);
  programs.add(service);
  programs.follow(before);
  const Verdict first = before.in(build({client(), vip(), protocol}));
  const std::string seen = read(before.out(first.frame).frame).source;
  const std::size_t flows = before.flow_count();
  ASSERT_EQ(flows, GetParam().hidden ? 4U : 2U);

  Packet answer{server(), seen, protocol};
  answer.tcp_flags = kSyn | kAck;
  answer.sctp_chunk = 2;
  const Verdict back = programs.in(build(answer));
  EXPECT_EQ(text(back), server() + " > " + client());
  const Verdict home = programs.out(back.frame);
  EXPECT_EQ(text(home), vip() + " > " + client());
  EXPECT_EQ(programs.flow_count(), 0U);

  Packet request{client(), vip(), protocol};
  request.tcp_flags = kAck;
  request.sctp_chunk = 0;
  const Verdict there = programs.in(build(request));
  ASSERT_EQ(there.action, kPass);
  EXPECT_EQ(text(there), client() + " > " + server());
  if (protocol != IPPROTO_UDP) {  // of which any packet may be a first one
    EXPECT_EQ(read(programs.out(there.frame).frame).source, seen);
    EXPECT_EQ(programs.flow_count(), 0U);
  }
  // What begins is ours.
  EXPECT_EQ(programs.in(build({client(40001), vip(), protocol})).action, kPass);
  EXPECT_TRUE(programs.forward_flow(client(40001), vip(), protocol));
  EXPECT_EQ(before.flow_count(), flows);
}
INSTANTIATE_TEST_SUITE_P(
    Packets, Way,
    testing::Values(Cell{&kV4, IPPROTO_TCP, false}, Cell{&kV4, IPPROTO_TCP, true},
                    Cell{&kV4, IPPROTO_UDP, false}, Cell{&kV4, IPPROTO_UDP, true},
                    Cell{&kV4, IPPROTO_SCTP, false}, Cell{&kV4, IPPROTO_SCTP, true},
                    Cell{&kV6, IPPROTO_TCP, false}, Cell{&kV6, IPPROTO_TCP, true},
                    Cell{&kV6, IPPROTO_UDP, false}, Cell{&kV6, IPPROTO_UDP, true},
                    Cell{&kV6, IPPROTO_SCTP, false}, Cell{&kV6, IPPROTO_SCTP, true}),
    [](const auto& param) {
      return param.param.family->name + std::to_string(param.param.protocol) +
             (param.param.hidden ? "hidden" : "plain");
    });

TEST_P(ByFamily, WhatIsNotOursPassesUntouched) {
  programs.add({.address = vip(), .servers = {{server()}}});
  const Bytes elsewhere = build({client(), f.at(f.other_client, 80)});
  for (const char* program : {"fl_in", "fl_out"}) {
    const Verdict verdict = programs.run(program, elsewhere);
    EXPECT_EQ(verdict.action, kPass);
    EXPECT_EQ(verdict.frame, elsewhere);
  }
  EXPECT_EQ(programs.flow_count(), 0U);
}

TEST_P(ByFamily, CutShortPacketsDoNoHarm) {
  programs.add({.address = vip(), .servers = {{server()}}});
  const Bytes whole = build({client(), vip()});
  // The test call itself wants a whole network header.
  const std::size_t least = f.name == "v4" ? 34 : 54;
  for (std::size_t length = least; length < whole.size(); ++length) {
    const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
    EXPECT_EQ(programs.in(cut).action, kPass) << length;
    EXPECT_EQ(programs.out(cut).action, kPass) << length;
  }
  EXPECT_EQ(programs.flow_count(), 0U);
}

TEST_P(ByFamily, PodReachesItselfThroughTheService) {
  programs.add({.address = vip(), .servers = {{server()}}});
  const std::string pod = f.at(f.server, 40000);
  const Verdict there = in(pod, vip());
  EXPECT_EQ(text(there), pod + " > " + server());
  const Read seen = read(programs.out(there.frame).frame);
  EXPECT_THAT(seen.source, testing::HasSubstr(f.node));
  const Verdict back = in(server(), seen.source, kSyn | kAck);
  EXPECT_EQ(text(back), server() + " > " + pod);
  EXPECT_EQ(text(programs.out(back.frame)), vip() + " > " + pod);
}

TEST_P(ByFamily, NoServerIsRefusedOrDropped) {
  programs.add({.address = vip(80)});
  programs.add({.address = vip(81), .drop_if_empty = true});
  for (const int p : {IPPROTO_TCP, IPPROTO_UDP}) {
    // The UDP port has no virtual server, but the address is ours.
    const Bytes request = build({.source = client(),
                                 .destination = vip(80),
                                 .protocol = static_cast<std::uint8_t>(p),
                                 .payload = 100});
    const Verdict verdict = programs.in(request);
    ASSERT_EQ(verdict.action, kRedirect);
    const Read answer = read(verdict.frame);
    EXPECT_EQ(answer.text(), f.virtual_server + " > " + f.client);
    EXPECT_EQ(answer.icmp_type, f.name == "v4" ? 3 : 1);
    EXPECT_EQ(answer.icmp_code, f.name == "v4" ? 3 : 4);
    EXPECT_EQ(answer.quoted_source + " > " + answer.quoted_destination, client() + " > " + vip(80));
    const Read asked = read(request);
    EXPECT_EQ(answer.destination_mac, asked.source_mac);
    EXPECT_EQ(answer.source_mac, asked.destination_mac);
  }
  EXPECT_EQ(in(client(), vip(81)).action, kShot);
  EXPECT_EQ(programs.flow_count(), 0U);
  EXPECT_EQ(programs.event(bpf::FL_EVENT_REFUSED), 2U);
}

TEST_P(ByFamily, ShortDatagramIsRefused) {
  programs.add({.address = vip()});
  const Verdict verdict = programs.in(
      build({.source = client(), .destination = vip(), .protocol = IPPROTO_UDP, .payload = 1}));
  ASSERT_EQ(verdict.action, kRedirect);
  EXPECT_EQ(read(verdict.frame).quoted_destination, vip());
}

TEST_P(ByFamily, StraySegmentIsReset) {
  programs.add({.address = vip(), .servers = {{server()}}});
  Packet segment{client(), vip()};
  segment.tcp_flags = kAck;
  segment.acknowledged = 4711;
  segment.payload = 50;
  const Verdict verdict = programs.in(build(segment));
  ASSERT_EQ(verdict.action, kRedirect);
  const Read answer = read(verdict.frame);
  EXPECT_EQ(answer.text(), vip() + " > " + client());
  EXPECT_EQ(answer.tcp_flags, kRst);
  EXPECT_EQ(answer.sequence, 4711U);
  segment.tcp_flags = kFin;
  const Read second = read(programs.in(build(segment)).frame);
  EXPECT_EQ(second.tcp_flags, kRst | kAck);
  EXPECT_EQ(second.acknowledged, 1000U + 50 + 1);
  EXPECT_EQ(in(client(), vip(), kRst).action, kShot);
  EXPECT_EQ(programs.flow_count(), 0U);
}

TEST_P(ByFamily, StrayChunkIsDroppedAndCounted) {
  programs.add({.address = vip(), .protocol = IPPROTO_SCTP, .servers = {{server()}}});
  Packet chunk{client(), vip(), IPPROTO_SCTP};
  chunk.sctp_chunk = 10;  // COOKIE ECHO of no association
  EXPECT_EQ(programs.in(build(chunk)).action, kShot);
  EXPECT_EQ(programs.event(bpf::FL_EVENT_STRAY), 1U);
}

TEST_P(ByFamily, StraySegmentToTheNodeIsTheStacks) {
  programs.add({.address = vip(), .servers = {{server()}}, .on_node = true});
  EXPECT_EQ(in(client(), vip(), kAck).action, kPass);
  EXPECT_EQ(in(client(), vip(81)).action, kPass);  // another port of the node
}

TEST_P(ByFamily, StatesAndCounters) {
  const auto service = programs.add({.address = vip(), .servers = {{server()}}});
  const auto number = programs.server_number(service, 0);
  const auto state = [&] { return programs.forward_flow(client(), vip())->state; };
  const auto shares = [&] {
    const auto counts = programs.counts(number);
    return std::pair(counts.active, counts.inactive);
  };
  struct Step {
    const char* name;
    bool from_client;
    std::uint8_t flags;
    std::uint32_t want;
    std::pair<std::uint32_t, std::uint32_t> counts;
  };
  const std::vector<Step> steps = {
      {"SYN", true, kSyn, bpf::FL_TCP_SYN_RECV, {1, 0}},
      {"SYN again", true, kSyn, bpf::FL_TCP_SYN_RECV, {1, 0}},
      {"SYN ACK", false, kSyn | kAck, bpf::FL_TCP_SYN_RECV, {1, 0}},
      {"ACK", true, kAck, bpf::FL_TCP_ESTABLISHED, {1, 0}},
      {"data back", false, kAck, bpf::FL_TCP_ESTABLISHED, {1, 0}},
      {"FIN", true, kFin | kAck, bpf::FL_TCP_CLOSE_WAIT, {0, 1}},
      {"FIN back", false, kFin | kAck, bpf::FL_TCP_TIME_WAIT, {0, 1}},
      {"last ACK", true, kAck, bpf::FL_TCP_TIME_WAIT, {0, 1}},
      {"new SYN", true, kSyn, bpf::FL_TCP_SYN_RECV, {1, 0}},
      {"RST back", false, kRst, bpf::FL_TCP_CLOSE, {0, 1}},
  };
  for (const Step& step : steps) {
    if (step.from_client) {
      EXPECT_EQ(text(in(client(), vip(), step.flags)), client() + " > " + server()) << step.name;
    } else {
      EXPECT_EQ(text(out(server(), client(), step.flags)), vip() + " > " + client()) << step.name;
    }
    EXPECT_EQ(state(), step.want) << step.name;
    EXPECT_EQ(shares(), step.counts) << step.name;
  }
  EXPECT_EQ(programs.counts(number).connections, 2U);
  EXPECT_EQ(programs.counts(number).in_packets, 5U);  // of the first one, booked at its end
  EXPECT_EQ(programs.counts(number).out_packets, 3U);
}

// A SYN on a connection that is being closed, and the ACK by which its server protests.
TEST_P(ByFamily, ServersAckLeadsOnFromSynReceived) {
  programs.add({.address = vip(), .servers = {{server()}}});
  const auto state = [&] { return programs.forward_flow(client(), vip())->state; };
  in(client(), vip());
  EXPECT_EQ(text(out(server(), client(), kAck)), vip() + " > " + client());
  EXPECT_EQ(state(), bpf::FL_TCP_ESTABLISHED);
  in(client(), vip(), kFin | kAck);
  in(client(), vip());
  EXPECT_EQ(state(), bpf::FL_TCP_SYN_RECV);
  out(server(), client(), kAck);
  EXPECT_EQ(state(), bpf::FL_TCP_ESTABLISHED);
}

TEST_P(ByFamily, SynLeavesAServerThatTakesNoMore) {
  const auto service = programs.add({.address = vip(), .servers = {{server()}, {server2()}}});
  EXPECT_EQ(text(in(client(), vip())), client() + " > " + server());
  in(client(), vip(), kAck);
  EXPECT_EQ(text(in(client(), vip())), client() + " > " + server());
  programs.set_server_state(programs.server_number(service, 0), bpf::FL_RS_DRAINING);
  EXPECT_EQ(text(in(client(), vip(), kAck)), client() + " > " + server());
  EXPECT_EQ(text(in(client(), vip())), client() + " > " + server2());
  EXPECT_EQ(programs.counts(programs.server_number(service, 0)).active, 0U);
  EXPECT_EQ(programs.counts(programs.server_number(service, 1)).active, 1U);
}

// What a new connection replaces still counts while its server is chosen.
TEST_P(ByFamily, ReplacedConnectionCountsInTheChoice) {
  programs.add({.address = vip(), .servers = {{server()}, {server2()}}, .scheduler = bpf::FL_LC});
  EXPECT_EQ(text(in(client(), vip())), client() + " > " + server());
  in(client(), vip(), kRst);
  in(client(), vip(), kAck);
  in(client(), vip(), kRst);
  EXPECT_EQ(programs.forward_flow(client(), vip())->state, bpf::FL_TCP_CLOSE);
  EXPECT_EQ(text(in(client(), vip())), client() + " > " + server2());
}

TEST_P(ByFamily, SilenceEndsAConnection) {
  programs.set_tcp_timeout(bpf::FL_TCP_ESTABLISHED, 100);
  programs.add({.address = vip(), .servers = {{server()}, {server2()}}});
  EXPECT_EQ(text(in(client(), vip())), client() + " > " + server());
  EXPECT_EQ(text(in(client(), vip(), kAck)), client() + " > " + server());
  programs.age(client(), vip(), 90);
  EXPECT_EQ(text(in(client(), vip(), kAck)), client() + " > " + server());
  programs.age(client(), vip(), 101);
  EXPECT_EQ(in(client(), vip(), kAck).action, kRedirect);  // a stray segment by now
  EXPECT_EQ(programs.flow_count(), 0U);
  EXPECT_EQ(text(in(client(), vip())), client() + " > " + server2());
}

TEST_P(ByFamily, RemovedServer) {
  const auto tcp = programs.add({.address = vip(80), .servers = {{server()}}});
  EXPECT_EQ(in(client(), vip(80)).action, kPass);
  EXPECT_EQ(in(client(), vip(80), kAck).action, kPass);
  programs.set_server_state(programs.server_number(tcp, 0), bpf::FL_RS_DRAINING);
  EXPECT_EQ(in(client(), vip(80), kAck).action, kPass);
  EXPECT_EQ(in(client(2), vip(80)).action, kRedirect);  // no new connection: refused
  programs.set_server_state(programs.server_number(tcp, 0), bpf::FL_RS_GONE);
  const Verdict verdict = in(client(), vip(80), kAck);
  ASSERT_EQ(verdict.action, kRedirect);
  EXPECT_EQ(read(verdict.frame).tcp_flags, kRst);
  EXPECT_EQ(programs.counts(programs.server_number(tcp, 0)).active, 0U);

  protocol = IPPROTO_UDP;
  const auto udp = programs.add(
      {.address = vip(53), .protocol = IPPROTO_UDP, .servers = {{server()}, {server2()}}});
  EXPECT_EQ(text(in(client(), vip(53))), client() + " > " + server());
  programs.set_server_state(programs.server_number(udp, 0), bpf::FL_RS_GONE);
  EXPECT_EQ(text(in(client(), vip(53))), client() + " > " + server2());
}

TEST_P(ByFamily, OneClientPortToOneServerByTwoServices) {
  programs.add({.address = vip(80), .servers = {{server()}}});
  programs.add({.address = vip(81), .servers = {{server()}}});
  EXPECT_EQ(text(in(client(), vip(80))), client() + " > " + server());
  const Read second = read(in(client(), vip(81)).frame);
  EXPECT_NE(second.source, client());
  EXPECT_THAT(second.source, testing::HasSubstr(f.client));
  EXPECT_EQ(second.destination, server());
  // Each reply finds its way.
  EXPECT_EQ(text(out(server(), client(), kSyn | kAck)), vip(80) + " > " + client());
  EXPECT_EQ(text(out(server(), second.source, kSyn | kAck)), vip(81) + " > " + client());
  EXPECT_EQ(text(in(client(), vip(81), kAck)), second.source + " > " + server());
}

// What begins in a flood's table does not count on the server that has its number by then.
TEST_P(ByFamily, FloodAndAnotherServer) {
  programs.set_half_open_limit(1);
  const auto first = programs.add({.address = vip(80), .servers = {{server()}}});
  const auto second = programs.add({.address = vip(81), .servers = {{server2()}}});
  for (int port = 1; port <= 2; ++port) {
    EXPECT_EQ(in(client(port), vip(80)).action, kPass);
  }
  EXPECT_EQ(programs.counts(programs.server_number(first, 0)).active, 2U);
  const std::uint32_t number = programs.server_number(second, 0);
  EXPECT_EQ(in(client(), vip(81)).action, kPass);
  EXPECT_FALSE(programs.forward_flow(client(), vip(81)));
  programs.give_server_number_to_another(number);
  EXPECT_EQ(in(client(), vip(81), kAck).action, kRedirect);  // a reset
  EXPECT_FALSE(programs.forward_flow(client(), vip(81)));
  EXPECT_EQ(programs.counts(number).active, 0U);
}

// A SYN that is sent again, out of a flood's table: its server has left, or takes no new ones.
TEST_P(ByFamily, FloodAndAServerThatLeft) {
  for (const bool hidden : {false, true}) {
    for (const bpf::fl_rs_state state : {bpf::FL_RS_GONE, bpf::FL_RS_DRAINING, bpf::FL_RS_UP}) {
      SCOPED_TRACE(std::to_string(state) + (hidden ? " hidden" : ""));
      Programs flooded;
      flooded.set_hide(kV4.node, kV6.node);
      flooded.set_half_open_limit(1);
      const auto service = flooded.add(
          {.address = vip(), .servers = {{server()}, {server2()}}, .masquerade = hidden});
      const auto send = [&](int port) {
        return read(flooded.out(flooded.in(build({client(port), vip()})).frame).frame);
      };
      const auto answer = [&](const std::string& from, const std::string& to) {
        Packet segment{from, to};
        segment.tcp_flags = kSyn | kAck;
        return text(flooded.out(flooded.in(build(segment)).frame));
      };
      send(1);
      send(2);
      const Read first = send(3);
      ASSERT_EQ(first.destination, server());
      ASSERT_FALSE(flooded.forward_flow(client(3), vip())) << "in the flood's table";
      flooded.set_server_state(flooded.server_number(service, 0), state);
      const Read again = send(3);
      if (state == bpf::FL_RS_UP) {
        EXPECT_EQ(again.text(), first.text());
        continue;
      }
      EXPECT_EQ(again.destination, server2());
      EXPECT_EQ(answer(server2(), again.source), vip() + " > " + client(3));
      EXPECT_EQ(answer(server(), first.source), server() + " > " + first.source)
          << "nothing is left of the first choice";
      EXPECT_EQ(send(3).text(), again.text());
      Packet ack{client(3), vip()};
      ack.tcp_flags = kAck;
      EXPECT_EQ(read(flooded.in(build(ack)).frame).destination, server2());
      EXPECT_TRUE(flooded.forward_flow(client(3), vip()));
      EXPECT_EQ(flooded.counts(flooded.server_number(service, 1)).active, 2U);
    }
  }
}

// A flood pushes out what was used least lately, one flow at a time.
TEST_P(ByFamily, FloodThatPushedOutHalfAConnection) {
  for (const bool hidden : {false, true}) {
    SCOPED_TRACE(hidden ? "hidden" : "");
    Programs flooded;
    flooded.set_hide(kV4.node, kV6.node);
    flooded.set_half_open_limit(1);
    flooded.add({.address = vip(), .servers = {{server()}}, .masquerade = hidden});
    const auto send = [&](int port, std::uint8_t flags = kSyn) {
      Packet segment{client(port), vip()};
      segment.tcp_flags = flags;
      return read(flooded.out(flooded.in(build(segment)).frame).frame);
    };
    for (int port = 1; port <= 3; ++port) {
      send(port);
    }
    ASSERT_TRUE(flooded.push_out_forward_flow(client(3), vip()));
    const Read again = send(3);
    ASSERT_EQ(again.destination, server());
    EXPECT_EQ(flooded.event(bpf::FL_EVENT_NO_PORT), 0U);
    Packet answer{server(), again.source};
    answer.tcp_flags = kSyn | kAck;
    EXPECT_EQ(text(flooded.out(flooded.in(build(answer)).frame)), vip() + " > " + client(3));
    EXPECT_EQ(send(3, kAck).text(), again.text());
    EXPECT_TRUE(flooded.forward_flow(client(3), vip()));
  }
}

// Of one client and one server, every port that the second connection could get is taken.
TEST(Packets, NoClientPortIsLeft) {
  Programs programs(65536);
  programs.add({.address = "203.0.113.1:80", .servers = {{"198.51.100.1:8080"}}});
  programs.add({.address = "203.0.113.1:81", .servers = {{"198.51.100.1:8080"}}});
  const auto start = [&](int client_port, const char* virtual_server) {
    return programs.in(build({"192.0.2.10:" + std::to_string(client_port), virtual_server}));
  };
  for (int port = 1024; port < 30000; ++port) {
    EXPECT_EQ(start(port, "203.0.113.1:80").action, kPass);
  }
  EXPECT_EQ(start(2000, "203.0.113.1:81").action, kShot);
  EXPECT_EQ(programs.event(bpf::FL_EVENT_NO_PORT), 1U);
  EXPECT_EQ(programs.flow_count(), 2U * (30000 - 1024));
  // Where its own port is free, it needs no other.
  EXPECT_EQ(text(start(30000, "203.0.113.1:81")), "192.0.2.10:30000 > 198.51.100.1:8080");
}

TEST_P(ByFamily, FullTableTakesNoNewAndHurtsNoOld) {
  Programs small(8);
  small.add({.address = vip(), .servers = {{server()}}});
  int refused = 0;
  for (int port = 1; port <= 40; ++port) {
    refused += small.in(build({client(port), vip()})).action == kShot ? 1 : 0;
  }
  EXPECT_GE(refused, 30);
  EXPECT_EQ(small.event(bpf::FL_EVENT_TABLE_FULL), static_cast<std::uint64_t>(refused));
  Packet ack{client(1), vip()};
  ack.tcp_flags = kAck;
  EXPECT_EQ(text(small.in(build(ack))), client(1) + " > " + server());
}

TEST_P(ByFamily, FloodStaysInItsOwnTable) {
  for (const bool hidden : {false, true}) {
    Programs flooded(256);
    flooded.set_hide(kV4.node, kV6.node);
    flooded.set_half_open_limit(4);
    const auto service =
        flooded.add({.address = vip(), .servers = {{server()}}, .masquerade = hidden});
    const auto number = flooded.server_number(service, 0);
    const auto handshake = [&](int port) {
      Packet segment{client(port), vip()};
      const Verdict there = flooded.out(flooded.in(build(segment)).frame);
      Packet answer{server(), read(there.frame).source};
      answer.tcp_flags = kSyn | kAck;
      const Verdict back = flooded.in(build(answer));
      EXPECT_EQ(text(flooded.out(back.frame)), vip() + " > " + client(port));
      segment.tcp_flags = kAck;
      EXPECT_EQ(text(flooded.out(flooded.in(build(segment)).frame)),
                read(there.frame).source + " > " + server());
      EXPECT_TRUE(flooded.forward_flow(client(port), vip()));
    };
    handshake(1);
    EXPECT_EQ(flooded.half_open(), 0U);
    for (int port = 10'000; port < 11'000; ++port) {
      EXPECT_EQ(flooded.in(build({client(port), vip()})).action, kPass);
    }
    EXPECT_EQ(flooded.half_open(), 5U);
    EXPECT_EQ(flooded.event(bpf::FL_EVENT_TABLE_FULL), 0U);
    EXPECT_LT(flooded.flow_count(), 30U);
    handshake(2);
    EXPECT_EQ(flooded.counts(number).active, 5U + 2U);
    Packet ack{client(1), vip()};
    ack.tcp_flags = kAck;
    EXPECT_EQ(flooded.in(build(ack)).action, kPass);
    EXPECT_TRUE(flooded.forward_flow(client(1), vip()));
  }
}

TEST_P(ByFamily, Fragments) {
  protocol = IPPROTO_UDP;
  programs.add({.address = vip(), .protocol = protocol, .servers = {{server()}}});
  Packet datagram{.source = client(), .destination = vip(), .protocol = protocol, .payload = 200};
  Packet first = datagram;
  first.fragment_offset = 0;
  first.more_fragments = true;
  Packet later = datagram;
  later.fragment_offset = 64;
  // A later one that comes first is nobody's yet.
  EXPECT_EQ(text(programs.in(build(later))), f.client + " > " + f.virtual_server);
  EXPECT_EQ(programs.event(bpf::FL_EVENT_FRAGMENT), 1U);
  const Verdict a = programs.in(build(first));
  EXPECT_EQ(text(a), client() + " > " + server());
  const Verdict b = programs.in(build(later));
  EXPECT_EQ(text(b), f.client + " > " + f.server);
  // Back again, as fragments.
  Packet reply = first;
  reply.source = server();
  reply.destination = client();
  reply.id = 78;
  EXPECT_EQ(text(programs.out(build(reply))), vip() + " > " + client());
  reply = later;
  reply.source = server();
  reply.destination = client();
  reply.id = 78;
  EXPECT_EQ(text(programs.out(build(reply))), f.virtual_server + " > " + f.client);
}

TEST(Packets, UdpWithoutChecksumStaysWithout) {
  Programs programs;
  programs.add(
      {.address = "203.0.113.1:53", .protocol = IPPROTO_UDP, .servers = {{"198.51.100.1:5353"}}});
  Packet query{.source = "192.0.2.1:1", .destination = "203.0.113.1:53", .protocol = IPPROTO_UDP};
  query.udp_checksum = false;
  const Verdict verdict = programs.in(build(query));
  EXPECT_EQ(text(verdict), "192.0.2.1:1 > 198.51.100.1:5353");
  EXPECT_FALSE(read(verdict.frame).has_checksum);
}

TEST(Packets, ExtensionHeaders) {
  Programs programs;
  programs.add({.address = "[2001:db8:96::1]:80", .servers = {{"[2001:db8:2::1]:8080"}}});
  for (const int count : {1, 6}) {
    Packet request{"[2001:db8::1]:" + std::to_string(count), "[2001:db8:96::1]:80"};
    request.extensions = count;
    EXPECT_EQ(text(programs.in(build(request))),
              "[2001:db8::1]:" + std::to_string(count) + " > [2001:db8:2::1]:8080");
  }
}

void damage_at_random(bpf::fl_forwarding forwarding, bpf::fl_tunnel tunnel, bool fast_path) {
  Programs programs(4096, fast_path);
  programs.set_hide(kV4.node, kV6.node);
  std::uint32_t seed = 1;
  const auto random = [&seed] { return seed = seed * 1664525U + 1013904223U, seed >> 8U; };
  for (const Family* f : {&kV4, &kV6}) {
    for (const int p : {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP}) {
      programs.add({.address = f->at(f->virtual_server, 80),
                    .protocol = static_cast<std::uint8_t>(p),
                    .servers = {{.address = f->at(f->server, 8080),
                                 .forwarding = forwarding,
                                 .tunnel = tunnel}},
                    .masquerade = p == IPPROTO_UDP,
                    .one_packet = p == IPPROTO_UDP && tunnel == bpf::FL_GRE});
      Bytes sent_on;
      for (int round = 0; round < 3000; ++round) {
        // Both ways, so that there are answered connections, too.
        const std::string client = f->at(f->client, 1 + static_cast<int>(random() % 50));
        const bool is_reply = random() % 3 == 0;
        Packet packet{.source = is_reply ? f->at(f->server, 8080) : client,
                      .destination = is_reply ? client : f->at(f->virtual_server, 80),
                      .protocol = static_cast<std::uint8_t>(p),
                      .payload = random() % 40};
        packet.tcp_flags = static_cast<std::uint8_t>(random() % 32);
        Bytes bytes = build(packet);
        if (random() % 4 == 0) {
          bytes = build_error(f->router, f->virtual_server, 3, 4, bytes);
        } else if (!sent_on.empty() && random() % 4 == 0) {
          bytes = f == &kV4 ? build_error(f->router, f->node, 3, 4, sent_on)
                            : build_error(f->router, f->node, 2, 0, sent_on);
        } else if (random() % 8 == 0) {
          bytes = build_echo(f->client, f->virtual_server, random() % 40);
        }
        for (std::uint32_t hits = random() % 4; hits > 0; --hits) {
          // Behind the addresses, so that the damage gets past the first look.
          bytes[14 + random() % (bytes.size() - 14)] = static_cast<std::uint8_t>(random());
        }
        if (random() % 4 == 0) {
          bytes.resize(std::max<std::size_t>(54, random() % bytes.size()));
        }
        const Verdict verdict = programs.in(bytes);
        EXPECT_THAT(verdict.action, AnyOf(Eq(kPass), Eq(kShot), Eq(kRedirect)));
        if (verdict.action == kRedirect) {
          sent_on = verdict.frame;
        }
        EXPECT_THAT(programs.out(bytes).action, AnyOf(Eq(kPass), Eq(kShot)));
      }
    }
  }
}

/// Anything may come in: nothing crashes, nothing is answered that was not asked for sensibly.
TEST(Packets, RandomDamage) {
  for (const bool fast_path : {false, true}) {
    damage_at_random(bpf::FL_MASQUERADE, bpf::FL_IPIP, fast_path);
    damage_at_random(bpf::FL_DIRECT, bpf::FL_IPIP, fast_path);
    damage_at_random(bpf::FL_TUNNEL, bpf::FL_GUE, fast_path);
    damage_at_random(bpf::FL_MASQUERADE, bpf::FL_GRE, fast_path);
  }
}

}  // namespace
}  // namespace fairlead::packets
