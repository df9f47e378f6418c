// SPDX-License-Identifier: Apache-2.0
// The maps in memory, for tests only. What the programs would do to them a test does itself.
#pragma once

#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bpf/tables.h"

namespace fairlead::bpf {

struct MemorySizes {
  std::size_t virtual_servers = 64, real_servers = 512, slots = 65'536, flows = 4096;
  std::size_t numbers = 1024;
};

class MemoryTables final : public Tables {
 public:
  explicit MemoryTables(const MemorySizes& sizes = {});

  std::span<fl_vs> vs() override { return vs_; }
  std::span<fl_vs_counts> vs_counts() override { return vs_counts_; }
  std::span<fl_rs> rs() override { return rs_; }
  std::span<fl_rs_counts> rs_counts() override { return rs_counts_; }
  std::span<fl_slot> slots() override { return slots_; }
  fl_filter& filter() override { return filter_; }
  fl_config& config() override { return config_; }
  fl_pressure& pressure() override { return pressure_; }
  std::size_t flow_capacity() const override { return sizes_.flows; }

  Result<std::vector<NumberEntry>> numbers() override;
  std::vector<Status> put_numbers(std::span<const NumberEntry> entries) override;
  std::vector<Status> erase_numbers(std::span<const fl_vs_key> keys) override;
  Result<std::vector<ClassEntry>> classes() override;
  Status put_class(const ClassEntry& entry) override;
  Status erase_class(const fl_prefix& prefix) override;
  Result<std::vector<DeviceEntry>> devices() override;
  Status put_device(const DeviceEntry& entry) override;
  Status erase_device(std::uint32_t interface) override;
  Status read_flows(Cursor& cursor, std::size_t most, std::vector<FlowEntry>& out) override;
  Result<fl_flow> find_flow(const fl_tuple& key) override;
  Status erase_flows(std::span<const fl_tuple> keys) override;
  /// As bpf/sweep.h.
  Result<std::vector<bool>> end_connections(std::span<const fl_tuple> keys,
                                            std::uint32_t now) override;
  Status read_clients(Cursor& cursor, std::size_t most, std::vector<ClientEntry>& out) override;
  Status erase_clients(std::span<const fl_client_key> keys) override;
  Result<fl_socket_peer> find_socket_peer(const fl_socket_key& key) override;
  std::vector<std::uint64_t> events() override { return std::vector<std::uint64_t>(FL_EVENTS); }

  // For tests.
  void put_flow(const fl_tuple& key, const fl_flow& value) { flows_[bytes(key)] = value; }
  void put_client(const fl_client_key& key, const fl_client& value) {
    clients_[bytes(key)] = value;
  }
  void put_socket_peer(const fl_socket_key& key, const fl_socket_peer& value) {
    socket_peers_[bytes(key)] = value;
  }
  [[nodiscard]] std::size_t flow_count() const { return flows_.size(); }
  [[nodiscard]] std::size_t client_count() const { return clients_.size(); }
  /// Calls that changed a hash map so far.
  [[nodiscard]] std::size_t writes() const { return writes_; }

 private:
  [[nodiscard]] bool is_over(const fl_tuple& key, const fl_flow& flow, std::uint32_t now) const;
  void end(const fl_tuple& key, const fl_flow& flow);
  void book(const fl_flow& flow);

  using Key = std::vector<std::byte>;
  template <typename T>
  static Key bytes(const T& value) {
    Key out(sizeof(T));
    std::memcpy(out.data(), &value, sizeof(T));
    return out;
  }
  template <typename T>
  static T from_bytes(const Key& key) {
    T out{};
    std::memcpy(&out, key.data(), sizeof(T));
    return out;
  }

  MemorySizes sizes_;
  std::vector<fl_vs> vs_;
  std::vector<fl_vs_counts> vs_counts_;
  std::vector<fl_rs> rs_;
  std::vector<fl_rs_counts> rs_counts_;
  std::vector<fl_slot> slots_;
  fl_filter filter_{};
  fl_config config_{};
  fl_pressure pressure_{};
  std::map<Key, std::uint32_t> numbers_, classes_;
  std::map<std::uint32_t, fl_device> devices_;
  std::map<Key, fl_flow> flows_;
  std::map<Key, fl_client> clients_;
  std::map<Key, fl_socket_peer> socket_peers_;
  std::size_t writes_ = 0;
};

}  // namespace fairlead::bpf
