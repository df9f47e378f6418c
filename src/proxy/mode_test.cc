// SPDX-License-Identifier: Apache-2.0
#include "proxy/mode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fairlead::proxy {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::function<Status()> works() {
  return [] { return Status{}; };
}
std::function<Status()> lacks(const char* what) {
  return [what] { return Status(fail(ErrorKind::kUnavailable, what)); };
}
std::function<Status()> is_not_asked() {
  return []() -> Status {
    ADD_FAILURE() << "a look that decides nothing";
    return {};
  };
}

TEST(Mode, WhatIsAskedForIsNotQuestioned) {
  const auto mode = choose_mode("ipvs", {is_not_asked(), is_not_asked()});
  EXPECT_EQ(mode->name, "ipvs");
  EXPECT_EQ(mode->reason, "--proxy-mode asks for it");
}

TEST(Mode, EbpfWhereItWorks) {
  EXPECT_EQ(choose_mode("", {works(), is_not_asked()})->name, "ebpf");
}

TEST(Mode, IpvsWhereEbpfDoesNotAndTheReason) {
  const auto mode = choose_mode("", {lacks("no bpffs"), works()});
  EXPECT_EQ(mode->name, "ipvs");
  EXPECT_EQ(mode->reason, "no bpffs");
}

TEST(Mode, NeitherIsAnErrorWithBothReasons) {
  const auto mode = choose_mode("", {lacks("no bpffs"), lacks("no ip_vs")});
  ASSERT_FALSE(mode);
  EXPECT_THAT(mode.error().text(), AllOf(HasSubstr("no bpffs"), HasSubstr("no ip_vs")));
}

}  // namespace
}  // namespace fairlead::proxy
