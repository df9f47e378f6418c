// SPDX-License-Identifier: Apache-2.0
#include "api/decode.h"

#include <algorithm>
#include <chrono>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <ostream>
#include <string>
#include <vector>

#include "api/decode_test_support.h"

namespace fairlead::api {
namespace {

using net::Family;
using net::Port;
using net::Protocol;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(DecodeService, EveryField) {
  const auto service = decode_one<Service>(R"({
    "apiVersion": "v1", "kind": "Service",
    "metadata": {
      "name": "web", "namespace": "shop", "uid": "u-1", "resourceVersion": "42", "generation": 7,
      "creationTimestamp": "2026-01-02T03:04:05Z", "deletionTimestamp": "2026-01-02T04:04:05Z",
      "labels": {"b": "2", "a": "1"},
      "annotations": {"fairlead.io/scheduler": "wrr", "kube-router.io/service.dsr": "tunnel",
                      "kubectl.kubernetes.io/last-applied-configuration": "{}"},
      "managedFields": [{"manager": "x"}], "ownerReferences": []
    },
    "spec": {
      "type": "LoadBalancer",
      "ports": [
        {"name": "http", "protocol": "TCP", "port": 80, "targetPort": "web", "nodePort": 30080,
         "appProtocol": "h2c"},
        {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 5353}
      ],
      "selector": {"app": "web"},
      "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "2001:db8::a"],
      "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
      "externalIPs": ["192.0.2.7"],
      "loadBalancerSourceRanges": [" 198.51.100.0/24 ", "2001:db8:1::/48"],
      "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
      "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local",
      "publishNotReadyAddresses": true, "allocateLoadBalancerNodePorts": false,
      "healthCheckNodePort": 32000, "trafficDistribution": "PreferClose"
    },
    "status": {"loadBalancer": {"ingress": [
      {"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "VIP"},
      {"ip": "203.0.113.3", "ipMode": "Proxy"}, {"hostname": "lb.example"}, {"ip": ""}
    ]}}
  })");
  Service want;
  want.meta.key = {.ns = "shop", .name = "web"};
  want.meta.uid = "u-1";
  want.meta.creation_time = 1767323045;
  want.meta.deleting = true;
  want.meta.labels = {{"a", "1"}, {"b", "2"}};
  want.meta.annotations = {{"fairlead.io/scheduler", "wrr"},
                           {"kube-router.io/service.dsr", "tunnel"}};
  want.type = ServiceType::kLoadBalancer;
  want.ports = {{.name = "http",
                 .protocol = Protocol::kTcp,
                 .port = Port{80},
                 .target_port = std::string("web"),
                 .node_port = Port{30080}},
                {.name = "dns",
                 .protocol = Protocol::kUdp,
                 .port = Port{53},
                 .target_port = Port{5353},
                 .node_port = Port{0}}};
  want.selector = {{"app", "web"}};
  want.cluster_ips = {ip("10.96.0.10"), ip("2001:db8::a")};
  want.ip_families = {Family::kIpv4, Family::kIpv6};
  want.family_policy = Service::FamilyPolicy::kRequireDualStack;
  want.external_ips = {ip("192.0.2.7")};
  want.load_balancer_ips = {ip("203.0.113.1"), ip("203.0.113.2")};
  want.source_ranges = {prefix("198.51.100.0/24"), prefix("2001:db8:1::/48")};
  want.client_ip_affinity = std::chrono::seconds(60);
  want.external_policy_local = true;
  want.internal_policy_local = true;
  want.publish_not_ready_addresses = true;
  want.allocate_node_ports = false;
  want.health_check_node_port = Port{32000};
  EXPECT_EQ(service, want);
}

TEST(DecodeService, Defaults) {
  const auto service =
      decode_one<Service>(R"({"kind":"Service","apiVersion":"v1","metadata":{"name":"web"},
                             "spec":{"ports":[{"port":80}]}})");
  Service want;
  want.meta.key = {.ns = "default", .name = "web"};
  want.ports = {{.name = "",
                 .protocol = Protocol::kTcp,
                 .port = Port{80},
                 .target_port = Port{80},
                 .node_port = Port{0}}};
  EXPECT_EQ(service, want);
  EXPECT_TRUE(want.allocate_node_ports);
}

TEST(DecodeService, NullAndEmptyCountAsAbsent) {
  const auto service = decode_one<Service>(service_json(
      R"({"ports":[{"name":"a","protocol":"","port":80,"targetPort":"","nodePort":null},
                   {"name":"b","protocol":null,"port":81,"targetPort":0}],
          "type":"","selector":null,"clusterIP":"","clusterIPs":null,"externalIPs":null,
          "sessionAffinity":"","sessionAffinityConfig":null,"externalTrafficPolicy":"",
          "allocateLoadBalancerNodePorts":null})",
      R"(,"status":null)"));
  Service want;
  want.meta.key = {.ns = "shop", .name = "web"};
  want.ports = {{.name = "a",
                 .protocol = Protocol::kTcp,
                 .port = Port{80},
                 .target_port = Port{80},
                 .node_port = Port{0}},
                {.name = "b",
                 .protocol = Protocol::kTcp,
                 .port = Port{81},
                 .target_port = Port{81},
                 .node_port = Port{0}}};
  EXPECT_EQ(service, want);
}

