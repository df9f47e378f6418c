// SPDX-License-Identifier: Apache-2.0
#include "bpf/memory_tables.h"

#include <cerrno>
#include <netinet/in.h>

#include "bpf/flows.h"

namespace fairlead::bpf {

MemoryTables::MemoryTables(const MemorySizes& sizes)
    : sizes_(sizes),
      vs_(sizes.virtual_servers),
      vs_counts_(sizes.virtual_servers),
      rs_(sizes.real_servers),
      rs_counts_(sizes.real_servers),
      slots_(sizes.slots) {}

Result<std::vector<NumberEntry>> MemoryTables::numbers() {
  std::vector<NumberEntry> out;
  out.reserve(numbers_.size());
  for (const auto& [key, number] : numbers_) {
    out.push_back({from_bytes<fl_vs_key>(key), number});
  }
  return out;
}

std::vector<Status> MemoryTables::put_numbers(std::span<const NumberEntry> entries) {
  std::vector<Status> results;
  for (const NumberEntry& entry : entries) {
    ++writes_;
    if (numbers_.size() >= sizes_.numbers && !numbers_.contains(bytes(entry.key))) {
      results.emplace_back(fail_errno(E2BIG, "map numbers"));
    } else {
      numbers_[bytes(entry.key)] = entry.number;
      results.emplace_back();
    }
  }
  return results;
}

std::vector<Status> MemoryTables::erase_numbers(std::span<const fl_vs_key> keys) {
  for (const fl_vs_key& key : keys) {
    ++writes_;
    numbers_.erase(bytes(key));
  }
  return std::vector<Status>(keys.size());
}

Result<std::vector<ClassEntry>> MemoryTables::classes() {
  std::vector<ClassEntry> out;
  out.reserve(classes_.size());
  for (const auto& [key, value] : classes_) {
    out.push_back({from_bytes<fl_prefix>(key), value});
  }
  return out;
}

Status MemoryTables::put_class(const ClassEntry& entry) {
  ++writes_;
  classes_[bytes(entry.prefix)] = entry.value;
  return {};
}

Status MemoryTables::erase_class(const fl_prefix& prefix) {
  ++writes_;
  classes_.erase(bytes(prefix));
  return {};
}

Result<std::vector<DeviceEntry>> MemoryTables::devices() {
  std::vector<DeviceEntry> out;
  out.reserve(devices_.size());
  for (const auto& [interface, value] : devices_) {
    out.push_back({interface, value});
  }
  return out;
}

Status MemoryTables::put_device(const DeviceEntry& entry) {
  ++writes_;
  devices_[entry.interface] = entry.value;
  return {};
}

Status MemoryTables::erase_device(std::uint32_t interface) {
  ++writes_;
  devices_.erase(interface);
  return {};
}

Status MemoryTables::read_flows(Cursor& cursor, std::size_t most, std::vector<FlowEntry>& out) {
  auto next = cursor.key.empty() ? flows_.begin() : flows_.upper_bound(cursor.key);
  for (; next != flows_.end() && most > 0; ++next, --most) {
    out.push_back({from_bytes<fl_tuple>(next->first), next->second});
    cursor.key = next->first;
  }
  cursor.at_end = next == flows_.end();
  return {};
}

Result<fl_flow> MemoryTables::find_flow(const fl_tuple& key) {
  const auto found = flows_.find(bytes(key));
  if (found == flows_.end()) {
    return fail_errno(ENOENT, "map flows");
  }
  return found->second;
}

Result<fl_socket_peer> MemoryTables::find_socket_peer(const fl_socket_key& key) {
  const auto found = socket_peers_.find(bytes(key));
  if (found == socket_peers_.end()) {
    return fail_errno(ENOENT, "map socket_peers");
  }
  return found->second;
}

Status MemoryTables::erase_flows(std::span<const fl_tuple> keys) {
  for (const fl_tuple& key : keys) {
    flows_.erase(bytes(key));
  }
  return {};
}

bool MemoryTables::is_over(const fl_tuple& key, const fl_flow& flow, std::uint32_t now) const {
  if (flow.kind == FL_REPLY) {
    return is_silent(now, flow.seen, config_.udp_timeout);
  }
  const fl_rs& server = rs_.at(flow.rs);
  if (server.generation != flow.generation || server.state == FL_RS_GONE ||
      server.state == FL_RS_FREE) {
    return true;
  }
  const std::uint32_t timeout = timeout_of(config_, key.protocol, flow.state);
  const auto reply = flows_.find(bytes(key_of_reply(key, flow)));
  const bool is_answered = (flow.flags & FL_FLOW_NO_OUTPUT) == 0 && reply != flows_.end() &&
                           !is_silent(now, reply->second.seen, timeout);
  return is_silent(now, flow.seen, timeout) && !is_answered;
}

void MemoryTables::book(const fl_flow& flow) {
  fl_rs_counts& counts = rs_counts_.at(flow.rs);
  fl_vs_counts& totals = vs_counts_.at(rs_.at(flow.rs).vs);
  const bool is_in = flow.kind == FL_FORWARD;
  (is_in ? counts.in_packets : counts.out_packets) += flow.packets;
  (is_in ? totals.in_packets : totals.out_packets) += flow.packets;
  (is_in ? counts.in_bytes : counts.out_bytes) += flow.bytes;
  (is_in ? totals.in_bytes : totals.out_bytes) += flow.bytes;
}

void MemoryTables::end(const fl_tuple& key, const fl_flow& flow) {
  const bool is_counted = rs_.at(flow.rs).generation == flow.generation;
  if (is_counted) {
    book(flow);
  }
  flows_.erase(bytes(key));
  if (flow.kind != FL_FORWARD) {
    return;
  }
  if (key.protocol == IPPROTO_TCP && flow.state == FL_TCP_SYN_RECV) {
    --pressure_.half_open;
  }
  if (is_counted) {
    fl_rs_counts& counts = rs_counts_.at(flow.rs);
    --((flow.flags & FL_FLOW_INACTIVE) != 0 ? counts.inactive : counts.active);
    mind_thresholds(rs_.at(flow.rs), counts);
  }
  if (const auto reply = flows_.find(bytes(key_of_reply(key, flow))); reply != flows_.end()) {
    if (is_counted) {
      book(reply->second);
    }
    flows_.erase(reply);
  }
  const fl_tuple hide_key = key_of_hide(key, flow);
  if (const auto hide = flows_.find(bytes(hide_key)); hide != flows_.end()) {
    flows_.erase(bytes(key_of_unhide(hide_key, hide->second)));
    flows_.erase(hide);
  }
}

Result<std::vector<bool>> MemoryTables::end_connections(std::span<const fl_tuple> keys,
                                                        std::uint32_t now) {
  std::vector<bool> ended;
  for (const fl_tuple& key : keys) {
    const auto found = flows_.find(bytes(key));
    ended.push_back(found != flows_.end() && is_over(key, found->second, now));
    if (ended.back()) {
      end(key, fl_flow(found->second));
    }
  }
  return ended;
}

Status MemoryTables::read_clients(Cursor& cursor, std::size_t most, std::vector<ClientEntry>& out) {
  auto next = cursor.key.empty() ? clients_.begin() : clients_.upper_bound(cursor.key);
  for (; next != clients_.end() && most > 0; ++next, --most) {
    out.push_back({from_bytes<fl_client_key>(next->first), next->second});
    cursor.key = next->first;
  }
  cursor.at_end = next == clients_.end();
  return {};
}

Status MemoryTables::erase_clients(std::span<const fl_client_key> keys) {
  for (const fl_client_key& key : keys) {
    clients_.erase(bytes(key));
  }
  return {};
}

}  // namespace fairlead::bpf
