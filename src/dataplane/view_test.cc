// SPDX-License-Identifier: Apache-2.0
#include "dataplane/view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fairlead::dataplane {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

net::SocketAddress socket(const std::string& text) { return *net::SocketAddress::parse(text); }

plan::VirtualServerKey key(const std::string& text) {
  const net::SocketAddress at = socket(text);
  return {at.address, at.port, net::Protocol::kTcp};
}

plan::RealServer real(const std::string& text, std::uint32_t weight = 1) {
  plan::RealServer server;
  server.address = socket(text).address;
  server.port = socket(text).port;
  server.weight = weight;
  return server;
}

plan::VirtualServer planned(const std::string& text, std::vector<plan::RealServer> servers) {
  plan::VirtualServer server;
  server.key = key(text);
  const auto shared = std::make_shared<const std::vector<plan::RealServer>>(std::move(servers));
  for (plan::ClassPolicy& policy : server.classes) {
    policy.servers = shared;
  }
  server.hairpin = std::make_shared<const std::vector<net::SocketAddress>>();
  return server;
}

ListedRealServer listed(const std::string& text, std::uint32_t weight = 1,
                        const std::string& state = "up") {
  ListedRealServer server;
  server.socket = socket(text);
  server.state = state;
  server.weight = weight;
  return server;
}

ListedVirtualServer held(const std::string& text, std::vector<ListedRealServer> servers) {
  ListedVirtualServer server;
  server.key = key(text);
  server.scheduler = "rr";
  server.real_servers = std::move(servers);
  return server;
}

std::vector<std::string> differ(const std::vector<plan::VirtualServer>& plan,
                                std::vector<ListedVirtualServer> kernel) {
  std::vector<plan::VirtualServerPtr> pointers;
  for (const plan::VirtualServer& server : plan) {
    pointers.push_back(std::make_shared<const plan::VirtualServer>(server));
  }
  return differences(pointers, {.virtual_servers = std::move(kernel), .addresses = {}});
}

TEST(DifferencesTest, NoneWhereBothAreAlike) {
  EXPECT_THAT(differ({}, {}), IsEmpty());
  EXPECT_THAT(
      differ(
          {planned("10.96.0.1:80", {real("198.51.100.1:8080")}), planned("[2001:db8::1]:80", {})},
          {held("[2001:db8::1]:80", {}), held("10.96.0.1:80", {listed("198.51.100.1:8080")})}),
      IsEmpty());
}

TEST(DifferencesTest, WholeVirtualServers) {
  EXPECT_THAT(differ({planned("10.96.0.1:80", {})}, {held("10.96.0.2:80", {})}),
              ElementsAre("10.96.0.1:80/TCP: is missing", "10.96.0.2:80/TCP: is not planned"));
}

TEST(DifferencesTest, RealServers) {
  EXPECT_THAT(
      differ({planned("10.96.0.1:80", {real("198.51.100.1:8080"), real("198.51.100.2:8080", 3)})},
             {held("10.96.0.1:80", {listed("198.51.100.2:8080"), listed("198.51.100.3:8080")})}),
      ElementsAre("10.96.0.1:80/TCP -> 198.51.100.2:8080: weight is 1, planned is 3",
                  "10.96.0.1:80/TCP -> 198.51.100.3:8080: is not planned",
                  "10.96.0.1:80/TCP -> 198.51.100.1:8080: is missing"));
}

TEST(DifferencesTest, WhatLeavesIsNone) {
  EXPECT_THAT(differ({planned("10.96.0.1:80", {})},
                     {held("10.96.0.1:80", {listed("198.51.100.1:8080", 0, "draining")}),
                      held("10.96.0.2:80", {listed("198.51.100.1:8080", 0, "draining")})}),
              IsEmpty());
  EXPECT_THAT(differ({planned("10.96.0.1:80", {real("198.51.100.1:8080")})},
                     {held("10.96.0.1:80", {listed("198.51.100.1:8080", 0, "draining")})}),
              ElementsAre("10.96.0.1:80/TCP -> 198.51.100.1:8080: weight is 0, planned is 1"));
}

TEST(DifferencesTest, Settings) {
  plan::VirtualServer wanted = planned("10.96.0.1:80", {real("198.51.100.1:8080")});
  wanted.scheduler.name = "wlc";
  wanted.persistence = std::chrono::seconds(600);
  ListedVirtualServer there = held("10.96.0.1:80", {listed("198.51.100.1:8080")});
  there.real_servers.front().method.forwarding = plan::Forwarding::kDirectRouting;
  there.real_servers.front().thresholds = {10, 5};
  EXPECT_THAT(
      differ({wanted}, {there}),
      ElementsAre("10.96.0.1:80/TCP: scheduler is rr, planned is wlc",
                  "10.96.0.1:80/TCP: persistence is 0, planned is 600",
                  "10.96.0.1:80/TCP -> 198.51.100.1:8080: forwarding is direct, planned is nat",
                  "10.96.0.1:80/TCP -> 198.51.100.1:8080: thresholds is 10:5, planned is 0"));
}

}  // namespace
}  // namespace fairlead::dataplane
