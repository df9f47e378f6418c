// SPDX-License-Identifier: Apache-2.0
// What is done when time passes: drains, retries, and the audit that finds drift.
#include <algorithm>
#include <unordered_set>

#include "base/log.h"
#include "conntrack/stale_flows.h"
#include "dataplane/ipvs/plane.h"

namespace fairlead::dataplane::ipvs {
namespace {

namespace kernel = fairlead::ipvs;

constexpr auto kLongestDrainInterval = std::chrono::seconds(10);
// One run of drains reads this many virtual servers at most, so that other work gets its turn.
constexpr std::size_t kDrainsPerRun = 512;
constexpr auto kConntrackInterval = std::chrono::seconds(1);
constexpr auto kConntrackRetry = std::chrono::seconds(5);

// Same table entry as far as we decide about it; connection counts are not ours to compare.
bool same(const Known& a, const Known& b) {
  return a.server == b.server &&
         std::ranges::equal(a.real_servers, b.real_servers, {}, &KnownRealServer::server,
                            &KnownRealServer::server);
}

}  // namespace

std::optional<TimePoint> Plane::next_due() const {
  if (!synced_) {
    return std::nullopt;
  }
  TimePoint next = next_audit_;
  for (const auto& [key, drain] : drains_) {
    next = std::min(next, drain.next_check);
  }
  for (const auto& [key, retry] : retries_) {
    next = std::min(next, retry.next);
  }
  for (const auto& [part, retry] : furniture_) {
    next = std::min(next, retry.next);
  }
  for (const auto& [scheduler, probe] : missing_schedulers_) {
    next = std::min(next, probe);
  }
  if (!conntrack_due_.empty()) {
    next = std::min(next, conntrack_next_);
  }
  return next;
}

void Plane::run_due(TimePoint now) {
  if (!synced_) {
    return;
  }
  clean_conntrack(now);
  retry_failed(now);
  probe_schedulers(now);
  check_drains(now);
  const bool furniture_due =
      std::ranges::any_of(furniture_, [now](const auto& item) { return item.second.next <= now; });
  if (now >= next_audit_) {
    audit(now);
    next_audit_ = now + config_.audit_period;
  } else if (furniture_due) {
    check_furniture(now);
  }
}

void Plane::check_drains(TimePoint now) {
  std::vector<Key> due;
  for (auto& [key, drain] : drains_) {
    if (drain.next_check <= now && due.size() < kDrainsPerRun) {
      due.push_back(key);
      drain.next_check = now + drain.interval;
      drain.interval = std::min<Duration>(drain.interval * 2, kLongestDrainInterval);
    }
  }
  std::vector<kernel::Op> ops;
  std::vector<Key> touched;
  std::vector<Key> key_of_op;
  for (const Key& key : due) {
    Entry& entry = entries_[key];
    if (!entry.known) {
      continue;
    }
    const auto observed = kernel_.ipvs->get(id_of(key));
    if (!observed) {
      continue;  // asked again at the next check
    }
    if (!observed->has_value()) {
      entry.reread = true;
      touched.push_back(key);
      continue;
    }
    for (kernel::Op& op : finish_drains(*entry.known, **observed, entry.desired == nullptr, now)) {
      ops.push_back(std::move(op));
      key_of_op.push_back(key);
    }
  }
  const std::vector<Status> results = kernel_.ipvs->apply(ops);
  for (std::size_t i = 0; i < ops.size(); ++i) {
    Entry& entry = entries_[key_of_op[i]];
    if (results[i] || results[i].error().kind() == ErrorKind::kNotFound) {
      acknowledge(entry.known, ops[i]);
      ++totals_.operations;
    } else {
      entry.reread = true;
    }
    touched.push_back(key_of_op[i]);
  }
  // What has no real server left and is unwanted goes now.
  reconcile(std::move(touched), now);
}

void Plane::retry_failed(TimePoint now) {
  std::vector<Key> due;
  for (const auto& [key, retry] : retries_) {
    if (retry.next <= now) {
      due.push_back(key);
    }
  }
  reconcile(std::move(due), now);
}

void Plane::probe_schedulers(TimePoint now) {
  std::vector<std::string> due;
  for (const auto& [scheduler, probe] : missing_schedulers_) {
    if (probe <= now) {
      due.push_back(scheduler);
    }
  }
  for (const std::string& scheduler : due) {
    std::vector<Key> users;
    for (const auto& [key, entry] : entries_) {
      if (entry.desired != nullptr && entry.desired->scheduler.name == scheduler) {
        users.push_back(key);
      }
    }
    missing_schedulers_.erase(scheduler);
    if (users.empty()) {
      continue;
    }
    // One of them tries: every refused scheduler makes the kernel look for a module.
    reconcile({users.front()}, now);
    if (!missing_schedulers_.contains(scheduler)) {
      log::info("the kernel has the scheduler now", {{"scheduler", scheduler}});
      reconcile(std::move(users), now);
    }
  }
}

void Plane::clean_conntrack(TimePoint now) {
  if (conntrack_due_.empty() || now < conntrack_next_) {
    return;
  }
  const std::set<net::Protocol> protocols = std::exchange(conntrack_due_, {});
  std::vector<plan::VirtualServerPtr> servers;
  for (const auto& [key, entry] : entries_) {
    if (entry.desired != nullptr && protocols.contains(key.protocol)) {
      servers.push_back(entry.desired);
    }
  }
  const conntrack::Removed removed = conntrack::remove_stale(*kernel_.conntrack, servers);
  for (const Error& error : removed.errors) {
    log::warn("cannot clean connection tracking, will retry", {{"error", error.text()}});
  }
  if (removed.count != 0) {
    log::info("removed stale flows", {{"count", removed.count}});
  }
  // Each clean-up reads the whole table of a family: a rollout must not have one per event.
  conntrack_next_ = now + kConntrackInterval;
  if (!removed.errors.empty()) {
    conntrack_next_ = now + kConntrackRetry;
    conntrack_due_.insert(protocols.begin(), protocols.end());
  }
}

void Plane::drift(std::string_view what, std::string_view object) {
  ++totals_.drift_repaired[std::string(what)];
  log::warn("someone changed what is ours, mending it", {{"what", what}, {"object", object}});
}

void Plane::audit(TimePoint now) {
  std::vector<Key> changed = audit_servers(now);
  audit_claims();
  check_furniture(now);
  reconcile(std::move(changed), now);
}

void Plane::check_furniture(TimePoint now) {
  const auto check = [&](const std::string& part, const Status& status, std::size_t spread) {
    if (status) {
      furniture_.erase(part);
      return;
    }
    Retry& retry = furniture_[part];
    if (retry.error != status.error().text()) {
      log::error("cannot keep the furniture in place",
                 {{"part", part}, {"error", status.error().text()}});
    }
    retry.failed(status.error().text(), now, spread);
  };
  for (const Setting& setting : required_settings(config_.kernel_release, config_.strict_arp)) {
    const auto wrote = kernel_.sysctl->ensure(setting);
    if (wrote && *wrote) {
      drift("sysctl", setting.name);
    }
    check("sysctl " + setting.name, wrote ? Status{} : fail(wrote.error()), 0);
  }
  for (const IptablesConfig& rules : config_.families) {
    const std::string part = "iptables " + std::string(net::text(rules.family));
    const auto wrote = kernel_.iptables->ensure(rules);
    if (wrote && *wrote) {
      drift("iptables", net::text(rules.family));
    }
    check(part, wrote ? Status{} : fail(wrote.error()), 1);
  }
}

std::vector<plan::VirtualServerKey> Plane::audit_servers(TimePoint /*now*/) {
  std::vector<Key> changed;
  const auto table = kernel_.ipvs->dump();
  if (!table) {
    log::warn("cannot read the IPVS table, will audit it later", {{"error", table.error().text()}});
    return changed;
  }
  std::unordered_map<Key, const kernel::ObservedVirtualServer*> observed;
  observed.reserve(table->size());
  for (const kernel::ObservedVirtualServer& server : *table) {
    observed.emplace(key_of(server.server.id), &server);
  }
  for (auto& [key, entry] : entries_) {
    if (retries_.contains(key)) {
      continue;
    }
    const auto at = observed.find(key);
    const bool present = at != observed.end();
    if (present == entry.known.has_value() &&
        (!present || same(known(*at->second), *entry.known))) {
      continue;
    }
    // A dump is no snapshot, and lacks thresholds: only what a second, direct look confirms is
    // drift.
    const auto again = kernel_.ipvs->get(id_of(key));
    if (!again || (again->has_value() == entry.known.has_value() &&
                   (!again->has_value() || same(known(**again), *entry.known)))) {
      continue;
    }
    drift("virtual server", key.text());
    entry.reread = true;
    changed.push_back(key);
  }
  return changed;
}

void Plane::audit_claims() {
  const auto device = kernel_.route->ensure_dummy(std::string(kDevice));
  if (!device) {
    log::warn("cannot ensure the dummy device", {{"error", device.error().text()}});
    return;
  }
  device_ = *device;
  if (const Status status = ensure_sets(); !status) {
    log::warn("cannot ensure the ipsets", {{"error", status.error().text()}});
    return;
  }
  std::unordered_set<Claim> present;
  if (const auto addresses = kernel_.route->addresses(); addresses) {
    for (const netlink::InterfaceAddress& address : *addresses) {
      if (address.interface == device_) {
        Claim claim;
        claim.kind = Claim::Kind::kAddress;
        claim.family = address.address.family();
        claim.member.ip = address.address;
        present.insert(claim);
      }
    }
  } else {
    return;
  }
  for (const IptablesConfig& rules : config_.families) {
    for (std::size_t i = 0; i < kSetCount; ++i) {
      const auto id = static_cast<SetId>(i);
      const auto members = kernel_.sets->members(set_name(id, rules.family));
      if (!members) {
        return;
      }
      for (const netlink::SetMember& member : *members) {
        present.insert({Claim::Kind::kMember, id, rules.family, member});
      }
    }
  }
  std::vector<Claim> missing;
  std::vector<Claim> surplus;
  for (auto& [claim, state] : claims_) {
    const bool seen = present.contains(claim);
    if (state.holders == 0) {
      // Left by a removal that failed.
      state.in_kernel = seen;
      surplus.push_back(claim);
    } else if (seen) {
      state.in_kernel = true;
    } else if (state.in_kernel || claim.kind == Claim::Kind::kMember) {
      // (An address that we have not bound waits for its virtual server, which is being retried.)
      if (state.in_kernel) {
        drift(claim.kind == Claim::Kind::kAddress ? "address" : "set member", claim.text());
      }
      state.in_kernel = false;
      missing.push_back(claim);
    }
  }
  // A stranger in one of our sets would be masqueraded or admitted like a service of ours.
  for (const Claim& claim : present) {
    if (claim.kind == Claim::Kind::kMember && !claims_.contains(claim)) {
      claims_[claim].in_kernel = true;
      surplus.push_back(claim);
      drift("set member", claim.text());
    }
  }
  std::ranges::sort(missing);  // members before addresses
  for (const Status& status : apply_claims(missing, true)) {
    if (!status) {
      log::warn("cannot restore what is ours", {{"error", status.error().text()}});
    }
  }
  drop_claims(std::move(surplus));
}

}  // namespace fairlead::dataplane::ipvs
