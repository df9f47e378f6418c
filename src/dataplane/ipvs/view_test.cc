// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ipvs/view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fairlead::dataplane::ipvs {
namespace {

namespace kernel = fairlead::ipvs;

TEST(IpvsViewTest, SaysWhatTheKernelSays) {
  kernel::ObservedVirtualServer observed;
  observed.server.id = {*net::IpAddress::parse("10.96.0.1"), net::Port{80}, net::Protocol::kTcp, 0};
  observed.server.scheduler = "wlc";
  observed.server.flags = kernel::kFlagPersistent;
  observed.server.timeout = 600;
  observed.server.netmask = 24;
  observed.stats.connections = 7;
  kernel::ObservedRealServer real;
  real.server.address = *net::IpAddress::parse("198.51.100.1");
  real.server.port = net::Port{8080};
  real.server.method = kernel::ForwardMethod::kTunnel;
  real.server.tunnel = kernel::TunnelType::kGue;
  real.server.tunnel_port = net::Port{6080};
  real.server.weight = 3;
  real.server.upper_threshold = 10;
  real.active_connections = 2;
  real.persistent_connections = 1;
  real.stats.in_bytes = 99;
  observed.real_servers = {real, {}};

  const Listing listing = listing_of(std::span(&observed, 1));
  ASSERT_EQ(listing.virtual_servers.size(), 1U);
  const ListedVirtualServer& server = listing.virtual_servers.front();
  EXPECT_EQ(server.key.text(), "10.96.0.1:80/TCP");
  EXPECT_EQ(server.scheduler, "wlc");
  EXPECT_EQ(server.persistence, 600U);
  EXPECT_EQ(server.persistence_prefix, 24U);
  EXPECT_EQ(server.totals.connections, 7U);
  ASSERT_EQ(server.real_servers.size(), 2U);
  EXPECT_EQ(server.real_servers[0].socket.text(), "198.51.100.1:8080");
  EXPECT_EQ(server.real_servers[0].method.text(), "gue:6080");
  EXPECT_EQ(server.real_servers[0].state, "up");
  EXPECT_EQ(server.real_servers[0].weight, 3U);
  EXPECT_EQ(server.real_servers[0].thresholds.upper, 10U);
  EXPECT_EQ(server.real_servers[0].active, 2U);
  EXPECT_EQ(server.real_servers[0].persistent, 1U);
  EXPECT_EQ(server.real_servers[0].totals.in_bytes, 99U);
}

TEST(IpvsViewTest, WeightZeroTakesNoMore) {
  kernel::ObservedVirtualServer observed;
  observed.real_servers.resize(1);
  observed.real_servers.front().server.weight = 0;
  EXPECT_EQ(listing_of(std::span(&observed, 1)).virtual_servers.front().real_servers.front().state,
            "draining");
}

}  // namespace
}  // namespace fairlead::dataplane::ipvs
