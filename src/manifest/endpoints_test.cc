// SPDX-License-Identifier: Apache-2.0
#include "manifest/endpoints.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>
#include <vector>

namespace fairlead::manifest {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

net::IpAddress ip(const std::string& text) { return *net::IpAddress::parse(text); }

api::Service web() {
  api::Service service;
  service.meta.key = {"shop", "web"};
  service.selector = {{"app", "web"}};
  service.ip_families = {net::Family::kIpv4};
  service.ports = {{"http", net::Protocol::kTcp, net::Port{80}, net::Port{8080}, {}}};
  return service;
}

api::Pod pod(const std::string& name, const std::string& address) {
  api::Pod made;
  made.meta.key = {"shop", name};
  made.meta.labels = {{"app", "web"}};
  made.node_name = "node1";
  if (!address.empty()) {
    made.ips = {ip(address)};
  }
  made.ready = true;
  return made;
}

std::string flags(const api::Endpoint& endpoint) {
  return std::string(endpoint.ready ? "ready " : "") + (endpoint.serving ? "serving " : "") +
         (endpoint.terminating ? "terminating " : "");
}

/// `http/8080: 198.51.100.1 198.51.100.2`, a line per slice.
std::vector<std::string> summary(const std::vector<api::EndpointSlice>& slices) {
  std::vector<std::string> out;
  for (const api::EndpointSlice& slice : slices) {
    std::string line;
    for (const api::EndpointPort& port : slice.ports) {
      line += (line.empty() ? "" : ",") + port.name + "/" + std::to_string(net::number(port.port));
    }
    line += ":";
    for (const api::Endpoint& endpoint : slice.endpoints) {
      line += " " + endpoint.address.text();
    }
    out.push_back(line);
  }
  std::ranges::sort(out);
  return out;
}

std::vector<std::string> slices_text(const api::Service& service,
                                     const std::vector<api::Pod>& pods) {
  std::vector<const api::Pod*> pointers;
  pointers.reserve(pods.size());
  for (const api::Pod& each : pods) {
    pointers.push_back(&each);
  }
  return summary(slices_for(service, pointers, {}));
}

struct ReadinessCase {
  std::string name;
  bool ready;
  bool deleting;
  bool publish_not_ready;
  bool finished;
  std::string want;  // flags; "none" if there is no endpoint
};

class Readiness : public testing::TestWithParam<ReadinessCase> {};

TEST_P(Readiness, FollowsTheController) {
  api::Service service = web();
  service.publish_not_ready_addresses = GetParam().publish_not_ready;
  api::Pod subject = pod("a", "198.51.100.1");
  subject.ready = GetParam().ready;
  subject.meta.deleting = GetParam().deleting;
  subject.finished = GetParam().finished;
  const std::vector<const api::Pod*> pods = {&subject};
  const auto slices = slices_for(service, pods, {});
  EXPECT_EQ(slices.empty() ? "none" : flags(slices.front().endpoints.front()), GetParam().want);
}

INSTANTIATE_TEST_SUITE_P(
    Matrix, Readiness,
    testing::Values(
        ReadinessCase{"Ready", true, false, false, false, "ready serving "},
        ReadinessCase{"NotReady", false, false, false, false, ""},
        ReadinessCase{"TerminatingReady", true, true, false, false, "serving terminating "},
        ReadinessCase{"TerminatingNotReady", false, true, false, false, "terminating "},
        ReadinessCase{"PublishReady", true, false, true, false, "ready serving "},
        ReadinessCase{"PublishNotReady", false, false, true, false, "ready "},
        ReadinessCase{"PublishTerminating", true, true, true, false, "ready serving terminating "},
        ReadinessCase{"PublishTerminatingNotReady", false, true, true, false, "ready terminating "},
        ReadinessCase{"Finished", false, false, false, true, "none"},
        ReadinessCase{"FinishedPublished", false, false, true, true, "none"}),
    [](const testing::TestParamInfo<ReadinessCase>& param) { return param.param.name; });

TEST(SlicesFor, NamedPortsArePerPod) {
  api::Service service = web();
  service.ports = {{"http", net::Protocol::kTcp, net::Port{80}, std::string("web"), {}},
                   {"metrics", net::Protocol::kTcp, net::Port{9000}, std::string("stats"), {}}};
  std::vector<api::Pod> pods = {pod("a", "198.51.100.1"), pod("b", "198.51.100.2"),
                                pod("c", "198.51.100.3"), pod("d", "198.51.100.4"),
                                pod("e", "198.51.100.5")};
  pods[0].ports = {{"web", net::Protocol::kTcp, net::Port{8080}},
                   {"stats", net::Protocol::kTcp, net::Port{9090}}};
  pods[1].ports = {{"web", net::Protocol::kTcp, net::Port{8081}},
                   {"stats", net::Protocol::kTcp, net::Port{9090}}};
  pods[2].ports = {{"web", net::Protocol::kTcp, net::Port{8080}}};
  pods[3].ports = {{"web", net::Protocol::kUdp, net::Port{8080}}};  // another protocol: none
  pods[4].ports = pods[0].ports;
  EXPECT_THAT(slices_text(service, pods),
              ElementsAre("http/8080,metrics/9090: 198.51.100.1 198.51.100.5",
                          "http/8080: 198.51.100.3", "http/8081,metrics/9090: 198.51.100.2"));
}

TEST(SlicesFor, OneSlicePerFamilyOfTheService) {
  api::Service service = web();
  std::vector<api::Pod> pods = {pod("a", "198.51.100.1"), pod("b", "2001:db8::2"),
                                pod("c", "198.51.100.3")};
  pods[0].ips.push_back(ip("2001:db8::1"));
  EXPECT_THAT(slices_text(service, pods), ElementsAre("http/8080: 198.51.100.1 198.51.100.3"));
  service.ip_families = {net::Family::kIpv6, net::Family::kIpv4};
  EXPECT_THAT(slices_text(service, pods), ElementsAre("http/8080: 198.51.100.1 198.51.100.3",
                                                      "http/8080: 2001:db8::1 2001:db8::2"));
}

TEST(SlicesFor, NodeGivesZoneAndHostNetworkAddress) {
  api::Pod host = pod("a", "");
  host.host_network = true;
  api::Pod waiting = pod("b", "");
  api::Node node;
  node.meta.key.name = "node1";
  node.meta.labels = {{"topology.kubernetes.io/zone", "east"}};
  node.internal_ips = {ip("192.0.2.1")};
  const std::vector<const api::Pod*> pods = {&host, &waiting};
  const auto slices = slices_for(web(), pods, {{"node1", std::make_shared<const api::Node>(node)}});
  ASSERT_THAT(slices, SizeIs(1));
  ASSERT_THAT(slices[0].endpoints, SizeIs(1));
  EXPECT_EQ(slices[0].endpoints[0].address.text(), "192.0.2.1");
  EXPECT_EQ(slices[0].endpoints[0].zone, "east");
  EXPECT_EQ(slices[0].endpoints[0].node_name, "node1");
  EXPECT_EQ(slices[0].service(), (api::ObjectKey{"shop", "web"}));
  EXPECT_THAT(slices_text(web(), {host, waiting}), IsEmpty());
}

TEST(SlicesFor, NoSelectorOrExternalNameGivesNone) {
  api::Service service = web();
  service.selector.clear();
  EXPECT_THAT(slices_text(service, {pod("a", "198.51.100.1")}), IsEmpty());
  service = web();
  service.type = api::ServiceType::kExternalName;
  EXPECT_THAT(slices_text(service, {pod("a", "198.51.100.1")}), IsEmpty());
}

TEST(SlicesFor, AtMostHundredEndpointsWithStableNames) {
  std::vector<api::Pod> pods;
  pods.reserve(250);
  for (int i = 0; i < 250; ++i) {
    pods.push_back(pod("p" + std::to_string(1000 + i), "198.51.100." + std::to_string(i)));
  }
  std::vector<const api::Pod*> pointers;
  pointers.reserve(pods.size());
  for (const api::Pod& each : pods) {
    pointers.push_back(&each);
  }
  const auto slices = slices_for(web(), pointers, {});
  std::vector<std::string> names;
  std::vector<std::size_t> sizes;
  for (const api::EndpointSlice& slice : slices) {
    names.push_back(slice.meta.key.name);
    sizes.push_back(slice.endpoints.size());
  }
  EXPECT_THAT(sizes, ElementsAre(100, 100, 50));
  // Part of what users see: may not change between versions.
  EXPECT_THAT(names,
              ElementsAre("web~ipv4-f541117d-0", "web~ipv4-f541117d-1", "web~ipv4-f541117d-2"));
}

api::Endpoints legacy() {
  api::Endpoints endpoints;
  endpoints.meta.key = {"shop", "web"};
  api::Endpoints::Subset subset;
  subset.addresses = {{ip("198.51.100.1"), "node1"}, {ip("2001:db8::1"), ""}};
  subset.not_ready_addresses = {{ip("198.51.100.2"), ""}};
  subset.ports = {{"http", net::Protocol::kTcp, net::Port{8080}}};
  endpoints.subsets = {subset, subset};
  endpoints.subsets[1].addresses = {{ip("198.51.100.3"), ""}};
  endpoints.subsets[1].not_ready_addresses.clear();
  return endpoints;
}

TEST(MirroredSlices, PerFamilyWithReadiness) {
  const auto slices = mirrored_slices(legacy());
  EXPECT_THAT(summary(slices), ElementsAre("http/8080: 198.51.100.1 198.51.100.2 198.51.100.3",
                                           "http/8080: 2001:db8::1"));
  EXPECT_EQ(flags(slices[0].endpoints[0]), "ready serving ");
  EXPECT_EQ(flags(slices[0].endpoints[1]), "");
}

class Deriver : public testing::Test {
 protected:
  /// `+name` for each slice put, `-name` for each erased.
  std::vector<std::string> changes() {
    SliceDeriver::Changes made = deriver.settle();
    std::vector<api::EndpointSlice> slices;
    for (const auto& slice : made.put) {
      slices.push_back(*slice);
    }
    std::vector<std::string> out = summary(slices);
    for (const api::ObjectKey& key : made.erased) {
      out.push_back("-" + key.name.substr(0, key.name.find('~')));
    }
    return out;
  }
  template <typename T>
  void put(const T& object) {
    deriver.put(std::make_shared<const T>(object));
  }
  SliceDeriver deriver;
};

TEST_F(Deriver, OnlyWhatAPodTouchesChanges) {
  api::Service api_service = web();
  api_service.meta.key.name = "api";
  api_service.selector = {{"app", "api"}};
  api::Service elsewhere = web();
  elsewhere.meta.key.ns = "other";
  put(web());
  put(api_service);
  put(elsewhere);
  put(pod("a", "198.51.100.1"));
  EXPECT_THAT(changes(), ElementsAre("http/8080: 198.51.100.1"));
  put(pod("a", "198.51.100.1"));
  EXPECT_THAT(changes(), IsEmpty());
  put(pod("b", "198.51.100.2"));
  EXPECT_THAT(changes(), ElementsAre("http/8080: 198.51.100.1 198.51.100.2"));

  // Relabelled: it leaves one service and joins the other.
  api::Pod moved = pod("b", "198.51.100.2");
  moved.meta.labels = {{"app", "api"}, {"tier", "back"}};
  put(moved);
  EXPECT_THAT(changes(), ElementsAre("http/8080: 198.51.100.1", "http/8080: 198.51.100.2"));
  deriver.erase_pod({"shop", "b"});
  EXPECT_THAT(changes(), ElementsAre("-api"));
}

TEST_F(Deriver, AllLabelsOfTheSelectorCount) {
  api::Service service = web();
  service.selector = {{"app", "web"}, {"tier", "front"}};
  put(service);
  put(pod("a", "198.51.100.1"));
  EXPECT_THAT(changes(), IsEmpty());
  api::Pod front = pod("a", "198.51.100.1");
  front.meta.labels["tier"] = "front";
  put(front);
  EXPECT_THAT(changes(), ElementsAre("http/8080: 198.51.100.1"));
  service.selector = {{"tier", "back"}};
  put(service);
  EXPECT_THAT(changes(), ElementsAre("-web"));
}

TEST_F(Deriver, ServiceMayComeLastAndGo) {
  put(pod("a", "198.51.100.1"));
  EXPECT_THAT(changes(), IsEmpty());
  put(web());
  EXPECT_THAT(changes(), ElementsAre("http/8080: 198.51.100.1"));
  deriver.erase_service({"shop", "web"});
  EXPECT_THAT(changes(), ElementsAre("-web"));
  put(pod("a", "198.51.100.2"));
  EXPECT_THAT(changes(), IsEmpty());
}

TEST_F(Deriver, EndpointsAreMirroredUnlessThereIsASelector) {
  api::Service service = web();
  service.selector.clear();
  put(legacy());
  EXPECT_THAT(changes(), IsEmpty());
  put(service);
  EXPECT_THAT(changes(), SizeIs(2));
  put(web());
  EXPECT_THAT(changes(), ElementsAre("-web", "-web"));
  put(service);
  EXPECT_THAT(changes(), SizeIs(2));
  api::Endpoints skipped = legacy();
  skipped.meta.labels = {{"endpointslice.kubernetes.io/skip-mirror", "true"}};
  put(skipped);
  EXPECT_THAT(changes(), ElementsAre("-web", "-web"));
  put(legacy());
  EXPECT_THAT(changes(), SizeIs(2));
  deriver.erase_endpoints({"shop", "web"});
  EXPECT_THAT(changes(), ElementsAre("-web", "-web"));
}

TEST_F(Deriver, NodeChangeReachesItsPods) {
  put(web());
  put(pod("a", "198.51.100.1"));
  EXPECT_THAT(changes(), SizeIs(1));
  api::Node node;
  node.meta.key.name = "node1";
  node.meta.labels = {{"topology.kubernetes.io/zone", "east"}};
  put(node);
  EXPECT_THAT(changes(), SizeIs(1));
  put(node);
  EXPECT_THAT(changes(), IsEmpty());
  deriver.erase_node("node1");
  EXPECT_THAT(changes(), SizeIs(1));
}

}  // namespace
}  // namespace fairlead::manifest
