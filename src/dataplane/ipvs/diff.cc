// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ipvs/diff.h"

#include <algorithm>
#include <type_traits>
#include <variant>

namespace fairlead::dataplane::ipvs {
namespace {

namespace kernel = fairlead::ipvs;

kernel::ForwardMethod method_of(plan::Forwarding forwarding) {
  switch (forwarding) {
    case plan::Forwarding::kMasquerade:
    // The kernel has no full NAT; masquerading plus the mark's source NAT is the same on the wire.
    case plan::Forwarding::kFullNat:
      return kernel::ForwardMethod::kMasquerade;
    case plan::Forwarding::kDirectRouting:
      return kernel::ForwardMethod::kDirectRouting;
    case plan::Forwarding::kTunnel:
      return kernel::ForwardMethod::kTunnel;
  }
  return kernel::ForwardMethod::kMasquerade;
}

auto lower_bound(std::vector<KnownRealServer>& servers, const net::SocketAddress& socket) {
  return std::ranges::lower_bound(
      servers, socket, {}, [](const KnownRealServer& known) { return known.server.socket(); });
}

const kernel::RealServer* find_wanted(const Desired* desired, const net::SocketAddress& socket) {
  if (desired == nullptr) {
    return nullptr;
  }
  const auto at =
      std::ranges::lower_bound(desired->real_servers, socket, {}, &kernel::RealServer::socket);
  return at != desired->real_servers.end() && at->socket() == socket ? &*at : nullptr;
}

bool drains(const kernel::ServiceId& id) { return id.protocol == net::Protocol::kTcp; }

// Both lists are sorted by socket: one walk finds what to add, to change and to take out.
void diff_real_servers(const kernel::ServiceId& id, const Desired* desired, const Known* known,
                       std::vector<kernel::Op>& ops) {
  std::vector<kernel::Op> leaving;
  const std::size_t wanted_count = desired != nullptr ? desired->real_servers.size() : 0;
  const std::size_t known_count = known != nullptr ? known->real_servers.size() : 0;
  std::size_t w = 0;
  std::size_t k = 0;
  while (w < wanted_count || k < known_count) {
    const kernel::RealServer* wanted = w < wanted_count ? &desired->real_servers[w] : nullptr;
    const KnownRealServer* present = k < known_count ? &known->real_servers[k] : nullptr;
    if (present == nullptr || (wanted != nullptr && wanted->socket() < present->server.socket())) {
      ops.emplace_back(kernel::AddRealServer{id, *wanted});
      ++w;
    } else if (wanted == nullptr || present->server.socket() < wanted->socket()) {
      if (!drains(id)) {
        leaving.emplace_back(kernel::DeleteRealServer{id, present->server.socket()});
      } else if (present->server.weight != 0) {
        kernel::RealServer idle = present->server;
        idle.weight = 0;
        leaving.emplace_back(kernel::SetRealServer{id, idle});
      }
      ++k;
    } else {
      if (*wanted != present->server) {
        ops.emplace_back(kernel::SetRealServer{id, *wanted});
      }
      ++w;
      ++k;
    }
  }
  ops.insert(ops.end(), leaving.begin(), leaving.end());
}

}  // namespace

kernel::ServiceId id_of(const plan::VirtualServerKey& key) {
  return {key.address, key.port, key.protocol, key.mark};
}

plan::VirtualServerKey key_of(const kernel::ServiceId& id) {
  return {id.address, id.port, id.protocol, id.fwmark};
}

Desired desired(const plan::VirtualServer& server, const std::optional<std::string>& scheduler) {
  Desired wanted;
  wanted.server.id = id_of(server.key);
  wanted.server.scheduler = scheduler.value_or(server.scheduler.name);
  wanted.server.flags = scheduler ? 0 : server.scheduler.flags;
  wanted.server.netmask = server.persistence_prefix.value_or(server.key.address.is_v4() ? 32 : 128);
  if (server.persistence) {
    wanted.server.flags |= kernel::kFlagPersistent;
    wanted.server.timeout = static_cast<std::uint32_t>(server.persistence->count());
  }
  if (server.one_packet) {
    wanted.server.flags |= kernel::kFlagOnePacket;
  }
  // Kernel IPVS cannot tell client classes apart; the external class is the widest one and the
  // others equal it until traffic policies come.
  const auto& servers = *server.policy(plan::ClientClass::kExternal).servers;
  wanted.real_servers.reserve(servers.size());
  for (const plan::RealServer& real : servers) {
    wanted.real_servers.push_back({real.address, real.port, method_of(real.method.forwarding),
                                   real.weight, real.thresholds.upper, real.thresholds.lower,
                                   static_cast<kernel::TunnelType>(real.method.tunnel),
                                   real.method.tunnel_port});
  }
  return wanted;
}

Known known(const kernel::ObservedVirtualServer& observed) {
  Known state{observed.server, {}};
  state.real_servers.reserve(observed.real_servers.size());
  for (const kernel::ObservedRealServer& real : observed.real_servers) {
    state.real_servers.push_back({real.server, std::nullopt});
  }
  std::ranges::sort(state.real_servers, {},
                    [](const KnownRealServer& real) { return real.server.socket(); });
  return state;
}

std::vector<kernel::Op> diff(const kernel::ServiceId& id, const Desired* desired,
                             const Known* known) {
  std::vector<kernel::Op> ops;
  if (desired == nullptr) {
    if (known == nullptr) {
      return ops;
    }
    if (known->real_servers.empty() || !drains(id)) {
      ops.emplace_back(kernel::DeleteVirtualServer{id});
      return ops;
    }
  } else if (known == nullptr) {
    ops.emplace_back(kernel::AddVirtualServer{desired->server});
  } else if (known->server != desired->server) {
    ops.emplace_back(kernel::SetVirtualServer{desired->server});
  }
  diff_real_servers(id, desired, known, ops);
  return ops;
}

void acknowledge(std::optional<Known>& known, const kernel::Op& op) {
  std::visit(
      [&known](const auto& done) {
        using T = std::decay_t<decltype(done)>;
        if constexpr (std::is_same_v<T, kernel::AddVirtualServer>) {
          known = Known{done.server, {}};
        } else if constexpr (std::is_same_v<T, kernel::DeleteVirtualServer>) {
          known.reset();
        } else if (known.has_value()) {
          if constexpr (std::is_same_v<T, kernel::SetVirtualServer>) {
            known->server = done.server;
          } else if constexpr (std::is_same_v<T, kernel::DeleteRealServer>) {
            const auto at = lower_bound(known->real_servers, done.server);
            if (at != known->real_servers.end() && at->server.socket() == done.server) {
              known->real_servers.erase(at);
            }
          } else {
            const auto at = lower_bound(known->real_servers, done.server.socket());
            if (at != known->real_servers.end() && at->server.socket() == done.server.socket()) {
              at->server = done.server;
            } else {
              known->real_servers.insert(at, KnownRealServer{done.server, std::nullopt});
            }
          }
        }
      },
      op);
}

bool arm_drains(Known& known, const Desired* desired, TimePoint now,
                std::chrono::seconds drain_timeout) {
  bool any = false;
  for (KnownRealServer& real : known.real_servers) {
    if (find_wanted(desired, real.server.socket()) != nullptr) {
      real.drain_until.reset();
      continue;
    }
    if (!real.drain_until) {
      real.drain_until = now + drain_timeout;
    }
    any = true;
  }
  return any;
}

std::vector<kernel::Op> finish_drains(const Known& known,
                                      const kernel::ObservedVirtualServer& observed,
                                      bool server_is_going, TimePoint now) {
  std::vector<kernel::Op> ops;
  for (const KnownRealServer& real : known.real_servers) {
    if (!real.drain_until || real.server.weight != 0) {
      continue;
    }
    const auto seen =
        std::ranges::find(observed.real_servers, real.server.socket(),
                          [](const kernel::ObservedRealServer& o) { return o.server.socket(); });
    const bool idle =
        seen == observed.real_servers.end() ||
        (seen->active_connections == 0 && (server_is_going || seen->inactive_connections == 0));
    if (idle || now >= *real.drain_until) {
      ops.emplace_back(kernel::DeleteRealServer{known.server.id, real.server.socket()});
    }
  }
  return ops;
}

}  // namespace fairlead::dataplane::ipvs
