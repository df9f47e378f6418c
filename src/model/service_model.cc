// SPDX-License-Identifier: Apache-2.0
#include "model/service_model.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <tuple>
#include <utility>

#include "model/annotations.h"

namespace fairlead::model {
namespace {

constexpr std::string_view kOtherProxyLabel = "service.kubernetes.io/service-proxy-name";
constexpr std::chrono::seconds kDefaultAffinity{10800};  // the API's
constexpr std::chrono::seconds kMaxAffinity{86400};      // the API's

/// What makes an address one that can neither be served nor receive traffic; empty: nothing.
std::string_view why_unusable(const net::IpAddress& address) {
  if (address.is_unspecified()) {
    return "an unspecified";
  }
  if (address.is_loopback()) {
    return "a loopback";
  }
  if (address.is_multicast()) {
    return "a multicast";
  }
  if (address.is_v4() && address.bytes()[0] == 255) {
    return "a broadcast";
  }
  if (!address.is_v4() && address.is_link_local()) {
    return "a link-local";
  }
  return {};
}

/// An endpoint of one port, with what decides which of its appearances counts.
struct Candidate {
  net::IpAddress address;
  net::Port port{};
  bool is_local = false;
  bool is_ready = false;
  bool is_terminating = false;
  bool is_serving = false;
  std::string_view node_name;

  [[nodiscard]] net::SocketAddress socket() const { return {address, port}; }
};

/// While an endpoint moves from slice to slice it may be in two of them, and they may disagree.
bool better(const Candidate& a, const Candidate& b) {
  const auto rank = [](const Candidate& c) {
    return std::tuple(c.is_local, c.is_ready, !c.is_terminating, c.is_serving, c.node_name);
  };
  return rank(a) > rank(b);
}

class Builder {
 public:
  Builder(const api::Service& service, std::span<const api::EndpointSlice* const> slices,
          const NodeContext& node)
      : service_(service), slices_(slices), node_(node) {}

  ServiceModel run() {
    settings_ = read_annotations(service_, node_.options().default_scheduler, model_.problems);
    read_affinity();
    check_mark();
    check_endpoints();
    for (const net::Family family : {net::Family::kIpv4, net::Family::kIpv6}) {
      if (node_.supports(family)) {
        add_family(family);
      }
    }
    std::ranges::sort(model_.problems);
    const auto repeated = std::ranges::unique(model_.problems);
    model_.problems.erase(repeated.begin(), repeated.end());
    return std::move(model_);
  }

 private:
  void problem(std::string field, std::string what) {
    model_.problems.push_back(
        {"Service " + service_.meta.key.text(), std::move(field), std::move(what)});
  }

  void read_affinity() {
    persistence_ = service_.client_ip_affinity;
    if (persistence_ && (persistence_->count() < 1 || *persistence_ > kMaxAffinity)) {
      problem("spec.sessionAffinityConfig.clientIP.timeoutSeconds",
              std::to_string(persistence_->count()) +
                  " is not from 1 to 86400; 10800 is used until then");
      persistence_ = kDefaultAffinity;
    }
  }

  /// Packets that are to be masqueraded have such a mark, whoever they are for.
  void check_mark() {
    if (const std::uint32_t taken = settings_.firewall_mark & node_.options().masquerade_mark;
        taken != 0) {
      problem("metadata.annotations[fairlead.io/firewall-mark]",
              std::to_string(settings_.firewall_mark) + " has the bit that marks what is to be " +
                  "masqueraded (--iptables-masquerade-bit, " + std::to_string(taken) +
                  "); there is no virtual server for it");
      settings_.firewall_mark = 0;
    }
  }

  void check_endpoints() {
    for (const api::EndpointSlice* slice : slices_) {
      if (!node_.supports(slice->family)) {
        continue;
      }
      for (const api::Endpoint& endpoint : slice->endpoints) {
        if (const std::string_view why = why_unusable(endpoint.address); !why.empty()) {
          model_.problems.push_back({"EndpointSlice " + slice->meta.key.text(), "endpoints",
                                     endpoint.address.text() + " is " + std::string(why) +
                                         " address; it gets no traffic"});
        }
      }
    }
  }

  /// Whether the address can be served; says so if not.
  bool accept(const net::IpAddress& address, std::string_view field) {
    const std::string_view why = why_unusable(address);
    if (!why.empty()) {
      problem(std::string(field),
              address.text() + " is " + std::string(why) + " address; it is not served");
    }
    return why.empty();
  }

