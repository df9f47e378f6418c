// SPDX-License-Identifier: Apache-2.0
#include "netlink/route.h"

#include <cerrno>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <utility>

#include "netlink/socket.h"

namespace fairlead::netlink {
namespace {

constexpr std::string_view kDummy = "dummy";
constexpr std::size_t kLongestName = IFNAMSIZ - 1;

struct Device {
  InterfaceIndex index{};
  std::string kind;  // empty: no virtual device
};

std::optional<Device> parse_device(const Message& message) {
  const auto header = message.header<ifinfomsg>();
  if (message.type != RTM_NEWLINK || !header || header->ifi_index <= 0) {
    return std::nullopt;
  }
  const Attributes info = message.attributes(sizeof(ifinfomsg)).nest(IFLA_LINKINFO);
  return Device{.index = InterfaceIndex{static_cast<std::uint32_t>(header->ifi_index)},
                .kind = std::string(info[IFLA_INFO_KIND].string().value_or(""))};
}

std::optional<Link> parse_link(const Message& message) {
  const auto header = message.header<ifinfomsg>();
  if (message.type != RTM_NEWLINK || !header || header->ifi_index <= 0) {
    return std::nullopt;
  }
  const Attributes attributes = message.attributes(sizeof(ifinfomsg));
  Link link;
  link.index = InterfaceIndex{static_cast<std::uint32_t>(header->ifi_index)};
  link.name = attributes[IFLA_IFNAME].string().value_or("");
  link.kind = attributes.nest(IFLA_LINKINFO)[IFLA_INFO_KIND].string().value_or("");
  link.type = header->ifi_type;
  link.master = InterfaceIndex{attributes[IFLA_MASTER].u32().value_or(0)};
  link.leads_elsewhere = attributes[IFLA_LINK_NETNSID].u32().has_value();
  return link;
}

std::optional<InterfaceAddress> parse_address(const Message& message) {
  const auto header = message.header<ifaddrmsg>();
  if (message.type != RTM_NEWADDR || !header) {
    return std::nullopt;
  }
  const Attributes attributes = message.attributes(sizeof(ifaddrmsg));
  // On point-to-point links IFA_ADDRESS is the peer's, and only IFA_LOCAL is ours.
  const Attribute& local = attributes[IFA_LOCAL];
  const auto bytes = (local ? local : attributes[IFA_ADDRESS]).bytes();
  const std::size_t wanted = header->ifa_family == AF_INET ? 4 : 16;
  if ((header->ifa_family != AF_INET && header->ifa_family != AF_INET6) || bytes.size() != wanted) {
    return std::nullopt;
  }
  return InterfaceAddress{.interface = InterfaceIndex{header->ifa_index},
                          .address = net::IpAddress::from_bytes(bytes)};
}

Request address_request(const AddressOp& op) {
  const bool is_add = op.kind == AddressOp::Kind::kAdd;
  Request request(is_add ? RTM_NEWADDR : RTM_DELADDR,
                  is_add ? static_cast<std::uint16_t>(NLM_F_CREATE | NLM_F_EXCL) : 0);
  ifaddrmsg header{};
  header.ifa_family = static_cast<std::uint8_t>(net::socket_family(op.address.family()));
  header.ifa_prefixlen = op.address.is_v4() ? 32 : 128;
  // Every node has the same service addresses: looking for duplicates would find some.
  header.ifa_flags = op.address.is_v4() ? 0 : IFA_F_NODAD;
  header.ifa_index = static_cast<std::uint32_t>(op.interface);
  request.put_header(header);
  request.put_bytes(IFA_LOCAL, op.address.bytes());
  request.put_bytes(IFA_ADDRESS, op.address.bytes());
  return request;
}

Status address_result(const AddressOp& op, Status status) {
  const bool is_add = op.kind == AddressOp::Kind::kAdd;
  if (status || (is_add && status.error().kind() == ErrorKind::kAlreadyExists) ||
      (!is_add && status.error().kind() == ErrorKind::kNotFound)) {
    return {};
  }
  return fail(std::move(status.error())
                  .in((is_add ? "add address " : "delete address ") + op.address.text()));
}

class KernelRoute final : public Route {
 public:
  explicit KernelRoute(Socket socket) : socket_(std::move(socket)) {}

