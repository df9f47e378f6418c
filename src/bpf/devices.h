// SPDX-License-Identifier: Apache-2.0
// Which devices the programs go on, and what hides clients there. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "net/address.h"
#include "netlink/route.h"

namespace fairlead::bpf {

struct DeviceChoice {
  /// Name patterns with `*`; empty: all that matter. One that begins with `!` takes devices out
  /// again; if there are only such, they are taken out of all that matter.
  std::vector<std::string> patterns;
  /// Devices whose names match carry pods' traffic (`--detect-local-mode InterfaceNamePrefix`).
  std::string pod_prefix;
  std::string pod_bridge;
};

struct Device {
  std::uint32_t interface = 0;
  std::string name;
  bool is_ethernet = true;
  bool has_pods = false;
  bool is_peer = false;  // a veth whose other end is in another namespace
  std::optional<net::IpAddress> hide4, hide6;

  friend bool operator==(const Device&, const Device&) = default;
};

/// All that packets of clients and servers pass once: not the loopback device, not what has no
/// packets of its own (dummy, ifb, nlmon), and of a bridge, bond or team its ports and not the
/// master, since replies between two ports of a bridge never reach the master.
///
/// A hidden client looks like the first global address of the device it goes out of; where that has
/// none, like the node's first one (as the kernel chooses for masquerading), where addresses of the
/// loopback device come last: they are often virtual ones that other nodes have as well.
[[nodiscard]] std::vector<Device> choose_devices(
    std::span<const netlink::Link> links, std::span<const netlink::InterfaceAddress> addresses,
    const DeviceChoice& choice);

/// `*` stands for any run of characters.
[[nodiscard]] bool matches(std::string_view pattern, std::string_view name);

}  // namespace fairlead::bpf
