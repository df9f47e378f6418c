// SPDX-License-Identifier: Apache-2.0
// rtnetlink: interface addresses, the dummy device, and news about addresses.
#pragma once

#include <compare>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "net/address.h"

namespace fairlead::netlink {

enum class InterfaceIndex : std::uint32_t {};

struct InterfaceAddress {
  InterfaceIndex interface{};
  net::IpAddress address;

  friend auto operator<=>(const InterfaceAddress&, const InterfaceAddress&) = default;
};

/// A network device.
struct Link {
  InterfaceIndex index{};
  std::string name;
  std::string kind;              // "veth", "bridge", ...; empty for lo and hardware
  std::uint16_t type = 0;        // ARPHRD_ETHER, ARPHRD_LOOPBACK, ...
  InterfaceIndex master{};       // the bridge or bond it is a port of; 0: none
  bool leads_elsewhere = false;  // its other end is in another network namespace

  friend bool operator==(const Link&, const Link&) = default;
};

struct AddressOp {
  enum class Kind { kAdd, kDelete };
  Kind kind = Kind::kAdd;
  InterfaceIndex interface{};
  net::IpAddress address;  // as /32 or /128
};

/// Not thread-safe; blocking with a deadline. Acts in the network namespace it was opened in.
class Route {
 public:
  Route() = default;
  Route(const Route&) = delete;
  Route& operator=(const Route&) = delete;
  virtual ~Route() = default;

  /// Index of the device; nullopt if there is none of that name.
  [[nodiscard]] virtual Result<std::optional<InterfaceIndex>> find(const std::string& name) = 0;
  /// Creates the dummy device `name` if missing (left down, as kube-proxy does) and returns its
  /// index. An existing device of another type is an error that names it.
  [[nodiscard]] virtual Result<InterfaceIndex> ensure_dummy(const std::string& name) = 0;
  [[nodiscard]] virtual Status delete_device(InterfaceIndex interface) = 0;
  /// All devices, in the kernel's order.
  [[nodiscard]] virtual Result<std::vector<Link>> links() = 0;
  /// All addresses of all interfaces, both families.
  [[nodiscard]] virtual Result<std::vector<InterfaceAddress>> addresses() = 0;
  /// One result per op. "Already there" and "already gone" are success. IPv6 addresses are added
  /// without duplicate address detection.
  [[nodiscard]] virtual std::vector<Status> apply(std::span<const AddressOp> ops) = 0;
};
[[nodiscard]] Result<std::unique_ptr<Route>> make_route();

/// Tells that addresses or devices changed (multicast groups for links and both families'
/// addresses).
class AddressMonitor {
 public:
  AddressMonitor() = default;
  AddressMonitor(const AddressMonitor&) = delete;
  AddressMonitor& operator=(const AddressMonitor&) = delete;
  virtual ~AddressMonitor() = default;

  /// Non-blocking descriptor; readable when there is news.
  [[nodiscard]] virtual int fd() const = 0;
  /// Empties the queue. True if anything relevant happened, also if news was lost (ENOBUFS):
  /// then read `Route::addresses()` again.
  [[nodiscard]] virtual bool drain() = 0;
};
/// Addresses of the device named `ignored_device` are no news (it holds one per service, and they
/// are of our own making), whether it exists already, appears later, or comes back under another
/// index: the monitor follows link messages to know.
[[nodiscard]] Result<std::unique_ptr<AddressMonitor>> make_address_monitor(
    std::string ignored_device);

}  // namespace fairlead::netlink
