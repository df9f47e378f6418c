// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ebpf/sweep.h"

#include "dataplane/ebpf/plane_rig.h"

namespace fairlead::dataplane::ebpf {
namespace {

using std::chrono::seconds;

struct Connection {
  bpf::fl_tuple forward{}, reply{}, hide{}, unhide{};
};

class SweepTest : public PlaneTest {
 protected:
  void SetUp() override {
    start();
    apply({server("10.96.0.1:80", {"198.51.100.1:8080"})});
    real = number_of("198.51.100.1:8080");
  }
  Connection connect(std::uint16_t port, bool hidden, std::uint32_t silent_seconds) {
    Connection made;
    bpf::fl_flow flow{};
    flow.addr = bpf::to_abi(*net::IpAddress::parse("198.51.100.1"));
    flow.port = bpf::to_abi(net::Port{8080});
    flow.client_port = bpf::to_abi(net::Port{port});
    flow.kind = bpf::FL_FORWARD;
    flow.flags = hidden ? bpf::FL_FLOW_HIDDEN : 0;
    flow.rs = real;
    flow.generation = tables.rs()[real].generation;
    flow.state = bpf::FL_TCP_ESTABLISHED;
    flow.seen = bpf::ticks(now) - silent_seconds * FL_TICKS_PER_SECOND;
    flow.packets = 3;
    flow.bytes = 300;
    made.forward = {bpf::to_abi(*net::IpAddress::parse("192.0.2.9")),
                    bpf::to_abi(*net::IpAddress::parse("10.96.0.1")),
                    flow.client_port,
                    bpf::to_abi(net::Port{80}),
                    IPPROTO_TCP,
                    bpf::FL_INGRESS,
                    0};
    tables.put_flow(made.forward, flow);
    made.reply = bpf::key_of_reply(made.forward, flow);
    bpf::fl_flow other = flow;
    other.kind = bpf::FL_REPLY;
    other.addr = made.forward.daddr;
    other.port = made.forward.dport;
    other.client_port = made.forward.sport;
    other.packets = 2;
    other.bytes = 2000;
    tables.put_flow(made.reply, other);
    if (hidden) {
      made.hide = bpf::key_of_hide(made.forward, flow);
      other.kind = bpf::FL_HIDE;
      other.addr = bpf::to_abi(*net::IpAddress::parse("192.0.2.1"));
      other.port = bpf::to_abi(net::Port{static_cast<std::uint16_t>(2000 + port)});
      tables.put_flow(made.hide, other);
      made.unhide = bpf::key_of_unhide(made.hide, other);
      other.kind = bpf::FL_UNHIDE;
      other.addr = made.forward.saddr;
      other.port = made.forward.sport;
      tables.put_flow(made.unhide, other);
    }
    ++tables.rs_counts()[real].active;
    return made;
  }
  void sweep() { pass(seconds(6)); }

