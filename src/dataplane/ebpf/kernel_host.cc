// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ebpf/kernel_host.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>
#include <span>
#include <system_error>
#include <utility>

#include "base/log.h"
#include "bpf/attach.h"
#include "bpf/kernel_tables.h"
#include "netlink/route.h"
#include "netlink/socket_diag.h"

namespace fairlead::dataplane::ebpf {
namespace {

class KernelHost final : public Host {
 public:
  KernelHost(event::Loop& loop, HostConfig config) : loop_(loop), config_(std::move(config)) {}

  Result<std::unique_ptr<bpf::Tables>> open() override {
    if (Status status = bpf::prepare_directory(config_.pin_directory); !status) {
      return fail(std::move(status.error()));
    }
    auto lock = bpf::lock_directory(config_.pin_directory);
    if (!lock) {
      return fail(std::move(lock.error()));
    }
    lock_ = std::move(*lock);
    auto object = bpf::Object::load(config_.pin_directory, config_.sizes, config_.options);
    if (!object) {
      return fail(std::move(object.error()));
    }
    object_ = std::move(*object);
    hook_ = bpf::best_hook();
    auto route = netlink::make_route();
    if (!route) {
      return fail(std::move(route.error()));
    }
    route_ = std::move(*route);
    auto monitor = netlink::make_address_monitor("");
    if (!monitor) {
      return fail(std::move(monitor.error()));
    }
    monitor_ = std::move(*monitor);
    log::info("BPF programs are loaded",
              {{"hook", bpf::text(hook_)}, {"pins", config_.pin_directory}});
    return bpf::open_tables(config_.pin_directory, &*object_);
  }

  Status take_over() override {
    if (!object_->is_taking_over()) {
      return {};
    }
    if (Status status = object_->catch_up(); !status) {
      return status;
    }
    // What fails goes on with the old programs until the plane, which tries again, has mended it.
    std::map<std::string, std::string> failures;
    if (const auto devices = attach(true, failures); !devices) {
      return fail(devices.error());
    }
    if (const Status sockets = attach_sockets(); !sockets) {
      log::error("sockets are not translated", {{"error", sockets.error().text()}});
    }
    if (Status status = object_->settle(); !status) {
      return status;
    }
    log::info("maps of another layout or size are taken over", {{"pins", config_.pin_directory}});
    return {};
  }

  Result<std::vector<bpf::Device>> attach(bool thorough,
                                          std::map<std::string, std::string>& failures) override {
    const auto links = route_->links();
    if (!links) {
      return fail(links.error());
    }
    const auto addresses = route_->addresses();
    if (!addresses) {
      return fail(addresses.error());
    }
    if (!knows_earlier_) {
      auto earlier = bpf::attached_devices(config_.pin_directory, hook_);
      if (!earlier) {
        return fail(std::move(earlier.error()));
      }
      attached_ = std::move(*earlier);
      knows_earlier_ = true;
    }
    std::vector<bpf::Device> devices = bpf::choose_devices(*links, *addresses, config_.devices);
    std::set<std::uint32_t> now;
    for (const bpf::Device& device : devices) {
      const bool has_been = attached_.erase(device.interface) != 0;
      if (!thorough && has_been) {
        now.insert(device.interface);
        continue;
      }
      if (const Status status = bpf::attach_device(config_.pin_directory, *object_, hook_,
                                                   device.interface, device.is_ethernet);
          status) {
        if (!has_been) {
          log::info("programs are on a device", {{"device", device.name}});
        }
        now.insert(device.interface);
      } else {
        failures.emplace(device.name, status.error().text());
        if (has_been) {
          now.insert(device.interface);  // what is on it serves on
        }
      }
    }
    now.merge(let_go(attached_, *links, failures));
    attached_ = std::move(now);
    return devices;
  }

  Status attach_sockets() override {
    return config_.cgroup.empty()
               ? bpf::detach_cgroup(config_.pin_directory)
               : bpf::attach_cgroup(config_.pin_directory, *object_, config_.cgroup);
  }