struct ClusterIpCase {
  std::string name;
  std::string spec;
  std::vector<std::string> ips;
  bool headless = false;
};
std::ostream& operator<<(std::ostream& out, const ClusterIpCase& test) { return out << test.name; }
class DecodeClusterIp : public ::testing::TestWithParam<ClusterIpCase> {};

TEST_P(DecodeClusterIp, Is) {
  const auto service =
      decode_one<Service>(service_json(R"({"ports":[{"port":80}])" + GetParam().spec + "}"));
  std::vector<std::string> texts(service.cluster_ips.size());
  std::ranges::transform(service.cluster_ips, texts.begin(), &net::IpAddress::text);
  EXPECT_EQ(texts, GetParam().ips);
  EXPECT_EQ(service.headless, GetParam().headless);
}

INSTANTIATE_TEST_SUITE_P(
    Table, DecodeClusterIp,
    ::testing::Values(
        ClusterIpCase{.name = "absent", .spec = "", .ips = {}},
        ClusterIpCase{.name = "old_servers_have_one",
                      .spec = R"(,"clusterIP":"10.96.0.1")",
                      .ips = {"10.96.0.1"}},
        ClusterIpCase{.name = "list_alone",
                      .spec = R"(,"clusterIPs":["2001:db8::1","10.96.0.1"])",
                      .ips = {"2001:db8::1", "10.96.0.1"}},
        ClusterIpCase{.name = "both",
                      .spec = R"(,"clusterIP":"10.96.0.1","clusterIPs":["10.96.0.1"])",
                      .ips = {"10.96.0.1"}},
        ClusterIpCase{
            .name = "headless", .spec = R"(,"clusterIP":"None")", .ips = {}, .headless = true},
        ClusterIpCase{.name = "headless_both",
                      .spec = R"(,"clusterIP":"None","clusterIPs":["None"])",
                      .ips = {},
                      .headless = true},
        ClusterIpCase{.name = "headless_list",
                      .spec = R"(,"clusterIPs":["None"])",
                      .ips = {},
                      .headless = true},
        ClusterIpCase{.name = "not_allocated", .spec = R"(,"clusterIP":"")", .ips = {}},
        ClusterIpCase{.name = "leading_zeros",
                      .spec = R"(,"clusterIP":"010.096.000.001")",
                      .ips = {"10.96.0.1"}}),
    [](const auto& test) { return test.param.name; });

