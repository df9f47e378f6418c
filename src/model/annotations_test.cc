// SPDX-License-Identifier: Apache-2.0
#include "model/annotations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "model/test_objects.h"

namespace fairlead::model {
namespace {

using namespace fairlead::test;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(Scheduler, Names) {
  for (const char* name :
       {"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "twos"}) {
    EXPECT_EQ(parse_scheduler(name), (Scheduler{name, 0})) << name;
  }
  EXPECT_EQ(parse_scheduler("mh"), (Scheduler{"mh", 0x10}));
  EXPECT_THAT(parse_scheduler("wrx").error().text(), HasSubstr("\"wrx\" is not a scheduler"));
  EXPECT_FALSE(parse_scheduler(""));
  EXPECT_FALSE(parse_scheduler("RR"));
}

TEST(Scheduler, Flags) {
  struct Case {
    std::string scheduler;
    std::string flags;
    std::optional<std::uint32_t> want;
    std::string printed;
  };
  for (const Case& c : std::vector<Case>{
           {"sh", "", 0, ""},
           {"sh", "sh-port", 0x10, "sh-port"},
           {"sh", " sh-port , sh-fallback ", 0x18, "sh-fallback,sh-port"},
           {"mh", "mh-fallback", 0x8, "mh-fallback"},
           {"sh", "flag-1", 0x8, "sh-fallback"},
           {"rr", "flag-1,flag-2,flag-3", 0x38, "flag-1,flag-2,flag-3"},
           {"rr", "sh-port", std::nullopt, ""},
           {"sh", "mh-port", std::nullopt, ""},
           {"sh", "port", std::nullopt, ""},
           {"sh", "sh-port,", std::nullopt, ""},
       }) {
    const auto flags = parse_scheduler_flags(c.flags, c.scheduler);
    EXPECT_EQ(flags.has_value(), c.want.has_value()) << c.flags;
    if (flags) {
      EXPECT_EQ(std::optional(*flags), c.want) << c.flags;
      EXPECT_EQ(scheduler_flags_text({c.scheduler, *flags}), c.printed);
    }
  }
}

TEST(Weights, MostSpecificWins) {
  const auto weights =
      Weights::parse("node-1=7, 10.1.0.0/16=3, 10.1.1.0/24=4,10.1.1.1=0, 2001:db8::1=9,").value();
  EXPECT_EQ(weights.of(ip("10.1.1.1"), "node-1"), 0U);
  EXPECT_EQ(weights.of(ip("10.1.1.2"), "node-1"), 4U);
  EXPECT_EQ(weights.of(ip("10.1.2.2"), "node-1"), 3U);
  EXPECT_EQ(weights.of(ip("10.2.0.1"), "node-1"), 7U);
  EXPECT_EQ(weights.of(ip("10.2.0.1"), "node-2"), 1U);
  EXPECT_EQ(weights.of(ip("2001:db8::1"), ""), 9U);
  EXPECT_EQ(Weights::parse("").value().of(ip("10.2.0.1"), ""), 1U);
}

TEST(Weights, Refused) {
  for (const char* bad :
       {"10.1.1.1", "10.1.1.1=", "=3", "10.1.1.1=-1", "10.1.1.1=65536", "10.1.1.0/33=1", "a=b"}) {
    EXPECT_FALSE(Weights::parse(bad)) << bad;
  }
}

TEST(Thresholds, UpperAndLower) {
  struct Case {
    std::string text;
    Thresholds want;
    std::string printed;
  };
  for (const Case& c : std::vector<Case>{{"100", {100, 0}, "100"},
                                         {"100:80", {100, 80}, "100:80"},
                                         {" 5 : 5 ", {5, 5}, "5:5"},
                                         {"0", {0, 0}, "0"},
                                         {"2147483647", {2147483647, 0}, "2147483647"}}) {
    const auto thresholds = parse_thresholds(c.text);
    ASSERT_TRUE(thresholds) << c.text;
    EXPECT_EQ(*thresholds, c.want) << c.text;
    EXPECT_EQ(thresholds->text(), c.printed);
  }
  for (const char* bad :
       {"", "many", "-1", "2147483648", "5:", ":5", "5:0", "5:6", "0:0", "0:1", "5:4:3"}) {
    EXPECT_FALSE(parse_thresholds(bad)) << bad;
  }
}

TEST(AffinityPrefix, ByFamily) {
  const std::vector<std::pair<std::string, AffinityPrefix>> good = {
      {"24", {24, 128}}, {"24,64", {24, 64}}, {" 32 , 1 ", {32, 1}}};
  for (const auto& [text, want] : good) {
    const auto prefix = parse_affinity_prefix(text);
    ASSERT_TRUE(prefix) << text;
    EXPECT_EQ(*prefix, want) << text;
  }
  for (const char* bad : {"", "0", "33", "24,", ",64", "24,0", "24,129", "/24", "24,64,1"}) {
    EXPECT_FALSE(parse_affinity_prefix(bad)) << bad;
  }
}

TEST(Annotations, OursBeforeKubeRouters) {
  std::vector<Problem> problems;
  const auto read = [&](const api::Service& object) {
    return read_annotations(object, {"wlc", 0}, problems);
  };
  EXPECT_EQ(read(service("ns/a")).scheduler.name, "wlc");
  EXPECT_EQ(read(service("ns/a").annotation("kube-router.io/service.scheduler", "mh")).scheduler,
            (Scheduler{"mh", 0x10}));
  EXPECT_EQ(read(service("ns/a")
                     .annotation("kube-router.io/service.scheduler", "mh")
                     .annotation("kube-router.io/service.schedflags", "flag-1,flag-2"))
                .scheduler,
            (Scheduler{"mh", 0x18}));
  EXPECT_EQ(read(service("ns/a")
                     .annotation("kube-router.io/service.scheduler", "mh")
                     .annotation("fairlead.io/scheduler", "sh"))
                .scheduler,
            (Scheduler{"sh", 0}));
  EXPECT_EQ(read(service("ns/a")
                     .annotation("fairlead.io/scheduler", "mh")
                     .annotation("fairlead.io/scheduler-flags", ""))
                .scheduler,
            (Scheduler{"mh", 0}));
  EXPECT_THAT(problems, IsEmpty());
}

TEST(Annotations, ForwardingMethodsAreWhatTheyPrint) {
  for (const std::string text : {"nat", "fullnat", "direct", "ipip", "gue:6080", "gre"}) {
    EXPECT_EQ(parse_forwarding(text).value().text(), text);
  }
}

TEST(Annotations, AWrongValueIsAProblemAndTheDefaultHolds) {
  struct Case {
    std::string name;
    std::string value;
    std::string problem;
  };
  for (const Case& c : std::vector<Case>{
           {"fairlead.io/scheduler", "wrx", "\"wrx\" is not a scheduler"},
           {"kube-router.io/service.scheduler", "x", "\"x\" is not a scheduler"},
           {"fairlead.io/scheduler-flags", "sh-port", "is a flag of scheduler sh, not of wlc"},
           {"fairlead.io/weights", "10.1.0.1", "is not ADDRESS=WEIGHT"},
           {"fairlead.io/forwarding", "dsr",
            "there are nat, fullnat, direct, ipip, gre and gue:PORT"},
           {"fairlead.io/forwarding", "gue", "\"gue\" is not a forwarding method"},
           {"fairlead.io/forwarding", "gue:0", "from 1 to 65535"},
           {"fairlead.io/connection-thresholds", "80:100", "with LOWER from 1 to UPPER"},
           {"fairlead.io/affinity-prefix", "64", "from 1 to 32"},
           {"fairlead.io/affinity-prefix", "24", "spec.sessionAffinity is not ClientIP"},
           {"fairlead.io/firewall-mark", "0", "is not a mark"},
           {"fairlead.io/firewall-mark", "4294967296", "from 1 to 4294967295"},
           {"fairlead.io/drain-timeout", "soon", "is not a duration"},
           {"fairlead.io/drain-timeout", "1000h", "is too long"},
           {"fairlead.io/one-packet", "yes", "neither true nor false"},
           {"fairlead.io/one-packet", "true", "only UDP ports"}}) {
    std::vector<Problem> problems;
    const api::Service object = service("ns/a").tcp("", 80).annotation(c.name, c.value);
    const ServiceSettings settings = read_annotations(object, {"wlc", 0}, problems);
    ASSERT_EQ(problems.size(), 1U) << c.name;
    EXPECT_EQ(problems[0].object, "Service ns/a");
    EXPECT_EQ(problems[0].field, "metadata.annotations[" + c.name + "]");
    EXPECT_THAT(problems[0].what, HasSubstr(c.problem));
    EXPECT_EQ(settings.scheduler, (Scheduler{"wlc", 0}));
    EXPECT_EQ(settings.weights.of(ip("10.1.0.1"), ""), 1U);
    EXPECT_EQ(settings.drain_timeout, std::nullopt);
    EXPECT_FALSE(settings.one_packet);
    EXPECT_EQ(settings.forwarding, ForwardingMethod{});
    EXPECT_EQ(settings.thresholds, Thresholds{});
    EXPECT_EQ(settings.affinity_prefix, AffinityPrefix{});
    EXPECT_EQ(settings.firewall_mark, 0U);
  }
}

}  // namespace
}  // namespace fairlead::model
