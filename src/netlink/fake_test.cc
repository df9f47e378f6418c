// SPDX-License-Identifier: Apache-2.0
// The contract suite on the fakes, and what only fakes can do.
#include <cerrno>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <string>

#include "netlink/contract.h"
#include "netlink/fake_ipset.h"
#include "netlink/fake_route.h"
#include "netlink/ipset_detail.h"

namespace fairlead::netlink {

World make_world() {
  return {.route = std::make_unique<FakeRoute>(), .sets = std::make_unique<FakeIpSet>()};
}

namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

SetOp add_ip(const std::string& address) {
  SetOp op;
  op.set = "a";
  op.type = SetType::kHashIp;
  op.member.ip = net::IpAddress::parse(address).value();
  return op;
}

TEST(Fakes, FaultBeforeAndAfter) {
  FakeIpSet sets;
  ASSERT_TRUE(sets.create({.name = "a", .type = SetType::kHashIp}));
  sets.fail_next("apply", "10.96.0.1", {.error = Error(ErrorKind::kTimeout, "lost")});
  const std::vector<SetOp> ops = {add_ip("10.96.0.2"), add_ip("10.96.0.1"), add_ip("10.96.0.3")};
  auto results = sets.apply(ops);
  EXPECT_TRUE(results[0]);
  EXPECT_FALSE(results[1]);
  EXPECT_TRUE(results[2]);
  EXPECT_THAT(sets.member_texts("a"), ElementsAre("10.96.0.2", "10.96.0.3"));
  sets.fail_next("apply", "10.96.0.1",
                 {.error = Error(ErrorKind::kTimeout, "lost"), .when = Fault::When::kAfter});
  results = sets.apply(ops);
  EXPECT_FALSE(results[1]);
  EXPECT_THAT(sets.member_texts("a"), ElementsAre("10.96.0.1", "10.96.0.2", "10.96.0.3"));
  EXPECT_TRUE(sets.apply(ops)[1]) << "once only";
  EXPECT_EQ(sets.calls("apply"), 3U);
  EXPECT_EQ(sets.calls("apply.op"), 9U);
  EXPECT_EQ(sets.total_calls(), 4U);
}

TEST(Fakes, SetInUse) {
  FakeIpSet sets;
  ASSERT_TRUE(sets.create({.name = "a", .type = SetType::kHashIp}));
  sets.set_references("a", 1);
  const Status status = sets.destroy("a");
  ASSERT_FALSE(status);
  EXPECT_THAT(status.error().text(), HasSubstr("in use"));
}

TEST(Fakes, MonitorTellsOnce) {
  FakeAddressMonitor monitor;
  pollfd polled{monitor.fd(), POLLIN, 0};
  EXPECT_EQ(::poll(&polled, 1, 0), 0);
  EXPECT_FALSE(monitor.drain());
  monitor.notify();
  EXPECT_EQ(::poll(&polled, 1, 0), 1);
  EXPECT_TRUE(monitor.drain());
  EXPECT_FALSE(monitor.drain());
}

TEST(IpSetErrors, NumbersBecomeTexts) {
  EXPECT_EQ(ipset_error(4096 + 4, SetType::kHashIp, "destroy set a").text(),
            "destroy set a: the set is in use by a rule or another set (IPSET_ERR_BUSY)");
  EXPECT_EQ(ipset_error(4352, SetType::kHashIp, "x").text(),
            "x: the set is full (IPSET_ERR_HASH_FULL)");
  EXPECT_EQ(ipset_error(4352, SetType::kBitmapPort, "x").text(),
            "x: outside of the set's range (IPSET_ERR_BITMAP_RANGE)");
  EXPECT_EQ(ipset_error(4999, SetType::kHashIp, "x").text(), "x: unknown ipset error (4999)");
  EXPECT_THAT(ipset_error(ENOENT, SetType::kHashIp, "x").text(), HasSubstr("(ENOENT)"));
}

}  // namespace
}  // namespace fairlead::netlink
