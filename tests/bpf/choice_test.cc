// SPDX-License-Identifier: Apache-2.0
// Which server a new connection gets: turns, loads, persistence, thresholds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fixture.h"
#include "packets.h"
#include "programs.h"

namespace fairlead::packets {
namespace {

TEST_P(ByFamily, TurnsGoRound) {
  programs.add({.address = vip(), .servers = {{server()}, {server2()}}});
  EXPECT_EQ(text(in(client(1), vip())), client(1) + " > " + server());
  EXPECT_EQ(text(in(client(2), vip())), client(2) + " > " + server2());
  EXPECT_EQ(text(in(client(3), vip())), client(3) + " > " + server());
  EXPECT_EQ(text(in(client(2), vip(), kAck)), client(2) + " > " + server2());
}

TEST_P(ByFamily, PersistentClientStays) {
  const auto service =
      programs.add({.address = vip(), .servers = {{server()}, {server2()}}, .persistence = 60});
  for (int port = 1; port < 4; ++port) {
    EXPECT_EQ(text(in(client(port), vip())), client(port) + " > " + server());
  }
  EXPECT_EQ(text(in(f.at(f.other_client, 1), vip())), f.at(f.other_client, 1) + " > " + server2());
  EXPECT_EQ(programs.counts(programs.server_number(service, 0)).persistent, 1U);
  programs.set_server_state(programs.server_number(service, 0), bpf::FL_RS_DRAINING);
  EXPECT_EQ(text(in(client(9), vip())), client(9) + " > " + server2());
  EXPECT_EQ(programs.counts(programs.server_number(service, 0)).persistent, 0U);
  EXPECT_EQ(programs.counts(programs.server_number(service, 1)).persistent, 2U);
}

TEST_P(ByFamily, PersistenceByNetwork) {
  const auto service = programs.add({.address = vip(),
                                     .servers = {{server()}, {server2()}},
                                     .persistence = 60,
                                     .persistence_prefix = 124});
  const std::string outside = f.at(f.name == "v4" ? "192.0.2.16" : "2001:db8:1::20", 1);
  for (const std::string& from : {client(1), f.at(f.other_client, 1), client(2)}) {
    EXPECT_EQ(text(in(from, vip())), from + " > " + server());
  }
  EXPECT_EQ(text(in(outside, vip())), outside + " > " + server2());
  EXPECT_EQ(programs.counts(programs.server_number(service, 0)).persistent, 1U);
}

TEST_P(ByFamily, PersistentConnectionIsTakenUpAgain) {
  const auto service =
      programs.add({.address = vip(), .servers = {{server()}, {server2()}}, .persistence = 60});
  in(client(), vip());
  in(client(), vip(), kAck);
  in(client(), vip(), kRst);
  EXPECT_EQ(text(in(client(), vip())), client() + " > " + server());
  EXPECT_EQ(programs.forward_flow(client(), vip())->state, bpf::FL_TCP_SYN_RECV);
  EXPECT_EQ(programs.counts(programs.server_number(service, 0)).connections, 1U);
}

TEST_P(ByFamily, ThresholdsShutAServerOut) {
  programs.set_tcp_timeout(bpf::FL_TCP_SYN_RECV, 60);
  programs.add({.address = vip(),
                .servers = {{.address = server(), .upper = 2, .lower = 1},
                            {.address = server2(), .upper = 4}}});
  const auto connect = [&](int port) {
    const Verdict verdict = in(client(port), vip());
    return verdict.action == kPass ? read(verdict.frame).destination : "refused";
  };
  const auto end = [&](int port) {
    programs.age(client(port), vip(), 61);
    EXPECT_EQ(in(client(port), vip(), kAck).action, kRedirect) << "a stray segment by now";
  };
  std::vector<std::string> got;
  for (int port = 1; port <= 7; ++port) {
    got.push_back(connect(port));
  }
  EXPECT_THAT(got, testing::ElementsAre(server(), server2(), server(), server2(), server2(),
                                        server2(), "refused"));
  EXPECT_EQ(programs.event(bpf::FL_EVENT_REFUSED), 1U);
  end(1);
  EXPECT_EQ(connect(8), "refused");  // one is not fewer than one
  end(3);
  EXPECT_EQ(connect(9), server());
  EXPECT_EQ(connect(10), server());
  EXPECT_EQ(connect(11), "refused");
  end(2);
  EXPECT_EQ(connect(12), "refused");  // three are not fewer than three quarters of four
  end(4);
  EXPECT_EQ(connect(13), server2());

  const std::array ended = {forward_key(client(9), vip(), IPPROTO_TCP),
                            forward_key(client(10), vip(), IPPROTO_TCP)};
  EXPECT_THAT(programs.end(ended, 61), testing::ElementsAre(true, true));
  EXPECT_EQ(connect(14), server());
}

TEST_P(ByFamily, ThresholdsDoNotShutOutBoundClients) {
  const auto service = programs.add({.address = vip(),
                                     .servers = {{.address = server(), .upper = 1}, {server2()}},
                                     .persistence = 60});
  for (int port = 1; port < 4; ++port) {
    EXPECT_EQ(text(in(client(port), vip())), client(port) + " > " + server());
  }
  EXPECT_EQ(programs.counts(programs.server_number(service, 0)).active, 3U);
  for (int host = 1; host < 4; ++host) {
    const std::string other = f.at(f.other_client, host);
    EXPECT_EQ(text(in(other, vip())), other + " > " + server2());
  }
}

/// A turn of wrr passes many slots of one server.
TEST_P(ByFamily, ThresholdOfAHeavyServer) {
  std::vector<Server> servers(200, {.address = server(), .upper = 1});
  servers.push_back({server2()});
  programs.add({.address = vip(), .servers = std::move(servers)});
  for (int port = 1; port <= 200; ++port) {
    EXPECT_EQ(text(in(client(port), vip())), client(port) + " > " + server());
  }
  EXPECT_EQ(text(in(client(201), vip())), client(201) + " > " + server2());
  EXPECT_EQ(text(in(client(202), vip())), client(202) + " > " + server2());
}

TEST_P(ByFamily, ThresholdsCountWhatComesOutOfAFlood) {
  programs.set_half_open_limit(1);
  const auto service =
      programs.add({.address = vip(), .servers = {{.address = server(), .upper = 4}}});
  for (int port = 1; port <= 4; ++port) {
    EXPECT_EQ(in(client(port), vip()).action, kPass);
  }
  EXPECT_EQ(programs.counts(programs.server_number(service, 0)).overloaded, 0U);
  for (int port = 1; port <= 4; ++port) {
    out(server(), client(port), kSyn | kAck);
    EXPECT_EQ(in(client(port), vip(), kAck).action, kPass);
  }
  EXPECT_EQ(programs.counts(programs.server_number(service, 0)).overloaded, 1U);
  EXPECT_EQ(in(client(5), vip()).action, kRedirect);
}

TEST_P(ByFamily, LeastConnections) {
  programs.add(
      {.address = vip(), .servers = {{server(), 1}, {server2(), 3}}, .scheduler = bpf::FL_WLC});
  std::string picks;
  for (int port = 1; port <= 8; ++port) {
    picks += text(in(client(port), vip())).ends_with(server()) ? 'a' : 'b';
  }
  EXPECT_EQ(picks, "abbbabbb");
}

}  // namespace
}  // namespace fairlead::packets
