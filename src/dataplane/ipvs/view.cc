// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ipvs/view.h"

#include <algorithm>
#include <utility>

#include "dataplane/ipvs/diff.h"

namespace fairlead::dataplane::ipvs {
namespace {

namespace kernel = fairlead::ipvs;

Totals totals_of(const kernel::Stats& stats) {
  return {stats.connections, stats.in_packets, stats.out_packets, stats.in_bytes, stats.out_bytes};
}

plan::ForwardingMethod method_of(const kernel::RealServer& server) {
  switch (server.method) {
    case kernel::ForwardMethod::kDirectRouting:
      return {.forwarding = plan::Forwarding::kDirectRouting};
    case kernel::ForwardMethod::kTunnel:
      return {.forwarding = plan::Forwarding::kTunnel,
              .tunnel = static_cast<plan::TunnelType>(server.tunnel),
              .tunnel_port = server.tunnel_port};
    default:
      // Masquerading. (Nobody asks for what else the kernel has: local, bypass.)
      return {};
  }
}

ListedRealServer listed(const kernel::ObservedRealServer& real) {
  ListedRealServer out;
  out.socket = real.server.socket();
  out.method = method_of(real.server);
  out.state = real.server.weight == 0 ? "draining" : "up";
  out.weight = real.server.weight;
  out.thresholds = {real.server.upper_threshold, real.server.lower_threshold};
  out.active = real.active_connections;
  out.inactive = real.inactive_connections;
  out.persistent = real.persistent_connections;
  out.totals = totals_of(real.stats);
  return out;
}

class KernelView final : public View {
 public:
  explicit KernelView(std::unique_ptr<kernel::Client> client) : client_(std::move(client)) {}

  Result<Listing> table() override {
    const auto observed = client_->dump_exactly();
    return observed ? Result<Listing>(listing_of(*observed)) : fail(observed.error());
  }
  Result<std::vector<ListedConnection>> connections() override {
    const auto connections = kernel::read_connections();
    if (!connections) {
      return fail(connections.error());
    }
    std::vector<ListedConnection> out;
    for (const kernel::Connection& each : *connections) {
      out.push_back({.protocol = each.protocol,
                     .client = each.client,
                     .virtual_server = each.virtual_server,
                     .server = each.server,
                     .state = each.state,
                     .expires = each.expires});
    }
    return out;
  }

 private:
  std::unique_ptr<kernel::Client> client_;
};

}  // namespace

Listing listing_of(std::span<const kernel::ObservedVirtualServer> observed) {
  Listing listing;
  for (const kernel::ObservedVirtualServer& each : observed) {
    ListedVirtualServer server;
    server.key = key_of(each.server.id);
    server.scheduler = each.server.scheduler;
    if ((each.server.flags & kernel::kFlagPersistent) != 0) {
      server.persistence = each.server.timeout;
      server.persistence_prefix = each.server.netmask;
    }
    server.totals = totals_of(each.stats);
    std::ranges::transform(each.real_servers, std::back_inserter(server.real_servers), listed);
    listing.virtual_servers.push_back(std::move(server));
  }
  std::ranges::sort(listing.virtual_servers, {}, &ListedVirtualServer::key);
  return listing;
}

Result<std::unique_ptr<View>> open_view() {
  auto client = kernel::make_netlink_client();
  if (!client) {
    return fail(std::move(client.error()));
  }
  return std::make_unique<KernelView>(std::move(*client));
}

}  // namespace fairlead::dataplane::ipvs
