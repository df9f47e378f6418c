// SPDX-License-Identifier: Apache-2.0
#include "manifest/endpoints.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>
#include <variant>

#include "base/check.h"
#include "base/text.h"
#include "manifest/hash.h"

namespace fairlead::manifest {
namespace {

constexpr std::string_view kSkipMirrorLabel = "endpointslice.kubernetes.io/skip-mirror";
constexpr std::string_view kZoneLabel = "topology.kubernetes.io/zone";

using Ports = std::vector<api::EndpointPort>;

bool matches(const api::Labels& selector, const api::Labels& labels) {
  return std::ranges::all_of(selector, [&](const auto& wanted) {
    const auto found = labels.find(wanted.first);
    return found != labels.end() && found->second == wanted.second;
  });
}

/// Services whose slices come from pods. An ExternalName is a DNS matter even with a selector.
bool selects_pods(const api::Service& service) {
  return !service.selector.empty() && service.type != api::ServiceType::kExternalName;
}

std::optional<net::Port> resolve(const api::ServicePort& port, const api::Pod& pod) {
  if (const auto* fixed = std::get_if<net::Port>(&port.target_port)) {
    return *fixed;
  }
  const auto& name = std::get<std::string>(port.target_port);
  for (const api::ContainerPort& candidate : pod.ports) {
    if (candidate.name == name && candidate.protocol == port.protocol) {
      return candidate.port;
    }
  }
  return std::nullopt;
}

Ports resolve_ports(const api::Service& service, const api::Pod& pod) {
  Ports ports;
  for (const api::ServicePort& port : service.ports) {
    if (const auto target = resolve(port, pod)) {
      ports.push_back({port.name, port.protocol, *target});
    }
  }
  return ports;
}

std::string ports_text(const Ports& ports) {
  std::string out;
  for (const api::EndpointPort& port : ports) {
    out += port.name + "/" + std::string(net::text(port.protocol)) + "/" +
           std::to_string(net::number(port.port)) + ",";
  }
  return out;
}

std::string hex8(std::uint64_t value) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string out;
  for (unsigned shift = 32; shift > 0; shift -= 4) {
    out += kDigits[(value >> (shift - 4)) & 0xfU];
  }
  return out;
}

/// Endpoints of one service and family, grouped by their ports.
class SliceMaker {
 public:
  SliceMaker(const api::ObjectKey& service, net::Family family)
      : service_(service), family_(family) {}

  void add(const Ports& ports, api::Endpoint endpoint) {
    groups_[ports_text(ports)].emplace_back(&ports, std::move(endpoint));
  }

  void finish(std::vector<api::EndpointSlice>& out) {
    for (auto& [text, members] : groups_) {
      for (std::size_t at = 0; at < members.size(); at += kMaxEndpointsPerSlice) {
        const std::size_t end = std::min(at + kMaxEndpointsPerSlice, members.size());
        api::EndpointSlice slice;
        slice.meta.key.ns = service_.ns;
        slice.meta.key.name = service_.name + "~" + lower(net::text(family_)) + "-" +
                              hex8(stable_hash(text)) + "-" +
                              std::to_string(at / kMaxEndpointsPerSlice);
        slice.service_name = service_.name;
        slice.family = family_;
        slice.ports = *members[at].first;
        for (std::size_t i = at; i < end; ++i) {
          slice.endpoints.push_back(std::move(members[i].second));
        }
        out.push_back(std::move(slice));
      }
    }
  }

 private:
  const api::ObjectKey& service_;
  net::Family family_;
  std::map<std::string, std::vector<std::pair<const Ports*, api::Endpoint>>> groups_;
};

std::vector<net::Family> families_of(const api::Service& service) {
  std::vector<net::Family> families = service.ip_families;
  if (families.empty()) {
    for (const net::IpAddress& address : service.cluster_ips) {
      families.push_back(address.family());
    }
  }
  if (families.empty()) {
    families = {net::Family::kIpv4, net::Family::kIpv6};
  }
  return families;
}

const net::IpAddress* first_of(const std::vector<net::IpAddress>& addresses, net::Family family) {
  const auto found = std::ranges::find_if(
      addresses, [&](const net::IpAddress& address) { return address.family() == family; });
  return found == addresses.end() ? nullptr : &*found;
}

const api::Node* node_of(const api::Pod& pod, const NodesByName& nodes) {
  const auto found = nodes.find(pod.node_name);
  return found == nodes.end() ? nullptr : found->second.get();
}

api::Endpoint endpoint_of(const api::Service& service, const api::Pod& pod,
                          const net::IpAddress& address, const api::Node* node) {
  api::Endpoint endpoint;
  endpoint.address = address;
  endpoint.node_name = pod.node_name;
  if (node != nullptr) {
    const auto zone = node->meta.labels.find(std::string(kZoneLabel));
    endpoint.zone = zone == node->meta.labels.end() ? "" : zone->second;
  }
  endpoint.serving = pod.ready;
  endpoint.terminating = pod.meta.deleting;
  endpoint.ready = service.publish_not_ready_addresses || (pod.ready && !pod.meta.deleting);
  return endpoint;
}

}  // namespace

