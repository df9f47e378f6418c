// SPDX-License-Identifier: Apache-2.0
// The maps of the BPF programs as typed storage: the plane's only way to them, with a twin in
// memory for tests (memory_tables.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/result.h"
#include "bpf/abi.h"

namespace fairlead::bpf {

struct FlowEntry {
  fl_tuple key;
  fl_flow value;
};
struct ClientEntry {
  fl_client_key key;
  fl_client value;
};
struct NumberEntry {
  fl_vs_key key;
  std::uint32_t number;
};
struct ClassEntry {
  fl_prefix prefix;
  std::uint32_t value;
};
struct DeviceEntry {
  std::uint32_t interface;
  fl_device value;
};

/// Position in a walk through a hash map that goes on over many calls; default: the start.
struct Cursor {
  std::vector<std::byte> key;
  bool at_end = false;
};

/// One thread. Errors name the map. Spans stay valid as long as the object lives; what is written
/// to them is seen by the programs at once, so the order of stores is the caller's affair (publish
/// a descriptor last, with std::atomic_ref and release).
class Tables {
 public:
  Tables() = default;
  Tables(const Tables&) = delete;
  Tables& operator=(const Tables&) = delete;
  virtual ~Tables() = default;

  [[nodiscard]] virtual std::span<fl_vs> vs() = 0;
  [[nodiscard]] virtual std::span<fl_vs_counts> vs_counts() = 0;
  [[nodiscard]] virtual std::span<fl_rs> rs() = 0;  // [0] is not used
  [[nodiscard]] virtual std::span<fl_rs_counts> rs_counts() = 0;
  [[nodiscard]] virtual std::span<fl_slot> slots() = 0;  // [0] is not used
  [[nodiscard]] virtual fl_filter& filter() = 0;
  [[nodiscard]] virtual fl_config& config() = 0;
  [[nodiscard]] virtual fl_pressure& pressure() = 0;
  /// Entries that `flows` has room for.
  [[nodiscard]] virtual std::size_t flow_capacity() const = 0;

  // Small maps, read whole at start. One result per entry; "already gone" is success.
  [[nodiscard]] virtual Result<std::vector<NumberEntry>> numbers() = 0;
  [[nodiscard]] virtual std::vector<Status> put_numbers(std::span<const NumberEntry> entries) = 0;
  [[nodiscard]] virtual std::vector<Status> erase_numbers(std::span<const fl_vs_key> keys) = 0;
  [[nodiscard]] virtual Result<std::vector<ClassEntry>> classes() = 0;
  [[nodiscard]] virtual Status put_class(const ClassEntry& entry) = 0;
  [[nodiscard]] virtual Status erase_class(const fl_prefix& prefix) = 0;
  [[nodiscard]] virtual Result<std::vector<DeviceEntry>> devices() = 0;
  [[nodiscard]] virtual Status put_device(const DeviceEntry& entry) = 0;
  [[nodiscard]] virtual Status erase_device(std::uint32_t interface) = 0;

  // Large maps, walked in batches. A walk meets each entry that is there throughout; others
  // perhaps.
  /// Appends up to about `most` entries and moves the cursor.
  [[nodiscard]] virtual Status read_flows(Cursor& cursor, std::size_t most,
                                          std::vector<FlowEntry>& out) = 0;
  [[nodiscard]] virtual Result<fl_flow> find_flow(const fl_tuple& key) = 0;  // kNotFound
  /// What is gone already is success.
  [[nodiscard]] virtual Status erase_flows(std::span<const fl_tuple> keys) = 0;
  /// Ends those connections (and expectations: FL_REPLY with FL_FLOW_ONE_PACKET) that are over at
  /// `now`: their server is gone, or no flow of theirs has seen a packet for the timeout of their
  /// state. All their flows go, what they carried is booked, their place in the counters is free.
  /// Tells for each whether it was so. kUnavailable if the tables were opened without programs.
  [[nodiscard]] virtual Result<std::vector<bool>> end_connections(std::span<const fl_tuple> keys,
                                                                  std::uint32_t now) = 0;
  [[nodiscard]] virtual Status read_clients(Cursor& cursor, std::size_t most,
                                            std::vector<ClientEntry>& out) = 0;
  [[nodiscard]] virtual Status erase_clients(std::span<const fl_client_key> keys) = 0;

  /// What a socket of the node asked for, by what it got; kNotFound if it was not translated.
  [[nodiscard]] virtual Result<fl_socket_peer> find_socket_peer(const fl_socket_key& key) = 0;

  /// Sums over the CPUs, by enum fl_event.
  [[nodiscard]] virtual std::vector<std::uint64_t> events() = 0;
};

}  // namespace fairlead::bpf