// Found by the fuzzer: three cluster IPs from two lists.
TEST(DecodeService, OfARepeatedKeyTheLastHolds) {
  const auto service = decode_one<Service>(service_json(
      R"({"ports":[{"port":1}],"clusterIPs":["10.96.0.1","2001:db8::1"],"selector":{"a":"1"},
          "clusterIPs":["2001:db8::2"],"ports":[{"port":2}],"selector":{"b":"2"}})"));
  EXPECT_THAT(service.cluster_ips, ElementsAre(ip("2001:db8::2")));
  EXPECT_EQ(service.ports.size(), 1U);
  EXPECT_EQ(service.selector, (Labels{{"b", "2"}}));
}

TEST(DecodeService, NeedsNoPortsIfNobodyConnectsToItsAddress) {
  EXPECT_TRUE(decode_one<Service>(service_json(R"({"clusterIP":"None"})")).ports.empty());
  const auto external =
      decode_one<Service>(service_json(R"({"type":"ExternalName","externalName":"a.example"})"));
  EXPECT_EQ(external.type, ServiceType::kExternalName);
}

TEST(DecodeService, AffinityDefault) {
  const auto affinity = [](const std::string& members) {
    return decode_one<Service>(service_json(R"({"ports":[{"port":80}])" + members + "}"))
        .client_ip_affinity;
  };
  EXPECT_EQ(affinity(""), std::nullopt);
  EXPECT_EQ(affinity(R"(,"sessionAffinity":"None")"), std::nullopt);
  EXPECT_EQ(affinity(R"(,"sessionAffinity":"ClientIP")"), std::chrono::seconds(10800));
  EXPECT_EQ(affinity(R"(,"sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{}})"),
            std::chrono::seconds(10800));
  EXPECT_EQ(affinity(R"(,"sessionAffinityConfig":{"clientIP":{"timeoutSeconds":5}})"), std::nullopt)
      << "a timeout alone is no affinity";
}

TEST(DecodeSlice, EveryField) {
  const auto slice = decode_one<EndpointSlice>(slice_json(R"(
    "addressType": "IPv4",
    "ports": [{"name": "http", "protocol": "TCP", "port": 8080, "appProtocol": "http"},
              {"name": "dns", "protocol": "UDP", "port": 5353}],
    "endpoints": [{
      "addresses": ["10.1.0.1", "10.1.0.2"], "hostname": "web-0", "nodeName": "n1", "zone": "za",
      "conditions": {"ready": false, "serving": false, "terminating": true},
      "targetRef": {"kind": "Pod", "name": "web-0"},
      "deprecatedTopology": {"kubernetes.io/hostname": "other"},
      "hints": {"forZones": [{"name": "za"}, {"name": "zb"}], "forNodes": [{"name": "n1"}]}
    }])"));
  EndpointSlice want;
  want.meta.key = {.ns = "shop", .name = "web-1"};
  want.service_name = "web";
  want.ports = {{.name = "http", .protocol = Protocol::kTcp, .port = Port{8080}},
                {.name = "dns", .protocol = Protocol::kUdp, .port = Port{5353}}};
  want.endpoints = {{.address = ip("10.1.0.1"),
                     .node_name = "n1",
                     .zone = "za",
                     .zone_hints = {"za", "zb"},
                     .node_hints = {"n1"},
                     .ready = false,
                     .serving = false,
                     .terminating = true}};
  EXPECT_EQ(slice, want);
  EXPECT_EQ(slice.service().text(), "shop/web");
}

TEST(DecodeSlice, Defaults) {
  const auto slice = decode_one<EndpointSlice>(slice_json(
      R"("addressType":"IPv6","ports":[{"port":80}],"endpoints":[{"addresses":["2001:db8::1"]}])"));
  EXPECT_EQ(slice.family, Family::kIpv6);
  EXPECT_THAT(slice.ports,
              ElementsAre(EndpointPort{.name = "", .protocol = Protocol::kTcp, .port = Port{80}}));
  ASSERT_EQ(slice.endpoints.size(), 1U);
  EXPECT_TRUE(slice.endpoints[0].ready);
  EXPECT_TRUE(slice.endpoints[0].serving);
  EXPECT_FALSE(slice.endpoints[0].terminating);
}

TEST(DecodeSlice, V1beta1HasNodeAndZoneInItsTopology) {
  const std::string members = R"("addressType":"IPv4","endpoints":[
    {"addresses":["10.1.0.1"],"topology":{"kubernetes.io/hostname":"n1","topology.kubernetes.io/zone":"za","x":"y"}},
    {"addresses":["10.1.0.2"],"nodeName":"n2","topology":{"kubernetes.io/hostname":"old"}}])";
  const auto slice = decode_one<EndpointSlice>(slice_json(members, "discovery.k8s.io/v1beta1"));
  ASSERT_EQ(slice.endpoints.size(), 2U);
  EXPECT_EQ(slice.endpoints[0].node_name, "n1");
  EXPECT_EQ(slice.endpoints[0].zone, "za");
  EXPECT_EQ(slice.endpoints[1].node_name, "n2");
  EXPECT_EQ(decode_one<EndpointSlice>(slice_json(members)).endpoints[0].node_name, "")
      << "v1 has no such member";
}