std::vector<api::EndpointSlice> slices_for(const api::Service& service,
                                           std::span<const api::Pod* const> pods,
                                           const NodesByName& nodes) {
  std::vector<api::EndpointSlice> slices;
  if (!selects_pods(service)) {
    return slices;
  }
  std::vector<Ports> ports;
  ports.reserve(pods.size());
  for (const api::Pod* pod : pods) {
    ports.push_back(resolve_ports(service, *pod));
  }
  for (const net::Family family : families_of(service)) {
    SliceMaker maker(service.meta.key, family);
    for (std::size_t i = 0; i < pods.size(); ++i) {
      const api::Pod& pod = *pods[i];
      const api::Node* node = node_of(pod, nodes);
      // The kubelet reports the node's addresses for a host-network pod; a hand-written one seldom
      // repeats them.
      const bool borrows = pod.ips.empty() && pod.host_network && node != nullptr;
      const net::IpAddress* address = first_of(borrows ? node->internal_ips : pod.ips, family);
      // A slice without ports serves nothing; it would only be noise.
      if (address != nullptr && !pod.finished && !ports[i].empty()) {
        maker.add(ports[i], endpoint_of(service, pod, *address, node));
      }
    }
    maker.finish(slices);
  }
  return slices;
}

std::vector<api::EndpointSlice> mirrored_slices(const api::Endpoints& endpoints) {
  std::vector<api::EndpointSlice> slices;
  for (const net::Family family : {net::Family::kIpv4, net::Family::kIpv6}) {
    SliceMaker maker(endpoints.meta.key, family);
    for (const api::Endpoints::Subset& subset : endpoints.subsets) {
      const auto add = [&](const api::Endpoints::Address& address, bool ready) {
        if (address.ip.family() == family && !subset.ports.empty()) {
          api::Endpoint endpoint;
          endpoint.address = address.ip;
          endpoint.node_name = address.node_name;
          endpoint.ready = ready;
          endpoint.serving = ready;
          maker.add(subset.ports, std::move(endpoint));
        }
      };
      for (const api::Endpoints::Address& address : subset.addresses) {
        add(address, true);
      }
      for (const api::Endpoints::Address& address : subset.not_ready_addresses) {
        add(address, false);
      }
    }
    maker.finish(slices);
  }
  return slices;
}

void SliceDeriver::put(api::Shared<api::Service> service) {
  const api::ObjectKey& key = service->meta.key;
  if (const auto old = services_.find(key); old != services_.end()) {
    index_service(*old->second, false);
  }
  index_service(*service, true);
  touched_.insert(key);
  services_[key] = std::move(service);
}

void SliceDeriver::erase_service(const api::ObjectKey& key) {
  if (const auto old = services_.find(key); old != services_.end()) {
    index_service(*old->second, false);
    services_.erase(old);
    touched_.insert(key);
  }
}

void SliceDeriver::put(api::Shared<api::Pod> pod) {
  const api::ObjectKey& key = pod->meta.key;
  erase_pod(key);
  touch_services_of(key.ns, pod->meta.labels);
  index_pod(*pod, true);
  namespaces_[key.ns].pods[key.name] = std::move(pod);
}

void SliceDeriver::erase_pod(const api::ObjectKey& key) {
  Namespace& space = namespaces_[key.ns];
  if (const auto old = space.pods.find(key.name); old != space.pods.end()) {
    touch_services_of(key.ns, old->second->meta.labels);
    index_pod(*old->second, false);
    space.pods.erase(old);
  }
}

void SliceDeriver::put(api::Shared<api::Endpoints> endpoints) {
  const api::ObjectKey& key = endpoints->meta.key;
  touched_.insert(key);
  endpoints_[key] = std::move(endpoints);
}

void SliceDeriver::erase_endpoints(const api::ObjectKey& key) {
  if (endpoints_.erase(key) != 0) {
    touched_.insert(key);
  }
}

void SliceDeriver::put(api::Shared<api::Node> node) {
  const std::string name = node->meta.key.name;
  nodes_[name] = std::move(node);
  touch_services_on(name);
}

void SliceDeriver::erase_node(const std::string& name) {
  if (nodes_.erase(name) != 0) {
    touch_services_on(name);
  }
}

