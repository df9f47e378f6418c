// SPDX-License-Identifier: Apache-2.0
// Our rules through the real iptables programs, each test in a network namespace of its own.
// FAIRLEAD_IPTABLES_VARIANT=legacy|nft picks the variant by links put first in PATH; without it the
// machine's default is tested.
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <string>
#include <unistd.h>
#include <vector>

#include "base/subprocess.h"
#include "dataplane/ipvs/iptables.h"
#include "dataplane/ipvs/sets.h"
#include "netlink/ipset.h"

namespace fairlead::dataplane::ipvs {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::Not;

std::string run(const std::vector<std::string>& argv) {
  const auto output = run_program(argv, "", 60s);
  EXPECT_TRUE(output) << output.error().text();
  return output.value_or("");
}

std::string program(net::Family family, const std::string& suffix = "") {
  return (family == net::Family::kIpv4 ? "iptables" : "ip6tables") + suffix;
}

class IptablesKernelTest : public ::testing::TestWithParam<net::Family> {
 protected:
  void SetUp() override {
    if (::unshare(CLONE_NEWNET) != 0) {
      ::perror("a network namespace of our own is needed (root)");
      ::_exit(77);
    }
    config_.family = GetParam();
    config_.local_traffic =
        net::IpPrefix::parse(GetParam() == net::Family::kIpv4 ? "10.244.0.0/16"
                                                              : "2001:db8:244::/48")
            .value();
    const auto probe = run_program({program(GetParam(), "-save"), "-t", "nat"}, "", 60s);
    if (!probe) {
      GTEST_SKIP() << probe.error().text();
    }
    make_sets();
  }
  void make_sets() {
    auto sets = netlink::make_ipset();
    ASSERT_TRUE(sets) << sets.error().text();
    for (std::size_t i = 0; i < kSetCount; ++i) {
      const auto id = static_cast<SetId>(i);
      const Status status = (*sets)->create(
          {.name = set_name(id, GetParam()), .type = info(id).type, .family = GetParam()});
      ASSERT_TRUE(status) << status.error().text();
    }
  }
  [[nodiscard]] static std::string saved(const std::string& table) {
    std::string out;
    std::string text = run({program(GetParam(), "-save"), "-t", table});
    std::size_t start = 0;
    while (start < text.size()) {
      const std::size_t end = text.find('\n', start);
      if (text[start] != '#') {
        out += text.substr(start, end - start + 1);
      }
      start = end + 1;
    }
    return out;
  }
  /// Rules of others that must survive whatever we do.
  static void add_foreign_rules() {
    const std::string iptables = program(GetParam());
    run({iptables, "-t", "nat", "-N", "OTHER"});
    run({iptables, "-t", "nat", "-A", "OTHER", "-p", "tcp", "--dport", "8080", "-j", "RETURN"});
    run({iptables, "-t", "nat", "-A", "PREROUTING", "-j", "OTHER"});
    run({iptables, "-A", "FORWARD", "-i", "lo", "-m", "comment", "--comment", "some other", "-j",
         "ACCEPT"});
  }
  IptablesConfig& config() { return config_; }

