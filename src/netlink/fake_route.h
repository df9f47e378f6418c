// SPDX-License-Identifier: Apache-2.0
// Devices and addresses in memory, with the kernel's rules. For tests only.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "netlink/fake_fault.h"
#include "netlink/route.h"

namespace fairlead::netlink {

class FakeRoute final : public Route, public FakeBase {
 public:
  struct Device {
    InterfaceIndex index{};
    std::string kind;  // "dummy", "veth", ...; empty for lo and hardware
  };

  /// Has `lo` (index 1) with 127.0.0.1 and ::1.
  FakeRoute();

  InterfaceIndex add_device(const std::string& name, const std::string& kind);
  void add_address(InterfaceIndex interface, const net::IpAddress& address);
  void remove_address(InterfaceIndex interface, const net::IpAddress& address);
  [[nodiscard]] const std::map<std::string, Device>& devices() const { return devices_; }
  [[nodiscard]] const std::set<InterfaceAddress>& address_set() const { return addresses_; }
  /// Addresses of the device of this name, sorted, as text.
  [[nodiscard]] std::vector<std::string> address_texts(const std::string& device) const;

  [[nodiscard]] Result<std::optional<InterfaceIndex>> find(const std::string& name) override;
  [[nodiscard]] Result<InterfaceIndex> ensure_dummy(const std::string& name) override;
  [[nodiscard]] Status delete_device(InterfaceIndex interface) override;
  [[nodiscard]] Result<std::vector<Link>> links() override;
  [[nodiscard]] Result<std::vector<InterfaceAddress>> addresses() override;
  [[nodiscard]] std::vector<Status> apply(std::span<const AddressOp> ops) override;

 private:
  [[nodiscard]] Status apply_one(const AddressOp& op);
  [[nodiscard]] bool has_index(InterfaceIndex interface) const;

  std::map<std::string, Device> devices_;
  std::set<InterfaceAddress> addresses_;
  std::uint32_t next_index_ = 1;
};

class FakeAddressMonitor final : public AddressMonitor {
 public:
  FakeAddressMonitor();
  /// Makes `fd()` readable.
  void notify();
  [[nodiscard]] int fd() const override { return event_.get(); }
  [[nodiscard]] bool drain() override;

 private:
  UniqueFd event_;
};

}  // namespace fairlead::netlink
