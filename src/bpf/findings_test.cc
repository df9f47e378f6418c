// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bpf/probe.h"

namespace fairlead::bpf {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using State = Finding::State;

TEST(Findings, OneLineEachWithWhatIsLost) {
  const std::vector<Finding> findings = {
      {Feature::kSyscall, State::kAvailable, ""},
      {Feature::kTcx, State::kRefused, "Invalid argument (EINVAL)"},
      {Feature::kPinning, State::kRefused, "/x is on no bpffs"},
      {Feature::kSocketHooks, State::kNotTried, "no cgroup is named"},
  };
  EXPECT_EQ(format(findings),
            "available  bpf system call\n"
            "refused    TCX links: Invalid argument (EINVAL); clsact filters serve instead, which "
            "whoever deletes the qdisc takes away\n"
            "refused    bpffs at the pin directory: /x is on no bpffs; the ebpf mode needs it\n"
            "not tried  socket hooks of cgroups: no cgroup is named\n");
  EXPECT_EQ(format({}), "");
}

struct ServeCase {
  std::string name;
  std::vector<Finding> findings;
  std::vector<std::string> reasons;  // none: it can
};

class CanServe : public testing::TestWithParam<ServeCase> {};

TEST_P(CanServe, UnlessWhatItNeedsIsRefused) {
  const Status status = can_serve(GetParam().findings);
  EXPECT_EQ(status.has_value(), GetParam().reasons.empty());
  for (const std::string& reason : GetParam().reasons) {
    EXPECT_THAT(status.error().text(), HasSubstr(reason));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Findings, CanServe,
    testing::Values(
        ServeCase{"nothing_known", {}, {}},
        ServeCase{
            "one_hook_is_enough",
            {{Feature::kTcx, State::kRefused, "x"}, {Feature::kClsact, State::kAvailable, ""}},
            {}},
        ServeCase{
            "an_untried_hook_may_do",
            {{Feature::kTcx, State::kRefused, "x"}, {Feature::kClsact, State::kNotTried, "x"}},
            {}},
        ServeCase{"no_hook",
                  {{Feature::kTcx, State::kRefused, "x"}, {Feature::kClsact, State::kRefused, "x"}},
                  {"neither TCX links nor clsact filters"}},
        ServeCase{"sockets_are_a_bonus",
                  {{Feature::kSocketHooks, State::kRefused, "x"},
                   {Feature::kNetnsCookie, State::kRefused, "x"}},
                  {}},
        ServeCase{"all_reasons",
                  {{Feature::kSyscall, State::kRefused, "one"},
                   {Feature::kBatches, State::kRefused, "two"}},
                  {"bpf system call: one", "map operations in batches: two"}},
        ServeCase{"an_old_kernel",
                  {{Feature::kPrograms, State::kAvailable, ""},
                   {Feature::kFetchAdd, State::kRefused, "x"},
                   {Feature::kLoop, State::kRefused, "x"},
                   {Feature::kReason, State::kRefused, "x"},
                   {Feature::kRouteMtu, State::kRefused, "x"}},
                  {}},
        ServeCase{"untried_is_no_reason", {{Feature::kPrograms, State::kNotTried, "x"}}, {}}),
    [](const auto& each) { return each.param.name; });

TEST(Findings, EveryFeatureHasAName) {
  for (int i = 0; i <= static_cast<int>(Feature::kNetnsCookie); ++i) {
    EXPECT_THAT(text(static_cast<Feature>(i)), Not(testing::IsEmpty())) << i;
  }
}

TEST(Findings, UnaskedOnlyWhereSocketsAreSeenToWork) {
  const Finding hooks{Feature::kSocketHooks, State::kAvailable, ""};
  const Finding cookie{Feature::kNetnsCookie, State::kAvailable, ""};
  EXPECT_TRUE(can_serve_unasked(std::vector{hooks, cookie}, true));
  EXPECT_FALSE(can_serve_unasked(std::vector{cookie}, true));
  EXPECT_TRUE(can_serve_unasked(std::vector{cookie}, false));
  EXPECT_FALSE(can_serve_unasked(
      std::vector{hooks, cookie, Finding{Feature::kPrograms, State::kRefused, "x"}}, true));
  const Status untried = can_serve_unasked(
      std::vector{cookie, Finding{Feature::kSocketHooks, State::kNotTried, "no cgroup2"}}, true);
  ASSERT_FALSE(untried);
  EXPECT_THAT(untried.error().text(), HasSubstr("no cgroup2"));
}

}  // namespace
}  // namespace fairlead::bpf
