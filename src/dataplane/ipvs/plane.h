// SPDX-License-Identifier: Apache-2.0
// The `ipvs` data plane: kernel IPVS, the addresses on kube-ipvs0, the ipsets and a constant set of
// iptables rules. Facts: kube-proxy-ipvs.md sections 2-5.
//
// One engine serves first programming, increments, restart, drift and retries: for each key a
// pure diff between what the plan wants and what the kernel is known to hold. They differ only in
// how the second side was learnt: by acknowledgement, or by reading the kernel.
//
// Order within one run: set members, then virtual and real servers, then bound addresses; removal
// the other way round. So traffic never meets a virtual server whose masquerade entry is missing,
// and at every point where the process may be killed, each virtual server of ours is covered by a
// set member that says so: that is how the next process knows which ones it may remove.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "dataplane/data_plane.h"
#include "dataplane/ipvs/diff.h"
#include "dataplane/ipvs/iptables.h"
#include "dataplane/ipvs/sets.h"
#include "dataplane/ipvs/sysctl.h"
#include "dataplane/retry.h"
#include "ipvs/client.h"
#include "netlink/conntrack.h"
#include "netlink/ipset.h"
#include "netlink/route.h"

namespace fairlead::dataplane::ipvs {

inline constexpr std::string_view kDevice = "kube-ipvs0";

/// The kernel as this plane sees it. Each part acts in the namespace of the thread that made it.
struct Kernel {
  std::unique_ptr<fairlead::ipvs::Client> ipvs;
  std::unique_ptr<netlink::Route> route;
  std::unique_ptr<netlink::IpSet> sets;
  std::unique_ptr<netlink::Conntrack> conntrack;
  std::unique_ptr<Iptables> iptables;
  std::unique_ptr<Sysctl> sysctl;
};
[[nodiscard]] Result<Kernel> open_kernel();

struct PlaneConfig {
  /// Families to serve, each with its rules.
  std::vector<IptablesConfig> families;
  /// Virtual servers and bound addresses in these are never removed.
  std::vector<net::IpPrefix> exclude_cidrs;
  bool strict_arp = false;
  fairlead::ipvs::Timeouts timeouts;
  std::chrono::seconds audit_period{30};
  /// How long a removed real server keeps its connections if the service does not say. 900 s is the
  /// kernel's own limit for an idle established connection.
  std::chrono::seconds drain_timeout{900};
  std::string kernel_release;  // uname -r
};

class Plane final : public DataPlane {
 public:
  Plane(Kernel kernel, PlaneConfig config);

  [[nodiscard]] Status start(TimePoint now) override;
  void apply(const plan::Delta& delta, TimePoint now) override;
  void run_due(TimePoint now) override;
  [[nodiscard]] std::optional<TimePoint> next_due() const override;
  [[nodiscard]] Summary summary() const override;

 private:
  using Key = plan::VirtualServerKey;

  struct Entry {
    plan::VirtualServerPtr desired;  // null: to be removed
    std::optional<Known> known;      // nullopt: not in the kernel
    /// What it holds: first what `desired` needs, then what it needed before and keeps until the
    /// kernel has followed (or, to be removed, until it has left).
    std::vector<Claim> claims;
    std::size_t needed_claims = 0;
    std::optional<std::size_t> counted;  // real servers, as booked in the totals
    bool reread = false;                 // `known` cannot be trusted: ask the kernel first
  };
  struct ClaimState {
    std::uint32_t holders = 0;
    bool in_kernel = false;
  };
  struct Drain {
    TimePoint next_check;
    Duration interval{};
  };
  /// Keys of one run, and what became of them.
  struct Run {
    TimePoint now;
    std::vector<Key> keys;
    std::set<Key> failed;
    /// To be diffed once more, with the reason: the kernel held something else than we knew.
    std::map<Key, std::string> again;
    std::vector<Claim> released;  // lost a holder in this run
  };

  // start.cc
  [[nodiscard]] Status ensure_furniture();
  [[nodiscard]] Status ensure_set(const netlink::SetSpec& spec);
  [[nodiscard]] Status ensure_sets();
  [[nodiscard]] Status read_members();
  [[nodiscard]] Status read_addresses();
  [[nodiscard]] Status adopt_virtual_servers();
  void adopt(const fairlead::ipvs::ObservedVirtualServer& observed);
  [[nodiscard]] Status mark_as_ours();
  [[nodiscard]] bool is_ours(const Key& key) const;
  [[nodiscard]] bool excluded(const net::IpAddress& address) const;

  // plane.cc
  void reconcile(std::vector<Key> keys, TimePoint now);
  void run_once(Run& run);
  void reread(Run& run);
  void register_claims(Run& run);
  void acquire_claims(Run& run, std::span<const Key> keys, Claim::Kind kind);
  void program_servers(Run& run, std::span<const Key> keys);
  void release_replaced(Run& run);
  void finish_removed(Run& run);
  void drop_claims(std::vector<Claim> released);
  void after_run(const Run& run);
  void recount(Entry& entry);
  void fail_key(Run& run, const Key& key, std::string error);
  void note_result(Run& run, const Key& key, const fairlead::ipvs::Op& op, const Status& status);
  [[nodiscard]] std::optional<Desired> desired_of(const Entry& entry) const;
  [[nodiscard]] std::chrono::seconds drain_timeout_of(const Entry& entry) const;
  /// Brings claims into the kernel; one result per claim.
  [[nodiscard]] std::vector<Status> apply_claims(std::span<const Claim> claims, bool add);
  void count(const Status& status);

  // due.cc
  void check_drains(TimePoint now);
  void retry_failed(TimePoint now);
  void probe_schedulers(TimePoint now);
  void clean_conntrack(TimePoint now);
  void audit(TimePoint now);
  void check_furniture(TimePoint now);
  [[nodiscard]] std::vector<Key> audit_servers(TimePoint now);
  void audit_claims();
  void drift(std::string_view what, std::string_view object);

  Kernel kernel_;
  PlaneConfig config_;
  netlink::InterfaceIndex device_{};
  bool synced_ = false;
  std::set<net::Family> taking_over_;  // our mark is missing: kube-proxy's traces count as ours
  std::set<net::IpAddress> node_addresses_;  // as of the last read; only for taking over

  std::unordered_map<Key, Entry> entries_;
  std::unordered_map<Claim, ClaimState> claims_;
  std::map<Key, Retry> retries_;
  std::map<Key, Drain> drains_;
  std::map<std::string, Retry> furniture_;  // by part: "iptables IPv6"
  /// Schedulers that the kernel does not have, and when to try again.
  std::map<std::string, TimePoint, std::less<>> missing_schedulers_;
  std::set<net::Protocol> conntrack_due_;
  TimePoint conntrack_next_;  // not before
  TimePoint next_audit_;

  Summary totals_;  // counters only; the rest is computed by `summary`
};

}  // namespace fairlead::dataplane::ipvs
