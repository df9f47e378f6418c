// SPDX-License-Identifier: Apache-2.0
#include "bpf/kernel_tables.h"

#include <algorithm>
#include <array>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cerrno>
#include <cstring>
#include <optional>
#include <sys/mman.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "bpf/options.h"

namespace fairlead::bpf {
namespace {

Error another_layout(const std::string& map) {
  return {ErrorKind::kUnavailable,
          "map " + map +
              " is of another layout than this version's: `fairlead run` takes it over, "
              "the version that made it can read it"};
}

/// An array map in this process's memory.
template <typename Value>
class Mapped {
 public:
  Mapped() = default;
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  ~Mapped() {
    if (memory_ != MAP_FAILED) {
      ::munmap(memory_, bytes_);
    }
  }

  [[nodiscard]] Status open(const std::string& pin_directory, const std::string& name, MapSet set) {
    Result<UniqueFd> map = open_map(pin_directory, name, set);
    return map ? open(map->get(), name) : fail(map.error());
  }
  /// Takes its own hold of the map.
  [[nodiscard]] Status open(int map, const std::string& name) {
    bpf_map_info info{};
    std::uint32_t size = sizeof(info);
    if (bpf_obj_get_info_by_fd(map, &info, &size) != 0) {
      return fail_errno(errno, "map " + name);
    }
    // Array maps round their elements up to 8 bytes; ours are all multiples of that.
    if (info.value_size != sizeof(Value) || sizeof(Value) % 8 != 0) {
      return fail(another_layout(name));
    }
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    bytes_ = (std::size_t{info.max_entries} * sizeof(Value) + page - 1) / page * page;
    memory_ = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, map, 0);
    if (memory_ == MAP_FAILED) {
      return fail_errno(errno, "map " + name + " into memory");
    }
    count_ = info.max_entries;
    return {};
  }

  [[nodiscard]] std::span<Value> span() const { return {static_cast<Value*>(memory_), count_}; }

 private:
  void* memory_ = MAP_FAILED;
  std::size_t bytes_ = 0;
  std::size_t count_ = 0;
};

/// A hash map, by calls.
template <typename Key, typename Value>
class Hash {
 public:
  [[nodiscard]] Status open(const std::string& pin_directory, const std::string& name, MapSet set) {
    name_ = name;
    Result<UniqueFd> map = open_map(pin_directory, name, set);
    if (!map) {
      return fail(map.error());
    }
    bpf_map_info info{};
    std::uint32_t size = sizeof(info);
    if (bpf_obj_get_info_by_fd(map->get(), &info, &size) != 0) {
      return fail_errno(errno, "map " + name);
    }
    if (info.key_size != sizeof(Key) || info.value_size != sizeof(Value)) {
      return fail(another_layout(name));
    }
    map_ = std::move(*map);
    return {};
  }

  /// Many per call. One that fails ends a batch; it is asked about alone and the rest goes on,
  /// which also serves where batches are refused.
  [[nodiscard]] std::vector<Status> put_all(std::span<const Key> keys,
                                            std::span<const Value> values) {
    std::vector<Status> results(keys.size());
    auto opts = options<bpf_map_batch_opts>();
    for (std::size_t at = 0; at < keys.size();) {
      const auto rest = static_cast<std::uint32_t>(keys.size() - at);
      std::uint32_t done = rest;
      if (bpf_map_update_batch(map_.get(), &keys[at], &values[at], &done, &opts) == 0) {
        break;
      }
      at += done < rest ? done : 0;  // the count is untouched if the call itself was refused
      results[at] = put(keys[at], values[at]);
      ++at;
    }
    return results;
  }
  [[nodiscard]] std::vector<Status> erase_all(std::span<const Key> keys) {
    std::vector<Status> results(keys.size());
    auto opts = options<bpf_map_batch_opts>();
    for (std::size_t at = 0; at < keys.size();) {
      const auto rest = static_cast<std::uint32_t>(keys.size() - at);
      std::uint32_t done = rest;
      if (bpf_map_delete_batch(map_.get(), &keys[at], &done, &opts) == 0) {
        break;
      }
      at += done < rest ? done : 0;
      results[at] = erase(keys[at]);
      ++at;
    }
    return results;
  }