  std::uint32_t real = 0;
};

TEST_F(SweepTest, SilentConnectionsEndWhole) {
  connect(1, false, 901);
  connect(2, true, 901);
  connect(3, true, 10);
  sweep();
  EXPECT_EQ(tables.flow_count(), 4U);
  const bpf::fl_rs_counts& counts = tables.rs_counts()[real];
  EXPECT_EQ(counts.active, 1U);
  EXPECT_EQ(counts.in_packets, 6U);
  EXPECT_EQ(counts.out_bytes, 4000U);
}

TEST_F(SweepTest, OneDirectionKeepsTheOther) {
  const Connection talks = connect(1, false, 901);
  bpf::fl_flow reply = *tables.find_flow(talks.reply);
  reply.seen = bpf::ticks(now);
  tables.put_flow(talks.reply, reply);
  sweep();
  EXPECT_EQ(tables.flow_count(), 2U);
}

TEST_F(SweepTest, ConnectionsOfARemovedServerEnd) {
  connect(1, true, 0);
  tables.rs()[real].state = bpf::FL_RS_GONE;
  sweep();
  EXPECT_EQ(tables.flow_count(), 0U);
  EXPECT_EQ(tables.rs_counts()[real].active, 0U);
}

// What answers need goes by its own silence, for no connection owns it.
TEST_F(SweepTest, OnePacketAnswersExpire) {
  for (const std::uint32_t silent : {10U, 400U}) {
    const Connection made = connect(static_cast<std::uint16_t>(silent), false, silent);
    bpf::fl_flow reply = *tables.find_flow(made.reply);
    reply.flags = bpf::FL_FLOW_ONE_PACKET;
    tables.put_flow(made.reply, reply);
    ASSERT_TRUE(tables.erase_flows(std::span(&made.forward, 1)));
    --tables.rs_counts()[real].active;
  }
  sweep();
  EXPECT_EQ(tables.flow_count(), 1U);
  EXPECT_EQ(tables.rs_counts()[real].out_packets, 2U);
}

TEST_F(SweepTest, OrphansGo) {
  const Connection broken = connect(1, true, 100);
  ASSERT_TRUE(tables.erase_flows(std::span(&broken.forward, 1)));
  --tables.rs_counts()[real].active;
  for (std::uint32_t pass = 0; pass < 3 * kOrphanShare; ++pass) {
    sweep();  // each flow has its turn, and is found once the next of the chain is gone
  }
  EXPECT_EQ(tables.flow_count(), 0U);
}

TEST_F(SweepTest, ClientsExpire) {
  bpf::fl_client_key key{bpf::to_abi(*net::IpAddress::parse("192.0.2.9")), 1};
  bpf::fl_client client{real, tables.rs()[real].generation, bpf::ticks(now),
                        10 * FL_TICKS_PER_SECOND};
  tables.put_client(key, client);
  tables.rs_counts()[real].persistent = 1;
  sweep();
  EXPECT_EQ(tables.client_count(), 1U);
  pass(seconds(11));
  sweep();
  EXPECT_EQ(tables.client_count(), 0U);
  EXPECT_EQ(tables.rs_counts()[real].persistent, 0U);
}

TEST_F(SweepTest, EndedConnectionsLetAServerInAgain) {
  tables.rs()[real].upper = 2;
  tables.rs()[real].lower = 1;
  tables.rs_counts()[real].overloaded = 1;
  connect(1, false, 1000);
  connect(2, false, 0);
  sweep();
  EXPECT_EQ(tables.rs_counts()[real].overloaded, 1U);
  now += seconds(1000);
  sweep();
  EXPECT_EQ(tables.rs_counts()[real].active, 0U);
  EXPECT_EQ(tables.rs_counts()[real].overloaded, 0U);
}

TEST_F(SweepTest, WrongCountersArePutRight) {
  connect(1, false, 0);
  tables.rs_counts()[real].active = 5;
  sweep();
  EXPECT_EQ(tables.rs_counts()[real].active, 5U);  // it may be on its way
  sweep();
  EXPECT_EQ(tables.rs_counts()[real].active, 1U);
  EXPECT_EQ(plane->summary().drift_repaired.at("connection counter"), 1U);
}

TEST_F(SweepTest, FullTableMakesRoomSooner) {
  const std::uint32_t usual = tables.config().tcp_timeout[bpf::FL_TCP_TIME_WAIT];
  std::vector<Connection> made;
  for (std::uint16_t port = 1; made.size() * 2 < tables.flow_capacity() * 7 / 10; ++port) {
    made.push_back(connect(port, false, 0));
  }
  sweep();
  EXPECT_NEAR(tables.config().tcp_timeout[bpf::FL_TCP_TIME_WAIT], usual / 2, 1.0 + usual / 100);
  EXPECT_EQ(tables.config().tcp_timeout[bpf::FL_TCP_ESTABLISHED], 900 * FL_TICKS_PER_SECOND);
  EXPECT_LT(*plane->next_due(), now + seconds(1)) << "the next pass must not wait";

  pass(seconds(901));  // all end
  sweep();
  EXPECT_EQ(tables.flow_count(), 0U);
  EXPECT_EQ(tables.config().tcp_timeout[bpf::FL_TCP_TIME_WAIT], usual);
}

}  // namespace
}  // namespace fairlead::dataplane::ebpf