struct LeftOutCase {
  std::string name;
  std::string members;
  std::size_t ports = 0;
  std::size_t endpoints = 0;
};
std::ostream& operator<<(std::ostream& out, const LeftOutCase& test) { return out << test.name; }
class DecodeSliceLeavesOut : public ::testing::TestWithParam<LeftOutCase> {};

TEST_P(DecodeSliceLeavesOut, Is) {
  const auto slice = decode_one<EndpointSlice>(slice_json(GetParam().members));
  EXPECT_EQ(slice.ports.size(), GetParam().ports);
  EXPECT_EQ(slice.endpoints.size(), GetParam().endpoints);
}

INSTANTIATE_TEST_SUITE_P(
    Table, DecodeSliceLeavesOut,
    ::testing::Values(
        LeftOutCase{
            .name = "ports_without_number",
            .members = R"("addressType":"IPv4","ports":[{"name":"a"},{"name":"b","port":null},
                                  {"name":"c","port":0},{"name":"d","port":1}])",
            .ports = 1},
        LeftOutCase{.name = "other_family",
                    .members = R"("addressType":"IPv4","endpoints":[{"addresses":["2001:db8::1"]},
                                  {"addresses":["10.1.0.1"]}])",
                    .endpoints = 1},
        LeftOutCase{.name = "endpoints_without_address",
                    .members = R"("addressType":"IPv6","endpoints":[{"addresses":[]},
                                  {"conditions":{}},{"addresses":["2001:db8::1"]}])",
                    .endpoints = 1},
        LeftOutCase{.name = "fqdn", .members = R"("addressType":"FQDN","ports":[{"port":80}],
                                  "endpoints":[{"addresses":["a.example"]}])"},
        LeftOutCase{.name = "null_lists",
                    .members = R"("addressType":"IPv4","ports":null,"endpoints":null)"}),
    [](const auto& test) { return test.param.name; });

TEST(DecodeNode, EveryField) {
  const auto node = decode_one<Node>(R"({"apiVersion":"v1","kind":"Node",
    "metadata":{"name":"n1.example","namespace":"","labels":{"topology.kubernetes.io/zone":"za"}},
    "spec":{"podCIDR":"10.1.0.0/24","podCIDRs":["10.1.0.0/24","2001:db8:1::/64"],
            "taints":[{"key":"x"},{"key":"ToBeDeletedByClusterAutoscaler","effect":"NoSchedule"}]},
    "status":{"addresses":[{"type":"Hostname","address":"n1"},
      {"type":"InternalIP","address":"192.0.2.1"},{"type":"InternalIP","address":"2001:db8::1"},
      {"type":"ExternalIP","address":"198.51.100.1"}]}})");
  Node want;
  want.meta.key.name = "n1.example";
  want.meta.labels = {{"topology.kubernetes.io/zone", "za"}};
  want.internal_ips = {ip("192.0.2.1"), ip("2001:db8::1")};
  want.external_ips = {ip("198.51.100.1")};
  want.pod_cidrs = {prefix("10.1.0.0/24"), prefix("2001:db8:1::/64")};
  want.leaving = true;
  EXPECT_EQ(node, want);
  EXPECT_EQ(node.meta.key.text(), "n1.example");
}

