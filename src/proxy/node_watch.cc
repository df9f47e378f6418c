// SPDX-License-Identifier: Apache-2.0
#include "proxy/node_watch.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "base/log.h"
#include "dataplane/ipvs/plane.h"

namespace fairlead::proxy {
namespace {

// Interfaces come up with several addresses at once.
constexpr auto kSettle = std::chrono::milliseconds(100);
constexpr auto kRetry = std::chrono::seconds(1);

Result<std::vector<net::IpAddress>> addresses_of(netlink::Route& route) {
  const auto device = route.find(std::string(dataplane::ipvs::kDevice));
  if (!device) {
    return fail(device.error());
  }
  const auto all = route.addresses();
  if (!all) {
    return fail(all.error());
  }
  std::vector<net::IpAddress> addresses;
  for (const netlink::InterfaceAddress& address : *all) {
    // Link-local ones come with every pod and serve nothing: they must not cause work.
    const bool counts = !address.address.is_loopback() &&
                        (address.address.is_v4() || !address.address.is_link_local());
    if (counts && (!*device || address.interface != **device)) {
      addresses.push_back(address.address);
    }
  }
  std::ranges::sort(addresses);
  addresses.erase(std::ranges::unique(addresses).begin(), addresses.end());
  return addresses;
}

}  // namespace

Result<std::vector<net::IpAddress>> node_addresses() {
  const auto route = netlink::make_route();
  return route ? addresses_of(**route) : fail(route.error());
}

Result<std::unique_ptr<NodeWatch>> NodeWatch::open(event::Loop& loop, OnChange on_change) {
  auto route = netlink::make_route();
  if (!route) {
    return fail(route.error());
  }
  auto monitor = netlink::make_address_monitor(std::string(dataplane::ipvs::kDevice));
  if (!monitor) {
    return fail(monitor.error());
  }
  std::unique_ptr<NodeWatch> watch(
      new NodeWatch(loop, std::move(on_change), std::move(*route), std::move(*monitor)));
  auto addresses = addresses_of(*watch->route_);
  if (!addresses) {
    return fail(addresses.error());
  }
  watch->addresses_ = std::move(*addresses);
  return watch;
}

NodeWatch::NodeWatch(event::Loop& loop, OnChange on_change, std::unique_ptr<netlink::Route> route,
                     std::unique_ptr<netlink::AddressMonitor> monitor)
    : on_change_(std::move(on_change)),
      route_(std::move(route)),
      monitor_(std::move(monitor)),
      runner_(loop, kSettle, [this] { reread(); }),
      watch_(loop.watch_fd(monitor_->fd(), {.readable = true, .writable = false},
                           [this](event::FdEvents) {
                             if (monitor_->drain()) {
                               runner_.retry_after(kSettle);
                             }
                           })) {}

void NodeWatch::reread() {
  auto addresses = addresses_of(*route_);
  if (!addresses) {
    // The last known set stays in force: acting on an empty one would take node ports away.
    log::warn("cannot read the node's addresses, will retry",
              {{"error", addresses.error().text()}});
    runner_.retry_after(kRetry);
    return;
  }
  if (*addresses != addresses_) {
    addresses_ = std::move(*addresses);
    on_change_(addresses_);
  }
}

}  // namespace fairlead::proxy