SliceDeriver::Changes SliceDeriver::settle() {
  Changes changes;
  for (const api::ObjectKey& key : touched_) {
    std::vector<api::EndpointSlice> now = compute(key);
    std::vector<api::Shared<api::EndpointSlice>> before;
    if (const auto known = slices_.find(key); known != slices_.end()) {
      before = std::move(known->second);
      slices_.erase(known);
    }
    for (const auto& old : before) {
      if (std::ranges::none_of(
              now, [&](const auto& slice) { return slice.meta.key == old->meta.key; })) {
        changes.erased.push_back(old->meta.key);
      }
    }
    std::vector<api::Shared<api::EndpointSlice>> kept;
    for (api::EndpointSlice& slice : now) {
      const auto same =
          std::ranges::find_if(before, [&](const auto& old) { return *old == slice; });
      if (same != before.end()) {
        kept.push_back(*same);
      } else {
        kept.push_back(std::make_shared<const api::EndpointSlice>(std::move(slice)));
        changes.put.push_back(kept.back());
      }
    }
    if (!kept.empty()) {
      slices_.emplace(key, std::move(kept));
    }
  }
  touched_.clear();
  return changes;
}

void SliceDeriver::touch_services_of(const std::string& ns, const api::Labels& labels) {
  const Namespace& space = namespaces_[ns];
  for (const auto& label : labels) {
    const auto found = space.services_by_label.find(label);
    if (found == space.services_by_label.end()) {
      continue;
    }
    for (const std::string& name : found->second) {
      const api::ObjectKey key{ns, name};
      if (matches(services_.at(key)->selector, labels)) {
        touched_.insert(key);
      }
    }
  }
}

// Nodes change rarely, so pods are not indexed by node.
void SliceDeriver::touch_services_on(const std::string& node_name) {
  for (const auto& [ns, space] : namespaces_) {
    for (const auto& [name, pod] : space.pods) {
      if (pod->node_name == node_name) {
        touch_services_of(ns, pod->meta.labels);
      }
    }
  }
}

void SliceDeriver::index_service(const api::Service& service, bool add) {
  if (!selects_pods(service)) {
    return;
  }
  auto& index = namespaces_[service.meta.key.ns].services_by_label;
  const Label label = *service.selector.begin();
  if (add) {
    index[label].insert(service.meta.key.name);
  } else if (auto& names = index[label]; names.erase(service.meta.key.name) != 0 && names.empty()) {
    index.erase(label);
  }
}

void SliceDeriver::index_pod(const api::Pod& pod, bool add) {
  auto& index = namespaces_[pod.meta.key.ns].pods_by_label;
  for (const auto& label : pod.meta.labels) {
    if (add) {
      index[label].insert(pod.meta.key.name);
    } else if (auto& names = index[label]; names.erase(pod.meta.key.name) != 0 && names.empty()) {
      index.erase(label);
    }
  }
}

std::vector<api::EndpointSlice> SliceDeriver::compute(const api::ObjectKey& key) const {
  const auto service = services_.find(key);
  if (service == services_.end()) {
    return {};
  }
  if (!service->second->selector.empty()) {
    const std::vector<const api::Pod*> pods = matching_pods(*service->second);
    return slices_for(*service->second, pods, nodes_);
  }
  const auto endpoints = endpoints_.find(key);
  if (endpoints == endpoints_.end()) {
    return {};
  }
  const auto skip = endpoints->second->meta.labels.find(std::string(kSkipMirrorLabel));
  if (skip != endpoints->second->meta.labels.end() && skip->second == "true") {
    return {};
  }
  return mirrored_slices(*endpoints->second);
}

std::vector<const api::Pod*> SliceDeriver::matching_pods(const api::Service& service) const {
  std::vector<const api::Pod*> pods;
  const auto space = namespaces_.find(service.meta.key.ns);
  if (space == namespaces_.end() || service.selector.empty()) {
    return pods;
  }
  const std::set<std::string>* fewest = nullptr;
  for (const auto& label : service.selector) {
    const auto found = space->second.pods_by_label.find(label);
    if (found == space->second.pods_by_label.end()) {
      return pods;
    }
    if (fewest == nullptr || found->second.size() < fewest->size()) {
      fewest = &found->second;
    }
  }
  FAIRLEAD_CHECK(fewest != nullptr);  // the selector has a label
  for (const std::string& name : *fewest) {
    const api::Pod& pod = *space->second.pods.at(name);
    if (matches(service.selector, pod.meta.labels)) {
      pods.push_back(&pod);
    }
  }
  return pods;
}

}  // namespace fairlead::manifest
