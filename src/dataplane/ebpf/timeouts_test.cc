// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ebpf/timeouts.h"

#include <gtest/gtest.h>

namespace fairlead::dataplane::ebpf {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(PatienceTest, ShrinksWithRoom) {
  const auto share = [](std::size_t flows) {
    Patience patience;
    patience.adapt(flows, 1000, seconds(5));
    return patience.share();
  };
  EXPECT_EQ(share(0), 1);
  EXPECT_EQ(share(500), 1);
  EXPECT_NEAR(share(700), 0.5, 1e-9);
  EXPECT_NEAR(share(900), 1.0 / 60, 1e-9);
  EXPECT_NEAR(share(1000), 1.0 / 60, 1e-9);
}

TEST(PatienceTest, LooksMoreOftenAsTheTableFills) {
  const auto pause = [](std::size_t flows) {
    Patience patience;
    patience.adapt(flows, 1000, seconds(5));
    return patience.pause();
  };
  EXPECT_EQ(pause(0), seconds(5));
  EXPECT_EQ(pause(250), milliseconds(2500));
  EXPECT_EQ(pause(499), milliseconds(250));
  EXPECT_EQ(pause(900), milliseconds(250));
}

TEST(PatienceTest, ComesBackSlowly) {
  Patience patience;
  patience.adapt(1000, 1000, seconds(5));
  patience.adapt(0, 1000, seconds(5));
  EXPECT_NEAR(patience.share(), 2.0 / 60, 1e-9);
  EXPECT_EQ(patience.pause(), milliseconds(250)) << "it looked full a moment ago";
  patience.adapt(0, 1000, milliseconds(2500));
  EXPECT_NEAR(patience.share(), 2.0 / 60 * 1.4142, 1e-4);
  patience.adapt(0, 1000, seconds(60));
  EXPECT_EQ(patience.share(), 1);
}

TEST(TimeoutsTest, OnlyEndedConnectionsWaitLess) {
  bpf::fl_config relaxed{}, pressed{};
  const Timeouts wishes{.tcp = seconds(300), .tcpfin = seconds(30), .udp = seconds(20)};
  set_timeouts(relaxed, wishes, 1);
  set_timeouts(pressed, wishes, 1.0 / 60);
  EXPECT_EQ(relaxed.tcp_timeout[bpf::FL_TCP_ESTABLISHED], 300 * FL_TICKS_PER_SECOND);
  EXPECT_EQ(relaxed.tcp_timeout[bpf::FL_TCP_FIN_WAIT], 30 * FL_TICKS_PER_SECOND);
  EXPECT_EQ(relaxed.tcp_timeout[bpf::FL_TCP_TIME_WAIT], 120 * FL_TICKS_PER_SECOND);
  EXPECT_EQ(relaxed.udp_timeout, 20 * FL_TICKS_PER_SECOND);
  EXPECT_EQ(pressed.tcp_timeout[bpf::FL_TCP_TIME_WAIT], 2 * FL_TICKS_PER_SECOND);
  EXPECT_EQ(pressed.tcp_timeout[bpf::FL_TCP_CLOSE], FL_TICKS_PER_SECOND) << "a second at least";
  for (int state = 0; state < bpf::FL_TCP_STATES; ++state) {
    const bool has_ended = state == bpf::FL_TCP_TIME_WAIT || state == bpf::FL_TCP_CLOSE ||
                           state == bpf::FL_TCP_LAST_ACK;
    EXPECT_EQ(pressed.tcp_timeout[state] < relaxed.tcp_timeout[state], has_ended) << state;
  }
  EXPECT_EQ(pressed.udp_timeout, relaxed.udp_timeout);
}

}  // namespace
}  // namespace fairlead::dataplane::ebpf