  Result<std::size_t> close_udp_sockets(const std::set<net::IpAddress>& servers,
                                        const IsStale& is_stale) override {
    if (diag_ == nullptr) {
      auto diag = netlink::make_socket_diag();
      if (!diag) {
        return fail(std::move(diag.error()));
      }
      diag_ = std::move(*diag);
    }
    auto closed = close_stale(*diag_, servers, is_stale);
    if (closed && !config_.namespaces.empty()) {
      *closed += close_elsewhere(servers, is_stale);
    }
    return closed;
  }

  void set_on_change(std::function<void(TimePoint)> on_change) override {
    watch_ = loop_.watch_fd(monitor_->fd(), {.readable = true},
                            [this, on_change = std::move(on_change)](event::FdEvents) {
                              if (monitor_->drain()) {
                                on_change(loop_.now());
                              }
                            });
  }

 private:
  /// Takes the programs from devices that are not chosen any more; of one that is gone only the pin
  /// is left. Returns those where that failed.
  std::set<std::uint32_t> let_go(const std::set<std::uint32_t>& interfaces,
                                 std::span<const netlink::Link> links,
                                 std::map<std::string, std::string>& failures) const {
    std::set<std::uint32_t> left;
    for (const std::uint32_t interface : interfaces) {
      const auto link =
          std::ranges::find(links, netlink::InterfaceIndex{interface}, &netlink::Link::index);
      const Status status = bpf::detach_device(config_.pin_directory, hook_, interface);
      if (!status) {
        left.insert(interface);
        failures.emplace(link == links.end() ? std::to_string(interface) : link->name,
                         status.error().text());
      } else if (link != links.end()) {
        log::info("programs are off a device", {{"device", link->name}});
      }
    }
    return left;
  }

  static Result<std::size_t> close_stale(netlink::SocketDiag& diag,
                                         const std::set<net::IpAddress>& servers,
                                         const IsStale& is_stale) {
    auto sockets = diag.connected_udp();
    if (!sockets) {
      return fail(std::move(sockets.error()));
    }
    std::erase_if(*sockets, [&](const netlink::UdpSocket& socket) {
      return !servers.contains(socket.remote.address) || !is_stale(socket.cookie, socket.remote);
    });
    for (Status& status : diag.destroy(*sockets)) {
      if (!status) {
        return fail(std::move(status.error()));
      }
    }
    return sockets->size();
  }

  /// In all namespaces that have a name. What fails there is told once and not tried again: names
  /// of namespaces that are gone stay about, and a pod can end at any time.
  std::size_t close_elsewhere(const std::set<net::IpAddress>& servers, const IsStale& is_stale) {
    std::size_t count = 0;
    std::error_code error;
    Status failure;
    for (std::filesystem::directory_iterator file(config_.namespaces, error), end;
         !error && file != end; file.increment(error)) {
      auto diag = netlink::make_socket_diag_in(file->path());
      auto closed = diag ? close_stale(**diag, servers, is_stale) : fail(std::move(diag.error()));
      if (closed) {
        count += *closed;
      } else {
        failure = fail(std::move(closed.error()));
      }
    }
    if (error) {
      failure = fail(Error::from_errno(error.value(), "list " + config_.namespaces));
    }
    if (!failure && !std::exchange(told_of_pods_, true)) {
      log::warn("connected UDP sockets of some pods go on sending to servers that left",
                {{"error", failure.error().text()}});
    }
    return count;
  }

  event::Loop& loop_;
  HostConfig config_;
  UniqueFd lock_;
  std::optional<bpf::Object> object_;
  bpf::Hook hook_ = bpf::Hook::kTcx;
  std::unique_ptr<netlink::Route> route_;
  std::unique_ptr<netlink::AddressMonitor> monitor_;
  std::unique_ptr<netlink::SocketDiag> diag_;  // from its first use on
  bool told_of_pods_ = false;
  std::unique_ptr<event::FdWatch> watch_;
  std::set<std::uint32_t> attached_;  // by index: devices that have programs of ours
  bool knows_earlier_ = false;        // those of earlier processes are among them
};

}  // namespace

std::unique_ptr<Host> make_kernel_host(event::Loop& loop, HostConfig config) {
  return std::make_unique<KernelHost>(loop, std::move(config));
}

}  // namespace fairlead::dataplane::ebpf
