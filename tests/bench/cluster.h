// SPDX-License-Identifier: Apache-2.0
// A made-up cluster of a given size, as API JSON and as objects.
#pragma once

#include <cstddef>
#include <string>

#include "api/objects.h"

namespace fairlead::bench {

inline std::string dotted(unsigned a, unsigned b, std::size_t n) {
  return std::to_string(a) + "." + std::to_string(b) + "." + std::to_string(n / 250) + "." +
         std::to_string(1 + (n % 250));
}
// Documentation-like ranges are too small for 100,000 endpoints; 198.18.0.0/15 is for benchmarks.
inline std::string service_address(std::size_t service) { return dotted(10, 96, service); }
inline std::string endpoint_address(std::size_t n) {
  return dotted(198, 18 + static_cast<unsigned>((n / 60000) % 2), n % 60000);
}
inline std::string service_name(std::size_t service) {
  return "service-" + std::to_string(service);
}

inline std::string service_json(std::size_t service) {
  return R"({"apiVersion":"v1","kind":"Service","metadata":{"name":")" + service_name(service) +
         R"(","namespace":"bench","uid":"6ff1b1d6-5f0c-4a2e-9b0a-000000000000","resourceVersion":")" +
         std::to_string(1000 + service) +
         R"(","creationTimestamp":"2026-01-01T00:00:00Z","labels":{"app":"bench"}},"spec":{"type":"ClusterIP","clusterIP":")" +
         service_address(service) + R"(","clusterIPs":[")" + service_address(service) +
         R"("],"ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","selector":{"app":"bench"},"sessionAffinity":"None","internalTrafficPolicy":"Cluster","ports":[{"name":"http","protocol":"TCP","port":80,"targetPort":8080}]},"status":{"loadBalancer":{}}})";
}

inline std::string slice_json(std::size_t service, std::size_t endpoints) {
  std::string text =
      R"({"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":")" +
      service_name(service) +
      R"(-abcde","namespace":"bench","uid":"6ff1b1d6-5f0c-4a2e-9b0a-000000000001","resourceVersion":"1","creationTimestamp":"2026-01-01T00:00:00Z","labels":{"kubernetes.io/service-name":")" +
      service_name(service) +
      R"("}},"addressType":"IPv4","ports":[{"name":"http","protocol":"TCP","port":8080}],"endpoints":[)";
  for (std::size_t i = 0; i < endpoints; ++i) {
    text += i == 0 ? "" : ",";
    text +=
        R"({"addresses":[")" + endpoint_address((service * 10) + i) +
        R"("],"conditions":{"ready":true,"serving":true,"terminating":false},"nodeName":"node-)" +
        std::to_string(i % 5) +
        R"(","targetRef":{"kind":"Pod","namespace":"bench","name":"pod","uid":"6ff1b1d6-5f0c-4a2e-9b0a-000000000002"},"zone":"zone-a"})";
  }
  return text + "]}";
}

/// One page of a list, as the API server sends it.
inline std::string page(const std::string& kind, const std::string& items) {
  return R"({"kind":")" + kind +
         R"(","apiVersion":"v1","metadata":{"resourceVersion":"5000"},"items":[)" + items + "]}";
}

inline api::Service make_service(std::size_t service) {
  api::Service made;
  made.meta.key = {"bench", service_name(service)};
  made.meta.creation_time = 1;
  made.cluster_ips = {*net::IpAddress::parse(service_address(service))};
  api::ServicePort port;
  port.name = "http";
  port.port = net::Port{80};
  port.target_port = net::Port{8080};
  made.ports.push_back(port);
  return made;
}

inline api::EndpointSlice make_slice(std::size_t service, std::size_t endpoints) {
  api::EndpointSlice made;
  made.meta.key = {"bench", service_name(service) + "-abcde"};
  made.service_name = service_name(service);
  api::EndpointPort port;
  port.name = "http";
  port.port = net::Port{8080};
  made.ports.push_back(port);
  for (std::size_t i = 0; i < endpoints; ++i) {
    api::Endpoint endpoint;
    endpoint.address = *net::IpAddress::parse(endpoint_address((service * 10) + i));
    endpoint.node_name = "node-" + std::to_string(i % 5);
    made.endpoints.push_back(endpoint);
  }
  return made;
}

}  // namespace fairlead::bench
