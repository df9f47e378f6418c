// SPDX-License-Identifier: Apache-2.0
#include "health/sync_health.h"

#include <chrono>
#include <gtest/gtest.h>

namespace fairlead::health {
namespace {

using net::Family;
using std::chrono::seconds;

Now at(int second) {
  return {.steady = event::TimePoint(seconds(1000 + second)),
          .wall = std::chrono::system_clock::time_point(seconds(1'700'000'000 + second))};
}

class SyncHealthTest : public ::testing::Test {
 protected:
  [[nodiscard]] FamilyHealth v4(int second) const {
    return health_.snapshot(at(second), true).families.at(Family::kIpv4);
  }
  SyncHealth health_{seconds(60)};
};

TEST_F(SyncHealthTest, HealthyBeforeAnything) {
  const auto snapshot = health_.snapshot(at(5), true);
  EXPECT_TRUE(snapshot.healthy());
  EXPECT_TRUE(snapshot.families.empty());
  EXPECT_EQ(snapshot.last_updated(), at(5).wall);
}

TEST_F(SyncHealthTest, IdleIsHealthyForEver) {
  health_.started(Family::kIpv4, at(0));
  EXPECT_EQ(v4(1'000'000), (FamilyHealth{.healthy = true, .last_updated = at(1'000'000).wall}));
}

TEST_F(SyncHealthTest, AChangeThatWaitsTooLong) {
  health_.started(Family::kIpv4, at(0));
  health_.synced(Family::kIpv4, at(10));
  health_.queued(Family::kIpv4, at(20));
  health_.queued(Family::kIpv4, at(70));  // the oldest counts
  EXPECT_TRUE(v4(79).healthy);
  EXPECT_EQ(v4(80), (FamilyHealth{.healthy = false, .last_updated = at(10).wall}));
  health_.synced(Family::kIpv4, at(100));
  EXPECT_TRUE(v4(1000).healthy);
}

TEST_F(SyncHealthTest, FamiliesCountEach) {
  health_.started(Family::kIpv4, at(0));
  health_.started(Family::kIpv6, at(1));
  health_.queued(Family::kIpv6, at(2));
  const auto snapshot = health_.snapshot(at(100), false);
  EXPECT_FALSE(snapshot.healthy());
  EXPECT_TRUE(snapshot.families.at(Family::kIpv4).healthy);
  EXPECT_FALSE(snapshot.families.at(Family::kIpv6).healthy);
  EXPECT_EQ(snapshot.last_updated(), at(1).wall);
  EXPECT_FALSE(snapshot.node_eligible);
}

TEST_F(SyncHealthTest, QueuedBeforeTheStartDoesNotCount) {
  health_.queued(Family::kIpv4, at(0));
  health_.started(Family::kIpv4, at(100));
  EXPECT_TRUE(v4(1000).healthy);
}

}  // namespace
}  // namespace fairlead::health