  Result<std::optional<InterfaceIndex>> find(const std::string& name) override {
    const Result<Device> device = lookup(name);
    if (device) {
      return device->index;
    }
    if (device.error().kind() == ErrorKind::kNotFound) {
      return std::nullopt;
    }
    return fail(device.error());
  }

  Result<InterfaceIndex> ensure_dummy(const std::string& name) override {
    Result<Device> device = lookup(name);
    if (!device && device.error().kind() == ErrorKind::kNotFound) {
      if (Status status = create_dummy(name); !status) {
        return fail(std::move(status.error()));
      }
      device = lookup(name);
    }
    if (!device) {
      return fail(std::move(device.error()));
    }
    if (device->kind != kDummy) {
      return fail(ErrorKind::kInvalidInput,
                  "device " + name + " exists, but is not a dummy device" +
                      (device->kind.empty() ? "" : " (it is a " + device->kind + ")"));
    }
    return device->index;
  }

  Status delete_device(InterfaceIndex interface) override {
    Request request(RTM_DELLINK);
    ifinfomsg header{};
    header.ifi_family = AF_UNSPEC;
    header.ifi_index = static_cast<int>(interface);
    request.put_header(header);
    Status status = socket_.execute_one(request);
    if (!status) {
      return fail(
          std::move(status.error())
              .in("delete device " + std::to_string(static_cast<std::uint32_t>(interface))));
    }
    return {};
  }

  Result<std::vector<Link>> links() override {
    Request request(RTM_GETLINK);
    ifinfomsg header{};
    header.ifi_family = AF_UNSPEC;
    request.put_header(header);
    std::vector<Link> found;
    Status status = socket_.dump(
        request,
        [&](const Message& message) {
          if (auto link = parse_link(message)) {
            found.push_back(std::move(*link));
          }
        },
        [&] { found.clear(); });
    if (!status) {
      return fail(std::move(status.error()).in("list devices"));
    }
    return found;
  }

  Result<std::vector<InterfaceAddress>> addresses() override {
    Request request(RTM_GETADDR);
    ifaddrmsg header{};
    header.ifa_family = AF_UNSPEC;
    request.put_header(header);
    std::vector<InterfaceAddress> found;
    Status status = socket_.dump(
        request,
        [&](const Message& message) {
          if (const auto address = parse_address(message)) {
            found.push_back(*address);
          }
        },
        [&] { found.clear(); });
    if (!status) {
      return fail(std::move(status.error()).in("list addresses"));
    }
    return found;
  }

  std::vector<Status> apply(std::span<const AddressOp> ops) override {
    std::vector<Request> requests;
    requests.reserve(ops.size());
    for (const AddressOp& op : ops) {
      requests.push_back(address_request(op));
    }
    std::vector<Status> results = socket_.execute(requests);
    for (std::size_t i = 0; i < ops.size(); ++i) {
      results[i] = address_result(ops[i], std::move(results[i]));
    }
    return results;
  }

 private:
  /// kNotFound if there is none of that name.
  Result<Device> lookup(const std::string& name) {
    if (name.empty() || name.size() > kLongestName) {
      return fail(ErrorKind::kInvalidInput,
                  "device name \"" + name + "\" must have 1 to 15 characters");
    }
    Request request(RTM_GETLINK);
    ifinfomsg header{};
    header.ifi_family = AF_UNSPEC;
    request.put_header(header);
    request.put_string(IFLA_IFNAME, name);
    std::optional<Device> device;
    Status status = socket_.get(request, [&](const Message& message) {
      if (const auto parsed = parse_device(message)) {
        device = parsed;
      }
    });
    if (!status) {
      return fail(std::move(status.error()).in("find device " + name));
    }
    if (!device) {
      return fail(ErrorKind::kSystem, "find device " + name + ": the kernel's answer has none");
    }
    return *device;
  }

