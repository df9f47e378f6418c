// SPDX-License-Identifier: Apache-2.0
// Which field, and what to do about it, for everything that a person can write wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <ostream>
#include <string>

#include "api/decode.h"
#include "api/decode_test_support.h"

namespace fairlead::api {
namespace {

using ::testing::ElementsAre;

struct Case {
  std::string name;
  std::string json;
  std::string want;
};
std::ostream& operator<<(std::ostream& out, const Case& test) { return out << test.name; }
class DecodeErrorText : public ::testing::TestWithParam<Case> {};

TEST_P(DecodeErrorText, Is) {
  EXPECT_THAT(outcomes(GetParam().json), ElementsAre(GetParam().want)) << GetParam().json;
}

std::string name_of(const ::testing::TestParamInfo<Case>& test) { return test.param.name; }

std::string with_metadata(std::string_view kind, std::string_view metadata) {
  return R"({"apiVersion":"v1","kind":")" + std::string(kind) + R"(","metadata":)" +
         std::string(metadata) + R"(,"spec":{"ports":[{"port":80}]}})";
}

INSTANTIATE_TEST_SUITE_P(
    Objects, DecodeErrorText,
    ::testing::Values(
        Case{"not_an_object", "[]", "whole: must be a mapping, is a list"},
        Case{"no_kind", R"({"apiVersion":"v1"})",
             "kind: is missing: write what the object is, such as Service"},
        Case{"kind_is_no_text", R"({"apiVersion":"v1","kind":7})",
             "kind: must be a text, is 7: put it in quotes"},
        Case{"no_version", R"({"kind":"Service"})",
             "Service: apiVersion: is missing: write the kind's version, such as v1"},
        Case{"no_metadata", R"({"kind":"Service","apiVersion":"v1"})",
             "Service: metadata: is missing: give the object at least metadata.name"},
        Case{"no_name", with_metadata("Service", R"({"generateName":"web-"})"),
             "Service: metadata.name: is missing: give the object a name"},
        Case{"name_too_odd", with_metadata("Service", R"({"name":"Web\u0007"})"),
             "Service: metadata.name: must be lower-case letters, digits and '-', at most 63 of "
             "them, is \"Web?\""},
        Case{"service_name_has_no_dots", with_metadata("Service", R"({"name":"a.b"})"),
             "Service: metadata.name: must be lower-case letters, digits and '-', at most 63 of "
             "them, is \"a.b\""},
        Case{"pod_name", with_metadata("Pod", R"({"name":"a..b"})"),
             "Pod: metadata.name: must be lower-case letters, digits, '-' and '.', at most 253 of "
             "them, is \"a..b\""},
        Case{"namespace_path", with_metadata("Service", R"({"name":"web","namespace":"../x"})"),
             "Service web: metadata.namespace: must be lower-case letters, digits and '-', "
             "at most 63 of them, is \"../x\""},
        Case{
            "label_is_no_text",
            with_metadata("Service",
                          R"({"namespace":"shop","name":"web","labels":{"example.com/on":true}})"),
            "Service shop/web: metadata.labels[example.com/on]: must be a text, is true: put it in "
            "quotes"},
        Case{"labels_are_no_mapping", with_metadata("Service", R"({"name":"web","labels":["a"]})"),
             "Service default/web: metadata.labels: must be a mapping, is a list"},
        Case{
            "annotation_of_ours_is_no_text",
            with_metadata("Service", R"({"name":"web","annotations":{"fairlead.io/weights":1}})"),
            "Service default/web: metadata.annotations[fairlead.io/weights]: must be a text, is 1: "
            "put it in quotes"},
        Case{"time", with_metadata("Service", R"({"name":"web","creationTimestamp":"yesterday"})"),
             "Service default/web: metadata.creationTimestamp: must be a time such as "
             "2026-01-02T03:04:05Z, is \"yesterday\""},
        Case{
            "error_before_the_name_is_read",
            R"({"apiVersion":"v1","kind":"Node","spec":{"podCIDRs":[7]},"metadata":{"name":"n1"}})",
            "Node n1: spec.podCIDRs[0]: must be a text, is 7: put it in quotes"},
        Case{"long_text_is_shortened",
             with_metadata("Service", R"({"name":")" + std::string(1000, 'x') + R"("})"),
             "Service: metadata.name: must be lower-case letters, digits and '-', at most 63 of "
             "them, is \"" +
                 std::string(64, 'x') + "...\""}),
    name_of);

Case spec_case(std::string name, std::string_view spec, std::string_view want) {
  return {.name = std::move(name),
          .json = service_json(spec),
          .want = "Service shop/web: spec" + std::string(want)};
}
/// With one port.
Case service_case(std::string name, std::string_view members, std::string_view want) {
  return spec_case(std::move(name), R"({"ports":[{"port":80}],)" + std::string(members) + "}",
                   "." + std::string(want));
}
Case port_case(std::string name, std::string_view ports, std::string_view want) {
  return spec_case(std::move(name), R"({"ports":[)" + std::string(ports) + "]}",
                   ".ports" + std::string(want));
}

INSTANTIATE_TEST_SUITE_P(
    Services, DecodeErrorText,
    ::testing::Values(
        Case{"no_spec",
             R"({"kind":"Service","apiVersion":"v1","metadata":{"namespace":"shop","name":"web"}})",
             "Service shop/web: spec: is missing: a service needs at least one port"},
        spec_case("spec_is_no_mapping", "[]", ": must be a mapping, is a list"),
        spec_case("no_ports", "{}", ".ports: is missing: a service needs at least one port"),
        spec_case("empty_ports", R"({"ports":[]})",
                  ".ports: is missing: a service needs at least one port"),
        spec_case("ports_mapping", R"({"ports":{"port":80}})",
                  ".ports: must be a list, is a mapping"),
        port_case("item", "80", "[0]: must be a mapping, is 80"),
        port_case("null_item", "null", "[0]: must be a mapping, is null"),
        port_case("missing_port", R"({"name":"a"})",
                  "[0].port: is missing: write the port of the service"),
        port_case("port_zero", R"({"port":0})", "[0].port: must be a number from 1 to 65535, is 0"),
        port_case("port_text", R"({"port":"80"})",
                  "[0].port: must be a number from 1 to 65535, is \"80\""),
        port_case("port_fraction", R"({"port":80.5})",
                  "[0].port: must be a number from 1 to 65535, is a number with a fraction"),
        port_case("port_huge", R"({"port":18446744073709551615})",
                  "[0].port: must be a number from 1 to 65535, is 18446744073709551615"),
        port_case("node_port", R"({"name":"a","port":1},{"name":"b","port":2,"nodePort":70000})",
                  "[1].nodePort: must be a number from 0 to 65535, is 70000"),
        port_case("node_port_negative", R"({"port":1,"nodePort":-1})",
                  "[0].nodePort: must be a number from 0 to 65535, is -1"),
        port_case("protocol", R"({"port":80,"protocol":"tcp"})",
                  "[0].protocol: must be TCP, UDP or SCTP, is \"tcp\""),
        port_case("name", R"({"port":80,"name":"HTTP"})",
                  "[0].name: must be lower-case letters, digits and '-', at most 63 of them, is "
                  "\"HTTP\""),
        port_case("target_number_in_quotes", R"({"port":80,"targetPort":"8080"})",
                  "[0].targetPort: is the text \"8080\", which names no port: write the number "
                  "without quotes"),
        port_case("target_range", R"({"port":80,"targetPort":65536})",
                  "[0].targetPort: must be a number from 0 to 65535, is 65536"),
        port_case("target_type", R"({"port":80,"targetPort":[1]})",
                  "[0].targetPort: must be a number from 1 to 65535 or the name of a container "
                  "port, is a list"),
        port_case("unnamed", R"({"port":80,"name":"a"},{"port":81})",
                  "[1].name: is missing: of several ports each needs a name"),
        port_case("same_name", R"({"port":80,"name":"a"},{"port":81,"name":"a"})",
                  "[1].name: must differ from that of ports[0], both are \"a\""),
        port_case(
            "same_port",
            R"({"port":53,"name":"a"},{"port":53,"protocol":"UDP","name":"b"},{"port":53,"protocol":"UDP","name":"c"})",
            "[2].port: must differ from that of ports[1], both are 53 for UDP"),
        port_case(
            "same_node_port",
            R"({"port":1,"nodePort":30000,"name":"a"},{"port":2,"nodePort":30000,"name":"b"})",
            "[1].nodePort: must differ from that of ports[0], both are 30000 for TCP"),
        service_case("type", R"("type":"Nodeport")",
                     "type: must be ClusterIP, NodePort, LoadBalancer or ExternalName, is "
                     "\"Nodeport\""),
        service_case("selector", R"("selector":{"app":5})",
                     "selector.app: must be a text, is 5: put it in quotes"),
        service_case("cluster_ip", R"("clusterIP":"10.96.0")",
                     "clusterIP: must be an IPv4 or IPv6 address or None, is \"10.96.0\""),
        service_case("cluster_ip_with_nul", R"("clusterIP":"::1\u0000x")",
                     "clusterIP: must be an IPv4 or IPv6 address or None, is \"::1?x\""),
        service_case("cluster_ips", R"("clusterIPs":["10.96.0.1","x"])",
                     "clusterIPs[1]: must be an IPv4 or IPv6 address or None, is \"x\""),
        service_case("cluster_ips_same_family", R"("clusterIPs":["10.96.0.1","10.96.0.2"])",
                     "clusterIPs[1]: is one too many: at most one address of each family"),
        service_case("cluster_ips_three", R"("clusterIPs":["10.96.0.1","2001:db8::1","10.96.0.2"])",
                     "clusterIPs[2]: is one too many: at most one address of each family"),
        service_case("cluster_ips_mixed", R"("clusterIPs":["10.96.0.1","None"])",
                     "clusterIPs[1]: must be None alone, or addresses, not both"),
        service_case("cluster_ip_differs", R"("clusterIP":"10.96.0.1","clusterIPs":["10.96.0.2"])",
                     "clusterIP: must equal clusterIPs[0]: remove one of the two"),
        service_case("cluster_ip_none_differs", R"("clusterIP":"None","clusterIPs":["10.96.0.2"])",
                     "clusterIP: must equal clusterIPs[0]: remove one of the two"),
        service_case("families", R"("ipFamilies":["ipv4"])",
                     "ipFamilies[0]: must be IPv4 or IPv6, is \"ipv4\""),
        service_case("families_twice", R"("ipFamilies":["IPv4","IPv4"])",
                     "ipFamilies[1]: must not be named twice"),
        service_case("families_differ", R"("ipFamilies":["IPv6"],"clusterIP":"10.96.0.1")",
                     "ipFamilies[0]: must be IPv4 as is the address 10.96.0.1"),
        service_case("family_policy", R"("ipFamilyPolicy":"Both")",
                     "ipFamilyPolicy: must be SingleStack, PreferDualStack or RequireDualStack, is "
                     "\"Both\""),
        service_case("external_ips", R"("externalIPs":["192.0.2.1","192.0.2.256"])",
                     "externalIPs[1]: must be an IPv4 or IPv6 address, is \"192.0.2.256\""),
        service_case(
            "source_ranges", R"("loadBalancerSourceRanges":["192.0.2.0"])",
            "loadBalancerSourceRanges[0]: must be an address range such as 192.0.2.0/24 or "
            "2001:db8::/32, is \"192.0.2.0\""),
        service_case("affinity", R"("sessionAffinity":"Cookie")",
                     "sessionAffinity: must be None or ClientIP, is \"Cookie\""),
        service_case("affinity_timeout",
                     R"("sessionAffinityConfig":{"clientIP":{"timeoutSeconds":90000}})",
                     "sessionAffinityConfig.clientIP.timeoutSeconds: must be a number from 1 to "
                     "86400, is 90000"),
        service_case("external_policy", R"("externalTrafficPolicy":"local")",
                     "externalTrafficPolicy: must be Cluster or Local, is \"local\""),
        service_case("internal_policy", R"("internalTrafficPolicy":true)",
                     "internalTrafficPolicy: must be a text, is true: put it in quotes"),
        service_case("publish", R"("publishNotReadyAddresses":"yes")",
                     "publishNotReadyAddresses: must be true or false, is \"yes\""),
        service_case("health_port", R"("healthCheckNodePort":65536)",
                     "healthCheckNodePort: must be a number from 0 to 65535, is 65536"),
        Case{"ingress",
             service_json(R"({"ports":[{"port":80}]})",
                          R"(,"status":{"loadBalancer":{"ingress":[{"ip":"x"}]}})"),
             "Service shop/web: status.loadBalancer.ingress[0].ip: must be an IPv4 or IPv6 "
             "address, is \"x\""},
        Case{"ingress_mode",
             service_json(R"({"ports":[{"port":80}]})",
                          R"(,"status":{"loadBalancer":{"ingress":[{"ipMode":"Vip"}]}})"),
             "Service shop/web: status.loadBalancer.ingress[0].ipMode: must be VIP or Proxy, is "
             "\"Vip\""}),
    name_of);

Case slice_case(std::string name, std::string_view members, std::string_view want) {
  return {.name = std::move(name),
          .json = slice_json(members),
          .want = "EndpointSlice shop/web-1: " + std::string(want)};
}
Case pod_case(std::string name, std::string_view spec, std::string_view rest,
              std::string_view want) {
  return {.name = std::move(name),
          .json = pod_json(spec, rest),
          .want = "Pod shop/web-0: " + std::string(want)};
}

INSTANTIATE_TEST_SUITE_P(
    Others, DecodeErrorText,
    ::testing::Values(
        slice_case("no_type", R"("endpoints":[])", "addressType: is missing: write IPv4 or IPv6"),
        slice_case("type", R"("addressType":"IP")",
                   "addressType: must be IPv4, IPv6 or FQDN, is \"IP\""),
        slice_case("address", R"("addressType":"IPv4","endpoints":[{},{"addresses":["web"]}])",
                   "endpoints[1].addresses[0]: must be an IPv4 or IPv6 address, is \"web\""),
        slice_case("addresses_text",
                   R"("addressType":"IPv4","endpoints":[{"addresses":"10.1.0.1"}])",
                   "endpoints[0].addresses: must be a list, is \"10.1.0.1\""),
        slice_case("ready", R"("addressType":"IPv4","endpoints":[{"conditions":{"ready":"True"}}])",
                   "endpoints[0].conditions.ready: must be true or false, is \"True\""),
        slice_case("hints", R"("addressType":"IPv4","endpoints":[{"hints":{"forZones":["za"]}}])",
                   "endpoints[0].hints.forZones[0]: must be a mapping, is \"za\""),
        slice_case("port", R"("addressType":"IPv4","ports":[{"port":65536}])",
                   "ports[0].port: must be a number from 0 to 65535, is 65536"),
        slice_case("same_names", R"("addressType":"IPv4","ports":[{"port":1},{"port":2}])",
                   "ports[1].name: must differ from that of ports[0], both are \"\""),
        pod_case("phase", "{}", R"(,"status":{"phase":"running"})",
                 "status.phase: must be Pending, Running, Succeeded, Failed or Unknown, is "
                 "\"running\""),
        pod_case("pod_ip", "{}", R"(,"status":{"podIPs":[{"ip":"x"}]})",
                 "status.podIPs[0].ip: must be an IPv4 or IPv6 address, is \"x\""),
        pod_case("container_port", R"({"containers":[{"ports":[{"name":"a"}]}]})", "",
                 "spec.containers[0].ports[0].containerPort: is missing: write the port's number"),
        pod_case("host_network", R"({"hostNetwork":"true"})", "",
                 "spec.hostNetwork: must be true or false, is \"true\""),
        Case{
            "endpoints_ip",
            R"({"kind":"Endpoints","apiVersion":"v1","metadata":{"name":"web"},"subsets":[{"addresses":[{}]}]})",
            "Endpoints default/web: subsets[0].addresses[0].ip: is missing: write the endpoint's "
            "address"},
        Case{
            "endpoints_port",
            R"({"kind":"Endpoints","apiVersion":"v1","metadata":{"name":"web"},"subsets":[{"ports":[{}]}]})",
            "Endpoints default/web: subsets[0].ports[0].port: is missing: write the port's number"},
        Case{
            "node_address",
            R"({"kind":"Node","apiVersion":"v1","metadata":{"name":"n1"},"status":{"addresses":[{"type":"InternalIP","address":"n1"}]}})",
            "Node n1: status.addresses[0].address: must be an IPv4 or IPv6 address, is \"n1\""},
        Case{
            "node_cidr",
            R"({"kind":"Node","apiVersion":"v1","metadata":{"name":"n1"},"spec":{"podCIDR":"10.1.0.0"}})",
            "Node n1: spec.podCIDR: must be an address range such as 192.0.2.0/24 or "
            "2001:db8::/32, is \"10.1.0.0\""}),
    name_of);

TEST(DecodeErrors, ManyPortsStayCheap) {
  // Quadratic work would take minutes here.
  std::string ports;
  for (int i = 0; i < 60000; ++i) {
    ports += (i == 0 ? "" : ",") + std::string(R"({"name":"p-)") + std::to_string(i) +
             R"(","port":)" + std::to_string(1 + i) + "}";
  }
  EXPECT_THAT(outcomes(service_json(R"({"ports":[)" + ports + R"(,{"name":"p-9","port":9}]})")),
              ElementsAre("Service shop/web: spec.ports[60000].name: must differ from that of "
                          "ports[9], both are \"p-9\""));
}

