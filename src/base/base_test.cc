// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <chrono>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <optional>
#include <string>
#include <vector>

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
  struct Case {
    std::string text;
    std::optional<int> seconds;
  };
  for (const Case& c : std::vector<Case>{{"0", 0},
                                         {"30s", 30},
                                         {"1m30s", 90},
                                         {"1.5h", 5400},
                                         {"2h45m", 9900},
                                         {".5m", 30},
                                         {"500ms", 1},
                                         {"1500ms", 2},
                                         {"0.1s0.9s", 1},
                                         {"1\u00b5s", 1},
                                         {"1ns", 1},
                                         {"0s", 0},
                                         {"", std::nullopt},
                                         {"30", std::nullopt},
                                         {"s", std::nullopt},
                                         {"-1s", std::nullopt},
                                         {"1 s", std::nullopt},
                                         {"1d", std::nullopt},
                                         {".s", std::nullopt},
                                         {"1s2", std::nullopt},
                                         {"99999999999999999999h", std::nullopt}}) {
    const auto duration = parse_duration(c.text);
    EXPECT_EQ(duration.has_value(), c.seconds.has_value()) << c.text;
    if (duration && c.seconds) {
      EXPECT_EQ(std::chrono::ceil<std::chrono::seconds>(*duration).count(), *c.seconds) << c.text;
    }
  }
}

TEST(ByteOrder, RoundTrips) {
  EXPECT_EQ(Be16(80).host(), 80);
  EXPECT_EQ(Be32(0x01020304U).host(), 0x01020304U);
  EXPECT_EQ(Be16::from_raw(Be16(80).raw()), Be16(80));
}

}  // namespace
}  // namespace fairlead