  Status create_dummy(const std::string& name) {
    Request request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
    ifinfomsg header{};
    header.ifi_family = AF_UNSPEC;
    request.put_header(header);
    request.put_string(IFLA_IFNAME, name);
    const Request::Nest info = request.begin(IFLA_LINKINFO);
    request.put_string(IFLA_INFO_KIND, kDummy);
    request.end(info);
    Status status = socket_.execute_one(request);
    if (status || status.error().kind() == ErrorKind::kAlreadyExists) {
      return {};  // in the second case somebody was faster; the caller looks at its kind
    }
    const std::string context = "create dummy device " + name;
    if (status.error().errno_value() == EOPNOTSUPP) {
      return fail(Error(ErrorKind::kUnavailable,
                        context + ": the kernel has no dummy devices (module dummy)", EOPNOTSUPP));
    }
    return fail(std::move(status.error()).in(context));
  }

  Socket socket_;
};

class KernelAddressMonitor final : public AddressMonitor {
 public:
  KernelAddressMonitor(Socket news, std::unique_ptr<Route> route, std::string ignored_device)
      : news_(std::move(news)),
        route_(std::move(route)),
        ignored_device_(std::move(ignored_device)) {
    find_ignored();
  }

  int fd() const override { return news_.fd(); }
  bool drain() override {
    bool relevant = false;
    const Status status = news_.receive_pending(
        [&](const Message& message) { relevant = is_relevant(message) || relevant; });
    if (!status) {
      find_ignored();  // the news that it has another index may be among what was lost
      return true;     // whatever went wrong, reading the state again is the cure
    }
    return relevant;
  }

 private:
  void find_ignored() {
    if (!ignored_device_.empty()) {
      const auto found = route_->find(ignored_device_);
      ignored_ = found ? *found : std::nullopt;
    }
  }

  bool is_relevant(const Message& message) {
    switch (message.type) {
      case RTM_NEWADDR:
      case RTM_DELADDR: {
        const auto header = message.header<ifaddrmsg>();
        return header && InterfaceIndex{header->ifa_index} != ignored_;
      }
      case RTM_NEWLINK:
      case RTM_DELLINK:
        return !follow_link(message);
      default:
        return false;
    }
  }

  /// Learns where the ignored device is; true if the message is about it.
  bool follow_link(const Message& message) {
    const auto header = message.header<ifinfomsg>();
    if (!header) {
      return false;
    }
    const InterfaceIndex index{static_cast<std::uint32_t>(header->ifi_index)};
    const auto name = message.attributes(sizeof(ifinfomsg))[IFLA_IFNAME].string();
    const bool has_name = name && *name == ignored_device_;
    if (message.type == RTM_NEWLINK && has_name) {
      ignored_ = index;
      return true;
    }
    if (index != ignored_) {
      return false;
    }
    ignored_.reset();  // gone, or renamed and from now on a device like any other
    return has_name;
  }

  Socket news_;
  std::unique_ptr<Route> route_;
  std::string ignored_device_;
  std::optional<InterfaceIndex> ignored_;
};

}  // namespace

Result<std::unique_ptr<Route>> make_route() {
  Result<Socket> socket = Socket::open(NETLINK_ROUTE);
  if (!socket) {
    return fail(std::move(socket.error()).in("rtnetlink"));
  }
  return std::make_unique<KernelRoute>(std::move(*socket));
}

Result<std::unique_ptr<AddressMonitor>> make_address_monitor(std::string ignored_device) {
  Result<std::unique_ptr<Route>> route = make_route();
  if (!route) {
    return fail(std::move(route.error()));
  }
  Result<Socket> socket = Socket::open(NETLINK_ROUTE);
  if (!socket) {
    return fail(std::move(socket.error()).in("rtnetlink"));
  }
  for (const std::uint32_t group : {RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR}) {
    if (Status status = socket->join(group); !status) {
      return fail(std::move(status.error()).in("watch addresses"));
    }
  }
  // Looks for the device after joining, so that no change falls between.
  return std::make_unique<KernelAddressMonitor>(std::move(*socket), std::move(*route),
                                                std::move(ignored_device));
}

}  // namespace fairlead::netlink
