// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/decode_shared.h"
#include "api/object_decoders.h"

namespace fairlead::api {
namespace {

bool read_target_port(Reader& reader, Element value, TargetPort& out, bool& given) {
  if (!value.is_string()) {
    net::Port port{};
    if (!value.is_number()) {
      return reader.fail("must be a number from 1 to 65535 or the name of a container port, is " +
                         describe(value));
    }
    if (!reader.read_port(value, port, true)) {
      return false;
    }
    given = net::number(port) != 0;
    out = port;
    return true;
  }
  std::string_view name;
  if (!reader.read(value, name) || !check_port_name(reader, name)) {
    return false;
  }
  if (!name.empty() && name.find_first_not_of("0123456789") == std::string_view::npos) {
    return reader.fail("is the text " + in_quotes(name) +
                       ", which names no port: write the number without quotes");
  }
  given = !name.empty();
  out = std::string(name);
  return true;
}

bool read_service_port(Reader& reader, Element value, ServicePort& out) {
  bool has_port = false;
  bool has_target = false;
  const bool ok = reader.fields(value, [&](std::string_view key, Element field) {
    if (key == "port") {
      has_port = true;
      return reader.read_port(field, out.port);
    }
    if (key == "name") {
      return read_port_name(reader, field, out.name);
    }
    if (key == "protocol") {
      return reader.read(field, out.protocol);
    }
    if (key == "targetPort") {
      return read_target_port(reader, field, out.target_port, has_target);
    }
    if (key == "nodePort") {
      return reader.read_port(field, out.node_port, true);
    }
    return true;
  });
  if (!ok || !required(reader, "port", has_port, "write the port of the service")) {
    return false;
  }
  if (!has_target) {
    out.target_port = out.port;
  }
  return true;
}

bool check_service_ports(Reader& reader, const std::vector<ServicePort>& ports) {
  if (ports.size() > 1) {
    const auto unnamed = std::ranges::find_if(ports, &std::string::empty, &ServicePort::name);
    if (unnamed != ports.end()) {
      return reader.fail_at("ports", static_cast<std::size_t>(unnamed - ports.begin()), "name",
                            "is missing: of several ports each needs a name");
    }
  }
  const auto unique = [&](std::string_view field, auto member) {
    using Key = std::optional<std::pair<net::Protocol, net::Port>>;
    const auto duplicate = first_duplicate(ports, [&](const ServicePort& port) {
      return number(port.*member) == 0 ? Key() : Key({port.protocol, port.*member});
    });
    if (!duplicate) {
      return true;
    }
    const auto [before, index] = *duplicate;
    const ServicePort& port = ports[index];
    return reader.fail_at("ports", index, field,
                          "must differ from that of ports[" + std::to_string(before) +
                              "], both are " + std::to_string(number(port.*member)) + " for " +
                              std::string(net::text(port.protocol)));
  };
  return check_unique_names(reader, ports) && unique("port", &ServicePort::port) &&
         unique("nodePort", &ServicePort::node_port);
}

bool read_affinity_config(Reader& reader, Element value, std::int64_t& timeout) {
  constexpr std::int64_t kLongest = 86400;
  return reader.fields(value, [&](std::string_view key, Element config) {
    return key != "clientIP" || reader.fields(config, [&](std::string_view name, Element field) {
      return name != "timeoutSeconds" || reader.read(field, 1, kLongest, timeout);
    });
  });
}

bool read_load_balancer(Reader& reader, Element value, std::vector<net::IpAddress>& out) {
  return reader.fields(value, [&](std::string_view list_key, Element ingresses) {
    if (list_key != "ingress") {
      return true;
    }
    out.clear();
    return reader.items(ingresses, [&](std::size_t, Element ingress) {
      std::optional<net::IpAddress> ip;
      bool vip = true;
      const bool ok = reader.fields(ingress, [&](std::string_view key, Element field) {
        if (key == "ip") {
          std::string_view text;
          if (!reader.read(field, text)) {
            return false;
          }
          ip.reset();
          return text.empty() || reader.read(field, ip.emplace());
        }
        if (key == "ipMode") {
          static constexpr Choices<bool, 2> kModes = {{{"VIP", true}, {"Proxy", false}}};
          return reader.choose(field, kModes, vip);
        }
        return true;
      });
      if (ok && ip && vip) {
        out.push_back(*ip);
      }
      return ok;
    });
  });
}

/// clusterIPs, and clusterIP beside or instead of it.
struct ClusterIps {
  std::vector<net::IpAddress> list;
  bool list_none = false;
  std::optional<net::IpAddress> first;
  bool first_none = false;
};

/// An address, `None` or nothing.
bool read_cluster_ip(Reader& reader, Element value, std::optional<net::IpAddress>& ip, bool& none) {
  ip.reset();
  std::string_view text;
  if (!reader.read(value, text)) {
    return false;
  }
  if (text == "None") {
    none = true;
    return true;
  }
  if (text.empty() || reader.read(value, ip.emplace())) {
    return true;
  }
  return reader.fail("must be an IPv4 or IPv6 address or None, is " + in_quotes(text));
}

bool read_cluster_ips(Reader& reader, Element value, ClusterIps& out) {
  out.list.clear();
  out.list_none = false;
  return reader.items(value, [&](std::size_t index, Element item) {
    std::optional<net::IpAddress> ip;
    if (!read_cluster_ip(reader, item, ip, out.list_none)) {
      return false;
    }
    if (ip) {
      out.list.push_back(*ip);
    }
    if (out.list.size() > 1 && (index > 1 || out.list[0].family() == out.list[1].family())) {
      return reader.fail("is one too many: at most one address of each family");
    }
    return !out.list_none || out.list.empty() ||
           reader.fail("must be None alone, or addresses, not both");
  });
}

bool settle_cluster_ips(Reader& reader, ClusterIps ips, Service& out) {
  const bool contradiction = ips.list_none != ips.first_none
                                 ? ips.first.has_value() || !ips.list.empty()
                                 : ips.first && !ips.list.empty() && *ips.first != ips.list[0];
  if (contradiction) {
    return reader.fail_at("clusterIP", "must equal clusterIPs[0]: remove one of the two");
  }
  out.headless = ips.list_none || ips.first_none;
  out.cluster_ips = std::move(ips.list);
  if (out.cluster_ips.empty() && ips.first) {
    out.cluster_ips.push_back(*ips.first);
  }
  for (std::size_t i = 0; i < std::min(out.cluster_ips.size(), out.ip_families.size()); ++i) {
    if (out.cluster_ips[i].family() != out.ip_families[i]) {
      const Reader::At at(reader, "ipFamilies");
      const Reader::At item(reader, i);
      return reader.fail("must be " + std::string(net::text(out.cluster_ips[i].family())) +
                         " as is the address " + out.cluster_ips[i].text());
    }
  }
  return true;
}

bool read_family(Reader& reader, Element value, net::Family& out) {
  static constexpr Choices<net::Family, 2> kFamilies = {
      {{"IPv4", net::Family::kIpv4}, {"IPv6", net::Family::kIpv6}}};
  return reader.choose(value, kFamilies, out);
}

bool read_service_spec(Reader& reader, Element spec, Service& out) {
  using Policy = Service::FamilyPolicy;
  static constexpr Choices<ServiceType, 4> kTypes = {
      {{"ClusterIP", ServiceType::kClusterIp},
       {"NodePort", ServiceType::kNodePort},
       {"LoadBalancer", ServiceType::kLoadBalancer},
       {"ExternalName", ServiceType::kExternalName}}};
  static constexpr Choices<Policy, 3> kPolicies = {
      {{"SingleStack", Policy::kSingleStack},
       {"PreferDualStack", Policy::kPreferDualStack},
       {"RequireDualStack", Policy::kRequireDualStack}}};
  static constexpr Choices<bool, 2> kLocal = {{{"Cluster", false}, {"Local", true}}};
  static constexpr Choices<bool, 2> kAffinity = {{{"None", false}, {"ClientIP", true}}};
  constexpr std::int64_t kDefaultAffinity = 10800;

  ClusterIps ips;
  bool affinity = false;
  std::int64_t timeout = kDefaultAffinity;
  const bool ok = reader.fields(spec, [&](std::string_view key, Element field) {
    if (key == "ports") {
      return reader.list(field, out.ports, [&](Element item, ServicePort& port) {
        return read_service_port(reader, item, port);
      });
    }
    if (key == "selector") {
      return read_labels(reader, field, out.selector, any_key);
    }
    if (key == "clusterIP") {
      ips.first_none = false;
      return read_cluster_ip(reader, field, ips.first, ips.first_none);
    }
    if (key == "clusterIPs") {
      return read_cluster_ips(reader, field, ips);
    }
    if (key == "type") {
      return reader.choose(field, kTypes, out.type);
    }
    if (key == "ipFamilies") {
      return reader.list(field, out.ip_families, [&](Element item, net::Family& family) {
        if (!read_family(reader, item, family)) {
          return false;
        }
        return out.ip_families.size() < 2 || out.ip_families.front() != family ||
               reader.fail("must not be named twice");
      });
    }
    if (key == "ipFamilyPolicy") {
      return reader.choose(field, kPolicies, out.family_policy);
    }
    if (key == "externalIPs") {
      return reader.list(field, out.external_ips, [&](Element item, net::IpAddress& address) {
        return reader.read(item, address);
      });
    }
    if (key == "loadBalancerSourceRanges") {
      return reader.list(field, out.source_ranges, [&](Element item, net::IpPrefix& range) {
        return reader.read(item, range);
      });
    }
    if (key == "sessionAffinity") {
      return reader.choose(field, kAffinity, affinity);
    }
    if (key == "sessionAffinityConfig") {
      return read_affinity_config(reader, field, timeout);
    }
    if (key == "externalTrafficPolicy") {
      return reader.choose(field, kLocal, out.external_policy_local);
    }
    if (key == "internalTrafficPolicy") {
      return reader.choose(field, kLocal, out.internal_policy_local);
    }
    if (key == "publishNotReadyAddresses") {
      return reader.read(field, out.publish_not_ready_addresses);
    }
    if (key == "allocateLoadBalancerNodePorts") {
      return reader.read(field, out.allocate_node_ports);
    }
    if (key == "healthCheckNodePort") {
      return reader.read_port(field, out.health_check_node_port, true);
    }
    return true;
  });
  if (!ok || !settle_cluster_ips(reader, std::move(ips), out) ||
      !check_service_ports(reader, out.ports)) {
    return false;
  }
  if (affinity) {
    out.client_ip_affinity = std::chrono::seconds(timeout);
  }
  return required(reader, "ports",
                  !out.ports.empty() || out.headless || out.type == ServiceType::kExternalName,
                  "a service needs at least one port");
}

}  // namespace

bool decode_service(Reader& reader, const Parts& parts, Service& out) {
  if (!required(reader, "spec", parts.spec.has_value(), "a service needs at least one port")) {
    return false;
  }
  {
    const Reader::At at(reader, "spec");
    if (!read_service_spec(reader, *parts.spec, out)) {
      return false;
    }
  }
  if (!parts.status) {
    return true;
  }
  const Reader::At at(reader, "status");
  return reader.fields(*parts.status, [&](std::string_view key, Element value) {
    return key != "loadBalancer" || read_load_balancer(reader, value, out.load_balancer_ips);
  });
}

}  // namespace fairlead::api
