// SPDX-License-Identifier: Apache-2.0
// The kernel's IPVS table in memory, with its rules and error codes, and faults to inject. For
// tests only. What it does not do: schedule packets, keep connections, revive deleted real servers.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ipvs/client.h"
#include "netlink/fake_fault.h"

namespace fairlead::ipvs {

/// Faults and counters come from FakeBase. Names of calls: "info", "timeouts", "set_timeouts",
/// "dump", "dump_exactly", "get", "apply", and "apply.op" for each op; the object is the text of
/// the id or op. A fault on "apply" fails every op of that call (kBefore: none is done; kAfter: all
/// are).
class FakeKernel final : public Client, public netlink::FakeBase {
 public:
  /// Knows the schedulers of a full kernel.
  FakeKernel();

  void set_known_schedulers(std::set<std::string> names) { schedulers_ = std::move(names); }
  /// Faults for ops by predicate; asked before the hook of FakeBase.
  using OpFault = std::function<std::optional<netlink::Fault>(const Op& op)>;
  void set_op_fault(OpFault fault) { op_fault_ = std::move(fault); }
  /// The next `count` ops fail.
  void fail_next_ops(std::size_t count, netlink::Fault fault);
  /// The real server must exist.
  void set_connections(const ServiceId& id, const net::SocketAddress& real_server,
                       std::uint32_t active, std::uint32_t inactive);

  /// The table without counting a call or meeting a fault. Sorted by id; real servers in the
  /// kernel's order (last added first).
  [[nodiscard]] std::vector<ObservedVirtualServer> table() const;
  /// One op as somebody else would do it: no counters, no faults.
  Status change(const Op& op);
  /// As after a reboot.
  void clear() { table_.clear(); }
  /// All ops that took effect, in order; for tests that look at the order.
  [[nodiscard]] const std::vector<Op>& applied() const { return applied_; }
  void reset_applied() { applied_.clear(); }

  [[nodiscard]] Result<Info> info() override;
  [[nodiscard]] Result<Timeouts> timeouts() override;
  [[nodiscard]] Status set_timeouts(const Timeouts& timeouts) override;
  [[nodiscard]] Result<std::vector<ObservedVirtualServer>> dump() override;
  [[nodiscard]] Result<std::vector<ObservedVirtualServer>> dump_exactly() override;
  [[nodiscard]] Result<std::optional<ObservedVirtualServer>> get(const ServiceId& id) override;
  [[nodiscard]] std::vector<Status> apply(std::span<const Op> ops) override;

 private:
  // Each gives 0 or the kernel's errno.
  [[nodiscard]] int change_errno(const Op& op);
  [[nodiscard]] int check(const VirtualServer& server) const;
  [[nodiscard]] static int check(const ServiceId& id, const RealServer& server);
  [[nodiscard]] Status apply_one(const Op& op, const std::optional<netlink::Fault>& call_fault);

  std::map<ServiceId, ObservedVirtualServer> table_;
  std::set<std::string> schedulers_;
  Timeouts timeouts_{900, 120, 300};
  OpFault op_fault_;
  std::vector<Op> applied_;
};

}  // namespace fairlead::ipvs
