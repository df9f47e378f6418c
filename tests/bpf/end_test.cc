// SPDX-License-Identifier: Apache-2.0
// How the daemon ends connections: by fl_end. Needs root; touches nothing outside its own maps.
#include <array>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bpf/flows.h"
#include "fixture.h"

namespace fairlead::packets {
namespace {

using testing::ElementsAre;

struct Cell {
  const Family* family;
  std::uint8_t protocol;
  bool hidden;
};

class End : public testing::TestWithParam<Cell>, public Base {
 protected:
  End() : Base(*GetParam().family) {
    protocol = GetParam().protocol;
    service_ = programs.add({.address = vip(),
                             .protocol = protocol,
                             .servers = {{server()}},
                             .masquerade = GetParam().hidden});
  }

  /// A request and its answer.
  bpf::fl_tuple connect(int port) {
    const Verdict there = in(client(port), vip());
    const Read onward = read(programs.out(there.frame).frame);
    const Verdict back = in(server(), onward.source, kSyn | kAck);
    EXPECT_EQ(text(programs.out(back.frame)), vip() + " > " + client(port));
    return forward_key(client(port), vip(), protocol);
  }
  [[nodiscard]] bpf::fl_rs_counts counts() const {
    return programs.counts(programs.server_number(service_, 0));
  }
  /// Longer than any state lasts.
  static constexpr std::uint32_t kForEver = 100'000;

  std::uint32_t service_ = 0;
};

TEST_P(End, OnlyWhatIsOver) {
  const std::array keys = {connect(40000), connect(40001)};
  const std::size_t flows_of_one = GetParam().hidden ? 4 : 2;
  ASSERT_EQ(programs.flow_count(), 2 * flows_of_one);
  EXPECT_THAT(programs.end(keys, 0), ElementsAre(false, false));
  EXPECT_EQ(programs.flow_count(), 2 * flows_of_one);

  programs.age(client(40001), vip(), kForEver, protocol);
  EXPECT_THAT(programs.end(keys, 0), ElementsAre(false, true));
  EXPECT_EQ(programs.flow_count(), flows_of_one);
  EXPECT_THAT(programs.end(keys, kForEver), ElementsAre(true, false)) << "the other is gone";
  EXPECT_EQ(programs.flow_count(), 0U);
}

TEST_P(End, TheBooks) {
  const std::array keys = {connect(40000)};
  EXPECT_EQ(counts().active + counts().inactive, 1U);
  EXPECT_THAT(programs.end(keys, kForEver), ElementsAre(true));
  EXPECT_EQ(counts().active, 0U);
  EXPECT_EQ(counts().inactive, 0U);
  EXPECT_EQ(counts().in_packets, 1U);
  EXPECT_EQ(counts().out_packets, 1U);
  EXPECT_GT(counts().in_bytes, 0U);
  EXPECT_GT(counts().out_bytes, 0U);
  EXPECT_EQ(programs.half_open(), 0U);
}

TEST_P(End, AnswersKeepItAlive) {
  const std::array keys = {connect(40000)};
  programs.age(client(40000), vip(), kForEver, protocol);
  const Verdict answer = programs.out([&] {
    Packet packet{server(), client(40000), protocol};
    packet.tcp_flags = kAck;
    packet.sctp_chunk = 0;
    return build(packet);
  }());
  ASSERT_EQ(text(answer), vip() + " > " + client(40000));
  EXPECT_THAT(programs.end(keys, 0), ElementsAre(false));
  EXPECT_THAT(programs.end(keys, kForEver), ElementsAre(true));
}

TEST_P(End, ServerThatIsGone) {
  const std::array keys = {connect(40000)};
  programs.set_server_state(programs.server_number(service_, 0), bpf::FL_RS_DRAINING);
  EXPECT_THAT(programs.end(keys, 0), ElementsAre(false));
  programs.set_server_state(programs.server_number(service_, 0), bpf::FL_RS_GONE);
  EXPECT_THAT(programs.end(keys, 0), ElementsAre(true));
  EXPECT_EQ(programs.flow_count(), 0U);
  EXPECT_EQ(counts().active + counts().inactive, 0U);
}

TEST_P(End, MoreThanOneCallTakes) {
  // The daemon asks as often as it must; one call takes as many as its list has room for.
  std::vector<bpf::fl_tuple> keys(FL_ENDING_MOST, forward_key(client(1), vip(), protocol));
  keys.back() = connect(40000);
  const std::vector<bool> ended = programs.end(keys, kForEver);
  EXPECT_EQ(std::ranges::count(ended, true), 1);
  EXPECT_TRUE(ended.back());
}

INSTANTIATE_TEST_SUITE_P(
    Packets, End,
    testing::Values(Cell{&kV4, IPPROTO_TCP, false}, Cell{&kV4, IPPROTO_TCP, true},
                    Cell{&kV4, IPPROTO_UDP, false}, Cell{&kV6, IPPROTO_UDP, true},
                    Cell{&kV6, IPPROTO_SCTP, false}, Cell{&kV6, IPPROTO_TCP, true}),
    [](const auto& param) {
      const std::uint8_t protocol = param.param.protocol;
      return param.param.family->name +
             (protocol == IPPROTO_TCP   ? "tcp"
              : protocol == IPPROTO_UDP ? "udp"
                                        : "sctp") +
             (param.param.hidden ? "hidden" : "");
    });

TEST(End, Expectations) {
  Programs programs;
  const std::uint32_t service = programs.add({.address = "203.0.113.1:53",
                                              .protocol = IPPROTO_UDP,
                                              .servers = {{"198.51.100.1:53"}},
                                              .one_packet = true});
  ASSERT_EQ(programs.in(build({"192.0.2.10:40000", "203.0.113.1:53", IPPROTO_UDP})).action, kPass);
  ASSERT_EQ(programs.out(build({"198.51.100.1:53", "192.0.2.10:40000", IPPROTO_UDP})).action,
            kPass);
  ASSERT_EQ(programs.flow_count(), 1U);
  bpf::fl_tuple reply = forward_key("198.51.100.1:53", "192.0.2.10:40000", IPPROTO_UDP);
  reply.point = bpf::FL_EGRESS;
  const std::array keys = {reply};
  EXPECT_THAT(programs.end(keys, 299), ElementsAre(false));
  EXPECT_THAT(programs.end(keys, 302), ElementsAre(true));
  EXPECT_EQ(programs.flow_count(), 0U);
  EXPECT_EQ(programs.counts(programs.server_number(service, 0)).out_packets, 1U);
}

}  // namespace
}  // namespace fairlead::packets
