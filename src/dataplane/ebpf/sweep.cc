// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ebpf/sweep.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <netinet/in.h>

#include "bpf/flows.h"

namespace fairlead::dataplane::ebpf {
namespace {

using bpf::is_silent;

/// A flow without its connection is left alone for so long: the connection may just be in the
/// making, or on its way from one table to the other.
constexpr std::uint32_t kOrphanTicks = 60 * FL_TICKS_PER_SECOND;

template <typename T>
void add(T& counter, T change) {
  std::atomic_ref<T>(counter).fetch_add(change, std::memory_order_relaxed);
}

bool is_half_open(const bpf::FlowEntry& entry) {
  return entry.key.protocol == IPPROTO_TCP && entry.value.state == bpf::FL_TCP_SYN_RECV;
}

}  // namespace

Result<bool> Sweep::slice(std::uint32_t now) {
  flows_.clear();
  if (Status status = tables_.read_flows(cursor_, kSweepSlice, flows_); !status) {
    cursor_ = {};
    return fail(std::move(status.error()));
  }
  for (const bpf::FlowEntry& entry : flows_) {
    look_at(entry, now);
  }
  if (Status status = end_what_is_over(now); !status) {
    cursor_ = {};
    return fail(std::move(status.error()));
  }
  met_ += flows_.size();
  if (!cursor_.at_end) {
    return false;
  }
  look_at_clients(now);
  correct_counters();
  cursor_ = {};
  stats_.flows = met_;
  ++stats_.passes;
  met_ = 0;
  return true;
}

void Sweep::look_at(const bpf::FlowEntry& entry, std::uint32_t now) {
  // Whether it may be an orphan, and this is the pass to ask.
  const bool is_suspect =
      is_silent(now, entry.value.seen, kOrphanTicks) &&
      (entry.key.sport ^ entry.key.dport ^ (entry.key.sport >> 8U)) % kOrphanShare ==
          stats_.passes % kOrphanShare;
  switch (entry.value.kind) {
    case bpf::FL_FORWARD:
      if (may_be_over(entry, now)) {
        suspects_.push_back(entry);
      } else {
        tally(entry);
      }
      return;
    case bpf::FL_REPLY:
      if ((entry.value.flags & bpf::FL_FLOW_ONE_PACKET) != 0) {
        if (is_silent(now, entry.value.seen, tables_.config().udp_timeout)) {
          suspects_.push_back(entry);
        }
        return;
      }
      if (is_suspect && !tables_.find_flow(key_of_forward(entry.key, entry.value))) {
        break;
      }
      return;
    case bpf::FL_HIDE: {
      bpf::fl_tuple reply = {entry.key.daddr,
                             entry.key.saddr,
                             entry.key.dport,
                             entry.key.sport,
                             entry.key.protocol,
                             bpf::FL_EGRESS,
                             0};
      if (is_suspect && !tables_.find_flow(reply)) {
        break;
      }
      return;
    }
    case bpf::FL_UNHIDE: {
      const bpf::fl_tuple hide = {entry.value.addr,
                                  entry.key.saddr,
                                  entry.value.port,
                                  entry.key.sport,
                                  entry.key.protocol,
                                  bpf::FL_EGRESS,
                                  0};
      if (is_suspect && !tables_.find_flow(hide)) {
        break;
      }
      return;
    }
    default:
      break;
  }
  if (tables_.erase_flows(std::span(&entry.key, 1))) {  // what fails is met again
    ++stats_.orphans;
  }
}

/// As far as it can be told from one of its flows.
bool Sweep::may_be_over(const bpf::FlowEntry& forward, std::uint32_t now) const {
  const auto reals = tables_.rs();
  if (forward.value.rs >= reals.size()) {
    return true;
  }
  const bpf::fl_rs& real = reals[forward.value.rs];
  return real.generation != forward.value.generation || real.state == bpf::FL_RS_GONE ||
         real.state == bpf::FL_RS_FREE ||
         is_silent(now, forward.value.seen,
                   bpf::timeout_of(tables_.config(), forward.key.protocol, forward.value.state));
}

Status Sweep::end_what_is_over(std::uint32_t now) {
  std::vector<bpf::fl_tuple> keys;
  keys.reserve(suspects_.size());
  for (const bpf::FlowEntry& suspect : suspects_) {
    keys.push_back(suspect.key);
  }
  const Result<std::vector<bool>> ended = tables_.end_connections(keys, now);
  for (std::size_t i = 0; ended && i < suspects_.size(); ++i) {
    if (ended->at(i)) {
      ++stats_.ended;
    } else if (suspects_[i].value.kind == bpf::FL_FORWARD) {
      tally(suspects_[i]);
    }
  }
  suspects_.clear();
  return ended ? Status{} : fail(ended.error());
}

void Sweep::tally(const bpf::FlowEntry& forward) {
  half_open_ += is_half_open(forward) ? 1U : 0U;
  if (forward.value.rs < tables_.rs().size()) {
    Tally& tally = tallies_[forward.value.rs];
    ++((forward.value.flags & bpf::FL_FLOW_INACTIVE) != 0 ? tally.inactive : tally.active);
  }
}

void Sweep::look_at_clients(std::uint32_t now) {
  bpf::Cursor cursor;
  while (!cursor.at_end) {
    clients_.clear();
    if (!tables_.read_clients(cursor, kSweepSlice, clients_)) {
      return;  // the next pass tries again
    }
    for (const bpf::ClientEntry& client : clients_) {
      const auto reals = tables_.rs();
      const bool has_server = client.value.rs < reals.size() &&
                              reals[client.value.rs].generation == client.value.generation &&
                              reals[client.value.rs].state != bpf::FL_RS_GONE;
      if (has_server && !is_silent(now, client.value.seen, client.value.timeout)) {
        continue;
      }
      if (tables_.erase_clients(std::span(&client.key, 1)) && client.value.rs < reals.size() &&
          reals[client.value.rs].generation == client.value.generation) {
        add(tables_.rs_counts()[client.value.rs].persistent, ~0U);
      }
    }
  }
}

// A count that is told and not found can be a connection that began or ended during the pass. Only
// what two passes see alike is drift.
void Sweep::correct_counters() {
  std::unordered_map<std::uint32_t, Suspicion> suspicions;
  const auto reals = tables_.rs();
  const auto counts = tables_.rs_counts();
  for (std::uint32_t number = 1; number < reals.size(); ++number) {
    if (reals[number].state == bpf::FL_RS_FREE) {
      continue;
    }
    const auto found = tallies_.find(number);
    const Suspicion now{found == tallies_.end() ? Tally{} : found->second,
                        {counts[number].active, counts[number].inactive}};
    if (now.counted == now.told) {
      continue;
    }
    const auto before = suspicions_.find(number);
    if (before != suspicions_.end() && before->second == now) {
      add(counts[number].active, now.counted.active - now.told.active);
      add(counts[number].inactive, now.counted.inactive - now.told.inactive);
      bpf::mind_thresholds(reals[number], counts[number]);
      ++stats_.drift;
    } else {
      suspicions.emplace(number, now);
    }
  }
  suspicions_ = std::move(suspicions);
  tallies_.clear();
  std::atomic_ref(tables_.pressure().half_open).store(half_open_, std::memory_order_relaxed);
  half_open_ = 0;
}

}  // namespace fairlead::dataplane::ebpf