TEST(DecodeNode, OnlyTheOldPodCidr) {
  EXPECT_THAT(decode_one<Node>(R"({"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"},
                                   "spec":{"podCIDR":"10.1.0.0/24"}})")
                  .pod_cidrs,
              ElementsAre(prefix("10.1.0.0/24")));
}

TEST(DecodePod, EveryField) {
  const auto pod = decode_one<Pod>(pod_json(R"({
    "nodeName": "n1", "hostNetwork": true,
    "initContainers": [
      {"name": "once", "ports": [{"name": "no", "containerPort": 1}]},
      {"name": "sidecar", "restartPolicy": "Always", "ports": [{"name": "admin", "containerPort": 15000}]}],
    "containers": [
      {"name": "web", "ports": [{"name": "http", "containerPort": 8080},
                                {"name": "dns", "containerPort": 53, "protocol": "UDP"}]},
      {"name": "plain"}]})",
                                            R"(,"status":{"phase":"Running","podIP":"10.1.0.1",
    "podIPs":[{"ip":"10.1.0.1"},{"ip":"2001:db8::1"}],"hostIP":"192.0.2.1",
    "conditions":[{"type":"Initialized","status":"False"},{"type":"Ready","status":"True"}]})"));
  Pod want;
  want.meta.key = {.ns = "shop", .name = "web-0"};
  want.node_name = "n1";
  want.ips = {ip("10.1.0.1"), ip("2001:db8::1")};
  want.ports = {{.name = "http", .protocol = Protocol::kTcp, .port = Port{8080}},
                {.name = "dns", .protocol = Protocol::kUdp, .port = Port{53}},
                {.name = "admin", .protocol = Protocol::kTcp, .port = Port{15000}}};
  want.host_network = true;
  want.ready = true;
  EXPECT_EQ(pod, want);
}

struct PodStatusCase {
  std::string name;
  std::string status;
  bool ready = false;
  bool finished = false;
  std::size_t ips = 0;
};
std::ostream& operator<<(std::ostream& out, const PodStatusCase& test) { return out << test.name; }
class DecodePodStatus : public ::testing::TestWithParam<PodStatusCase> {};

TEST_P(DecodePodStatus, Is) {
  const auto pod =
      decode_one<Pod>(pod_json(R"({"hostNetwork":true})", R"(,"status":)" + GetParam().status));
  EXPECT_EQ(pod.ready, GetParam().ready);
  EXPECT_EQ(pod.finished, GetParam().finished);
  EXPECT_EQ(pod.ips.size(), GetParam().ips);
}

INSTANTIATE_TEST_SUITE_P(
    Table, DecodePodStatus,
    ::testing::Values(
        PodStatusCase{.name = "absent", .status = "null", .ready = true},
        PodStatusCase{
            .name = "by_hand", .status = R"({"podIP":"10.1.0.1"})", .ready = true, .ips = 1},
        PodStatusCase{.name = "by_hand_running", .status = R"({"phase":"Running"})", .ready = true},
        PodStatusCase{.name = "pending", .status = R"({"phase":"Pending"})"},
        PodStatusCase{.name = "finished", .status = R"({"phase":"Failed"})", .finished = true},
        PodStatusCase{
            .name = "succeeded_but_ready",
            .status = R"({"phase":"Succeeded","conditions":[{"type":"Ready","status":"True"}]})",
            .ready = true,
            .finished = true},
        PodStatusCase{
            .name = "not_ready",
            .status = R"({"phase":"Running","conditions":[{"type":"Ready","status":"False"}]})"},
        PodStatusCase{.name = "ready_unknown",
                      .status = R"({"conditions":[{"type":"Ready","status":"Unknown"}]})"},
        PodStatusCase{.name = "other_conditions_only",
                      .status = R"({"conditions":[{"type":"PodScheduled","status":"True"}]})"},
        PodStatusCase{.name = "host_ip_of_host_network",
                      .status = R"({"hostIP":"192.0.2.1","podIP":""})",
                      .ready = true,
                      .ips = 1}),
    [](const auto& test) { return test.param.name; });