 private:
  IptablesConfig config_;
};

TEST_P(IptablesKernelTest, WritesOnce) {
  add_foreign_rules();
  const std::string nat = saved("nat");
  const std::string filter = saved("filter");
  const auto iptables = make_iptables();
  const auto first = iptables->ensure(config());
  ASSERT_TRUE(first) << first.error().text();
  EXPECT_TRUE(*first);
  const auto second = iptables->ensure(config());
  ASSERT_TRUE(second) << second.error().text();
  EXPECT_FALSE(*second);
  // A restarted process, which remembers nothing, knows the rules by their canonical form alone.
  const auto restarted = make_iptables();
  const auto third = restarted->ensure(config());
  ASSERT_TRUE(third) << third.error().text();
  EXPECT_FALSE(*third) << saved("nat") << saved("filter");
  EXPECT_THAT(saved("nat"), HasSubstr("OTHER"));
  const Status cleaned = restarted->cleanup(GetParam());
  ASSERT_TRUE(cleaned) << cleaned.error().text();
  EXPECT_EQ(saved("nat"), nat);
  EXPECT_EQ(saved("filter"), filter);
  EXPECT_TRUE(restarted->cleanup(GetParam()));
}

TEST_P(IptablesKernelTest, AllConfigurationsSettle) {
  const net::Family family = GetParam();
  std::vector<IptablesConfig> configs(5);
  configs[0].masquerade_all = true;
  configs[1].masquerade_bit = 31;
  configs[2].local_traffic = BridgeInterface{"cni0"};
  configs[3].local_traffic = InterfacePrefix{"veth"};
  configs[4].random_fully = false;
  configs[4].masquerade_bit = 0;
  const auto iptables = make_iptables();
  for (IptablesConfig& wanted : configs) {
    wanted.family = family;
    const auto changed = iptables->ensure(wanted);
    ASSERT_TRUE(changed) << changed.error().text();
    EXPECT_TRUE(*changed);
    const auto again = make_iptables()->ensure(wanted);
    ASSERT_TRUE(again) << again.error().text();
    EXPECT_FALSE(*again) << saved("nat");
  }
}

TEST_P(IptablesKernelTest, MendsDamage) {
  const std::string iptables = program(GetParam());
  const auto ours = make_iptables();
  ASSERT_TRUE(ours->ensure(config()));
  const std::string nat = saved("nat");
  const std::string filter = saved("filter");
  const std::vector<std::vector<std::string>> damages = {
      {"-t", "nat", "-F", "KUBE-SERVICES"},
      {"-t", "nat", "-D", "KUBE-POSTROUTING", "1"},
      {"-t", "nat", "-A", "KUBE-MARK-MASQ", "-j", "RETURN"},
      {"-t", "nat", "-F"},
      {"-F", "KUBE-IPVS-FILTER"},
      {"-D", "INPUT", "1"},
      {"-F"},
      {"-t", "nat", "-F", "PREROUTING"},
  };
  for (const std::vector<std::string>& damage : damages) {
    std::vector<std::string> argv = {iptables};
    argv.insert(argv.end(), damage.begin(), damage.end());
    run(argv);
    const auto mended = ours->ensure(config());
    ASSERT_TRUE(mended) << mended.error().text();
    EXPECT_TRUE(*mended) << ::testing::PrintToString(damage);
    EXPECT_EQ(saved("nat"), nat) << ::testing::PrintToString(damage);
    EXPECT_EQ(saved("filter"), filter) << ::testing::PrintToString(damage);
    EXPECT_FALSE(ours->ensure(config()).value());
  }
}

TEST_P(IptablesKernelTest, JumpsAreNotMoved) {
  const auto ours = make_iptables();
  ASSERT_TRUE(ours->ensure(config()));
  run({program(GetParam()), "-t", "nat", "-I", "PREROUTING", "1", "-i", "lo", "-j", "ACCEPT"});
  const std::string nat = saved("nat");
  EXPECT_FALSE(ours->ensure(config()).value());
  EXPECT_EQ(saved("nat"), nat);
}

TEST_P(IptablesKernelTest, MissingSetIsNamed) {
  auto sets = netlink::make_ipset();
  ASSERT_TRUE(sets);
  ASSERT_TRUE((*sets)->destroy(set_name(SetId::kLoopBack, GetParam())));
  const auto result = make_iptables()->ensure(config());
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().text(), HasSubstr(set_name(SetId::kLoopBack, GetParam())));
  EXPECT_THAT(saved("nat"), Not(HasSubstr("KUBE-SERVICES"))) << "all or nothing";
}

INSTANTIATE_TEST_SUITE_P(Families, IptablesKernelTest,
                         ::testing::Values(net::Family::kIpv4, net::Family::kIpv6),
                         [](const auto& family) { return std::string(net::text(family.param)); });

/// Links to one variant's multi-call program, first in PATH; removed at the end.
class Variant {
 public:
  explicit Variant(const std::string& name) {
    std::string pattern = (std::filesystem::temp_directory_path() / "iptables.XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) {
      std::abort();
    }
    directory_ = pattern;
    for (const char* prefix : {"iptables", "ip6tables"}) {
      for (const char* suffix : {"", "-save", "-restore"}) {
        std::filesystem::create_symlink("/usr/sbin/xtables-" + name + "-multi",
                                        directory_ / (std::string(prefix) + suffix));
      }
    }
    ::setenv("PATH", (directory_.string() + ":" + std::getenv("PATH")).c_str(), 1);
  }
  Variant(const Variant&) = delete;
  Variant& operator=(const Variant&) = delete;
  ~Variant() { std::filesystem::remove_all(directory_); }

 private:
  std::filesystem::path directory_;
};

}  // namespace
}  // namespace fairlead::dataplane::ipvs

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  std::unique_ptr<fairlead::dataplane::ipvs::Variant> variant;
  if (const char* name = std::getenv("FAIRLEAD_IPTABLES_VARIANT"); name != nullptr) {
    variant = std::make_unique<fairlead::dataplane::ipvs::Variant>(name);
  }
  return RUN_ALL_TESTS();
}
