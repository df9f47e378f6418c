// SPDX-License-Identifier: Apache-2.0
#include "conntrack/stale_flows.h"

#include <algorithm>

namespace fairlead::conntrack {

void StaleFlows::expect(const plan::VirtualServerKey& key,
                        std::span<const net::SocketAddress> endpoints) {
  if (key.protocol == net::Protocol::kTcp || endpoints.empty()) {
    return;
  }
  std::vector<net::SocketAddress>& known = endpoints_[key];
  known.insert(known.end(), endpoints.begin(), endpoints.end());
}

void StaleFlows::expect(const plan::VirtualServer& server) {
  if (server.key.protocol == net::Protocol::kTcp) {
    return;
  }
  std::vector<net::SocketAddress> endpoints;
  const void* previous = nullptr;
  for (const plan::ClassPolicy& policy : server.classes) {
    if (policy.servers == nullptr || policy.servers.get() == previous) {
      continue;  // classes mostly share one list
    }
    previous = policy.servers.get();
    for (const plan::RealServer& real_server : *policy.servers) {
      endpoints.push_back(real_server.socket());
    }
  }
  expect(server.key, endpoints);
}

bool StaleFlows::is_stale(const netlink::Flow& flow) const {
  const net::SocketAddress& destination = flow.original.destination;
  const auto found = endpoints_.find(plan::VirtualServerKey{
      .address = destination.address, .port = destination.port, .protocol = flow.protocol});
  if (found == endpoints_.end()) {
    return false;
  }
  if (flow.protocol == net::Protocol::kSctp && flow.reply.source == destination) {
    return false;
  }
  return std::ranges::find(found->second, flow.reply.source) == found->second.end();
}

bool StaleFlows::covers(net::Family family, net::Protocol protocol) const {
  return std::ranges::any_of(endpoints_, [&](const auto& entry) {
    return entry.first.address.family() == family && entry.first.protocol == protocol;
  });
}

Removed remove_stale(netlink::Conntrack& table, std::span<const plan::VirtualServerPtr> servers) {
  StaleFlows stale;
  for (const plan::VirtualServerPtr& server : servers) {
    stale.expect(*server);
  }
  Removed removed;
  std::vector<netlink::Flow> flows;
  for (const net::Family family : {net::Family::kIpv4, net::Family::kIpv6}) {
    for (const net::Protocol protocol : {net::Protocol::kUdp, net::Protocol::kSctp}) {
      if (!stale.covers(family, protocol)) {
        continue;
      }
      Status status = table.dump(family, protocol, [&](const netlink::Flow& flow) {
        if (stale.is_stale(flow)) {
          flows.push_back(flow);
        }
      });
      if (!status) {
        removed.errors.push_back(std::move(status.error()));
      }
    }
  }
  if (flows.empty()) {
    return removed;
  }
  for (Status& status : table.remove(flows)) {
    if (status) {
      ++removed.count;
    } else {
      removed.errors.push_back(std::move(status.error()));
    }
  }
  return removed;
}

}  // namespace fairlead::conntrack
