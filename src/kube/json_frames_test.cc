// SPDX-License-Identifier: Apache-2.0
#include "kube/json_frames.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>
#include <vector>

namespace fairlead::kube {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<std::string> cut(const std::string& text, std::size_t piece, bool* readable = nullptr) {
  JsonFrames frames(1000);
  std::vector<std::string> found;
  bool good = true;
  for (std::size_t i = 0; i < text.size() && good; i += piece) {
    good = frames.feed(std::string_view(text).substr(i, piece), [&](std::string_view object) {
      found.emplace_back(object);
      return true;
    });
  }
  if (readable != nullptr) {
    *readable = good;
  }
  return found;
}

TEST(JsonFrames, CutsHoweverThePiecesFall) {
  const std::string text = R"({"a":1}{"b":"}{"} )"
                           "\n"
                           R"({"c":[{"d":"\"}"}],"e":"\\"})";
  for (std::size_t piece = 1; piece <= text.size(); ++piece) {
    EXPECT_THAT(cut(text, piece),
                ElementsAre(R"({"a":1})", R"({"b":"}{"})", R"({"c":[{"d":"\"}"}],"e":"\\"})"))
        << piece;
  }
}

TEST(JsonFrames, WaitsForTheEnd) { EXPECT_THAT(cut(R"({"a":{"b":1})", 3), IsEmpty()); }

TEST(JsonFrames, RefusesWhatIsNoObject) {
  for (const std::string text : {"<html>", "[1]", "{} x", "}"}) {
    bool readable = true;
    (void)cut(text, 100, &readable);  // only whether it was readable
    EXPECT_FALSE(readable) << text;
  }
}

TEST(JsonFrames, HasALimit) {
  bool readable = true;
  EXPECT_THAT(cut("{\"a\":\"" + std::string(2000, 'x') + "\"}", 10, &readable), IsEmpty());
  EXPECT_FALSE(readable);
}

TEST(JsonFrames, StopsWhenTold) {
  JsonFrames frames(1000);
  int seen = 0;
  EXPECT_TRUE(frames.feed("{}{}{}", [&](std::string_view) { return ++seen < 2; }));
  EXPECT_EQ(seen, 2);
}

}  // namespace
}  // namespace fairlead::kube
