// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ipvs/diff.h"

#include <algorithm>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <random>

namespace fairlead::dataplane::ipvs {
namespace {

namespace kernel = fairlead::ipvs;
using ::testing::IsEmpty;
using namespace std::chrono_literals;

kernel::ServiceId id(net::Protocol protocol = net::Protocol::kTcp) {
  return {*net::IpAddress::parse("10.96.0.1"), net::Port{80}, protocol, 0};
}

kernel::RealServer real(const std::string& socket, std::uint32_t weight = 1) {
  const auto parsed = *net::SocketAddress::parse(socket);
  return {parsed.address, parsed.port, kernel::ForwardMethod::kMasquerade, weight, 0, 0};
}

kernel::VirtualServer server(const kernel::ServiceId& service_id,
                             const std::string& scheduler = "rr") {
  kernel::VirtualServer made;
  made.id = service_id;
  made.scheduler = scheduler;
  return made;
}

Known known_of(const kernel::VirtualServer& made, const std::vector<kernel::RealServer>& reals) {
  Known state{made, {}};
  state.real_servers.reserve(reals.size());
  for (const kernel::RealServer& r : reals) {
    state.real_servers.push_back({r, std::nullopt});
  }
  return state;
}

std::vector<std::string> texts(const std::vector<kernel::Op>& ops) {
  std::vector<std::string> result;
  for (const kernel::Op& op : ops) {
    result.push_back(kernel::text(op));
  }
  return result;
}

TEST(Diff, NothingToDoWhenEqual) {
  const Desired wanted{server(id()), {real("198.51.100.1:80")}};
  const Known state = known_of(wanted.server, wanted.real_servers);
  EXPECT_THAT(diff(id(), &wanted, &state), IsEmpty());
  EXPECT_THAT(diff(id(), nullptr, nullptr), IsEmpty());
}

TEST(Diff, RealServersJoinBeforeOthersDrain) {
  const Desired wanted{server(id()), {real("198.51.100.3:80")}};
  const Known state = known_of(server(id()), {real("198.51.100.1:80")});
  const auto ops = diff(id(), &wanted, &state);
  ASSERT_EQ(ops.size(), 2U);
  EXPECT_TRUE(std::holds_alternative<kernel::AddRealServer>(ops[0]));
  const auto* drained = std::get_if<kernel::SetRealServer>(&ops[1]);
  ASSERT_NE(drained, nullptr);
  EXPECT_EQ(drained->server, real("198.51.100.1:80", 0));
}

TEST(Diff, UdpAndSctpLeaveAtOnce) {
  for (const net::Protocol protocol : {net::Protocol::kUdp, net::Protocol::kSctp}) {
    const Desired wanted{server(id(protocol)), {}};
    const Known state = known_of(server(id(protocol)), {real("198.51.100.1:80")});
    const auto ops = diff(id(protocol), &wanted, &state);
    ASSERT_EQ(ops.size(), 1U);
    EXPECT_TRUE(std::holds_alternative<kernel::DeleteRealServer>(ops[0]));
    const auto gone = diff(id(protocol), nullptr, &state);
    ASSERT_EQ(gone.size(), 1U);
    EXPECT_TRUE(std::holds_alternative<kernel::DeleteVirtualServer>(gone[0]));
  }
}

TEST(Diff, ARemovedTcpServerDrainsFirstAndLeavesWhenEmpty) {
  const Known busy = known_of(server(id()), {real("198.51.100.1:80")});
  auto ops = diff(id(), nullptr, &busy);
  ASSERT_EQ(ops.size(), 1U);
  EXPECT_TRUE(std::holds_alternative<kernel::SetRealServer>(ops[0]));
  const Known draining = known_of(server(id()), {real("198.51.100.1:80", 0)});
  EXPECT_THAT(diff(id(), nullptr, &draining), IsEmpty());
  const Known empty = known_of(server(id()), {});
  ops = diff(id(), nullptr, &empty);
  ASSERT_EQ(ops.size(), 1U);
  EXPECT_TRUE(std::holds_alternative<kernel::DeleteVirtualServer>(ops[0]));
}

TEST(Diff, AFlappingEndpointIsReweightedInPlace) {
  const Desired wanted{server(id()), {real("198.51.100.1:80", 3)}};
  const Known state = known_of(server(id()), {real("198.51.100.1:80", 0)});
  const auto ops = diff(id(), &wanted, &state);
  ASSERT_EQ(ops.size(), 1U);
  ASSERT_TRUE(std::holds_alternative<kernel::SetRealServer>(ops[0])) << texts(ops)[0];
}

TEST(Drains, EndWhenIdleOrOverdue) {
  const TimePoint start{};
  Known state = known_of(server(id()), {real("198.51.100.1:80", 0), real("198.51.100.2:80")});
  const Desired wanted{server(id()), {real("198.51.100.2:80")}};
  EXPECT_TRUE(arm_drains(state, &wanted, start, 60s));
  kernel::ObservedVirtualServer seen{
      state.server, {{real("198.51.100.1:80", 0), 1, 0}, {real("198.51.100.2:80"), 0, 0}}};
  EXPECT_THAT(finish_drains(state, seen, false, start + 59s), IsEmpty());
  EXPECT_EQ(finish_drains(state, seen, false, start + 60s).size(), 1U);
  seen.real_servers[0].active_connections = 0;
  seen.real_servers[0].inactive_connections = 2;
  EXPECT_THAT(finish_drains(state, seen, false, start), IsEmpty())
      << "half-closed ones may still send";
  EXPECT_EQ(finish_drains(state, seen, true, start).size(), 1U);
  seen.real_servers[0].inactive_connections = 0;
  EXPECT_EQ(finish_drains(state, seen, false, start).size(), 1U);
}

TEST(Drains, ADeadlineIsKeptAndWantingItAgainCancels) {
  const TimePoint start{};
  Known state = known_of(server(id()), {real("198.51.100.1:80", 0)});
  EXPECT_TRUE(arm_drains(state, nullptr, start, 60s));
  EXPECT_TRUE(arm_drains(state, nullptr, start + 30s, 60s));
  EXPECT_EQ(state.real_servers[0].drain_until, start + 60s);
  const Desired wanted{server(id()), {real("198.51.100.1:80")}};
  EXPECT_FALSE(arm_drains(state, &wanted, start + 40s, 60s));
  EXPECT_EQ(state.real_servers[0].drain_until, std::nullopt);
}

TEST(Desired, SpeaksTheKernelsWords) {
  plan::VirtualServer planned;
  planned.key = {*net::IpAddress::parse("2001:db8::1"), net::Port{53}, net::Protocol::kUdp};
  planned.scheduler = {"mh", kernel::kFlagSched2};
  planned.persistence = 10800s;
  planned.one_packet = true;
  const auto servers = std::make_shared<const std::vector<plan::RealServer>>();
  for (auto& policy : planned.classes) {
    policy.servers = servers;
  }
  const Desired wanted = desired(planned);
  EXPECT_EQ(wanted.server.netmask, 128);
  EXPECT_EQ(wanted.server.timeout, 10800U);
  EXPECT_EQ(wanted.server.flags,
            kernel::kFlagSched2 | kernel::kFlagPersistent | kernel::kFlagOnePacket);
  planned.persistence_prefix = 64;
  EXPECT_EQ(desired(planned).server.netmask, 64);
  const Desired fallback = desired(planned, "rr");
  EXPECT_EQ(fallback.server.scheduler, "rr");
  EXPECT_EQ(fallback.server.flags, kernel::kFlagPersistent | kernel::kFlagOnePacket);
}

// apply(diff(d, o)) reaches d, and a second diff is empty, from random states.
TEST(DiffProperty, ReachesTheDesiredStateOnce) {
  std::mt19937 random(20261120);
  const auto pick = [&](unsigned n) { return static_cast<unsigned>(random() % n); };
  for (int round = 0; round < 5000; ++round) {
    const net::Protocol protocol = pick(2) == 0 ? net::Protocol::kTcp : net::Protocol::kUdp;
    const auto reals = [&] {
      std::vector<kernel::RealServer> made;
      for (int i = 1; i <= 5; ++i) {
        if (pick(2) == 0) {
          made.push_back(real("198.51.100." + std::to_string(i) + ":80", pick(3)));
        }
      }
      return made;
    };
    const Desired wanted{server(id(protocol), pick(2) == 0 ? "rr" : "lc"), reals()};
    std::optional<Known> state;
    if (pick(4) != 0) {
      state = known_of(server(id(protocol)), reals());
    }
    const bool remove = pick(4) == 0;
    const Desired* target = remove ? nullptr : &wanted;
    for (const kernel::Op& op : diff(id(protocol), target, state ? &*state : nullptr)) {
      acknowledge(state, op);
    }
    // A removed TCP server that had real servers takes one more step once they have left.
    const std::size_t left = remove && state && state->real_servers.empty() ? 1 : 0;
    ASSERT_EQ(diff(id(protocol), target, state ? &*state : nullptr).size(), left)
        << "round " << round;
    if (!remove) {
      ASSERT_TRUE(state);
      EXPECT_EQ(state->server, wanted.server);
      for (const kernel::RealServer& r : wanted.real_servers) {
        const auto at = std::ranges::find(state->real_servers, r, &KnownRealServer::server);
        EXPECT_NE(at, state->real_servers.end()) << "round " << round;
      }
    }
  }
}

}  // namespace
}  // namespace fairlead::dataplane::ipvs
