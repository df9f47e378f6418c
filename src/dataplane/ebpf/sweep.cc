// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ebpf/sweep.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <netinet/in.h>

namespace fairlead::dataplane::ebpf {
namespace {

/// A flow without its connection is left alone for so long: the connection may just be in the
/// making, or on its way from one table to the other.
constexpr std::uint32_t kOrphanTicks = 60 * FL_TICKS_PER_SECOND;

template <typename T>
void add(T& counter, T change) {
  std::atomic_ref<T>(counter).fetch_add(change, std::memory_order_relaxed);
}

/// Signed: a packet may have stamped it after `now` was taken.
bool is_silent(std::uint32_t now, std::uint32_t seen, std::uint32_t limit) {
  return static_cast<std::int32_t>(now - seen) > static_cast<std::int32_t>(limit);
}

bool is_half_open(const bpf::FlowEntry& entry) {
  return entry.key.protocol == IPPROTO_TCP && entry.value.state == bpf::FL_TCP_SYN_RECV;
}

}  // namespace

std::uint32_t timeout_of(const bpf::fl_config& config, std::uint8_t protocol, std::uint32_t state) {
  switch (protocol) {
    case IPPROTO_TCP:
      return state < bpf::FL_TCP_STATES ? config.tcp_timeout[state] : 0;
    case IPPROTO_SCTP:
      return state < bpf::FL_SCTP_STATES ? config.sctp_timeout[state] : 0;
    default:
      return config.udp_timeout;
  }
}

bpf::fl_tuple key_of_reply(const bpf::fl_tuple& forward, const bpf::fl_flow& flow) {
  return {flow.addr,        forward.saddr,  flow.port, flow.client_port,
          forward.protocol, bpf::FL_EGRESS, 0};
}

bpf::fl_tuple key_of_hide(const bpf::fl_tuple& forward, const bpf::fl_flow& flow) {
  return {forward.saddr,  flow.addr, flow.client_port, flow.port, forward.protocol,
          bpf::FL_EGRESS, 0};
}

bpf::fl_tuple key_of_forward(const bpf::fl_tuple& reply, const bpf::fl_flow& flow) {
  return {reply.daddr, flow.addr, flow.client_port, flow.port, reply.protocol, bpf::FL_INGRESS, 0};
}

bpf::fl_tuple key_of_unhide(const bpf::fl_tuple& hide, const bpf::fl_flow& flow) {
  return {hide.daddr, flow.addr, hide.dport, flow.port, hide.protocol, bpf::FL_INGRESS, 0};
}

Result<bool> Sweep::slice(std::uint32_t now) {
  flows_.clear();
  if (Status status = tables_.read_flows(cursor_, kSweepSlice, flows_); !status) {
    cursor_ = {};
    return fail(std::move(status.error()));
  }
  for (const bpf::FlowEntry& entry : flows_) {
    look_at(entry, now);
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
      if (is_over(entry, now)) {
        end(entry);
        return;
      }
      half_open_ += is_half_open(entry) ? 1U : 0U;
      if (entry.value.rs < tables_.rs().size()) {
        Tally& tally = tallies_[entry.value.rs];
        ++((entry.value.flags & bpf::FL_FLOW_INACTIVE) != 0 ? tally.inactive : tally.active);
      }
      return;
    case bpf::FL_REPLY:
      if ((entry.value.flags & bpf::FL_FLOW_ONE_PACKET) != 0) {
        if (!is_silent(now, entry.value.seen, tables_.config().udp_timeout)) {
          return;
        }
        // It may have been used since it was read.
        if (const auto again = tables_.find_flow(entry.key);
            again && !is_silent(now, again->seen, tables_.config().udp_timeout)) {
          return;
        }
        if (tables_.erase_flows(std::span(&entry.key, 1))) {
          book(entry.value);
          ++stats_.ended;
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

bool Sweep::is_over(const bpf::FlowEntry& forward, std::uint32_t now) {
  const auto reals = tables_.rs();
  if (forward.value.rs >= reals.size()) {
    return true;
  }
  const bpf::fl_rs& real = reals[forward.value.rs];
  if (real.generation != forward.value.generation || real.state == bpf::FL_RS_GONE ||
      real.state == bpf::FL_RS_FREE) {
    return true;
  }
  const std::uint32_t timeout =
      timeout_of(tables_.config(), forward.key.protocol, forward.value.state);
  if (!is_silent(now, forward.value.seen, timeout)) {
    return false;
  }
  // Silent; but both directions may have spoken since they were read.
  const auto speaks = [&](const bpf::fl_tuple& key) {
    const Result<bpf::fl_flow> flow = tables_.find_flow(key);
    return flow && !is_silent(now, flow->seen, timeout);
  };
  const bool has_replies = (forward.value.flags & bpf::FL_FLOW_NO_OUTPUT) == 0;
  return !speaks(forward.key) && !(has_replies && speaks(key_of_reply(forward.key, forward.value)));
}

void Sweep::end(const bpf::FlowEntry& forward) {
  std::vector<bpf::fl_tuple> keys = {forward.key};
  Result<bpf::fl_flow> reply = fail(ErrorKind::kNotFound, "replies are not seen");
  if ((forward.value.flags & bpf::FL_FLOW_NO_OUTPUT) == 0) {
    keys.push_back(key_of_reply(forward.key, forward.value));
    reply = tables_.find_flow(keys.back());
  }
  if ((forward.value.flags & bpf::FL_FLOW_HIDDEN) != 0) {
    keys.push_back(key_of_hide(forward.key, forward.value));
    if (const Result<bpf::fl_flow> hide = tables_.find_flow(keys.back())) {
      keys.push_back(key_of_unhide(keys.back(), *hide));
    }
  }
  if (!tables_.erase_flows(keys)) {
    return;
  }
  ++stats_.ended;
  if (is_half_open(forward)) {
    add(tables_.pressure().half_open, ~0U);
  }
  const auto reals = tables_.rs();
  if (forward.value.rs >= reals.size() ||
      reals[forward.value.rs].generation != forward.value.generation) {
    return;
  }
  bpf::fl_rs_counts& counts = tables_.rs_counts()[forward.value.rs];
  add((forward.value.flags & bpf::FL_FLOW_INACTIVE) != 0 ? counts.inactive : counts.active, ~0U);
  book(forward.value);
  if (reply) {
    book(*reply);
  }
}

/// What a flow has carried, to its server and virtual server.
void Sweep::book(const bpf::fl_flow& flow) {
  const auto reals = tables_.rs();
  if (flow.rs >= reals.size() || reals[flow.rs].generation != flow.generation) {
    return;
  }
  const auto add_to = [&](auto& counts) {
    const bool is_in = flow.kind == bpf::FL_FORWARD;
    add(is_in ? counts.in_packets : counts.out_packets, __u64{flow.packets});
    add(is_in ? counts.in_bytes : counts.out_bytes, flow.bytes);
  };
  add_to(tables_.rs_counts()[flow.rs]);
  if (const std::uint32_t vs = reals[flow.rs].vs; vs < tables_.vs_counts().size()) {
    add_to(tables_.vs_counts()[vs]);
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
