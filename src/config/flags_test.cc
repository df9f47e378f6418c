// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "config/config.h"

namespace fairlead::config {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Config parsed(const std::vector<std::string>& args) {
  auto result = parse_flags("fairlead run", args, "Host1");
  EXPECT_TRUE(result) << (result ? "" : result.error().text());
  return result && result->config ? *result->config : Config{};
}

std::string error_of(const std::vector<std::string>& args) {
  const auto result = parse_flags("fairlead run", args, "host1");
  return result ? "" : result.error().text();
}

TEST(Flags, DefaultsAreKubeProxys) {
  const Config config = parsed({});
  EXPECT_EQ(config.node_name, "host1");
  EXPECT_EQ(config.healthz_bind_address->text(), "0.0.0.0:10256");
  EXPECT_EQ(config.metrics_bind_address->text(), "127.0.0.1:10249");
  EXPECT_EQ(config.sync_period, std::chrono::seconds(30));
  EXPECT_EQ(config.masquerade_bit, 14);
  EXPECT_EQ(config.service_cluster_ip_range.at(0).text(), "10.96.0.0/16");
}

TEST(Flags, KubeProxyForms) {
  const Config config =
      parsed({"--proxy_mode=ipvs", "--hostname-override", " Node1 ",
              "--cluster-cidr=198.18.0.0/16,2001:db8::/56", "--masquerade-all=false",
              "--ipvs-exclude-cidrs=203.0.113.0/24", "--ipvs-exclude-cidrs=192.0.2.0/24",
              "--ipvs-sync-period=1m30s", "-v=2", "--ipvs-tcp-timeout", "1ms"});
  EXPECT_EQ(config.node_name, "node1");
  EXPECT_EQ(config.cluster_cidrs.size(), 2U);
  EXPECT_FALSE(config.masquerade_all);
  EXPECT_EQ(config.ipvs_exclude_cidrs.size(), 2U);
  EXPECT_EQ(config.sync_period, std::chrono::seconds(90));
  EXPECT_EQ(config.verbosity, 2);
  EXPECT_EQ(config.ipvs_tcp_timeout, std::chrono::seconds(1)) << "rounded up, not off";
}

TEST(Flags, ServersCanBeSwitchedOff) {
  EXPECT_FALSE(parsed({"--metrics-bind-address=127.0.0.1:0"}).metrics_bind_address);
  EXPECT_FALSE(parsed({"--healthz-bind-address=0.0.0.0", "--healthz-port=0"}).healthz_bind_address);
  EXPECT_FALSE(parsed({"--metrics-port=0"}).metrics_bind_address);
  EXPECT_EQ(parsed({"--metrics-bind-address=", "--v=2"}).verbosity, 2) << "took no other's value";
  EXPECT_EQ(parsed({"--metrics-bind-address="}).metrics_bind_address->text(), "127.0.0.1:10249");
}

TEST(Flags, OtherModesFlagsAreTakenAndNamed) {
  EXPECT_THAT(parsed({"--conntrack-min=0", "--profiling", "--feature-gates=A=true"}).ignored_flags,
              ElementsAre("conntrack-min", "feature-gates", "profiling"));
}

TEST(Flags, NodePortAddresses) {
  EXPECT_TRUE(parsed({"--nodeport-addresses=primary"}).nodeport_addresses_primary);
  EXPECT_EQ(parsed({"--nodeport-addresses=192.0.2.0/24,2001:db8::/64"}).nodeport_addresses.size(),
            2U);
  EXPECT_THAT(error_of({"--nodeport-addresses=primary,192.0.2.0/24"}), HasSubstr("stands alone"));
}

TEST(Flags, AllMistakesAtOnce) {
  const std::string error = error_of({"--cluster-cidr=10.0.0.0/8,10.1.0.0/16", "--bind-address=x",
                                      "--ipvs-sync-period=1", "--proxy-mode=userspace"});
  for (const char* part :
       {"--cluster-cidr", "--bind-address", "--ipvs-sync-period", "--proxy-mode"}) {
    EXPECT_THAT(error, HasSubstr(part));
  }
  EXPECT_THAT(error_of({"--no-such-flag"}), HasSubstr("no-such-flag"));
  EXPECT_THAT(error_of({"--manifests=a", "--kubeconfig=b"}), HasSubstr("give one source"));
}

TEST(PlanFlags, NeedsManifestsAndKnownOutput) {
  EXPECT_THAT(parse_plan_flags("fairlead plan", {}, "h").error().text(), HasSubstr("--manifests"));
  EXPECT_FALSE(parse_plan_flags("fairlead plan", {"--manifests=a", "-o", "xml"}, "h"));
  const auto plan =
      parse_plan_flags("fairlead plan", {"--manifests=a", "-o", "json", "--node=n1"}, "h");
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->command->config.node_name, "n1");
  EXPECT_EQ(plan->command->output, "json");
}

}  // namespace
}  // namespace fairlead::config