  [[nodiscard]] Status put(const Key& key, const Value& value) {
    return bpf_map_update_elem(map_.get(), &key, &value, BPF_ANY) == 0
               ? Status{}
               : fail_errno(errno, "map " + name_);
  }
  [[nodiscard]] Status erase(const Key& key) {
    return bpf_map_delete_elem(map_.get(), &key) == 0 || errno == ENOENT
               ? Status{}
               : fail_errno(errno, "map " + name_);
  }
  [[nodiscard]] Result<Value> find(const Key& key) const {
    Value value{};
    if (bpf_map_lookup_elem(map_.get(), &key, &value) != 0) {
      return fail_errno(errno, "map " + name_);
    }
    return value;
  }

  /// One by one: for small maps, and kinds that have no batches.
  template <typename Visit>
  [[nodiscard]] Status each(const Visit& visit) const {
    Key key{};
    for (const void* previous = nullptr; bpf_map_get_next_key(map_.get(), previous, &key) == 0;
         previous = &key) {
      if (const Result<Value> value = find(key)) {
        visit(key, *value);
      }
    }
    return errno == ENOENT ? Status{} : fail_errno(errno, "walk map " + name_);
  }

  template <typename Visit>
  [[nodiscard]] Status batch(Cursor& cursor, std::size_t most, const Visit& visit) const {
    if (cursor.at_end) {
      return {};
    }
    // The kernel's mark is a bucket's number or a key, whichever is longer.
    std::vector<std::byte> next(std::max<std::size_t>(sizeof(Key), sizeof(std::uint32_t)));
    std::uint32_t count = 0;
    int error = 0;
    for (bool too_small = true; too_small; most *= 2) {
      keys_.resize(most);
      values_.resize(most);
      count = static_cast<std::uint32_t>(most);
      auto opts = options<bpf_map_batch_opts>();
      error = bpf_map_lookup_batch(map_.get(), cursor.key.empty() ? nullptr : cursor.key.data(),
                                   next.data(), keys_.data(), values_.data(), &count, &opts);
      too_small = error == -ENOSPC;  // a bucket is given whole or not at all
    }
    if (error != 0 && error != -ENOENT) {
      return fail_errno(-error, "walk map " + name_);
    }
    cursor.at_end = error != 0;
    cursor.key = std::move(next);
    for (std::size_t i = 0; i < count; ++i) {
      visit(keys_[i], values_[i]);
    }
    return {};
  }

 private:
  std::string name_;
  UniqueFd map_;
  mutable std::vector<Key> keys_;
  mutable std::vector<Value> values_;
};

constexpr std::size_t kNumbersAtOnce = 4096;

Status first_failure(const std::vector<Status>& results) {
  const auto failed =
      std::ranges::find_if(results, [](const Status& each) { return !each.has_value(); });
  return failed == results.end() ? Status{} : *failed;
}

class KernelTables final : public Tables {
 public:
  [[nodiscard]] Status open(const std::string& pins, const Object* programs) {
    const MapSet set = programs != nullptr ? programs->maps() : MapSet::kServing;
    const auto all = [](auto... steps) {
      Status status;
      (void)((status = steps(), status.has_value()) && ...);
      return status;
    };
    Status status = all([&] { return vs_.open(pins, "vs", set); },
                        [&] { return vs_counts_.open(pins, "vs_counts", set); },
                        [&] { return rs_.open(pins, "rs", set); },
                        [&] { return rs_counts_.open(pins, "rs_counts", set); },
                        [&] { return slots_.open(pins, "slots", set); },
                        [&] { return filter_.open(pins, "filter", set); },
                        [&] { return config_.open(pins, "config", set); },
                        [&] { return pressure_.open(pins, "pressure", set); },
                        [&] { return numbers_.open(pins, "numbers", set); },
                        [&] { return classes_.open(pins, "classes", set); },
                        [&] { return devices_.open(pins, "devices", set); },
                        [&] { return flows_.open(pins, "flows", set); },
                        [&] { return clients_.open(pins, "clients", set); },
                        [&] { return socket_peers_.open(pins, "socket_peers", set); });
    if (!status) {
      return status;
    }
    if (config().layout != 0 && config().layout != FL_LAYOUT) {
      return fail(another_layout("config"));
    }
    if (programs != nullptr) {
      if (status = ending_.open(programs->map("ending"), "ending"); !status) {
        return status;
      }
      end_program_ = programs->program("fl_end");
    }
    Result<UniqueFd> events = open_map(pins, "events", set);
    if (!events) {
      return fail(events.error());
    }
    events_ = std::move(*events);
    Result<UniqueFd> flows = open_map(pins, "flows", set);
    bpf_map_info info{};
    std::uint32_t size = sizeof(info);
    if (flows && bpf_obj_get_info_by_fd(flows->get(), &info, &size) == 0) {
      flow_capacity_ = info.max_entries;
    }
    return {};
  }