  void add_family(net::Family family) {
    const auto of_family = [&](const net::IpAddress& address) {
      return address.family() == family;
    };
    const auto cluster_ip = std::ranges::find_if(service_.cluster_ips, of_family);
    if (cluster_ip == service_.cluster_ips.end()) {
      return;
    }
    std::vector<ServiceAddress> addresses;  // of every port; node ports are added per port
    if (accept(*cluster_ip, "spec.clusterIPs")) {
      addresses.push_back({*cluster_ip, AddressKind::kClusterIp});
    }
    const auto add_all = [&](const std::vector<net::IpAddress>& list, AddressKind kind,
                             std::string_view field) {
      for (const net::IpAddress& address : list) {
        if (of_family(address) && accept(address, field)) {
          addresses.push_back({address, kind, node_.on_interface(address)});
          model_.uses_node_addresses = true;
        }
      }
    };
    add_all(service_.load_balancer_ips, AddressKind::kLoadBalancerIp,
            "status.loadBalancer.ingress");
    add_all(service_.external_ips, AddressKind::kExternalIp, "spec.externalIPs");

    for (const api::ServicePort& port : service_.ports) {
      add_port(port, family, addresses);
    }
    if (settings_.firewall_mark != 0) {
      add_mark(family);
    }
  }

  /// Marked packets may be for any port. Where the service has one port alone, they go to that of
  /// the endpoints; else, and wherever a connection belongs to others (affinity) or stays as it is,
  /// the port is kept.
  void add_mark(net::Family family) {
    ServicePortModel model;
    model.name = service_.meta.key.text();
    model.family = family;
    model.addresses = {{net::IpAddress::any(family), AddressKind::kFirewallMark, true, net::Port{},
                        settings_.firewall_mark}};
    const bool keeps_port = service_.ports.size() != 1 || persistence_.has_value() ||
                            settings_.forwarding.keeps_destination();
    std::vector<Candidate> endpoints;
    for (const api::ServicePort& port : service_.ports) {
      for (Candidate& endpoint : endpoints_of(port, family)) {
        endpoint.port = keeps_port ? net::Port{} : endpoint.port;
        endpoints.push_back(endpoint);
      }
    }
    keep_best(endpoints);
    choose_serving(endpoints, model.serving);
    model.forwarding = settings_.forwarding;
    finish(std::move(model), settings_.one_packet);
  }

  void add_port(const api::ServicePort& port, net::Family family,
                const std::vector<ServiceAddress>& addresses) {
    ServicePortModel model;
    model.name = service_.meta.key.text();
    if (!port.name.empty()) {
      model.name += ":" + port.name;
    }
    model.family = family;
    model.protocol = port.protocol;
    if (net::number(port.port) != 0) {
      model.addresses = addresses;
      for (ServiceAddress& address : model.addresses) {
        address.port = port.port;
      }
    }
    if (net::number(port.node_port) != 0) {
      model_.uses_node_addresses = true;
      for (const net::IpAddress& address : node_.node_port_addresses()) {
        if (address.family() == family) {
          model.addresses.push_back({address, AddressKind::kNodePort, true, port.node_port});
        }
      }
    }
    std::ranges::sort(model.addresses, {}, [](const ServiceAddress& a) {
      return std::tuple(a.address, a.port, precedence(a.kind));
    });
    const auto repeated = std::ranges::unique(
        model.addresses, {}, [](const ServiceAddress& a) { return std::tuple(a.address, a.port); });
    model.addresses.erase(repeated.begin(), repeated.end());

    const std::vector<Candidate> endpoints = endpoints_of(port, family);
    choose_serving(endpoints, model.serving);
    for (const Candidate& endpoint : endpoints) {
      if (endpoint.is_local) {
        model.local.push_back(endpoint.socket());
      }
    }
    model.forwarding = forwarding_of(port, model);
    finish(std::move(model), settings_.one_packet && port.protocol == net::Protocol::kUdp);
  }

  /// What all ports of the service share.
  void finish(ServicePortModel model, bool one_packet) {
    model.thresholds = settings_.thresholds;
    model.scheduler = settings_.scheduler;
    model.persistence = persistence_;
    const std::uint8_t prefix = model.family == net::Family::kIpv4 ? settings_.affinity_prefix.ipv4
                                                                   : settings_.affinity_prefix.ipv6;
    if (prefix != (model.family == net::Family::kIpv4 ? 32 : 128)) {
      model.persistence_prefix = prefix;
    }
    model.drain_timeout = settings_.drain_timeout;
    model.one_packet = one_packet;
    model_.ports.push_back(std::move(model));
  }

