// SPDX-License-Identifier: Apache-2.0
#include "api/object_decoders.h"

#include <array>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/decode_shared.h"

namespace fairlead::api {
namespace {

// ---- EndpointSlice ----

bool read_named_list(Reader& reader, Element value, std::vector<std::string>& out) {
  return reader.list(value, out, [&](Element item, std::string& name) {
    return reader.fields(item, [&](std::string_view key, Element field) {
      return key != "name" || reader.read(field, name);
    });
  });
}

struct SliceShape {
  net::Family family = net::Family::kIpv4;
  bool v1beta1 = false;
};

bool read_slice_addresses(Reader& reader, Element value, std::optional<net::IpAddress>& first) {
  first.reset();
  return reader.items(value, [&](std::size_t index, Element item) {
    return index > 0 || reader.read(item, first.emplace());
  });
}

bool read_conditions(Reader& reader, Element value, Endpoint& out) {
  return reader.fields(value, [&](std::string_view key, Element field) {
    if (key == "ready") {
      return reader.read(field, out.ready);
    }
    if (key == "serving") {
      return reader.read(field, out.serving);
    }
    return key != "terminating" || reader.read(field, out.terminating);
  });
}

/// `used` stays false for an endpoint without an address or of another family.
bool read_endpoint(Reader& reader, Element value, SliceShape shape, Endpoint& out, bool& used) {
  std::optional<net::IpAddress> address;
  std::string_view topology_node;
  std::string_view topology_zone;
  const bool ok = reader.fields(value, [&](std::string_view key, Element field) {
    if (key == "addresses") {
      return read_slice_addresses(reader, field, address);
    }
    if (key == "conditions") {
      return read_conditions(reader, field, out);
    }
    if (key == "nodeName") {
      return reader.read(field, out.node_name);
    }
    if (key == "zone") {
      return reader.read(field, out.zone);
    }
    if (key == "hints") {
      return reader.fields(field, [&](std::string_view name, Element hints) {
        if (name == "forZones") {
          return read_named_list(reader, hints, out.zone_hints);
        }
        return name != "forNodes" || read_named_list(reader, hints, out.node_hints);
      });
    }
    if (key == "topology" && shape.v1beta1) {
      return reader.fields(field, [&](std::string_view label, Element text) {
        if (label == "kubernetes.io/hostname") {
          return reader.read(text, topology_node);
        }
        return label != "topology.kubernetes.io/zone" || reader.read(text, topology_zone);
      });
    }
    return true;
  });
  if (!ok) {
    return false;
  }
  if (out.node_name.empty()) {
    out.node_name = topology_node;
  }
  if (out.zone.empty()) {
    out.zone = topology_zone;
  }
  used = address && address->family() == shape.family;
  if (used) {
    out.address = *address;
  }
  return true;
}

bool read_endpoint_port(Reader& reader, Element value, EndpointPort& out) {
  return reader.fields(value, [&](std::string_view key, Element field) {
    if (key == "port") {
      return reader.read_port(field, out.port, true);
    }
    if (key == "name") {
      return read_port_name(reader, field, out.name);
    }
    return key != "protocol" || reader.read(field, out.protocol);
  });
}

// ---- Pod ----

bool read_container_port(Reader& reader, Element value, ContainerPort& out) {
  bool has_port = false;
  const bool ok = reader.fields(value, [&](std::string_view key, Element field) {
    if (key == "containerPort") {
      has_port = true;
      return reader.read_port(field, out.port);
    }
    if (key == "name") {
      return read_port_name(reader, field, out.name);
    }
    return key != "protocol" || reader.read(field, out.protocol);
  });
  return ok && required(reader, "containerPort", has_port, "write the port's number");
}

bool read_containers(Reader& reader, Element value, bool only_sidecars,
                     std::vector<ContainerPort>& out) {
  out.clear();
  return reader.items(value, [&](std::size_t, Element container) {
    std::vector<ContainerPort> ports;
    bool sidecar = false;
    const bool ok = reader.fields(container, [&](std::string_view key, Element field) {
      if (key == "ports") {
        return reader.list(field, ports, [&](Element item, ContainerPort& port) {
          return read_container_port(reader, item, port);
        });
      }
      if (key == "restartPolicy") {
        std::string_view policy;
        const bool is_text = reader.read(field, policy);
        sidecar = policy == "Always";
        return is_text;
      }
      return true;
    });
    if (ok && (sidecar || !only_sidecars)) {
      out.insert(out.end(), std::make_move_iterator(ports.begin()),
                 std::make_move_iterator(ports.end()));
    }
    return ok;
  });
}

/// A list of `{ip: ADDRESS}`.
bool read_ip_list(Reader& reader, Element value, std::vector<net::IpAddress>& out) {
  out.clear();
  return reader.items(value, [&](std::size_t, Element item) {
    return reader.fields(item, [&](std::string_view key, Element field) {
      return key != "ip" || reader.read(field, out.emplace_back());
    });
  });
}

bool read_optional_ip(Reader& reader, Element value, std::vector<net::IpAddress>& out) {
  out.clear();
  std::string_view text;
  if (!reader.read(value, text)) {
    return false;
  }
  return text.empty() || reader.read(value, out.emplace_back());
}

struct PodConditions {
  bool any = false;
  bool ready = false;
};

bool read_pod_conditions(Reader& reader, Element value, PodConditions& out) {
  out = {};
  return reader.items(value, [&](std::size_t, Element item) {
    out.any = true;
    std::string_view type;
    std::string_view status;
    const bool ok = reader.fields(item, [&](std::string_view key, Element field) {
      if (key == "type") {
        return reader.read(field, type);
      }
      return key != "status" || reader.read(field, status);
    });
    out.ready = out.ready || (type == "Ready" && status == "True");
    return ok;
  });
}

bool read_pod_status(Reader& reader, Element value, Pod& out) {
  enum class Phase { kUnset, kPending, kRunning, kFinished, kUnknown };
  static constexpr Choices<Phase, 5> kPhases = {{{"Pending", Phase::kPending},
                                                 {"Running", Phase::kRunning},
                                                 {"Succeeded", Phase::kFinished},
                                                 {"Failed", Phase::kFinished},
                                                 {"Unknown", Phase::kUnknown}}};
  Phase phase = Phase::kUnset;
  PodConditions conditions;
  std::vector<net::IpAddress> single;
  std::vector<net::IpAddress> host;
  const bool ok = reader.fields(value, [&](std::string_view key, Element field) {
    if (key == "podIPs") {
      return read_ip_list(reader, field, out.ips);
    }
    if (key == "podIP") {
      return read_optional_ip(reader, field, single);
    }
    if (key == "hostIP") {
      return read_optional_ip(reader, field, host);
    }
    if (key == "phase") {
      return reader.choose(field, kPhases, phase);
    }
    return key != "conditions" || read_pod_conditions(reader, field, conditions);
  });
  if (out.ips.empty()) {
    out.ips = std::move(single);
  }
  if (out.ips.empty() && out.host_network) {
    out.ips = std::move(host);
  }
  out.finished = phase == Phase::kFinished;
  out.ready =
      conditions.any ? conditions.ready : phase == Phase::kUnset || phase == Phase::kRunning;
  return ok;
}

// ---- Endpoints ----

bool read_endpoints_address(Reader& reader, Element value, Endpoints::Address& out) {
  bool has_ip = false;
  const bool ok = reader.fields(value, [&](std::string_view key, Element field) {
    if (key == "ip") {
      has_ip = true;
      return reader.read(field, out.ip);
    }
    return key != "nodeName" || reader.read(field, out.node_name);
  });
  return ok && required(reader, "ip", has_ip, "write the endpoint's address");
}

bool read_subset(Reader& reader, Element value, Endpoints::Subset& out) {
  const auto address = [&](Element item, Endpoints::Address& to) {
    return read_endpoints_address(reader, item, to);
  };
  const bool ok = reader.fields(value, [&](std::string_view key, Element field) {
    if (key == "addresses") {
      return reader.list(field, out.addresses, address);
    }
    if (key == "notReadyAddresses") {
      return reader.list(field, out.not_ready_addresses, address);
    }
    return key != "ports" || reader.list(field, out.ports, [&](Element item, EndpointPort& port) {
      return read_endpoint_port(reader, item, port) &&
             required(reader, "port", number(port.port) != 0, "write the port's number");
    });
  });
  return ok && check_unique_names(reader, out.ports);
}

}  // namespace

bool read_parts(Reader& reader, Element object, Parts& out) {
  return reader.fields(object, [&](std::string_view key, Element value) {
    if (key == "metadata") {
      out.metadata = value;
    } else if (key == "spec") {
      out.spec = value;
    } else if (key == "status") {
      out.status = value;
    } else if (key == "kind") {
      out.kind = value;
    } else if (key == "apiVersion") {
      out.api_version = value;
    } else if (key == "addressType") {
      out.address_type = value;
    } else if (key == "endpoints") {
      out.endpoints = value;
    } else if (key == "ports") {
      out.ports = value;
    } else if (key == "subsets") {
      out.subsets = value;
    } else if (key == "items") {
      out.items = value;
    }
    return true;
  });
}

bool read_metadata(Reader& reader, const Parts& parts, NameRules rules, Meta& meta,
                   std::string& resource_version) {
  constexpr std::string_view kLabelRule =
      "must be lower-case letters, digits and '-', at most 63 of them, is ";
  constexpr std::string_view kSubdomainRule =
      "must be lower-case letters, digits, '-' and '.', at most 253 of them, is ";
  if (!parts.metadata) {
    return reader.fail_at("metadata", "is missing: give the object at least metadata.name");
  }
  const Reader::At at(reader, "metadata");
  meta.key.ns = rules.namespaced ? "default" : "";
  std::string_view name;
  const bool ok = reader.fields(*parts.metadata, [&](std::string_view key, Element value) {
    if (key == "name") {
      if (!reader.read(value, name)) {
        return false;
      }
      if (name.empty()) {
        return true;
      }
      if (!(rules.label ? is_dns_label(name) : is_dns_subdomain(name))) {
        return reader.fail(std::string(rules.label ? kLabelRule : kSubdomainRule) +
                           in_quotes(name));
      }
      meta.key.name = name;
      return true;
    }
    if (key == "namespace" && rules.namespaced) {
      std::string_view ns;
      if (!reader.read(value, ns)) {
        return false;
      }
      if (!ns.empty() && !is_dns_label(ns)) {
        meta.key.ns.clear();
        return reader.fail(std::string(kLabelRule) + in_quotes(ns));
      }
      if (!ns.empty()) {
        meta.key.ns = ns;
      }
      return true;
    }
    if (key == "uid") {
      return reader.read(value, meta.uid);
    }
    if (key == "resourceVersion") {
      return reader.read(value, resource_version);
    }
    if (key == "creationTimestamp") {
      return reader.read_time(value, meta.creation_time);
    }
    if (key == "deletionTimestamp") {
      meta.deleting = true;
      return true;
    }
    if (key == "labels") {
      return read_labels(reader, value, meta.labels, any_key);
    }
    if (key == "annotations") {
      return read_labels(reader, value, meta.annotations, [](std::string_view annotation) {
        return annotation.starts_with("fairlead.io/") ||
               annotation.starts_with("kube-router.io/service.");
      });
    }
    return true;
  });
  return ok && required(reader, "name", !meta.key.name.empty(), "give the object a name");
}

/// Its owner is all that a slice's metadata has to say.
void set_service_name(EndpointSlice& slice) {
  if (const auto owner = slice.meta.labels.find("kubernetes.io/service-name");
      owner != slice.meta.labels.end()) {
    slice.service_name = owner->second;
  }
  Meta kept;
  kept.key = std::move(slice.meta.key);
  slice.meta = std::move(kept);
}

bool decode_slice(Reader& reader, const Parts& parts, bool v1beta1, EndpointSlice& out) {
  enum class Type { kUnset, kIpv4, kIpv6, kFqdn };
  static constexpr Choices<Type, 3> kTypes = {
      {{"IPv4", Type::kIpv4}, {"IPv6", Type::kIpv6}, {"FQDN", Type::kFqdn}}};
  Type type = Type::kUnset;
  if (parts.address_type) {
    const Reader::At at(reader, "addressType");
    if (!reader.choose(*parts.address_type, kTypes, type)) {
      return false;
    }
  }
  if (!required(reader, "addressType", type != Type::kUnset, "write IPv4 or IPv6")) {
    return false;
  }
  if (type == Type::kFqdn) {
    return true;
  }
  const SliceShape shape{.family = type == Type::kIpv4 ? net::Family::kIpv4 : net::Family::kIpv6,
                         .v1beta1 = v1beta1};
  out.family = shape.family;
  if (parts.ports) {
    const Reader::At at(reader, "ports");
    if (!reader.list(*parts.ports, out.ports, [&](Element item, EndpointPort& port) {
          return read_endpoint_port(reader, item, port);
        })) {
      return false;
    }
  }
  if (!check_unique_names(reader, out.ports)) {
    return false;
  }
  std::erase_if(out.ports, [](const EndpointPort& port) { return number(port.port) == 0; });
  if (!parts.endpoints) {
    return true;
  }
  const Reader::At at(reader, "endpoints");
  return reader.list(*parts.endpoints, out.endpoints, [&](Element item, Endpoint& endpoint) {
    bool used = false;
    const bool read = read_endpoint(reader, item, shape, endpoint, used);
    if (!used) {
      out.endpoints.pop_back();
    }
    return read;
  });
}

bool decode_node(Reader& reader, const Parts& parts, Node& out) {
  std::vector<net::IpPrefix> single;
  if (parts.spec) {
    const Reader::At at(reader, "spec");
    if (!reader.fields(*parts.spec, [&](std::string_view key, Element value) {
          if (key == "podCIDRs") {
            return reader.list(value, out.pod_cidrs, [&](Element item, net::IpPrefix& cidr) {
              return reader.read(item, cidr);
            });
          }
          if (key == "podCIDR") {
            std::string_view text;
            single.clear();
            return reader.read(value, text) &&
                   (text.empty() || reader.read(value, single.emplace_back()));
          }
          if (key == "taints") {
            return reader.items(value, [&](std::size_t, Element taint) {
              return reader.fields(taint, [&](std::string_view name, Element field) {
                std::string_view text;
                if (name != "key") {
                  return true;
                }
                const bool ok = reader.read(field, text);
                out.leaving = out.leaving || text == "ToBeDeletedByClusterAutoscaler";
                return ok;
              });
            });
          }
          return true;
        })) {
      return false;
    }
  }
  if (out.pod_cidrs.empty()) {
    out.pod_cidrs = std::move(single);
  }
  if (!parts.status) {
    return true;
  }
  const Reader::At at(reader, "status");
  return reader.fields(*parts.status, [&](std::string_view list_key, Element addresses) {
    if (list_key != "addresses") {
      return true;
    }
    out.internal_ips.clear();
    out.external_ips.clear();
    return reader.items(addresses, [&](std::size_t, Element item) {
      std::string_view type;
      Element address;
      bool has_address = false;
      const bool ok = reader.fields(item, [&](std::string_view key, Element field) {
        if (key == "type") {
          return reader.read(field, type);
        }
        if (key == "address") {
          address = field;
          has_address = true;
        }
        return true;
      });
      if (!ok || !has_address || (type != "InternalIP" && type != "ExternalIP")) {
        return ok;
      }
      auto& list = type == "InternalIP" ? out.internal_ips : out.external_ips;
      const Reader::At address_at(reader, "address");
      return reader.read(address, list.emplace_back());
    });
  });
}

bool decode_pod(Reader& reader, const Parts& parts, Pod& out) {
  if (parts.spec) {
    const Reader::At at(reader, "spec");
    std::vector<ContainerPort> sidecar_ports;
    const bool ok = reader.fields(*parts.spec, [&](std::string_view key, Element value) {
      if (key == "nodeName") {
        return reader.read(value, out.node_name);
      }
      if (key == "hostNetwork") {
        return reader.read(value, out.host_network);
      }
      if (key == "containers") {
        return read_containers(reader, value, false, out.ports);
      }
      return key != "initContainers" || read_containers(reader, value, true, sidecar_ports);
    });
    if (!ok) {
      return false;
    }
    // A named target port is the first of that name; containers come first.
    out.ports.insert(out.ports.end(), std::make_move_iterator(sidecar_ports.begin()),
                     std::make_move_iterator(sidecar_ports.end()));
  }
  if (!parts.status) {
    out.ready = true;
    return true;
  }
  const Reader::At at(reader, "status");
  return read_pod_status(reader, *parts.status, out);
}

bool decode_endpoints(Reader& reader, const Parts& parts, Endpoints& out) {
  if (!parts.subsets) {
    return true;
  }
  const Reader::At at(reader, "subsets");
  return reader.list(*parts.subsets, out.subsets, [&](Element item, Endpoints::Subset& subset) {
    return read_subset(reader, item, subset);
  });
}

}  // namespace fairlead::api
