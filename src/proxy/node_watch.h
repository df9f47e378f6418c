// SPDX-License-Identifier: Apache-2.0
// Which addresses the node has, and news about that. Control thread.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "base/result.h"
#include "event/loop.h"
#include "event/rate.h"
#include "net/address.h"
#include "netlink/route.h"

namespace fairlead::proxy {

/// Addresses of all interfaces but the data planes' own device; sorted.
[[nodiscard]] Result<std::vector<net::IpAddress>> node_addresses();

/// The same, and their changes.
class NodeWatch {
 public:
  using OnChange = std::function<void(const std::vector<net::IpAddress>&)>;

  /// Reads the addresses once; `on_change` is called for later changes only.
  [[nodiscard]] static Result<std::unique_ptr<NodeWatch>> open(event::Loop& loop,
                                                               OnChange on_change);

  /// Sorted.
  [[nodiscard]] const std::vector<net::IpAddress>& addresses() const { return addresses_; }

 private:
  NodeWatch(event::Loop& loop, OnChange on_change, std::unique_ptr<netlink::Route> route,
            std::unique_ptr<netlink::AddressMonitor> monitor);
  void reread();

  OnChange on_change_;
  std::unique_ptr<netlink::Route> route_;
  std::unique_ptr<netlink::AddressMonitor> monitor_;
  std::vector<net::IpAddress> addresses_;
  event::BoundedRunner runner_;
  std::unique_ptr<event::FdWatch> watch_;
};

}  // namespace fairlead::proxy
