// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/byte_order.h"
#include "base/duration.h"
#include "base/result.h"
#include "base/text.h"

namespace fairlead {
namespace {

using ::testing::ElementsAre;

TEST(Error, KeepsTheChainOfContexts) {
  const Error error = Error::from_errno(ENOENT, "no such scheduler \"wrx\"").in("add 10.96.0.1:80");
  EXPECT_EQ(error.kind(), ErrorKind::kNotFound);
  EXPECT_EQ(error.text(),
            "add 10.96.0.1:80: no such scheduler \"wrx\": No such file or directory (ENOENT)");
}

TEST(Text, Split) {
  EXPECT_THAT(split("a,b,,c", ','), ElementsAre("a", "b", "", "c"));
  EXPECT_THAT(split("", ','), ElementsAre(""));
}

TEST(Text, ParseNumber) {
  EXPECT_EQ(parse_number("65535", 65535), 65535U);
  for (const char* bad : {"", "65536", "-1", "+1", " 1", "1 ", "0x1", "99999999999999999999"}) {
    EXPECT_EQ(parse_number(bad, 65535), std::nullopt) << bad;
  }
}

TEST(Text, Trim) {
  EXPECT_EQ(trim(" \t10.0.0.0/8\n"), "10.0.0.0/8");
  EXPECT_EQ(trim("  "), "");
}

TEST(Duration, GoSyntax) {
  using namespace std::chrono_literals;
  EXPECT_EQ(parse_duration("0"), 0ns);
  EXPECT_EQ(parse_duration("30s"), 30s);
  EXPECT_EQ(parse_duration("1m30s"), 90s);
  EXPECT_EQ(parse_duration("24h0m0s"), 24h);
  EXPECT_EQ(parse_duration("250ms"), 250ms);
  EXPECT_EQ(parse_duration("1.5h"), 90min);
  for (const char* bad : {"", "5", "-1s", "1x", "s", "1s ", "1e99h", "inf"}) {
    EXPECT_FALSE(parse_duration(bad)) << bad;
  }
}

TEST(ByteOrder, RoundTrips) {
  EXPECT_EQ(Be16(80).host(), 80);
  EXPECT_EQ(Be32(0x01020304U).host(), 0x01020304U);
  EXPECT_EQ(Be16::from_raw(Be16(80).raw()), Be16(80));
}

}  // namespace
}  // namespace fairlead
