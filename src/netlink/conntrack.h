// SPDX-License-Identifier: Apache-2.0
// Connection-tracking entries over ctnetlink: read the UDP (or SCTP) ones, delete some.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "net/address.h"

namespace fairlead::netlink {

struct FlowTuple {
  net::SocketAddress source;
  net::SocketAddress destination;
  friend bool operator==(const FlowTuple&, const FlowTuple&) = default;
};

struct Flow {
  net::Protocol protocol = net::Protocol::kUdp;
  FlowTuple original;  // as the client sent it: destination is the service address
  FlowTuple reply;     // as the answer comes: source is the endpoint
};

/// Not thread-safe; blocking with a deadline. Acts in the network namespace it was opened in.
class Conntrack {
 public:
  Conntrack() = default;
  Conntrack(const Conntrack&) = delete;
  Conntrack& operator=(const Conntrack&) = delete;
  virtual ~Conntrack() = default;

  /// Calls `on_flow` for each entry of the family and protocol. An interrupted dump is repeated.
  [[nodiscard]] virtual Status dump(net::Family family, net::Protocol protocol,
                                    const std::function<void(const Flow&)>& on_flow) = 0;
  /// One result per flow; an entry already gone is success.
  [[nodiscard]] virtual std::vector<Status> remove(std::span<const Flow> flows) = 0;
};
[[nodiscard]] Result<std::unique_ptr<Conntrack>> make_conntrack();

}  // namespace fairlead::netlink
