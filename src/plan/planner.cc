// SPDX-License-Identifier: Apache-2.0
#include "plan/planner.h"

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include "base/check.h"

namespace fairlead::plan {
namespace {

using Sockets = std::shared_ptr<const std::vector<net::SocketAddress>>;

constexpr std::array<ClientClass, kClientClasses> kAllClasses = {
    ClientClass::kExternal, ClientClass::kPod, ClientClass::kNode};

/// The old vector where it says the same, so that all virtual servers of a service port go on
/// sharing one, the ones that did not change too.
template <typename T>
std::shared_ptr<const std::vector<T>> shared(std::vector<T> values,
                                             const std::shared_ptr<const std::vector<T>>& old) {
  // Most services have no local endpoint, and many no endpoint at all: one empty vector for all.
  static const auto none = std::make_shared<const std::vector<T>>();
  if (values.empty()) {
    return none;
  }
  if (old != nullptr && *old == values) {
    return old;
  }
  values.shrink_to_fit();
  return std::make_shared<const std::vector<T>>(std::move(values));
}

std::vector<RealServer> real_servers(const model::ServicePortModel& port,
                                     const ForwardingMethod& method) {
  std::vector<RealServer> servers;
  servers.reserve(port.serving.size());
  for (const model::ServingEndpoint& endpoint : port.serving) {
    servers.push_back({.address = endpoint.address,
                       .port = endpoint.port,
                       .method = method,
                       .is_local = endpoint.is_local,
                       .weight = endpoint.weight,
                       .thresholds = port.thresholds});
  }
  return servers;
}

/// The answer must come back through this node wherever the client could otherwise get it straight
/// from the pod, under an address it does not know.
bool must_masquerade(AddressKind kind, ClientClass client, net::Family family,
                     const model::NodeContext& node) {
  if (kind == AddressKind::kFirewallMark) {
    return false;  // the rules of the ipvs mode know addresses
  }
  if (kind != AddressKind::kClusterIp || node.options().masquerade_all) {
    return true;
  }
  switch (client) {
    case ClientClass::kPod:
      return false;
    case ClientClass::kNode:
      return true;
    case ClientClass::kExternal:
      return node.detects_pods(family);
  }
  return false;
}

const VirtualServer* any_of_port(const std::vector<VirtualServerPtr>& servers,
                                 const model::ServicePortModel& port,
                                 const ForwardingMethod& method) {
  const auto found = std::ranges::find_if(servers, [&](const VirtualServerPtr& server) {
    const RealServers& reals = server->policy(ClientClass::kExternal).servers;
    return server->owner == port.name && server->key.protocol == port.protocol &&
           server->key.address.family() == port.family &&
           (reals->empty() || reals->front().method == method);
  });
  return found == servers.end() ? nullptr : found->get();
}

std::string_view field_of(AddressKind kind) {
  switch (kind) {
    case AddressKind::kClusterIp:
      return "spec.clusterIPs";
    case AddressKind::kExternalIp:
      return "spec.externalIPs";
    case AddressKind::kLoadBalancerIp:
      return "status.loadBalancer.ingress";
    case AddressKind::kNodePort:
      return "spec.ports[].nodePort";
    case AddressKind::kFirewallMark:
      return "metadata.annotations[fairlead.io/firewall-mark]";
  }
  return "?";
}

model::Problem conflict(const api::ObjectKey& service, const VirtualServer& wanted,
                        const VirtualServer& owned) {
  return {"Service " + service.text(), std::string(field_of(wanted.kind)),
          wanted.key.text() + ", wanted by service port " + wanted.owner + ", already belongs to " +
              owned.owner + " (" + std::string(text(owned.kind)) +
              "); it takes over when that leaves"};
}

const VirtualServerKey& key_of(const VirtualServerPtr& server) { return server->key; }

}  // namespace

Planner::Planner(const store::Store& store, model::ModelOptions options)
    : store_(store), node_(model::NodeFacts{}, std::move(options)) {}

Delta Planner::set_node(model::NodeFacts facts) {
  const model::NodeContext old =
      std::exchange(node_, model::NodeContext(std::move(facts), node_.options()));
  const auto detection_differs = [&](net::Family family) {
    return old.detects_pods(family) != node_.detects_pods(family);
  };
  const bool all = old.facts().name != node_.facts().name ||
                   detection_differs(net::Family::kIpv4) || detection_differs(net::Family::kIpv6);
  const bool addresses = old.facts().interface_addresses != node_.facts().interface_addresses ||
                         old.node_port_addresses() != node_.node_port_addresses();
  std::vector<api::ObjectKey> keys;
  if (all || addresses) {
    for (const auto& [key, service] : services_) {
      if (all || service.uses_node_addresses) {
        keys.push_back(key);
      }
    }
  }
  return update(keys);
}

Delta Planner::update(std::span<const api::ObjectKey> services) {
  Before before;
  for (const api::ObjectKey& key : services) {
    recompute(key, before);
  }
  return since(before);
}

void Planner::recompute(const api::ObjectKey& key, Before& before) {
  const api::Service* object = store_.service(key);
  model::ServiceModel model;
  if (object != nullptr) {
    model = model::build(*object, store_.slices(key), node_);
  }
  const bool is_empty = model.ports.empty() && model.problems.empty();
  auto found = services_.find(key);
  if (found == services_.end()) {
    if (is_empty) {
      return;
    }
    found = services_.try_emplace(key).first;
    found->second.key = &found->first;
  }
  ServiceState& state = found->second;
  std::vector<VirtualServerPtr> claims = servers_of(key, model, state, model.problems);
  if (state.problems != model.problems) {
    state.problems = std::move(model.problems);
    state.problems.shrink_to_fit();
    changed_problems_.insert(key);
  }
  state.uses_node_addresses = model.uses_node_addresses;
  const std::int64_t created = object == nullptr ? 0 : object->meta.creation_time;
  set_claims(state, created, std::move(claims), before);
  if (is_empty) {
    services_.erase(found);
  }
}

std::vector<VirtualServerPtr> Planner::servers_of(const api::ObjectKey& key,
                                                  const model::ServiceModel& model,
                                                  const ServiceState& old,
                                                  std::vector<model::Problem>& problems) const {
  std::vector<VirtualServerPtr> servers;
  for (const model::ServicePortModel& port : model.ports) {
    const auto endpoints_by = [&](const ForwardingMethod& method) {
      const VirtualServer* former = any_of_port(old.claims, port, method);
      return shared(real_servers(port, method),
                    former == nullptr ? nullptr : former->policy(ClientClass::kExternal).servers);
    };
    const RealServers endpoints = endpoints_by(port.forwarding);
    const RealServers translated =
        port.forwarding.keeps_destination() ? endpoints_by({}) : endpoints;
    const VirtualServer* former = any_of_port(old.claims, port, port.forwarding);
    const Sockets hairpin = shared(port.local, former == nullptr ? nullptr : former->hairpin);
    servers.reserve(servers.size() + port.addresses.size());
    for (const model::ServiceAddress& address : port.addresses) {
      auto server = std::make_shared<VirtualServer>();
      server->key = {address.address, address.port, port.protocol, address.mark};
      server->kind = address.kind;
      server->owner = port.name;
      server->scheduler = port.scheduler;
      server->persistence = port.persistence;
      server->persistence_prefix = port.persistence_prefix;
      server->one_packet = port.one_packet;
      server->drain_timeout = port.drain_timeout;
      server->on_node_interface = address.on_node_interface;
      for (const ClientClass client : kAllClasses) {
        ClassPolicy& policy = server->classes.at(static_cast<std::size_t>(client));
        // A node port is an address of the node's own: no server can have it, too.
        policy.servers = address.kind == AddressKind::kNodePort ? translated : endpoints;
        policy.masquerade = must_masquerade(address.kind, client, port.family, node_);
      }
      server->hairpin = hairpin;
      servers.push_back(std::move(server));
    }
  }
  // Two ports of one service can meet on one key too; then the better kind, or else the port that
  // is first by name, stays.
  std::ranges::sort(servers, [](const VirtualServerPtr& a, const VirtualServerPtr& b) {
    const auto rank = [](const VirtualServer& server) {
      return std::tuple(server.key, model::precedence(server.kind), std::string_view(server.owner));
    };
    return rank(*a) < rank(*b);
  });
  std::vector<VirtualServerPtr> kept;
  kept.reserve(servers.size());
  for (VirtualServerPtr& server : servers) {
    if (kept.empty() || kept.back()->key != server->key) {
      kept.push_back(std::move(server));
    } else if (kept.back()->owner != server->owner) {
      problems.push_back(conflict(key, *server, *kept.back()));
    }
  }
  return kept;
}

void Planner::set_claims(ServiceState& service, std::int64_t created,
                         std::vector<VirtualServerPtr> claims, Before& before) {
  std::vector<VirtualServerPtr> old = std::move(service.claims);
  if (service.created != created) {
    // A new age is a new rank for every claim.
    for (const VirtualServerPtr& server : old) {
      withdraw(server->key, service, before);
    }
    old.clear();
    service.created = created;
  }
  auto former = old.begin();
  for (VirtualServerPtr& server : claims) {
    for (; former != old.end() && (*former)->key < server->key; ++former) {
      withdraw((*former)->key, service, before);
    }
    if (former != old.end() && (*former)->key == server->key) {
      if (**former == *server) {
        server = *former++;
        continue;
      }
      ++former;
    }
    claim(server, service, before);
  }
  for (; former != old.end(); ++former) {
    withdraw((*former)->key, service, before);
  }
  service.claims = std::move(claims);
}

std::weak_ordering Planner::rank(const Claim& a, const Claim& b) {
  const auto age = [](const Claim& claim) {
    const std::int64_t created = claim.service->created;
    return created == 0 ? std::numeric_limits<std::int64_t>::max() : created;
  };
  if (const auto order = model::precedence(a.server->kind) <=> model::precedence(b.server->kind);
      order != 0) {
    return order;
  }
  if (const auto order = age(a) <=> age(b); order != 0) {
    return order;
  }
  return *a.service->key <=> *b.service->key;
}

void Planner::claim(const VirtualServerPtr& server, ServiceState& service, Before& before) {
  touch(server->key, before);
  Claim ours{server, &service};
  const auto [entry, is_free] = owners_.try_emplace(server->key, ours);
  if (is_free) {
    return;
  }
  Claim& owner = entry->second;
  const auto waiting = waiting_.find(server->key);
  if (owner.service == &service) {
    owner = std::move(ours);
    if (waiting == waiting_.end()) {
      return;
    }
  } else if (waiting == waiting_.end()) {
    waiting_[server->key].push_back(std::move(ours));
  } else if (const auto mine = std::ranges::find(waiting->second, &service, &Claim::service);
             mine != waiting->second.end()) {
    *mine = std::move(ours);
  } else {
    waiting->second.push_back(std::move(ours));
  }
  std::vector<Claim>& others = waiting_.at(server->key);
  const auto best = std::ranges::min_element(
      others, [](const Claim& a, const Claim& b) { return rank(a, b) < 0; });
  if (rank(*best, owner) < 0) {
    std::swap(*best, owner);
  }
  note_conflict(owner, others);
}

void Planner::withdraw(const VirtualServerKey& key, ServiceState& service, Before& before) {
  touch(key, before);
  const auto entry = owners_.find(key);
  FAIRLEAD_CHECK(entry != owners_.end());
  const auto waiting = waiting_.find(key);
  if (waiting == waiting_.end()) {
    FAIRLEAD_CHECK(entry->second.service == &service);
    owners_.erase(entry);
    return;
  }
  note_conflict(entry->second, waiting->second);
  std::vector<Claim>& others = waiting->second;
  if (entry->second.service == &service) {
    const auto best = std::ranges::min_element(
        others, [](const Claim& a, const Claim& b) { return rank(a, b) < 0; });
    entry->second = std::move(*best);
    others.erase(best);
  } else {
    std::erase_if(others, [&](const Claim& claim) { return claim.service == &service; });
  }
  if (others.empty()) {
    waiting_.erase(waiting);
  }
}

void Planner::touch(const VirtualServerKey& key, Before& before) const {
  const auto [entry, is_new] = before.try_emplace(key);
  if (is_new) {
    entry->second = find(key);
  }
}

void Planner::note_conflict(const Claim& owner, const std::vector<Claim>& waiting) {
  changed_problems_.insert(*owner.service->key);
  for (const Claim& claim : waiting) {
    changed_problems_.insert(*claim.service->key);
  }
}

Delta Planner::since(const Before& before) const {
  Delta delta;
  for (const auto& [key, former] : before) {
    VirtualServerPtr now = find(key);
    if (now == nullptr) {
      if (former != nullptr) {
        delta.removed.push_back(key);
      }
    } else if (former == nullptr || (now != former && *now != *former)) {
      delta.put.push_back(std::move(now));
    }
  }
  std::ranges::sort(delta.put, {}, key_of);
  std::ranges::sort(delta.removed);
  return delta;
}

Delta Planner::full() const {
  Delta delta;
  delta.put.reserve(owners_.size());
  for (const auto& [key, claim] : owners_) {
    delta.put.push_back(claim.server);
  }
  std::ranges::sort(delta.put, {}, key_of);
  return delta;
}

VirtualServerPtr Planner::find(const VirtualServerKey& key) const {
  const auto entry = owners_.find(key);
  return entry == owners_.end() ? nullptr : entry->second.server;
}

void Planner::append_problems(const ServiceState& service, std::vector<model::Problem>& out) const {
  out.insert(out.end(), service.problems.begin(), service.problems.end());
  for (const VirtualServerPtr& server : service.claims) {
    const VirtualServerPtr& owned = owners_.at(server->key).server;
    if (owned != server) {
      out.push_back(conflict(*service.key, *server, *owned));
    }
  }
}

std::vector<model::Problem> Planner::problems() const {
  std::vector<model::Problem> out;
  for (const auto& [key, service] : services_) {
    append_problems(service, out);
  }
  std::ranges::sort(out);
  return out;
}

std::vector<model::Problem> Planner::problems(const api::ObjectKey& service) const {
  std::vector<model::Problem> out;
  if (const auto found = services_.find(service); found != services_.end()) {
    append_problems(found->second, out);
  }
  std::ranges::sort(out);
  return out;
}

std::vector<api::ObjectKey> Planner::take_changed_problems() {
  std::vector<api::ObjectKey> keys;
  keys.reserve(changed_problems_.size());
  while (!changed_problems_.empty()) {
    keys.push_back(std::move(changed_problems_.extract(changed_problems_.begin()).value()));
  }
  std::ranges::sort(keys);
  return keys;
}

}  // namespace fairlead::plan
