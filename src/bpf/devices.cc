// SPDX-License-Identifier: Apache-2.0
#include "bpf/devices.h"

#include <algorithm>
#include <array>
#include <net/if_arp.h>
#include <string_view>

namespace fairlead::bpf {
namespace {

constexpr std::array<std::string_view, 4> kWithoutPackets = {"dummy", "ifb", "nlmon", "netdevsim"};
constexpr std::array<std::string_view, 3> kMasters = {"bridge", "bond", "team"};

bool is_in(std::string_view kind, std::span<const std::string_view> kinds) {
  return std::ranges::find(kinds, kind) != kinds.end();
}

bool is_named(std::span<const std::string> patterns, std::string_view name) {
  bool any_includes = false;
  bool included = false;
  for (const std::string_view pattern : patterns) {
    if (pattern.starts_with('!')) {
      if (matches(pattern.substr(1), name)) {
        return false;
      }
    } else {
      any_includes = true;
      included = included || matches(pattern, name);
    }
  }
  return included || !any_includes;
}

bool is_usable(const net::IpAddress& address) {
  const std::string text = address.text();
  return !text.starts_with("fe80:") && !text.starts_with("127.") && text != "::1";
}

}  // namespace

bool matches(std::string_view pattern, std::string_view name) {
  const std::size_t star = pattern.find('*');
  if (star == std::string_view::npos) {
    return pattern == name;
  }
  if (!name.starts_with(pattern.substr(0, star))) {
    return false;
  }
  const std::string_view rest = pattern.substr(star + 1);
  for (std::size_t at = star; at <= name.size(); ++at) {
    if (matches(rest, name.substr(at))) {
      return true;
    }
  }
  return false;
}

std::vector<Device> choose_devices(std::span<const netlink::Link> links,
                                   std::span<const netlink::InterfaceAddress> addresses,
                                   const DeviceChoice& choice) {
  const auto link_of = [&](netlink::InterfaceIndex index) {
    const auto found = std::ranges::find(links, index, &netlink::Link::index);
    return found == links.end() ? nullptr : &*found;
  };
  // The first usable address of a family on the devices that `wanted` takes.
  const auto first = [&](net::Family family, const auto& wanted) {
    const auto found = std::ranges::find_if(addresses, [&](const netlink::InterfaceAddress& each) {
      const netlink::Link* link = link_of(each.interface);
      return each.address.family() == family && is_usable(each.address) &&
             (link == nullptr || !is_in(link->kind, kWithoutPackets)) &&
             wanted(each.interface, link);
    });
    return found == addresses.end() ? std::nullopt : std::optional(found->address);
  };
  const auto bridge = std::ranges::find(links, choice.pod_bridge, &netlink::Link::name);
  std::vector<Device> devices;
  for (const netlink::Link& link : links) {
    const bool has_ports =
        is_in(link.kind, kMasters) && std::ranges::any_of(links, [&](const netlink::Link& other) {
          return other.master == link.index;
        });
    if (link.type == ARPHRD_LOOPBACK || is_in(link.kind, kWithoutPackets) || has_ports ||
        !is_named(choice.patterns, link.name)) {
      continue;
    }
    Device device;
    device.interface = static_cast<std::uint32_t>(link.index);
    device.name = link.name;
    device.is_ethernet = link.type == ARPHRD_ETHER;
    device.is_peer = link.kind == "veth" && link.leads_elsewhere;
    device.has_pods =
        (!choice.pod_prefix.empty() && link.name.starts_with(choice.pod_prefix)) ||
        (!choice.pod_bridge.empty() && (link.name == choice.pod_bridge ||
                                        (bridge != links.end() && link.master == bridge->index)));
    const auto own_or_any = [&](net::Family family) {
      const auto on = [](netlink::InterfaceIndex wanted) {
        return [wanted](netlink::InterfaceIndex at, const netlink::Link*) { return at == wanted; };
      };
      auto found = first(family, on(link.index));
      if (!found && link.master != netlink::InterfaceIndex{}) {
        found = first(family, on(link.master));
      }
      if (!found) {
        found = first(family, [](netlink::InterfaceIndex, const netlink::Link* at) {
          return at != nullptr && at->type != ARPHRD_LOOPBACK;
        });
      }
      return found ? found : first(family, [](auto...) { return true; });
    };
    device.hide4 = own_or_any(net::Family::kIpv4);
    device.hide6 = own_or_any(net::Family::kIpv6);
    devices.push_back(std::move(device));
  }
  return devices;
}

}  // namespace fairlead::bpf
