// SPDX-License-Identifier: Apache-2.0
// Flows that connection tracking still sends to an endpoint which no longer serves. UDP clients
// never reconnect by themselves, so such an entry must go before they can reach another endpoint.
// Rules: kube-proxy-ipvs.md section 7.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "net/address.h"
#include "netlink/conntrack.h"
#include "plan/plan.h"

namespace fairlead::conntrack {

/// What is expected of flows to virtual servers, and which flows break it. Pure; not thread-safe.
///
/// UDP: stale if the original destination is a known virtual server and the answers come from
/// anything but one of its endpoints, the virtual server itself included (an entry made before
/// there were endpoints). SCTP: the same, but only entries that are translated to some endpoint:
/// its associations are set up anew anyway where nothing was translated. TCP: never. Node ports are
/// known by their node's addresses, so flows that only pass through the node to the same port
/// elsewhere are safe (kube-proxy takes them by port number alone).
class StaleFlows {
 public:
  /// Endpoints that may serve `key`; further calls for the key add to it. A key for which none is
  /// ever named is left alone.
  void expect(const plan::VirtualServerKey& key, std::span<const net::SocketAddress> endpoints);
  /// The real servers of all client classes. TCP is skipped.
  void expect(const plan::VirtualServer& server);

  [[nodiscard]] bool is_stale(const netlink::Flow& flow) const;
  /// Is there any expectation for flows of this kind? If not, nothing needs to be read.
  [[nodiscard]] bool covers(net::Family family, net::Protocol protocol) const;

 private:
  std::unordered_map<plan::VirtualServerKey, std::vector<net::SocketAddress>> endpoints_;
};

struct Removed {
  std::size_t count = 0;
  /// What failed; the rest was done.
  std::vector<Error> errors;
};
/// Reads the flows of the families and protocols that `servers` have and deletes the stale ones.
[[nodiscard]] Removed remove_stale(netlink::Conntrack& table,
                                   std::span<const plan::VirtualServerPtr> servers);

}  // namespace fairlead::conntrack
