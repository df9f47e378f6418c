// SPDX-License-Identifier: Apache-2.0
#include "ipvs/fake_kernel.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <variant>

#include "base/check.h"
#include "ipvs/codec.h"

namespace fairlead::ipvs {
namespace {

using netlink::Fault;

constexpr std::size_t kMaxSchedulerName = 15;

// The kernel ignores what is not part of the identity.
ServiceId key(const ServiceId& id) {
  if (id.fwmark == 0) {
    return id;
  }
  ServiceId mark;
  mark.address = net::IpAddress::any(id.address.family());
  mark.fwmark = id.fwmark;
  return mark;
}

// As far as it can be told without a routing table: unicast, and for IPv6 not link-local.
bool is_unicast(const net::IpAddress& address) {
  if (address.is_unspecified() || address.is_multicast()) {
    return false;
  }
  if (address.is_v4()) {
    return std::ranges::any_of(address.bytes(), [](std::uint8_t b) { return b != 255; });
  }
  return !address.is_link_local();
}

auto find_real(ObservedVirtualServer& server, const net::SocketAddress& socket) {
  return std::ranges::find(server.real_servers, socket,
                           [](const ObservedRealServer& r) { return r.server.socket(); });
}

struct IdOf {
  const ServiceId& operator()(const AddVirtualServer& op) const { return op.server.id; }
  const ServiceId& operator()(const SetVirtualServer& op) const { return op.server.id; }
  template <typename T>
  const ServiceId& operator()(const T& op) const {
    return op.id;
  }
};

}  // namespace

FakeKernel::FakeKernel()
    : schedulers_{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh",  "sh",
                  "mh", "sed", "nq", "fo",  "ovf",  "twos",  "none"} {}

void FakeKernel::fail_next_ops(std::size_t count, Fault fault) {
  set_op_fault([count, fault = std::move(fault)](const Op&) mutable -> std::optional<Fault> {
    if (count == 0) {
      return std::nullopt;
    }
    --count;
    return fault;
  });
}

void FakeKernel::set_connections(const ServiceId& id, const net::SocketAddress& real_server,
                                 std::uint32_t active, std::uint32_t inactive) {
  const auto found = table_.find(key(id));
  FAIRLEAD_CHECK(found != table_.end());
  const auto real = find_real(found->second, real_server);
  FAIRLEAD_CHECK(real != found->second.real_servers.end());
  real->active_connections = active;
  real->inactive_connections = inactive;
}

std::vector<ObservedVirtualServer> FakeKernel::table() const {
  std::vector<ObservedVirtualServer> all;
  all.reserve(table_.size());
  for (const auto& [id, server] : table_) {
    all.push_back(server);
  }
  return all;
}

int FakeKernel::check(const VirtualServer& server) const {
  if (server.scheduler.size() > kMaxSchedulerName) {
    return EINVAL;
  }
  if (!schedulers_.contains(server.scheduler)) {
    return ENOENT;
  }
  if (!server.id.address.is_v4() && (server.netmask < 1 || server.netmask > 128)) {
    return EINVAL;
  }
  return 0;
}

int FakeKernel::check(const ServiceId& id, const RealServer& server) {
  if (server.address.family() != id.address.family() && server.method != ForwardMethod::kTunnel) {
    return EINVAL;
  }
  if (server.weight > INT_MAX) {
    return ERANGE;
  }
  // An upper threshold of 0 means none, and yet the kernel compares.
  if (server.lower_threshold > server.upper_threshold) {
    return ERANGE;
  }
  return 0;
}

int FakeKernel::change_errno(const Op& op) {
  const ServiceId id = key(std::visit(IdOf{}, op));
  const auto found = table_.find(id);
  const bool exists = found != table_.end();

  if (const auto* add = std::get_if<AddVirtualServer>(&op)) {
    if (add->server.scheduler.size() > kMaxSchedulerName) {
      return EINVAL;
    }
    if (exists) {
      return EEXIST;
    }
    if (const int error = check(add->server); error != 0) {
      return error;
    }
    ObservedVirtualServer server{.server = add->server, .real_servers = {}};
    server.server.id = id;
    server.server.flags &= ~kFlagHashed;
    table_.emplace(id, std::move(server));
    return 0;
  }
  if (const auto* set = std::get_if<SetVirtualServer>(&op)) {
    if (set->server.scheduler.size() > kMaxSchedulerName) {
      return EINVAL;
    }
    if (!exists) {
      return ESRCH;
    }
    if (const int error = check(set->server); error != 0) {
      return error;
    }
    found->second.server = set->server;
    found->second.server.id = id;
    found->second.server.flags &= ~kFlagHashed;
    return 0;
  }
  if (!exists) {
    return ESRCH;
  }
  if (std::holds_alternative<DeleteVirtualServer>(op)) {
    table_.erase(found);
    return 0;
  }
  auto& real_servers = found->second.real_servers;
  if (const auto* remove = std::get_if<DeleteRealServer>(&op)) {
    const auto real = find_real(found->second, remove->server);
    if (real == real_servers.end()) {
      return ENOENT;
    }
    real_servers.erase(real);
    return 0;
  }
  const auto* add = std::get_if<AddRealServer>(&op);
  const RealServer& wanted = add != nullptr ? add->server : std::get<SetRealServer>(op).server;
  if (const int error = check(id, wanted); error != 0) {
    return error;
  }
  const auto real = find_real(found->second, wanted.socket());
  if (add == nullptr) {
    if (real == real_servers.end()) {
      return ENOENT;
    }
    real->server = wanted;
    return 0;
  }
  if (real != real_servers.end()) {
    return EEXIST;
  }
  if (!is_unicast(wanted.address)) {
    return EINVAL;
  }
  real_servers.insert(real_servers.begin(), ObservedRealServer{.server = wanted});
  return 0;
}

Status FakeKernel::change(const Op& op) {
  if (const int error = change_errno(op); error != 0) {
    return fail(describe(op, Error::from_errno(error, "refused")));
  }
  applied_.push_back(op);
  return {};
}

Result<Info> FakeKernel::info() {
  count("info");
  return with_faults("info", "", [] {
    return Result<Info>(Info{.version = 0x010201, .connection_table_size = 4096});
  });
}

Result<Timeouts> FakeKernel::timeouts() {
  count("timeouts");
  return with_faults("timeouts", "", [&] { return Result<Timeouts>(timeouts_); });
}

Status FakeKernel::set_timeouts(const Timeouts& timeouts) {
  count("set_timeouts");
  return with_faults("set_timeouts", "", [&]() -> Status {
    // The kernel counts in ticks of its clock within an int; 100 per second is the rarest.
    const auto too_large = [](std::uint32_t seconds) { return seconds > INT_MAX / 100; };
    if (too_large(timeouts.tcp) || too_large(timeouts.tcp_fin) || too_large(timeouts.udp)) {
      return fail_errno(EINVAL, "set timeouts");
    }
    const auto take = [](std::uint32_t& into, std::uint32_t value) {
      into = value != 0 ? value : into;
    };
    take(timeouts_.tcp, timeouts.tcp);
    take(timeouts_.tcp_fin, timeouts.tcp_fin);
    take(timeouts_.udp, timeouts.udp);
    return {};
  });
}

Result<std::vector<ObservedVirtualServer>> FakeKernel::dump() {
  count("dump");
  return with_faults("dump", "", [&]() -> Result<std::vector<ObservedVirtualServer>> {
    auto all = table();
    for (ObservedVirtualServer& server : all) {
      for (ObservedRealServer& real : server.real_servers) {
        // As the real client, see netlink_client.h.
        real.server.upper_threshold = 0;
        real.server.lower_threshold = 0;
      }
    }
    return all;
  });
}

Result<std::vector<ObservedVirtualServer>> FakeKernel::dump_exactly() {
  count("dump_exactly");
  return with_faults("dump_exactly", "",
                     [&]() -> Result<std::vector<ObservedVirtualServer>> { return table(); });
}

Result<std::optional<ObservedVirtualServer>> FakeKernel::get(const ServiceId& id) {
  count("get");
  return with_faults("get", id.text(), [&]() -> Result<std::optional<ObservedVirtualServer>> {
    const auto found = table_.find(key(id));
    return found == table_.end() ? std::nullopt : std::optional(found->second);
  });
}

Status FakeKernel::apply_one(const Op& op, const std::optional<Fault>& call_fault) {
  count("apply.op");
  std::optional<Fault> fault = call_fault;
  if (!fault && op_fault_) {
    fault = op_fault_(op);
  }
  if (!fault) {
    fault = ask("apply.op", text(op));
  }
  if (fault && fault->when == Fault::When::kBefore) {
    return fail(std::move(fault->error).in(text(op)));
  }
  Status status = change(op);
  if (fault) {
    return fail(std::move(fault->error).in(text(op)));
  }
  return status;
}

std::vector<Status> FakeKernel::apply(std::span<const Op> ops) {
  count("apply");
  const std::optional<Fault> call_fault = ask("apply", "");
  std::vector<Status> statuses;
  statuses.reserve(ops.size());
  for (const Op& op : ops) {
    statuses.push_back(apply_one(op, call_fault));
  }
  return statuses;
}

}  // namespace fairlead::ipvs
