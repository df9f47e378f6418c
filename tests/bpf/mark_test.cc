// SPDX-License-Identifier: Apache-2.0
// Virtual servers by firewall mark.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fixture.h"

namespace fairlead::packets {
namespace {

class Mark : public testing::TestWithParam<const Family*>, public Base {
 protected:
  Mark() : Base(*GetParam()) {}

  /// Nobody's address.
  [[nodiscard]] std::string elsewhere(int port) const {
    return f.at(f.name == "v4" ? "203.0.113.77" : "2001:db8:77::1", port);
  }
  [[nodiscard]] std::string any() const { return f.at(f.name == "v4" ? "0.0.0.0" : "::", 0); }
  std::string send(const std::string& from, const std::string& to, std::uint32_t mark,
                   std::uint8_t flags = kSyn) {
    Packet packet{from, to, protocol};
    packet.tcp_flags = flags;
    const Verdict verdict = programs.in(build(packet), mark);
    return verdict.action == kPass       ? read(verdict.frame).destination
           : verdict.action == kRedirect ? "refused"
                                         : "dropped";
  }
};
INSTANTIATE_TEST_SUITE_P(Packets, Mark, testing::Values(&kV4, &kV6),
                         [](const auto& param) { return param.param->name; });

TEST_P(Mark, WhateverItsAddress) {
  programs.add({.address = any(), .mark = 7, .servers = {{f.at(f.server, 0)}}});
  for (const int each : {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP}) {
    protocol = static_cast<std::uint8_t>(each);
    EXPECT_EQ(send(client(), elsewhere(80), 7), server(80));
    EXPECT_EQ(send(client(), elsewhere(443), 7), server(443));
    const Verdict home = out(server(80), client(), kSyn | kAck);
    EXPECT_EQ(text(home), elsewhere(80) + " > " + client());
    EXPECT_EQ(send(client(), elsewhere(80), 7, kAck), server(80));
  }
}

TEST_P(Mark, AtThePortOfTheServer) {
  programs.add({.address = any(), .mark = 7, .servers = {{server()}}});
  EXPECT_EQ(send(client(1), elsewhere(80), 7), server());
  EXPECT_EQ(send(client(2), elsewhere(443), 7), server());
}

TEST_P(Mark, OtherMarksAndNoneAreNobodys) {
  programs.add({.address = any(), .mark = 7, .servers = {{server()}}});
  EXPECT_EQ(send(client(), elsewhere(80), 8), elsewhere(80));
  EXPECT_EQ(send(client(), elsewhere(80), 0), elsewhere(80));
  EXPECT_EQ(programs.flow_count(), 0U);
}

TEST_P(Mark, OfTheOtherFamilyIsAnother) {
  const Family& other = f.name == "v4" ? kV6 : kV4;
  programs.add({.address = other.at(other.virtual_server, 80),
                .mark = 7,
                .servers = {{other.at(other.server, 8080)}}});
  EXPECT_EQ(send(client(), elsewhere(80), 7), elsewhere(80));
  EXPECT_EQ(programs.flow_count(), 0U);
}

TEST_P(Mark, BeforeTheAddress) {
  programs.add({.address = any(), .mark = 7, .servers = {{server()}}});
  programs.add({.address = vip(), .servers = {{server2()}}});
  EXPECT_EQ(send(client(1), vip(), 7), server());
  EXPECT_EQ(send(client(2), vip(), 8), server2());
  EXPECT_EQ(send(client(3), vip(), 0), server2());
}

TEST_P(Mark, WithoutServersIsRefused) {
  programs.add({.address = any(), .mark = 7});
  EXPECT_EQ(send(client(), elsewhere(80), 7), "refused");
  EXPECT_EQ(send(client(), elsewhere(80), 7, kAck), elsewhere(80))
      << "the stack's, as in the kernel";
}

TEST_P(Mark, PersistenceSpansPortsProtocolsAndAddresses) {
  programs.add({.address = any(),
                .mark = 7,
                .servers = {{f.at(f.server, 0)}, {f.at(f.server2, 0)}},
                .persistence = 60});
  EXPECT_EQ(send(client(1), elsewhere(21), 7), server(21));
  EXPECT_EQ(send(client(2), elsewhere(20), 7), server(20));
  EXPECT_EQ(send(client(3), vip(80), 7), server(80));
  EXPECT_EQ(send(f.at(f.other_client, 1), elsewhere(21), 7), server2(21));
  protocol = IPPROTO_UDP;
  EXPECT_EQ(send(client(1), elsewhere(69), 7), server(69));
}

}  // namespace
}  // namespace fairlead::packets