  /// What leaves the destination as it is cannot change the port.
  ForwardingMethod forwarding_of(const api::ServicePort& port, const ServicePortModel& model) {
    const ForwardingMethod& method = settings_.forwarding;
    const auto moved = std::ranges::find_if_not(
        model.serving, [&](const ServingEndpoint& endpoint) { return endpoint.port == port.port; });
    if (!method.keeps_destination() || moved == model.serving.end()) {
      return method;
    }
    problem("metadata.annotations[fairlead.io/forwarding]",
            method.text() + " leaves the port as it is, but port " +
                std::to_string(net::number(port.port)) + " leads to endpoints on port " +
                std::to_string(net::number(moved->port)) +
                "; nat is used for it: make port and targetPort equal");
    return {};
  }

  /// Slices join a service port by name and protocol, not by number: that is the pod's. Sorted by
  /// socket, one candidate each.
  [[nodiscard]] std::vector<Candidate> endpoints_of(const api::ServicePort& port,
                                                    net::Family family) const {
    std::vector<Candidate> found;
    for (const api::EndpointSlice* slice : slices_) {
      if (slice->family != family) {
        continue;
      }
      for (const api::EndpointPort& slice_port : slice->ports) {
        if (slice_port.name == port.name && slice_port.protocol == port.protocol &&
            net::number(slice_port.port) != 0) {
          append_candidates(*slice, slice_port.port, found);
        }
      }
    }
    keep_best(found);
    return found;
  }

  /// Sorted by socket, one of each.
  static void keep_best(std::vector<Candidate>& endpoints) {
    std::ranges::sort(endpoints, [](const Candidate& a, const Candidate& b) {
      if (const auto order = a.socket() <=> b.socket(); order != 0) {
        return order < 0;
      }
      return better(a, b);
    });
    const auto repeated = std::ranges::unique(endpoints, {}, &Candidate::socket);
    endpoints.erase(repeated.begin(), repeated.end());
  }

  void append_candidates(const api::EndpointSlice& slice, net::Port port,
                         std::vector<Candidate>& found) const {
    found.reserve(found.size() + slice.endpoints.size());
    for (const api::Endpoint& endpoint : slice.endpoints) {
      if (endpoint.address.family() != slice.family || !why_unusable(endpoint.address).empty()) {
        continue;
      }
      const bool is_local = !endpoint.node_name.empty() && endpoint.node_name == node_.facts().name;
      found.push_back({endpoint.address, port, is_local, endpoint.ready, endpoint.terminating,
                       endpoint.serving, endpoint.node_name});
    }
  }

  /// The one place that decides who serves. Traffic policies, topology hints and the fallback to
  /// terminating endpoints, once built, choose here.
  void choose_serving(const std::vector<Candidate>& endpoints,
                      std::vector<ServingEndpoint>& serving) const {
    serving.reserve(endpoints.size());
    for (const Candidate& endpoint : endpoints) {
      if (endpoint.is_ready) {
        serving.push_back({endpoint.address, endpoint.port, endpoint.is_local,
                           settings_.weights.of(endpoint.address, endpoint.node_name)});
      }
    }
  }

  const api::Service& service_;
  std::span<const api::EndpointSlice* const> slices_;
  const NodeContext& node_;
  ServiceSettings settings_;
  std::optional<std::chrono::seconds> persistence_;
  ServiceModel model_;
};

}  // namespace

int precedence(AddressKind kind) {
  switch (kind) {
    case AddressKind::kClusterIp:
      return 0;
    case AddressKind::kLoadBalancerIp:
      return 1;
    case AddressKind::kNodePort:
      return 2;
    case AddressKind::kExternalIp:
      return 3;
    case AddressKind::kFirewallMark:
      return 4;
  }
  return 5;
}

bool is_proxied(const api::Service& service) {
  return !service.headless && service.type != api::ServiceType::kExternalName &&
         !service.cluster_ips.empty() &&
         !service.meta.labels.contains(std::string(kOtherProxyLabel));
}

ServiceModel build(const api::Service& service, std::span<const api::EndpointSlice* const> slices,
                   const NodeContext& node) {
  if (!is_proxied(service)) {
    return {};
  }
  return Builder(service, slices, node).run();
}

}  // namespace fairlead::model
