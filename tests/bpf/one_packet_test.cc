// SPDX-License-Identifier: Apache-2.0
// One-packet scheduling: each datagram is a choice of its own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fixture.h"
#include "packets.h"
#include "programs.h"

namespace fairlead::packets {
namespace {

TEST_P(ByFamily, OnePacketScheduling) {
  protocol = IPPROTO_UDP;
  for (const bool hidden : {false, true}) {
    const std::uint32_t service = programs.add({.address = vip(hidden ? 53 : 54),
                                                .protocol = IPPROTO_UDP,
                                                .servers = {{server(53)}, {server2(53)}},
                                                .masquerade = hidden,
                                                .one_packet = true});
    const std::string to = vip(hidden ? 53 : 54);
    const std::string from = client(hidden ? 40001 : 40002);
    for (int round = 0; round < 4; ++round) {
      const std::string chosen = round % 2 == 0 ? server(53) : server2(53);
      const Verdict there = in(from, to);
      EXPECT_EQ(text(there), from + " > " + chosen) << round;
      const Read seen = read(programs.out(there.frame).frame);
      EXPECT_EQ(seen.source == from, !hidden);
      const Verdict back = in(chosen, seen.source);
      EXPECT_EQ(text(programs.out(back.frame)), to + " > " + from);
    }
    EXPECT_FALSE(programs.forward_flow(from, to, IPPROTO_UDP));
    const bpf::fl_rs_counts counts = programs.counts(programs.server_number(service, 0));
    EXPECT_EQ(counts.connections, 2U);
    EXPECT_EQ(counts.in_packets, 2U);
    EXPECT_EQ(counts.active + counts.inactive, 0U);
  }
  EXPECT_EQ(programs.flow_count(), 2U + 6U);
}

TEST_P(ByFamily, OnePacketSchedulingKeepsFragmentsTogether) {
  programs.add({.address = vip(53),
                .protocol = IPPROTO_UDP,
                .servers = {{server(53)}, {server2(53)}},
                .one_packet = true});
  Packet first{client(), vip(53), IPPROTO_UDP};
  first.payload = 200;
  first.fragment_offset = 0;
  first.more_fragments = true;
  EXPECT_EQ(read(programs.in(build(first)).frame).destination, server(53));
  Packet last = first;
  last.fragment_offset = 64;
  last.more_fragments = false;
  EXPECT_EQ(read(programs.in(build(last)).frame).destination, f.server);
}

TEST_P(ByFamily, OnePacketSchedulingSwitchedOff) {
  protocol = IPPROTO_UDP;
  const Service service{
      .address = vip(53), .protocol = IPPROTO_UDP, .servers = {{server(53)}}, .one_packet = true};
  programs.add(service);
  in(client(), vip(53));
  Service after = service;
  after.one_packet = false;
  programs.add(after);
  EXPECT_EQ(text(in(client(), vip(53))), client() + " > " + server(53));
  EXPECT_EQ(text(out(server(53), client())), vip(53) + " > " + client());
  EXPECT_TRUE(programs.forward_flow(client(), vip(53), IPPROTO_UDP));
}

// Answers of one server to one client port can only be those of one virtual server.
TEST_P(ByFamily, OnePacketSchedulingByTwoVirtualServers) {
  protocol = IPPROTO_UDP;
  for (const int port : {53, 54}) {
    programs.add({.address = vip(port),
                  .protocol = IPPROTO_UDP,
                  .servers = {{server(53)}},
                  .one_packet = true});
  }
  EXPECT_EQ(text(in(client(), vip(53))), client() + " > " + server(53));
  EXPECT_EQ(in(client(), vip(54)).action, kShot);
  EXPECT_EQ(programs.event(bpf::FL_EVENT_NO_PORT), 1U);
  EXPECT_EQ(text(in(client(2), vip(54))), client(2) + " > " + server(53));
}

}  // namespace
}  // namespace fairlead::packets
