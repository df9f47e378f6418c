// SPDX-License-Identifier: Apache-2.0
// Short ways to write API objects in tests.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/objects.h"
#include "base/text.h"
#include "model/node.h"
#include "net/address.h"

namespace fairlead::test {

inline net::IpAddress ip(std::string_view text) { return net::IpAddress::parse(text).value(); }

inline std::vector<net::IpAddress> ips(std::initializer_list<const char*> texts) {
  std::vector<net::IpAddress> out;
  out.reserve(texts.size());
  for (const char* text : texts) {
    out.push_back(ip(text));
  }
  return out;
}

inline std::vector<net::IpPrefix> cidrs(std::initializer_list<const char*> texts) {
  std::vector<net::IpPrefix> out;
  out.reserve(texts.size());
  for (const char* text : texts) {
    out.push_back(net::IpPrefix::parse(text).value());
  }
  return out;
}

/// From `ns/name`, or a plain name.
inline api::ObjectKey key(std::string_view text) {
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) {
    return {"", std::string(text)};
  }
  return {std::string(text.substr(0, slash)), std::string(text.substr(slash + 1))};
}

inline net::Port port(int number) { return net::Port{static_cast<std::uint16_t>(number)}; }

/// service("shop/web").cluster("10.96.0.1").tcp("http", 80)
class ServiceBuilder {
 public:
  explicit ServiceBuilder(std::string_view name) { service_.meta.key = key(name); }

  ServiceBuilder& cluster(std::string_view address) {
    service_.cluster_ips.push_back(ip(address));
    return *this;
  }
  ServiceBuilder& external(std::initializer_list<const char*> addresses) {
    service_.external_ips = ips(addresses);
    return *this;
  }
  ServiceBuilder& load_balancer(std::initializer_list<const char*> addresses) {
    service_.type = api::ServiceType::kLoadBalancer;
    service_.load_balancer_ips = ips(addresses);
    return *this;
  }
  ServiceBuilder& add_port(std::string name, net::Protocol protocol, int number, int node_port) {
    service_.ports.push_back(
        {std::move(name), protocol, port(number), port(number), port(node_port)});
    if (node_port != 0 && service_.type == api::ServiceType::kClusterIp) {
      service_.type = api::ServiceType::kNodePort;
    }
    return *this;
  }
  ServiceBuilder& tcp(std::string name, int number, int node_port = 0) {
    return add_port(std::move(name), net::Protocol::kTcp, number, node_port);
  }
  ServiceBuilder& udp(std::string name, int number, int node_port = 0) {
    return add_port(std::move(name), net::Protocol::kUdp, number, node_port);
  }
  ServiceBuilder& sctp(std::string name, int number, int node_port = 0) {
    return add_port(std::move(name), net::Protocol::kSctp, number, node_port);
  }
  ServiceBuilder& affinity(int seconds) {
    service_.client_ip_affinity = std::chrono::seconds(seconds);
    return *this;
  }
  ServiceBuilder& annotation(const std::string& name, std::string value) {
    service_.meta.annotations[name] = std::move(value);
    return *this;
  }
  ServiceBuilder& label(const std::string& name, std::string value) {
    service_.meta.labels[name] = std::move(value);
    return *this;
  }
  ServiceBuilder& created(std::int64_t seconds) {
    service_.meta.creation_time = seconds;
    return *this;
  }
  ServiceBuilder& headless() {
    service_.headless = true;
    return *this;
  }
  ServiceBuilder& type(api::ServiceType type) {
    service_.type = type;
    return *this;
  }
  operator api::Service() const { return service_; }  // NOLINT(google-explicit-constructor)

 private:
  api::Service service_;
};

inline ServiceBuilder service(std::string_view name) { return ServiceBuilder(name); }

/// `10.1.0.1`, `10.1.0.1@node-1`, `10.1.0.1@node-1 not-ready`, `... terminating` (not ready, but
/// serving), `... dead` (terminating, not serving).
inline api::Endpoint endpoint(std::string_view text) {
  api::Endpoint out;
  const auto words = split(text, ' ');
  const std::size_t at = words[0].find('@');
  out.address = ip(words[0].substr(0, at));
  if (at != std::string_view::npos) {
    out.node_name = words[0].substr(at + 1);
  }
  if (words.size() > 1) {
    out.ready = false;
    out.serving = words[1] == "terminating";
    out.terminating = words[1] != "not-ready";
  }
  return out;
}

/// slice("shop/web-1", "web", {{"http", TCP, 8080}}, {"10.1.0.1"}); the family is the first
/// endpoint's.
inline api::EndpointSlice slice(std::string_view name, std::string service_name,
                                std::vector<api::EndpointPort> ports,
                                std::initializer_list<const char*> endpoints) {
  api::EndpointSlice out;
  out.meta.key = key(name);
  out.service_name = std::move(service_name);
  out.ports = std::move(ports);
  for (const char* text : endpoints) {
    out.endpoints.push_back(endpoint(text));
  }
  if (!out.endpoints.empty()) {
    out.family = out.endpoints.front().address.family();
  }
  return out;
}
inline api::EndpointPort tcp(std::string name, int number) {
  return {std::move(name), net::Protocol::kTcp, port(number)};
}
inline api::EndpointPort udp(std::string name, int number) {
  return {std::move(name), net::Protocol::kUdp, port(number)};
}
inline api::EndpointPort sctp(std::string name, int number) {
  return {std::move(name), net::Protocol::kSctp, port(number)};
}

/// A node of the name `node-1` with these addresses on its interfaces and in its object.
inline model::NodeFacts facts(std::initializer_list<const char*> addresses) {
  model::NodeFacts out;
  out.name = "node-1";
  out.interface_addresses = ips(addresses);
  out.node_ips = out.interface_addresses;
  return out;
}

}  // namespace fairlead::test