TEST(DecodeErrors, NoJson) {
  EXPECT_THAT(outcomes(R"({"a":)"), ElementsAre(::testing::StartsWith("whole: is not JSON: ")));
  EXPECT_THAT(outcomes(""), ElementsAre(::testing::StartsWith("whole: is not JSON: ")));
}

TEST(DecodeErrors, NestingIsBounded) {
  std::string deep;
  for (int i = 0; i < 5000; ++i) {
    deep += R"({"apiVersion":"v1","kind":"List","items":[)";
  }
  ASSERT_EQ(outcomes(deep).size(), 1U);
}

TEST(DecodeErrors, WatchEvents) {
  Decoder decoder;
  const auto error = [&](std::string_view json) {
    const auto event = decoder.decode_watch_event(json);
    return event ? std::string("no error") : event.error().text();
  };
  EXPECT_EQ(error(R"({"object":{}})"), "watch event: type: is missing");
  EXPECT_EQ(error(R"({"type":"ADDED"})"), "watch event: object: is missing");
  EXPECT_EQ(error(R"({"type":"ADDED","object":7})"),
            "watch event: object: must be a mapping, is 7");
  EXPECT_EQ(error(R"({"type":"SYNC","object":{}})"),
            "watch event: type: must be ADDED, MODIFIED, DELETED, BOOKMARK or ERROR, is \"SYNC\"");
  EXPECT_EQ(error(R"({"type":"ADDED","object":)" + service_json("{}") + "}"),
            "Service shop/web: spec.ports: is missing: a service needs at least one port");
  EXPECT_EQ(error(R"({"type":"DELETED","object":{"kind":"Service","apiVersion":"v1"}})"),
            "Service: metadata: is missing: give the object at least metadata.name");
}

}  // namespace
}  // namespace fairlead::api
