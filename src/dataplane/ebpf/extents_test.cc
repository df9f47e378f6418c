// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ebpf/extents.h"

#include <gtest/gtest.h>

namespace fairlead::dataplane::ebpf {
namespace {

using event::TimePoint;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(ExtentsTest, FreedRoomRestsAndMerges) {
  Extents extents(11);
  const TimePoint start{};
  EXPECT_EQ(extents.take(4, start), 1U);
  EXPECT_EQ(extents.take(6, start), 5U);
  EXPECT_FALSE(extents.take(1, start));
  extents.release(1, 4, start);
  extents.release(5, 6, start);
  EXPECT_FALSE(extents.take(1, start + milliseconds(900)));
  EXPECT_EQ(extents.take(10, start + seconds(1)), 1U);
}

TEST(ExtentsTest, ReservesWhatWasTakenBefore) {
  Extents extents(100);
  EXPECT_TRUE(extents.reserve(10, 5));
  EXPECT_FALSE(extents.reserve(12, 1));
  EXPECT_FALSE(extents.reserve(98, 5));
  EXPECT_EQ(extents.take(9, {}), 1U);
  EXPECT_EQ(extents.take(9, {}), 15U);
}

}  // namespace
}  // namespace fairlead::dataplane::ebpf