TEST(DecodeEndpoints, EveryField) {
  const auto endpoints = decode_one<Endpoints>(R"({"apiVersion":"v1","kind":"Endpoints",
    "metadata":{"namespace":"shop","name":"web"},
    "subsets":[{"addresses":[{"ip":"10.1.0.1","nodeName":"n1","targetRef":{}},{"ip":"2001:db8::1"}],
                "notReadyAddresses":[{"ip":"10.1.0.2"}],
                "ports":[{"name":"http","port":8080},{"name":"dns","port":53,"protocol":"UDP"}]},
               {"addresses":null}]})");
  Endpoints want;
  want.meta.key = {.ns = "shop", .name = "web"};
  want.subsets = {{.addresses = {{.ip = ip("10.1.0.1"), .node_name = "n1"},
                                 {.ip = ip("2001:db8::1"), .node_name = ""}},
                   .not_ready_addresses = {{.ip = ip("10.1.0.2"), .node_name = ""}},
                   .ports = {{.name = "http", .protocol = Protocol::kTcp, .port = Port{8080}},
                             {.name = "dns", .protocol = Protocol::kUdp, .port = Port{53}}}},
                  {}};
  EXPECT_EQ(endpoints, want);
}

TEST(DecodeKinds, OthersAreUnsupported) {
  EXPECT_THAT(outcomes(R"({"apiVersion":"apps/v1","kind":"Deployment","spec":7})"),
              ElementsAre("unsupported apps/v1 Deployment"));
  EXPECT_THAT(outcomes(R"({"apiVersion":"serving.knative.dev/v1","kind":"Service"})"),
              ElementsAre("unsupported serving.knative.dev/v1 Service"));
  EXPECT_THAT(outcomes(R"({"apiVersion":"discovery.k8s.io/v1alpha1","kind":"EndpointSlice"})"),
              ElementsAre("unsupported discovery.k8s.io/v1alpha1 EndpointSlice"));
  EXPECT_THAT(outcomes(R"({"apiVersion":"example.com/v1","kind":"AllowList","spec":{}})"),
              ElementsAre("unsupported example.com/v1 AllowList"));
}

TEST(DecodeLists, EveryItemOnItsOwn) {
  const std::string list = R"({"apiVersion":"v1","kind":"List","items":[)" +
                           service_json(R"({"ports":[{"port":80}]})") + "," +
                           service_json(R"({"ports":[{"port":0}]})") + "," +
                           R"({"apiVersion":"v1","kind":"ConfigMap"},)" + R"({"kind":"Service"},)" +
                           R"({"apiVersion":"v1","kind":"List","items":[)" +
                           slice_json(R"("addressType":"IPv4")") + "]}," + "7]}";
  EXPECT_THAT(
      outcomes(list),
      ElementsAre(
          "shop/web",
          "Service shop/web: items[1].spec.ports[0].port: must be a number from 1 to 65535, is 0",
          "unsupported v1 ConfigMap",
          "Service: items[3].apiVersion: is missing: write the kind's version, such as v1",
          "shop/web-1", "items[5]: must be a mapping, is 7"));
}

