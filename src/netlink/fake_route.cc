// SPDX-License-Identifier: Apache-2.0
#include "netlink/fake_route.h"

#include <algorithm>
#include <cerrno>
#include <net/if_arp.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/check.h"

namespace fairlead::netlink {
namespace {

net::IpAddress parsed(std::string_view text) { return net::IpAddress::parse(text).value(); }

}  // namespace

FakeRoute::FakeRoute() {
  const InterfaceIndex lo = add_device("lo", "");
  add_address(lo, parsed("127.0.0.1"));
  add_address(lo, parsed("::1"));
}

InterfaceIndex FakeRoute::add_device(const std::string& name, const std::string& kind) {
  const InterfaceIndex index{next_index_++};
  devices_[name] = Device{.index = index, .kind = kind};
  return index;
}

void FakeRoute::add_address(InterfaceIndex interface, const net::IpAddress& address) {
  addresses_.insert({.interface = interface, .address = address});
}

void FakeRoute::remove_address(InterfaceIndex interface, const net::IpAddress& address) {
  addresses_.erase({.interface = interface, .address = address});
}

std::vector<std::string> FakeRoute::address_texts(const std::string& device) const {
  std::vector<std::string> texts;
  const auto found = devices_.find(device);
  if (found != devices_.end()) {
    for (const InterfaceAddress& entry : addresses_) {
      if (entry.interface == found->second.index) {
        texts.push_back(entry.address.text());
      }
    }
  }
  std::ranges::sort(texts);
  return texts;
}

bool FakeRoute::has_index(InterfaceIndex interface) const {
  return std::ranges::any_of(devices_,
                             [&](const auto& entry) { return entry.second.index == interface; });
}

Result<std::optional<InterfaceIndex>> FakeRoute::find(const std::string& name) {
  count("find");
  return with_faults("find", name, [&]() -> Result<std::optional<InterfaceIndex>> {
    const auto found = devices_.find(name);
    if (found == devices_.end()) {
      return std::nullopt;
    }
    return found->second.index;
  });
}

Result<InterfaceIndex> FakeRoute::ensure_dummy(const std::string& name) {
  count("ensure_dummy");
  return with_faults("ensure_dummy", name, [&]() -> Result<InterfaceIndex> {
    const auto found = devices_.find(name);
    if (found == devices_.end()) {
      return add_device(name, "dummy");
    }
    if (found->second.kind != "dummy") {
      return fail(ErrorKind::kInvalidInput,
                  "device " + name + " exists, but is not a dummy device");
    }
    return found->second.index;
  });
}

Status FakeRoute::delete_device(InterfaceIndex interface) {
  count("delete_device");
  return with_faults("delete_device", "", [&]() -> Status {
    if (std::erase_if(devices_,
                      [&](const auto& entry) { return entry.second.index == interface; }) == 0) {
      return fail_errno(ENODEV, "delete device");
    }
    std::erase_if(addresses_,
                  [&](const InterfaceAddress& entry) { return entry.interface == interface; });
    return {};
  });
}

Result<std::vector<Link>> FakeRoute::links() {
  std::vector<Link> found;
  found.reserve(devices_.size());
  for (const auto& [name, device] : devices_) {
    found.push_back({device.index,
                     name,
                     device.kind,
                     name == "lo" ? std::uint16_t{ARPHRD_LOOPBACK} : std::uint16_t{ARPHRD_ETHER},
                     {}});
  }
  return found;
}

Result<std::vector<InterfaceAddress>> FakeRoute::addresses() {
  count("addresses");
  return with_faults("addresses", "", [&]() -> Result<std::vector<InterfaceAddress>> {
    return std::vector<InterfaceAddress>(addresses_.begin(), addresses_.end());
  });
}

Status FakeRoute::apply_one(const AddressOp& op) {
  const bool is_add = op.kind == AddressOp::Kind::kAdd;
  if (is_add && !has_index(op.interface)) {
    return fail_errno(ENODEV, "add address " + op.address.text());
  }
  if (is_add) {
    add_address(op.interface, op.address);
  } else {
    remove_address(op.interface, op.address);
  }
  return {};
}

std::vector<Status> FakeRoute::apply(std::span<const AddressOp> ops) {
  count("apply");
  count("apply.op", ops.size());
  std::vector<Status> results;
  results.reserve(ops.size());
  for (const AddressOp& op : ops) {
    results.push_back(with_faults("apply", op.address.text(), [&] { return apply_one(op); }));
  }
  return results;
}

FakeAddressMonitor::FakeAddressMonitor() : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  FAIRLEAD_CHECK(event_.get() >= 0);
}

void FakeAddressMonitor::notify() {
  const std::uint64_t one = 1;
  FAIRLEAD_CHECK(::write(event_.get(), &one, sizeof one) == sizeof one);
}

bool FakeAddressMonitor::drain() {
  std::uint64_t value = 0;
  return ::read(event_.get(), &value, sizeof value) == sizeof value;
}

}  // namespace fairlead::netlink
