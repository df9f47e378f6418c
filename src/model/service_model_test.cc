// SPDX-License-Identifier: Apache-2.0
// Only what the tables of plan/behaviour_test.cc do not show.
#include "model/service_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "model/test_objects.h"

namespace fairlead::model {
namespace {

using namespace fairlead::test;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<std::string> texts(const std::vector<Problem>& problems) {
  std::vector<std::string> out;
  out.reserve(problems.size());
  for (const Problem& problem : problems) {
    out.push_back(problem.text());
  }
  return out;
}

TEST(ServiceModel, OrderOfSlicesDoesNotMatter) {
  const api::Service web = service("ns/web").cluster("10.96.0.1").tcp("", 80);
  const auto a = slice("ns/a", "web", {tcp("", 80)}, {"10.1.0.2@node-1", "10.1.0.1@x not-ready"});
  const auto b = slice("ns/b", "web", {tcp("", 80)}, {"10.1.0.1@y", "10.1.0.2@z"});
  const NodeContext node(facts({}), {});
  const std::vector<const api::EndpointSlice*> one_way = {&a, &b};
  const std::vector<const api::EndpointSlice*> other_way = {&b, &a};
  const ServiceModel first = build(web, one_way, node);
  const ServiceModel second = build(web, other_way, node);
  EXPECT_EQ(first.ports.at(0).serving, second.ports.at(0).serving);
  EXPECT_THAT(first.ports.at(0).serving,
              ElementsAre(ServingEndpoint{ip("10.1.0.1"), port(80), false, 1},
                          ServingEndpoint{ip("10.1.0.2"), port(80), true, 1}));
}

TEST(ServiceModel, NonsenseIsNamed) {
  const api::Service web = service("ns/web")
                               .cluster("10.96.0.1")
                               .cluster("2001:db8::1")
                               .external({"0.0.0.0", "fe80::1", "198.51.100.1", "224.0.0.1"})
                               .load_balancer({"::1"})
                               .tcp("", 80)
                               .affinity(0);
  const auto a = slice("ns/a", "web", {tcp("", 80), tcp("b", 81)}, {"127.0.0.1", "10.1.0.1"});
  const std::vector<const api::EndpointSlice*> slices = {&a};
  const ServiceModel model = build(web, slices, NodeContext(facts({}), {}));
  EXPECT_THAT(
      texts(model.problems),
      ElementsAre("EndpointSlice ns/a: endpoints: 127.0.0.1 is a loopback address; it gets no "
                  "traffic",
                  "Service ns/web: spec.externalIPs: 0.0.0.0 is an unspecified address; it is not "
                  "served",
                  "Service ns/web: spec.externalIPs: 224.0.0.1 is a multicast address; it is not "
                  "served",
                  "Service ns/web: spec.externalIPs: fe80::1 is a link-local address; it is not "
                  "served",
                  HasSubstr("spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0 is not from"),
                  "Service ns/web: status.loadBalancer.ingress: ::1 is a loopback address; it is "
                  "not served"));
  EXPECT_EQ(model.ports.at(0).persistence, std::chrono::seconds(10800));
}

TEST(ServiceModel, WhatDependsOnTheNodesAddresses) {
  const NodeContext node(facts({"192.0.2.1"}), {});
  const auto uses = [&](const api::Service& object) {
    return build(object, {}, node).uses_node_addresses;
  };
  EXPECT_FALSE(uses(service("ns/a").cluster("10.96.0.1").tcp("", 80)));
  EXPECT_TRUE(uses(service("ns/a").cluster("10.96.0.1").tcp("", 80, 30080)));
  EXPECT_TRUE(uses(service("ns/a").cluster("10.96.0.1").external({"198.51.100.1"}).tcp("", 80)));
  EXPECT_TRUE(
      uses(service("ns/a").cluster("10.96.0.1").load_balancer({"198.51.100.1"}).tcp("", 80)));
}

TEST(ServiceModel, OfAnUnsupportedFamilyNothingIsSaid) {
  ModelOptions options;
  options.ipv6 = false;
  const api::Service web =
      service("ns/web").cluster("10.96.0.1").cluster("2001:db8::1").external({"::1"}).tcp("", 80);
  const auto a = slice("ns/a", "web", {tcp("", 80)}, {"::1"});
  const std::vector<const api::EndpointSlice*> slices = {&a};
  const ServiceModel model = build(web, slices, NodeContext(facts({}), options));
  EXPECT_THAT(model.problems, IsEmpty());
  EXPECT_EQ(model.ports.size(), 1U);
}

TEST(NodeFacts, FromTheNodeObject) {
  api::Node object;
  object.meta.key = key("node-1");
  object.meta.labels["topology.kubernetes.io/zone"] = "a";
  object.internal_ips = ips({"192.0.2.1"});
  object.external_ips = ips({"203.0.113.1"});
  object.pod_cidrs = cidrs({"10.1.0.0/24"});
  const NodeFacts out = node_facts(object);
  EXPECT_EQ(out.name, "node-1");
  EXPECT_EQ(out.zone, "a");
  EXPECT_EQ(out.node_ips, ips({"192.0.2.1", "203.0.113.1"}));
  EXPECT_EQ(out.pod_cidrs, cidrs({"10.1.0.0/24"}));
}

}  // namespace
}  // namespace fairlead::model