TEST(DecodeLists, ItemsTakeTheListsKind) {
  EXPECT_THAT(outcomes(R"({"kind":"ServiceList","apiVersion":"v1","metadata":{},"items":[
                {"metadata":{"name":"a"},"spec":{"ports":[{"port":1}]}},
                {"kind":"Node","metadata":{"name":"b"}}]})"),
              ElementsAre("default/a", "b"));
  EXPECT_THAT(outcomes(R"({"kind":"EndpointSliceList","apiVersion":"discovery.k8s.io/v1beta1",
                "items":[{"metadata":{"name":"a"},"addressType":"IPv4"}]})"),
              ElementsAre("default/a"));
  EXPECT_THAT(outcomes(R"({"kind":"ConfigMapList","apiVersion":"v1","items":[{}]})"),
              ElementsAre("unsupported v1 ConfigMap"));
  EXPECT_THAT(outcomes(R"({"kind":"ServiceList","apiVersion":"v1","items":null})"), IsEmpty());
}

TEST(DecodeListPage, GivesTheMarks) {
  Decoder decoder;
  std::vector<std::string> versions;
  const auto collect = [&](tl::expected<Decoded, DecodeError> decoded) {
    versions.push_back(decoded ? decoded->resource_version : decoded.error().text());
  };
  const auto page = decoder.decode_list(R"({"kind":"ServiceList","apiVersion":"v1",
    "metadata":{"resourceVersion":"77","continue":"token","remainingItemCount":3},
    "items":[{"metadata":{"name":"a","resourceVersion":"5"},"spec":{"ports":[{"port":1}]}},
             {"metadata":{"name":"b"},"spec":{}}]})",
                                        collect);
  ASSERT_TRUE(page.has_value()) << page.error().text();
  EXPECT_EQ(page->resource_version, "77");
  EXPECT_EQ(page->continue_token, "token");
  EXPECT_THAT(versions, ElementsAre("5",
                                    "Service default/b: items[1].spec.ports: is missing: a service "
                                    "needs at least one port"));

  const auto last = decoder.decode_list(
      R"({"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"78"},"items":[]})",
      collect);
  ASSERT_TRUE(last.has_value());
  EXPECT_EQ(last->resource_version, "78");
  EXPECT_EQ(last->continue_token, "");
}

TEST(DecodeListPage, WhatIsNoList) {
  Decoder decoder;
  const auto never = [](const tl::expected<Decoded, DecodeError>&) { ADD_FAILURE(); };
  const auto error = [&](std::string_view json) {
    const auto page = decoder.decode_list(json, never);
    return page ? std::string("no error") : page.error().text();
  };
  EXPECT_EQ(error(R"({"kind":"Status","apiVersion":"v1","code":403})"),
            "Status: kind: must be a list, is \"Status\"");
  EXPECT_EQ(error("[]"), "must be a mapping, is a list");
  EXPECT_THAT(error("<html>"), ::testing::StartsWith("is not JSON: "));
  EXPECT_EQ(error(R"({"kind":"ServiceList","apiVersion":"v1","items":{}})"),
            "ServiceList: items: must be a list, is a mapping");
  EXPECT_EQ(
      error(R"({"kind":"ServiceList","apiVersion":"v1","metadata":{"continue":5},"items":[{}]})"),
      "ServiceList: metadata.continue: must be a text, is 5: put it in quotes");
}

std::string event_json(std::string_view type, std::string_view object) {
  return R"({"type":")" + std::string(type) + R"(","object":)" + std::string(object) + "}\n";
}

TEST(DecodeWatchEvent, Changes) {
  using Type = WatchEvent::Type;
  Decoder decoder;
  const std::string service = R"({"kind":"Service","apiVersion":"v1",
    "metadata":{"name":"web","namespace":"shop","resourceVersion":"9"},"spec":{"ports":[{"port":80}]}})";
  for (const auto& [text, type] :
       {std::pair("ADDED", Type::kAdded), std::pair("MODIFIED", Type::kModified)}) {
    const auto event = decoder.decode_watch_event(event_json(text, service));
    ASSERT_TRUE(event.has_value()) << event.error().text();
    EXPECT_EQ(event->type, type);
    EXPECT_EQ(event->resource_version, "9");
    EXPECT_EQ(std::get<Service>(event->decoded.value().object).ports.size(), 1U);
  }
}

