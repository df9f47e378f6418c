// SPDX-License-Identifier: Apache-2.0
// The fast path: what takes it, what does not, and that both end alike.
#include <chrono>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <thread>

#include "fixture.h"
#include "router.h"

namespace fairlead::packets {
namespace {

using testing::HasSubstr;

std::string mac_text(const std::array<std::uint8_t, 6>& mac) {
  std::string out;
  for (const std::uint8_t byte : mac) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    out += (out.empty() ? "" : ":") + std::string{kDigits[byte >> 4U], kDigits[byte & 15U]};
  }
  return out;
}

struct Cell {
  const Family* family;
  std::uint8_t protocol;
  bool hidden;
  bool peers;  // the devices lead straight into other namespaces
};

class Fast : public testing::TestWithParam<Cell>, public Base {
 protected:
  Fast() : Base(*GetParam().family, true), hidden(GetParam().hidden), peers(GetParam().peers) {
    protocol = GetParam().protocol;
    programs.set_peers(peers);
    programs.add(
        {.address = vip(), .protocol = protocol, .servers = {{server()}}, .masquerade = hidden});
  }
  [[nodiscard]] Packet request(std::uint8_t flags) const {
    Packet packet{client(), vip(), protocol};
    packet.tcp_flags = flags;
    packet.sctp_chunk = flags == kSyn ? 1 : 0;
    packet.payload = 100;
    return packet;
  }
  /// What arrives in the pod: past fl_out if the packet went straight into the other end.
  [[nodiscard]] Read arrived(const Verdict& verdict) {
    if (verdict.action == kRedirect && peers) {
      const Read seen = read(verdict.frame);
      EXPECT_THAT(mac_text(seen.destination_mac), kNeighbour);
      return seen;
    }
    return read(programs.out(verdict.frame).frame);
  }
  Verdict there(std::uint8_t flags) { return programs.in(build(request(flags))); }
  Verdict back(const std::string& seen_client, std::uint8_t flags) {
    Packet answer{server(), seen_client, protocol};
    answer.tcp_flags = flags;
    answer.sctp_chunk = 0;
    answer.payload = 77;
    return programs.in(build(answer));
  }
  /// The first packet each way, which the stack carries.
  std::string open() {
    const Verdict first = there(kSyn);
    EXPECT_EQ(first.action, kPass);
    const Read seen = read(programs.out(first.frame).frame);
    const Verdict answer = back(seen.source, kSyn | kAck);
    EXPECT_EQ(answer.action, kPass);
    EXPECT_EQ(text(programs.out(answer.frame)), vip() + " > " + client());
    return seen.source;
  }