  std::span<fl_vs> vs() override { return vs_.span(); }
  std::span<fl_vs_counts> vs_counts() override { return vs_counts_.span(); }
  std::span<fl_rs> rs() override { return rs_.span(); }
  std::span<fl_rs_counts> rs_counts() override { return rs_counts_.span(); }
  std::span<fl_slot> slots() override { return slots_.span(); }
  fl_filter& filter() override { return filter_.span().front(); }
  fl_config& config() override { return config_.span().front(); }
  fl_pressure& pressure() override { return pressure_.span().front(); }
  std::size_t flow_capacity() const override { return flow_capacity_; }

  Result<std::vector<NumberEntry>> numbers() override {
    std::vector<NumberEntry> out;
    for (Cursor cursor; !cursor.at_end;) {
      const Status status = numbers_.batch(
          cursor, kNumbersAtOnce,
          [&](const fl_vs_key& key, std::uint32_t number) { out.push_back({key, number}); });
      if (!status) {
        return fail(status.error());
      }
    }
    return out;
  }
  std::vector<Status> put_numbers(std::span<const NumberEntry> entries) override {
    std::vector<fl_vs_key> keys;
    std::vector<std::uint32_t> numbers;
    keys.reserve(entries.size());
    numbers.reserve(entries.size());
    for (const NumberEntry& entry : entries) {
      keys.push_back(entry.key);
      numbers.push_back(entry.number);
    }
    return numbers_.put_all(keys, numbers);
  }
  std::vector<Status> erase_numbers(std::span<const fl_vs_key> keys) override {
    return numbers_.erase_all(keys);
  }
  Result<std::vector<ClassEntry>> classes() override {
    std::vector<ClassEntry> out;
    Status status = classes_.each(
        [&](const fl_prefix& prefix, std::uint32_t value) { out.push_back({prefix, value}); });
    return status ? Result<std::vector<ClassEntry>>(std::move(out)) : fail(status.error());
  }
  Status put_class(const ClassEntry& entry) override {
    return classes_.put(entry.prefix, entry.value);
  }
  Status erase_class(const fl_prefix& prefix) override { return classes_.erase(prefix); }
  Result<std::vector<DeviceEntry>> devices() override {
    std::vector<DeviceEntry> out;
    Status status = devices_.each([&](std::uint32_t interface, const fl_device& value) {
      out.push_back({interface, value});
    });
    return status ? Result<std::vector<DeviceEntry>>(std::move(out)) : fail(status.error());
  }
  Status put_device(const DeviceEntry& entry) override {
    return devices_.put(entry.interface, entry.value);
  }
  Status erase_device(std::uint32_t interface) override { return devices_.erase(interface); }