TEST(DecodeWatchEvent, DeletedObjectsNeedNotBeRight) {
  Decoder decoder;
  const auto event = decoder.decode_watch_event(event_json(
      "DELETED", slice_json(R"("addressType":"IPv7","endpoints":[{"addresses":["nonsense"]}])")));
  ASSERT_TRUE(event.has_value()) << event.error().text();
  EXPECT_EQ(event->type, WatchEvent::Type::kDeleted);
  const auto& slice = std::get<EndpointSlice>(event->decoded.value().object);
  EXPECT_EQ(slice.meta.key.text(), "shop/web-1");
  EXPECT_EQ(slice.service().text(), "shop/web");
}

TEST(DecodeWatchEvent, BookmarkErrorAndOthers) {
  Decoder decoder;
  const auto bookmark = decoder.decode_watch_event(event_json(
      "BOOKMARK",
      R"({"kind":"Service","apiVersion":"v1","metadata":{"resourceVersion":"1234","creationTimestamp":null},"spec":{},"status":{}})"));
  ASSERT_TRUE(bookmark.has_value());
  EXPECT_EQ(bookmark->type, WatchEvent::Type::kBookmark);
  EXPECT_EQ(bookmark->resource_version, "1234");
  EXPECT_FALSE(bookmark->decoded.has_value());

  const auto gone = decoder.decode_watch_event(event_json(
      "ERROR",
      R"({"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old","reason":"Expired","code":410})"));
  ASSERT_TRUE(gone.has_value());
  EXPECT_EQ(gone->type, WatchEvent::Type::kError);
  EXPECT_EQ(gone->status_code, 410);
  EXPECT_EQ(gone->status_message, "too old");

  const auto odd = decoder.decode_watch_event(event_json("ERROR", R"({"reason":"Gone"})"));
  ASSERT_TRUE(odd.has_value());
  EXPECT_EQ(odd->status_code, 0);
  EXPECT_EQ(odd->status_message, "Gone");

  const auto other = decoder.decode_watch_event(event_json(
      "ADDED", R"({"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"8"}})"));
  ASSERT_TRUE(other.has_value());
  EXPECT_TRUE(std::holds_alternative<Unsupported>(other->decoded.value().object));
  EXPECT_EQ(other->resource_version, "8");
}

TEST(Decoder, BuffersShrinkAfterALargeTextAndValuesStay) {
  Decoder decoder;
  std::string large = R"({"kind":"ServiceList","apiVersion":"v1","items":[)";
  for (int i = 0; i < 5000; ++i) {
    large += std::string(i == 0 ? "" : ",") + R"({"metadata":{"name":"s-)" + std::to_string(i) +
             R"("},"spec":{"ports":[{"port":80}]}})";
  }
  large += "]}";
  std::vector<Service> services;
  const auto keep = [&](tl::expected<Decoded, DecodeError> decoded) {
    services.push_back(std::get<Service>(std::move(decoded->object)));
  };
  ASSERT_TRUE(decoder.decode(large, keep).has_value());
  ASSERT_TRUE(decoder.decode(service_json(R"({"ports":[{"port":80}]})"), keep).has_value());
  ASSERT_EQ(services.size(), 5001U);
  EXPECT_EQ(services[4999].meta.key.name, "s-4999");
  EXPECT_EQ(services[5000].meta.key.name, "web");
  Decoder moved = std::move(decoder);
  EXPECT_TRUE(moved.decode(service_json(R"({"ports":[{"port":80}]})"), keep).has_value());
}

}  // namespace
}  // namespace fairlead::api
