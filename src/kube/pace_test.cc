// SPDX-License-Identifier: Apache-2.0
#include "kube/pace.h"

#include <chrono>
#include <gtest/gtest.h>

namespace fairlead::kube {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr event::TimePoint kStart{std::chrono::hours(1)};

TEST(Backoff, DoublesToItsCapAndForgets) {
  Backoff backoff;
  event::TimePoint now = kStart;
  for (const int want : {800, 1600, 3200, 6400, 12800, 15000, 15000}) {
    const event::Duration wait = backoff.next(now, 0.0);
    EXPECT_EQ(wait, milliseconds(want));
    now += wait;
  }
  now += seconds(119);
  EXPECT_EQ(backoff.next(now, 0.0), seconds(15));
  now += seconds(15) + seconds(120);
  EXPECT_EQ(backoff.next(now, 0.0), milliseconds(800));
}

TEST(Backoff, SpreadsUpToTwice) {
  Backoff backoff;
  EXPECT_EQ(backoff.next(kStart, 0.5), milliseconds(1200));
  EXPECT_EQ(backoff.next(kStart, 1.0), milliseconds(3200));
}

TEST(RateLimiter, GivesABurstThenARate) {
  RateLimiter limiter(5, 2);
  EXPECT_EQ(limiter.reserve(kStart), event::Duration::zero());
  EXPECT_EQ(limiter.reserve(kStart), event::Duration::zero());
  EXPECT_EQ(limiter.reserve(kStart), milliseconds(200));
  EXPECT_EQ(limiter.reserve(kStart), milliseconds(400));
  EXPECT_EQ(limiter.reserve(kStart + seconds(10)), event::Duration::zero());
  EXPECT_EQ(limiter.reserve(kStart + seconds(10)), event::Duration::zero());
  EXPECT_GT(limiter.reserve(kStart + seconds(10)), event::Duration::zero());
}

TEST(RateLimiter, NoLimit) {
  RateLimiter limiter(0, 1);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(limiter.reserve(kStart), event::Duration::zero());
  }
}

}  // namespace
}  // namespace fairlead::kube