  Status read_flows(Cursor& cursor, std::size_t most, std::vector<FlowEntry>& out) override {
    return flows_.batch(cursor, most, [&](const fl_tuple& key, const fl_flow& value) {
      out.push_back({key, value});
    });
  }
  Result<fl_flow> find_flow(const fl_tuple& key) override { return flows_.find(key); }
  Status erase_flows(std::span<const fl_tuple> keys) override {
    return first_failure(flows_.erase_all(keys));
  }
  Result<std::vector<bool>> end_connections(std::span<const fl_tuple> keys,
                                            std::uint32_t now) override {
    if (end_program_ < 0) {
      return fail(ErrorKind::kUnavailable, "the tables were opened without programs");
    }
    std::vector<bool> ended;
    ended.reserve(keys.size());
    while (!keys.empty()) {
      fl_ending& list = ending_.span().front();
      const auto some = keys.first(std::min(keys.size(), std::size(list.keys)));
      list.count = static_cast<std::uint32_t>(some.size());
      list.now = now;
      std::ranges::copy(some, std::begin(list.keys));
      if (Status status = run_end_program(); !status) {
        return fail(std::move(status.error()));
      }
      ended.insert(ended.end(), std::begin(list.has_ended),
                   std::begin(list.has_ended) + list.count);
      keys = keys.subspan(some.size());
    }
    return ended;
  }
  Status read_clients(Cursor& cursor, std::size_t most, std::vector<ClientEntry>& out) override {
    return clients_.batch(cursor, most, [&](const fl_client_key& key, const fl_client& value) {
      out.push_back({key, value});
    });
  }
  Status erase_clients(std::span<const fl_client_key> keys) override {
    return first_failure(clients_.erase_all(keys));
  }
  Result<fl_socket_peer> find_socket_peer(const fl_socket_key& key) override {
    return socket_peers_.find(key);
  }

  std::vector<std::uint64_t> events() override {
    std::vector<std::uint64_t> out;
    std::vector<std::uint64_t> values(static_cast<std::size_t>(libbpf_num_possible_cpus()));
    for (std::uint32_t event = 0; event < FL_EVENTS; ++event) {
      std::uint64_t sum = 0;
      if (bpf_map_lookup_elem(events_.get(), &event, values.data()) == 0) {
        for (const std::uint64_t value : values) {
          sum += value;
        }
      }
      out.push_back(sum);
    }
    return out;
  }

 private:
  /// By the kernel's test call, on a packet of zeros.
  [[nodiscard]] Status run_end_program() const {
    std::array<std::byte, 64> packet{};
    auto opts = options<bpf_test_run_opts>();
    opts.data_in = packet.data();
    opts.data_size_in = packet.size();
    opts.repeat = 1;
    const int error = bpf_prog_test_run_opts(end_program_, &opts);
    return error == 0 ? Status{} : fail_errno(-error, "run program fl_end");
  }

  Mapped<fl_vs> vs_;
  Mapped<fl_vs_counts> vs_counts_;
  Mapped<fl_rs> rs_;
  Mapped<fl_rs_counts> rs_counts_;
  Mapped<fl_slot> slots_;
  Mapped<fl_filter> filter_;
  Mapped<fl_config> config_;
  Mapped<fl_pressure> pressure_;
  Hash<fl_vs_key, std::uint32_t> numbers_;
  Hash<fl_prefix, std::uint32_t> classes_;
  Hash<std::uint32_t, fl_device> devices_;
  Hash<fl_tuple, fl_flow> flows_;
  Hash<fl_client_key, fl_client> clients_;
  Hash<fl_socket_key, fl_socket_peer> socket_peers_;
  Mapped<fl_ending> ending_;
  int end_program_ = -1;
  UniqueFd events_;
  std::size_t flow_capacity_ = 0;
};

}  // namespace

Result<std::unique_ptr<Tables>> open_tables(const std::string& pin_directory,
                                            const Object* programs) {
  auto tables = std::make_unique<KernelTables>();
  if (Status status = tables->open(pin_directory, programs); !status) {
    return fail(std::move(status.error()));
  }
  return tables;
}

}  // namespace fairlead::bpf
