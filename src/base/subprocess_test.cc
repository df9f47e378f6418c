// SPDX-License-Identifier: Apache-2.0
#include "base/subprocess.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fairlead {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

TEST(RunProgram, GivesOutput) {
  const auto result = run_program({"printf", "%s", "a b"}, "", 10s);
  ASSERT_TRUE(result) << result.error().text();
  EXPECT_EQ(*result, "a b");
}

TEST(RunProgram, FeedsMoreThanABufferHolds) {
  const std::string input(3'000'000, 'x');
  const auto result = run_program({"cat"}, input, 30s);
  ASSERT_TRUE(result) << result.error().text();
  EXPECT_EQ(*result, input);
}

TEST(RunProgram, ProgramThatDoesNotReadItsInput) {
  const auto result = run_program({"true"}, std::string(3'000'000, 'x'), 30s);
  EXPECT_TRUE(result) << result.error().text();
}

TEST(RunProgram, FailureHoldsStatusAndStandardError) {
  const auto result =
      run_program({"sh", "-c", "echo out; echo no such thing >&2; exit 3"}, "", 10s);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().kind(), ErrorKind::kSystem);
  EXPECT_EQ(result.error().errno_value(), 3);
  EXPECT_THAT(result.error().text(), HasSubstr("exit status 3: no such thing"));
}

TEST(RunProgram, Signal) {
  const auto result = run_program({"sh", "-c", "kill -TERM $$"}, "", 10s);
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().text(), HasSubstr("ended by signal 15"));
}

TEST(RunProgram, MissingProgram) {
  const auto result = run_program({"no-such-program-here"}, "", 10s);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().kind(), ErrorKind::kUnavailable);
  EXPECT_THAT(result.error().text(), HasSubstr("no-such-program-here"));
}

TEST(RunProgram, DeadlineKills) {
  const auto result = run_program({"sleep", "600"}, "", 50ms);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().kind(), ErrorKind::kTimeout);
}

TEST(RunProgram, DescendantThatKeepsTheOutputsOpen) {
  // Ends at once although the background sleep holds standard output and error.
  const auto result = run_program({"sh", "-c", "sleep 2 & echo done"}, "", 10s);
  ASSERT_TRUE(result) << result.error().text();
  EXPECT_EQ(*result, "done\n");
}

}  // namespace
}  // namespace fairlead