  bool hidden, peers;
};

TEST_P(Fast, AnsweredConnectionsGoStraight) {
  const std::string seen_client = open();
  for (int round = 0; round < 3; ++round) {
    const Verdict forward = there(kAck);
    ASSERT_EQ(forward.action, kRedirect);
    const Read in_pod = arrived(forward);
    EXPECT_EQ(in_pod.text(), seen_client + " > " + server());
    EXPECT_EQ(in_pod.ttl, 63);
    const Verdict reply = back(seen_client, kAck);
    ASSERT_EQ(reply.action, kRedirect);
    const Read home = arrived(reply);
    EXPECT_EQ(home.text(), vip() + " > " + client());
    EXPECT_EQ(home.ttl, 63);
  }
  const auto flow = programs.forward_flow(client(), vip(), protocol);
  ASSERT_TRUE(flow);
  EXPECT_EQ(flow->packets, 4U);
  EXPECT_EQ(programs.flow_count(), hidden ? 4U : 2U);
}

TEST_P(Fast, NotBeforeThereIsAnAnswer) {
  EXPECT_EQ(there(kSyn).action, kPass);
  EXPECT_EQ(there(kSyn).action, kPass);
  EXPECT_EQ(there(kAck).action, kPass);
}

TEST_P(Fast, TheLastHopIsTheStacks) {
  const std::string seen_client = open();
  Packet dying = request(kAck);
  dying.ttl = 1;
  const Verdict forward = programs.in(build(dying));
  EXPECT_EQ(forward.action, kPass);
  EXPECT_EQ(text(forward), client() + " > " + server());
  EXPECT_EQ(read(forward.frame).ttl, 1);
}

TEST_P(Fast, TooLongIsTheStacks) {
  open();
  EXPECT_EQ(there(kAck).action, kRedirect);
  Packet request = this->request(kAck);
  request.payload = 1500;
  EXPECT_EQ(programs.in(build(request)).action, kPass);
}

std::vector<Cell> cells() {
  std::vector<Cell> all;
  for (const Family* family : {&kV4, &kV6}) {
    for (const std::uint8_t protocol :
         {std::uint8_t{IPPROTO_TCP}, std::uint8_t{IPPROTO_UDP}, std::uint8_t{IPPROTO_SCTP}}) {
      for (const bool hidden : {false, true}) {
        for (const bool peers : {false, true}) {
          all.push_back({family, protocol, hidden, peers});
        }
      }
    }
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Packets, Fast, testing::ValuesIn(cells()), [](const auto& param) {
  return param.param.family->name + std::to_string(param.param.protocol) +
         (param.param.hidden ? "hidden" : "plain") + (param.param.peers ? "peers" : "devices");
});

class FastTcp : public testing::TestWithParam<const Family*>, public Base {
 protected:
  FastTcp() : Base(*GetParam(), true) { programs.add({.address = vip(), .servers = {{server()}}}); }

  void open() {
    const Verdict first = in(client(), vip());
    EXPECT_EQ(first.action, kPass);
    EXPECT_EQ(in(server(), client(), kSyn | kAck).action, kPass);
    out(server(), client(), kSyn | kAck);
    EXPECT_EQ(in(client(), vip(), kAck).action, kRedirect);
  }
  [[nodiscard]] std::uint32_t state() const {
    return programs.forward_flow(client(), vip())->state;
  }
};
INSTANTIATE_TEST_SUITE_P(Packets, FastTcp, testing::Values(&kV4, &kV6),
                         [](const auto& param) { return param.param->name; });

TEST_P(FastTcp, StatesFollowBothDirections) {
  open();
  EXPECT_EQ(state(), bpf::FL_TCP_ESTABLISHED);
  EXPECT_EQ(in(server(), client(), kFin | kAck).action, kRedirect);
  EXPECT_EQ(state(), bpf::FL_TCP_FIN_WAIT);
  EXPECT_EQ(in(client(), vip(), kFin | kAck).action, kRedirect);
  EXPECT_EQ(state(), bpf::FL_TCP_TIME_WAIT);
}

TEST_P(FastTcp, AWayIsNotBelievedForLong) {
  open();
  programs.set_peers(true);  // the packet then gets the pod's link address here
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(mac_text(read(in(client(), vip(), kAck).frame).destination_mac), kNeighbour);
}

TEST_P(FastTcp, AServerWithoutAKnownNeighbourIsTheStacks) {
  programs.add({.address = vip(81), .servers = {{server2()}}});
  in(client(), vip(81));
  in(server2(), client(), kSyn | kAck);
  out(server2(), client(), kSyn | kAck);
  EXPECT_EQ(in(client(), vip(81), kAck).action, kPass);
  // Then replies do not take it either: a stack that tracks connections sees both ways or none.
  EXPECT_EQ(in(server2(), client(), kAck).action, kPass);
}

// The stack has hidden the client, so the answer does not come in as it goes out.
TEST_P(FastTcp, WhatTheStackTranslatesStaysInTheStack) {
  in(client(), vip());
  EXPECT_EQ(in(server(), f.at(f.node, 40000), kSyn | kAck).action, kPass);
  EXPECT_EQ(text(out(server(), client(), kSyn | kAck)), vip() + " > " + client());
  EXPECT_EQ(in(client(), vip(), kAck).action, kPass);
  EXPECT_EQ(in(client(), vip(), kAck).action, kPass);
}

TEST_P(FastTcp, OthersTrafficOfTheServerIsTheStacks) {
  open();
  const Bytes other = build({server(), f.at(f.other_client, 1)});
  const Verdict verdict = programs.in(other);
  EXPECT_EQ(verdict.action, kPass);
  EXPECT_EQ(verdict.frame, other);
}

TEST_P(FastTcp, OneClientPortToOneServerByTwoVirtualServers) {
  open();
  programs.add({.address = vip(81), .servers = {{server()}}});
  const Verdict first = in(client(), vip(81));
  const std::string second_client = read(first.frame).source;
  EXPECT_NE(second_client, client());
  in(server(), second_client, kSyn | kAck);
  out(server(), second_client, kSyn | kAck);
  EXPECT_EQ(text(in(client(), vip(81), kAck)), second_client + " > " + server());
  const Verdict back = in(server(), second_client, kAck);
  ASSERT_EQ(back.action, kRedirect);
  EXPECT_EQ(text(back), vip(81) + " > " + client());
}

}  // namespace
}  // namespace fairlead::packets
