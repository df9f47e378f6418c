// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ipvs/plane.h"

#include <algorithm>
#include <cerrno>
#include <utility>
#include <variant>

#include "base/log.h"

namespace fairlead::dataplane::ipvs {
namespace {

namespace kernel = fairlead::ipvs;

constexpr std::string_view kFallbackScheduler = "rr";
constexpr auto kSchedulerProbePeriod = std::chrono::seconds(60);
constexpr auto kFirstDrainInterval = std::chrono::milliseconds(250);
// Adding to a table that holds something else, changing what is gone: one more look at the kernel
// settles it. A second disagreement in the same run is somebody fighting us; that waits for a
// retry.
constexpr int kPasses = 3;
// Operations of this many virtual servers are in memory at a time; the first programming of 10,000
// would else be the peak of the whole process. Large enough that batches stay full.
constexpr std::size_t kKeysPerBatch = 512;

const std::string* scheduler_of(const kernel::Op& op) {
  if (const auto* add = std::get_if<kernel::AddVirtualServer>(&op)) {
    return &add->server.scheduler;
  }
  if (const auto* set = std::get_if<kernel::SetVirtualServer>(&op)) {
    return &set->server.scheduler;
  }
  return nullptr;
}

// What was draining goes on draining towards its old deadline.
void keep_deadlines(const Known& before, Known& now) {
  for (KnownRealServer& real : now.real_servers) {
    const auto at =
        std::ranges::find(before.real_servers, real.server.socket(),
                          [](const KnownRealServer& known) { return known.server.socket(); });
    if (at != before.real_servers.end()) {
      real.drain_until = at->drain_until;
    }
  }
}

bool is_delete(const kernel::Op& op) {
  return std::holds_alternative<kernel::DeleteVirtualServer>(op) ||
         std::holds_alternative<kernel::DeleteRealServer>(op);
}

}  // namespace

Plane::Plane(Kernel kernel, PlaneConfig config)
    : kernel_(std::move(kernel)), config_(std::move(config)) {}

void Plane::apply(const plan::Delta& delta, TimePoint now) {
  std::vector<Key> keys;
  keys.reserve(delta.put.size() + delta.removed.size());
  for (const plan::VirtualServerPtr& server : delta.put) {
    entries_[server->key].desired = server;
    keys.push_back(server->key);
  }
  for (const Key& key : delta.removed) {
    if (const auto at = entries_.find(key); at != entries_.end()) {
      at->second.desired = nullptr;
      keys.push_back(key);
    }
  }
  if (!synced_) {
    // The first delta is the whole plan: what we found in the kernel and is not in it has to go.
    keys.clear();
    for (const auto& [key, entry] : entries_) {
      keys.push_back(key);
    }
  }
  reconcile(std::move(keys), now);
  if (!synced_) {
    synced_ = true;
    next_audit_ = now + config_.audit_period;
    std::vector<Claim> unclaimed;
    for (const auto& [claim, state] : claims_) {
      if (state.holders == 0) {
        unclaimed.push_back(claim);
      }
    }
    drop_claims(std::move(unclaimed));
    // Flows that began before any virtual server was here point nowhere.
    conntrack_due_ = {net::Protocol::kUdp, net::Protocol::kSctp};
  }
}

void Plane::reconcile(std::vector<Key> keys, TimePoint now) {
  for (int pass = 1; pass <= kPasses && !keys.empty(); ++pass) {
    std::ranges::sort(keys);
    keys.erase(std::ranges::unique(keys).begin(), keys.end());
    Run run{now, std::move(keys), {}, {}, {}};
    run_once(run);
    keys.clear();
    for (const auto& [key, reason] : run.again) {
      if (pass == kPasses) {
        retries_[key].failed("the kernel's state keeps changing under us, last: " + reason, now,
                             std::hash<Key>{}(key));
      } else {
        keys.push_back(key);
      }
    }
  }
}

void Plane::run_once(Run& run) {
  reread(run);
  register_claims(run);
  for (std::size_t first = 0; first < run.keys.size(); first += kKeysPerBatch) {
    const std::span<const Key> keys =
        std::span(run.keys).subspan(first, std::min(kKeysPerBatch, run.keys.size() - first));
    acquire_claims(run, keys, Claim::Kind::kMember);
    program_servers(run, keys);
    acquire_claims(run, keys, Claim::Kind::kAddress);
  }
  // What failed waits for its retry, with its own reason; a second look would only hide that.
  std::erase_if(run.again, [&](const auto& item) { return run.failed.contains(item.first); });
  release_replaced(run);
  finish_removed(run);
  drop_claims(std::move(run.released));
  after_run(run);
}

void Plane::reread(Run& run) {
  std::optional<std::string> silent;
  for (const Key& key : run.keys) {
    Entry& entry = entries_[key];
    if (!entry.reread) {
      continue;
    }
    if (silent) {
      fail_key(run, key, *silent);  // each more would wait for its own deadline
      continue;
    }
    auto observed = kernel_.ipvs->get(id_of(key));
    if (!observed) {
      if (observed.error().kind() == ErrorKind::kTimeout) {
        silent = observed.error().text();
      }
      fail_key(run, key, observed.error().text());
      continue;
    }
    const std::optional<Known> before = std::exchange(entry.known, std::nullopt);
    if (observed->has_value()) {
      entry.known = known(**observed);
      if (before) {
        keep_deadlines(*before, *entry.known);
      }
    }
    entry.reread = false;
  }
}

// Holders are counted before anything is written, so that a claim which moves from one virtual
// server to another in the same run never leaves the kernel in between.
void Plane::register_claims(Run& run) {
  for (const Key& key : run.keys) {
    Entry& entry = entries_[key];
    if (entry.desired == nullptr) {
      continue;  // keeps what it has until it is out of the kernel
    }
    std::vector<Claim> wanted = claims(*entry.desired);
    if (std::ranges::equal(wanted, std::span(entry.claims).first(entry.needed_claims))) {
      continue;
    }
    for (const Claim& claim : wanted) {
      ++claims_[claim].holders;
    }
    entry.needed_claims = wanted.size();
    wanted.insert(wanted.end(), entry.claims.begin(), entry.claims.end());
    entry.claims = std::move(wanted);
  }
}

// A virtual server lets go of what it needed before only when the kernel has followed: while its
// new members are missing, the old ones keep it masqueraded and ours.
void Plane::release_replaced(Run& run) {
  for (const Key& key : run.keys) {
    Entry& entry = entries_[key];
    if (entry.desired == nullptr || run.failed.contains(key) || run.again.contains(key)) {
      continue;
    }
    for (const Claim& claim : std::span(entry.claims).subspan(entry.needed_claims)) {
      --claims_[claim].holders;
      run.released.push_back(claim);
    }
    entry.claims.resize(entry.needed_claims);
  }
}

void Plane::acquire_claims(Run& run, std::span<const Key> keys, Claim::Kind kind) {
  std::vector<Claim> missing;
  std::unordered_map<Claim, std::vector<Key>> wanted_by;
  for (const Key& key : keys) {
    const Entry& entry = entries_[key];
    // An address is bound when its virtual server is there to answer.
    if (entry.desired == nullptr || (kind == Claim::Kind::kAddress && !entry.known)) {
      continue;
    }
    for (const Claim& claim : std::span(entry.claims).first(entry.needed_claims)) {
      if (claim.kind == kind && !claims_[claim].in_kernel) {
        auto& waiting = wanted_by[claim];
        if (waiting.empty()) {
          missing.push_back(claim);
        }
        waiting.push_back(key);
      }
    }
  }
  const std::vector<Status> results = apply_claims(missing, true);
  for (std::size_t n = 0; n < missing.size(); ++n) {
    if (!results[n]) {
      for (const Key& key : wanted_by[missing[n]]) {
        fail_key(run, key, results[n].error().text());
      }
    }
  }
}

std::optional<Desired> Plane::desired_of(const Entry& entry) const {
  if (entry.desired == nullptr) {
    return std::nullopt;
  }
  if (missing_schedulers_.contains(entry.desired->scheduler.name)) {
    return desired(*entry.desired, std::string(kFallbackScheduler));
  }
  return desired(*entry.desired);
}

std::chrono::seconds Plane::drain_timeout_of(const Entry& entry) const {
  return entry.desired != nullptr ? entry.desired->drain_timeout.value_or(config_.drain_timeout)
                                  : config_.drain_timeout;
}

void Plane::program_servers(Run& run, std::span<const Key> keys) {
  std::vector<kernel::Op> ops;
  std::vector<const Key*> key_of_op;
  for (const Key& key : keys) {
    if (run.failed.contains(key)) {
      continue;
    }
    Entry& entry = entries_[key];
    if (entry.desired == nullptr && excluded(key.address)) {
      entry.known.reset();  // let go of, not removed
      entry.reread = false;
      continue;
    }
    const std::optional<Desired> wanted = desired_of(entry);
    for (kernel::Op& op :
         diff(id_of(key), wanted ? &*wanted : nullptr, entry.known ? &*entry.known : nullptr)) {
      ops.push_back(std::move(op));
      key_of_op.push_back(&key);
    }
  }
  const std::vector<Status> results = kernel_.ipvs->apply(ops);
  for (std::size_t i = 0; i < ops.size(); ++i) {
    note_result(run, *key_of_op[i], ops[i], results[i]);
  }
}

void Plane::note_result(Run& run, const Key& key, const kernel::Op& op, const Status& status) {
  Entry& entry = entries_[key];
  if (status || (is_delete(op) && status.error().kind() == ErrorKind::kNotFound)) {
    acknowledge(entry.known, op);
    ++totals_.operations;
    if (key.protocol != net::Protocol::kTcp) {
      conntrack_due_.insert(key.protocol);
    }
    return;
  }
  const Error& error = status.error();
  const std::string* scheduler = scheduler_of(op);
  if (scheduler != nullptr && error.errno_value() == ENOENT && *scheduler == kFallbackScheduler) {
    ++totals_.operation_errors;
    entry.reread = true;
    fail_key(run, key,
             "the kernel has no scheduler rr, which is also the fallback; modprobe ip_vs_rr");
    return;
  }
  if (scheduler != nullptr && error.errno_value() == ENOENT) {
    if (!missing_schedulers_.contains(*scheduler)) {
      log::error("the kernel has no such scheduler, using rr",
                 {{"scheduler", *scheduler},
                  {"service", entry.desired->owner},
                  {"mend", "modprobe ip_vs_" + *scheduler}});
    }
    missing_schedulers_[*scheduler] = run.now + kSchedulerProbePeriod;
    run.again.emplace(key, error.text());
    return;
  }
  switch (error.kind()) {
    case ErrorKind::kAlreadyExists:
    case ErrorKind::kNotFound:
    case ErrorKind::kOverflow:
    case ErrorKind::kTimeout:
      // The kernel holds something else than we knew, or we missed its answer.
      entry.reread = true;
      run.again.emplace(key, error.text());
      break;
    case ErrorKind::kInvalidInput:
    case ErrorKind::kPermission:
    case ErrorKind::kUnavailable:
    case ErrorKind::kSystem:
      ++totals_.operation_errors;
      entry.reread = true;  // the retry starts from what is really there
      fail_key(run, key, error.text());
      break;
  }
}

void Plane::finish_removed(Run& run) {
  for (const Key& key : run.keys) {
    const auto at = entries_.find(key);
    Entry& entry = at->second;
    if (entry.desired != nullptr || entry.known || entry.reread) {
      continue;
    }
    for (const Claim& claim : entry.claims) {
      --claims_[claim].holders;
      run.released.push_back(claim);
    }
    recount(entry);
    entries_.erase(at);
  }
}

void Plane::drop_claims(std::vector<Claim> released) {
  // Addresses first: without its address a virtual server gets no traffic from outside, so nothing
  // arrives that the set members would have had to masquerade or admit.
  std::ranges::sort(released, [](const Claim& a, const Claim& b) {
    return std::pair(a.kind != Claim::Kind::kAddress, a) <
           std::pair(b.kind != Claim::Kind::kAddress, b);
  });
  released.erase(std::ranges::unique(released).begin(), released.end());
  std::erase_if(released, [this](const Claim& claim) {
    const auto at = claims_.find(claim);
    if (at == claims_.end() || at->second.holders != 0) {
      return true;
    }
    if (!at->second.in_kernel) {
      claims_.erase(at);
      return true;
    }
    return claim.kind == Claim::Kind::kAddress && excluded(claim.member.ip);
  });
  const std::vector<Status> results = apply_claims(released, false);
  for (std::size_t i = 0; i < released.size(); ++i) {
    if (results[i]) {
      claims_.erase(released[i]);
    } else {
      // Harmless where it is; the audit tries again.
      log::warn("cannot remove what is no longer needed",
                {{"object", released[i].text()}, {"error", results[i].error().text()}});
    }
  }
}

void Plane::after_run(const Run& run) {
  for (const Key& key : run.keys) {
    const auto at = entries_.find(key);
    if (!run.failed.contains(key) && !run.again.contains(key)) {
      retries_.erase(key);
    }
    if (at != entries_.end()) {
      recount(at->second);
    }
    if (at == entries_.end() || !at->second.known) {
      drains_.erase(key);
      continue;
    }
    Entry& entry = at->second;
    const std::optional<Desired> wanted = desired_of(entry);
    if (!arm_drains(*entry.known, wanted ? &*wanted : nullptr, run.now, drain_timeout_of(entry))) {
      drains_.erase(key);
    } else if (!drains_.contains(key)) {
      drains_[key] = {run.now + kFirstDrainInterval, kFirstDrainInterval};
    }
  }
}

// Keeps the totals up to date in O(touched), so that a summary costs nothing at 10,000 services.
void Plane::recount(Entry& entry) {
  totals_.virtual_servers -= entry.counted ? 1U : 0U;
  totals_.real_servers -= entry.counted.value_or(0);
  entry.counted.reset();
  if (entry.known) {
    entry.counted = entry.known->real_servers.size();
    ++totals_.virtual_servers;
    totals_.real_servers += *entry.counted;
  }
}

void Plane::fail_key(Run& run, const Key& key, std::string error) {
  if (!run.failed.insert(key).second) {
    return;  // the first reason counts
  }
  Retry& retry = retries_[key];
  if (retry.error != error) {
    const auto at = entries_.find(key);
    const bool named = at != entries_.end() && at->second.desired != nullptr;
    log::error("cannot program a virtual server, will retry",
               {{"virtual_server", key.text()},
                {"service", named ? at->second.desired->owner : "(being removed)"},
                {"error", error}});
  }
  retry.failed(std::move(error), run.now, std::hash<Key>{}(key));
}

std::vector<Status> Plane::apply_claims(std::span<const Claim> claims, bool add) {
  std::vector<netlink::SetOp> set_ops;
  std::vector<netlink::AddressOp> address_ops;
  for (const Claim& claim : claims) {
    if (claim.kind == Claim::Kind::kMember) {
      set_ops.push_back({add ? netlink::SetOp::Kind::kAdd : netlink::SetOp::Kind::kDelete,
                         set_name(claim.set, claim.family), info(claim.set).type, claim.member});
    } else {
      address_ops.push_back(
          {add ? netlink::AddressOp::Kind::kAdd : netlink::AddressOp::Kind::kDelete, device_,
           claim.member.ip});
    }
  }
  // Removal passes addresses and members sorted that way, so each kind is one batch in order.
  const std::vector<Status> address_results =
      address_ops.empty() ? std::vector<Status>{} : kernel_.route->apply(address_ops);
  const std::vector<Status> set_results =
      set_ops.empty() ? std::vector<Status>{} : kernel_.sets->apply(set_ops);
  std::vector<Status> results;
  results.reserve(claims.size());
  std::size_t next_address = 0;
  std::size_t next_member = 0;
  for (const Claim& claim : claims) {
    const Status& status = claim.kind == Claim::Kind::kMember ? set_results[next_member++]
                                                              : address_results[next_address++];
    count(status);
    if (status) {
      claims_[claim].in_kernel = add;
      results.emplace_back();
    } else {
      results.emplace_back(fail(status.error().in((add ? "add " : "remove ") + claim.text())));
    }
  }
  return results;
}

void Plane::count(const Status& status) {
  if (status) {
    ++totals_.operations;
  } else {
    ++totals_.operation_errors;
  }
}

Summary Plane::summary() const {
  Summary summary = totals_;
  summary.synced = synced_;
  for (const auto& [key, drain] : drains_) {
    const auto at = entries_.find(key);
    if (at != entries_.end() && at->second.known) {
      summary.draining += static_cast<std::size_t>(std::ranges::count_if(
          at->second.known->real_servers,
          [](const KnownRealServer& real) { return real.drain_until.has_value(); }));
    }
  }
  for (const auto& [key, retry] : retries_) {
    summary.failures.push_back({key.text(), retry.error, retry.attempts});
  }
  for (const auto& [part, retry] : furniture_) {
    summary.failures.push_back({part, retry.error, retry.attempts});
  }
  for (const auto& [scheduler, next] : missing_schedulers_) {
    summary.failures.push_back(
        {"scheduler " + scheduler, "the kernel has no such scheduler; its services use rr", 1});
  }
  return summary;
}

}  // namespace fairlead::dataplane::ipvs
