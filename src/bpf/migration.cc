// SPDX-License-Identifier: Apache-2.0
#include "bpf/migration.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <string_view>
#include <sys/mman.h>
#include <unistd.h>
#include <unordered_map>

#include "bpf/layout.h"
#include "bpf/library_log.h"
#include "bpf/options.h"

namespace fairlead::bpf {
namespace {

using Bytes = std::span<std::byte>;
using ConstBytes = std::span<const std::byte>;

constexpr std::uint32_t kEntriesAtOnce = 8192;

/// Those that packets change; the others are user space's.
constexpr std::array<std::string_view, 8> kWrittenByPackets = {
    "vs_counts", "rs_counts", "pressure", "flows", "half", "clients", "fragments", "socket_peers"};

bool is_written_by_packets(std::string_view map) {
  return std::ranges::find(kWrittenByPackets, map) != kWrittenByPackets.end();
}

std::size_t in_words(std::size_t bytes) { return (bytes + 7) / 8 * 8; }

std::uint64_t hash_of(ConstBytes bytes) {
  return std::hash<std::string_view>{}({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

/// A pinned map of one side.
struct PinnedMap {
  UniqueFd fd;
  bpf_map_info info{};
  Layout key, value;

  [[nodiscard]] Status open(const std::string& path) {
    fd = UniqueFd(bpf_obj_get(path.c_str()));
    std::uint32_t size = sizeof(info);
    if (!fd || bpf_obj_get_info_by_fd(fd.get(), &info, &size) != 0) {
      return fail_errno(errno, path);
    }
    return {};
  }

  [[nodiscard]] Status read_layout() {
    const Btf types = own(info.btf_id == 0 ? nullptr : btf__load_from_kernel_by_id(info.btf_id));
    if (types == nullptr) {
      return info.btf_id == 0 ? fail(ErrorKind::kUnavailable, "it has no BTF")
                              : fail_errno(errno, "read its BTF (wants CAP_SYS_ADMIN)");
    }
    Result<Layout> keys = Layout::of(*types, info.btf_key_type_id);
    Result<Layout> values = Layout::of(*types, info.btf_value_type_id);
    if (!keys || !values) {
      return fail(keys ? values.error() : keys.error());
    }
    key = std::move(*keys);
    value = std::move(*values);
    if (key.size != info.key_size || value.size != info.value_size) {
      return fail(ErrorKind::kUnavailable, "its BTF is of another size than its entries");
    }
    return {};
  }
};

bool is_hash(std::uint32_t type) {
  return type == BPF_MAP_TYPE_HASH || type == BPF_MAP_TYPE_LRU_HASH;
}

/// An array map in memory.
class Memory {
 public:
  explicit Memory(const PinnedMap& side)
      : step_(in_words(side.info.value_size)), value_size_(side.info.value_size) {
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    bytes_ = (step_ * side.info.max_entries + page - 1) / page * page;
    start_ = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, side.fd.get(), 0);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    if (*this) {
      ::munmap(start_, bytes_);
    }
  }
  [[nodiscard]] explicit operator bool() const { return start_ != MAP_FAILED; }
  [[nodiscard]] Bytes at(std::size_t index) const {
    return Bytes(static_cast<std::byte*>(start_), bytes_).subspan(index * step_, value_size_);
  }

 private:
  std::size_t step_, value_size_, bytes_ = 0;
  void* start_ = MAP_FAILED;
};

}  // namespace

/// A map that is not the same on both sides.
class Migration::Moved {
 public:
  Moved(std::string name, PinnedMap from, PinnedMap to, Conversion values)
      : name_(std::move(name)),
        from_(std::move(from)),
        to_(std::move(to)),
        values_(std::move(values)) {}
  Moved(const Moved&) = delete;
  Moved& operator=(const Moved&) = delete;
  virtual ~Moved() = default;

  [[nodiscard]] virtual Status copy() = 0;
  [[nodiscard]] virtual Status catch_up() = 0;
  [[nodiscard]] virtual Status settle() = 0;

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] std::uint32_t old_id() const { return from_.info.id; }
  [[nodiscard]] std::uint32_t new_id() const { return to_.info.id; }

 protected:
  std::string name_;
  PinnedMap from_, to_;
  Conversion values_;
};

/// An array in memory. Of one that packets write, all numbers are counters.
class Migration::MovedArray final : public Moved {
 public:
  using Moved::Moved;

  Status copy() override {
    const Memory from(from_);
    const Memory to(to_);
    if (!from || !to) {
      return fail_errno(errno, "map it into memory");
    }
    copied_.resize(is_written_by_packets(name_) ? count() * to_.info.value_size : 0);
    std::vector<std::byte> value(to_.info.value_size);
    for (std::size_t i = 0; i < count(); ++i) {
      if (Status status = values_.convert(from.at(i), value); !status) {
        return status;
      }
      std::ranges::copy(value, to.at(i).begin());
      if (!copied_.empty()) {
        std::ranges::copy(value, copied(i).begin());
      }
    }
    return {};
  }

  Status catch_up() override { return copied_.empty() ? Status{} : copy(); }

  Status settle() override {
    if (copied_.empty()) {
      return {};
    }
    const Memory from(from_);
    const Memory to(to_);
    if (!from || !to) {
      return fail_errno(errno, "map it into memory");
    }
    std::vector<std::byte> value(to_.info.value_size);
    for (std::size_t i = 0; i < count(); ++i) {
      if (Status status = values_.convert(from.at(i), value); !status) {
        return status;
      }
      if (std::ranges::equal(value, copied(i))) {
        continue;
      }
      for (const Field& field : to_.value.fields) {
        add(field, read_number(field, value) - read_number(field, copied(i)), to.at(i));
      }
      std::ranges::copy(value, copied(i).begin());
    }
    return {};
  }

 private:
  [[nodiscard]] std::size_t count() const {
    return std::min(from_.info.max_entries, to_.info.max_entries);
  }
  [[nodiscard]] Bytes copied(std::size_t index) {
    return Bytes(copied_).subspan(index * to_.info.value_size, to_.info.value_size);
  }

  /// Packets count there, too.
  static void add(const Field& field, std::uint64_t change, Bytes to) {
    std::byte* const place = to.subspan(field.offset).data();
    if (change != 0 && field.size == sizeof(std::uint32_t)) {
      std::atomic_ref(*reinterpret_cast<std::uint32_t*>(place))
          .fetch_add(static_cast<std::uint32_t>(change), std::memory_order_relaxed);
    } else if (change != 0 && field.size == sizeof(std::uint64_t)) {
      std::atomic_ref(*reinterpret_cast<std::uint64_t*>(place))
          .fetch_add(change, std::memory_order_relaxed);
    }
  }

  std::vector<std::byte> copied_;  // values, as they were written last; of counters only
};

/// A per-CPU array, by calls. What is counted after `catch up` on the old side is not taken over:
/// such a counter has no place where two can add.
class Migration::MovedCpus final : public Moved {
 public:
  using Moved::Moved;

  Status copy() override {
    const auto cpus = static_cast<std::size_t>(libbpf_num_possible_cpus());
    const std::size_t from_step = in_words(from_.info.value_size);
    const std::size_t to_step = in_words(to_.info.value_size);
    std::vector<std::byte> old(from_step * cpus);
    std::vector<std::byte> fresh(to_step * cpus);
    const std::uint32_t count = std::min(from_.info.max_entries, to_.info.max_entries);
    for (std::uint32_t i = 0; i < count; ++i) {
      if (bpf_map_lookup_elem(from_.fd.get(), &i, old.data()) != 0) {
        return fail_errno(errno, "read");
      }
      for (std::size_t cpu = 0; cpu < cpus; ++cpu) {
        if (Status status =
                values_.convert(ConstBytes(old).subspan(cpu * from_step, from_.info.value_size),
                                Bytes(fresh).subspan(cpu * to_step, to_.info.value_size));
            !status) {
          return status;
        }
      }
      if (bpf_map_update_elem(to_.fd.get(), &i, fresh.data(), BPF_ANY) != 0) {
        return fail_errno(errno, "write");
      }
    }
    return {};
  }
  Status catch_up() override { return copy(); }
  Status settle() override { return {}; }
};

class Migration::MovedHash final : public Moved {
 public:
  MovedHash(std::string name, PinnedMap from, PinnedMap to, Conversion values, Conversion keys)
      : Moved(std::move(name), std::move(from), std::move(to), std::move(values)),
        keys_(std::move(keys)) {
    const auto seen = std::ranges::find(to_.value.fields, "seen", &Field::path);
    if (seen != to_.value.fields.end() && seen->size == sizeof(std::uint32_t)) {
      seen_ = &*seen;
    }
  }

  Status copy() override {
    ++pass_;
    return each([this](Bytes key, Bytes value) {
      const auto [at, is_new] = written_.try_emplace(hash_of(key));
      const bool is_other = is_new || at->second.value != hash_of(value);
      at->second = {hash_of(value), pass_};
      return is_other ? put(key, value) : Status{};
    });
  }

  Status catch_up() override { return is_written_by_packets(name_) ? copy() : Status{}; }

  Status settle() override {
    if (!is_written_by_packets(name_)) {
      return {};
    }
    ++pass_;
    std::size_t met = 0;
    Status status = each([&](Bytes key, Bytes value) {
      const auto at = written_.find(hash_of(key));
      if (at == written_.end()) {
        return settle_unknown(key, value);
      }
      met += std::exchange(at->second.pass, pass_) == pass_ ? 0U : 1U;
      if (at->second.value == hash_of(value)) {
        return Status{};
      }
      const bool is_as_written = holds(key, at->second.value);
      at->second.value = hash_of(value);
      return is_as_written ? put_at_once(key, value) : Status{};
    });
    return status && met < written_.size() ? erase_ended() : status;
  }

 private:
  struct Written {
    std::uint64_t value = 0;  // hash
    std::uint32_t pass = 0;   // that met it last
  };

  /// Made since it was copied; or copied by a process that is no more.
  [[nodiscard]] Status settle_unknown(Bytes key, Bytes value) {
    if (bpf_map_update_elem(to_.fd.get(), key.data(), value.data(), BPF_NOEXIST) == 0) {
      return {};
    }
    if (errno != EEXIST) {
      return no_room(errno);
    }
    std::vector<std::byte> there(to_.info.value_size);
    if (!written_.empty() || seen_ == nullptr ||
        bpf_map_lookup_elem(to_.fd.get(), key.data(), there.data()) != 0) {
      return {};
    }
    const std::uint64_t later = read_number(*seen_, value) - read_number(*seen_, there);
    return static_cast<std::int32_t>(later) > 0 ? put_at_once(key, value) : Status{};
  }

  /// What was written and is not there any more has ended on the old side.
  [[nodiscard]] Status erase_ended() {
    std::vector<std::byte> ended;
    Status status = walk(to_, [&](ConstBytes key, ConstBytes value) {
      const auto at = written_.find(hash_of(key));
      if (at != written_.end() && at->second.pass != pass_ && at->second.value == hash_of(value)) {
        ended.insert(ended.end(), key.begin(), key.end());
      }
      return Status{};
    });
    for (std::size_t at = 0; at < ended.size(); at += to_.info.key_size) {
      (void)bpf_map_delete_elem(to_.fd.get(), &ended[at]);  // else the sweep finds it
    }
    return status;
  }

  /// The new side has the value that we have written last.
  [[nodiscard]] bool holds(Bytes key, std::uint64_t hash) const {
    std::vector<std::byte> value(to_.info.value_size);
    return bpf_map_lookup_elem(to_.fd.get(), key.data(), value.data()) == 0 &&
           hash_of(value) == hash;
  }

  [[nodiscard]] Status put_at_once(Bytes key, Bytes value) const {
    return bpf_map_update_elem(to_.fd.get(), key.data(), value.data(), BPF_ANY) == 0
               ? Status{}
               : no_room(errno);
  }

  [[nodiscard]] Status put(Bytes key, Bytes value) {
    waiting_keys_.insert(waiting_keys_.end(), key.begin(), key.end());
    waiting_values_.insert(waiting_values_.end(), value.begin(), value.end());
    return ++waiting_ == kEntriesAtOnce ? flush() : Status{};
  }

  [[nodiscard]] Status flush() {
    auto opts = options<bpf_map_batch_opts>();
    int error = 0;
    for (std::uint32_t at = 0; error == 0 && at < waiting_;) {
      std::byte* const key = waiting_keys_.data() + std::size_t{at} * to_.info.key_size;
      std::byte* const value = waiting_values_.data() + std::size_t{at} * to_.info.value_size;
      std::uint32_t done = waiting_ - at;
      if (bpf_map_update_batch(to_.fd.get(), key, value, &done, &opts) == 0) {
        break;
      }
      // Kinds without batches leave the count as it is.
      at += done < waiting_ - at ? done : 0;
      if (bpf_map_update_elem(
              to_.fd.get(), waiting_keys_.data() + std::size_t{at} * to_.info.key_size,
              waiting_values_.data() + std::size_t{at} * to_.info.value_size, BPF_ANY) != 0) {
        error = errno;
      }
      ++at;
    }
    waiting_ = 0;
    waiting_keys_.clear();
    waiting_values_.clear();
    return error == 0 ? Status{} : no_room(error);
  }

  [[nodiscard]] Status no_room(int error) const {
    if (error != E2BIG && error != ENOMEM) {
      return fail_errno(error, "write");
    }
    const std::string least =
        name_ == "flows" ? "raise --ebpf-max-connections" : "start the version that made it";
    return fail(ErrorKind::kUnavailable, "it holds more than the " +
                                             std::to_string(to_.info.max_entries) +
                                             " entries that there is room for; " + least);
  }

  /// Each entry of the old side, converted. The walk meets what is there throughout, others
  /// perhaps.
  template <typename Visit>
  [[nodiscard]] Status each(const Visit& visit) {
    std::vector<std::byte> key(to_.info.key_size);
    std::vector<std::byte> value(to_.info.value_size);
    Status status = walk(from_, [&](ConstBytes old_key, ConstBytes old_value) {
      Status converted = keys_.convert(old_key, key);
      if (converted) {
        converted = values_.convert(old_value, value);
      }
      return converted ? visit(Bytes(key), Bytes(value)) : converted;
    });
    return status ? flush() : status;
  }

  template <typename Visit>
  [[nodiscard]] static Status walk(const PinnedMap& side, const Visit& visit) {
    return is_hash(side.info.type) ? walk_in_batches(side, visit) : walk_by_one(side, visit);
  }

  template <typename Visit>
  [[nodiscard]] static Status walk_in_batches(const PinnedMap& side, const Visit& visit) {
    const std::size_t key_size = side.info.key_size;
    const std::size_t value_size = side.info.value_size;
    std::size_t most = kEntriesAtOnce;
    std::vector<std::byte> keys;
    std::vector<std::byte> values;
    std::uint32_t mark = 0;  // a bucket's number
    for (bool is_first = true, is_over = false; !is_over;) {
      keys.resize(most * key_size);
      values.resize(most * value_size);
      auto count = static_cast<std::uint32_t>(most);
      std::uint32_t next = 0;
      auto opts = options<bpf_map_batch_opts>();
      const int error = bpf_map_lookup_batch(side.fd.get(), is_first ? nullptr : &mark, &next,
                                             keys.data(), values.data(), &count, &opts);
      if (error == -ENOSPC) {  // a bucket is given whole or not at all
        most *= 2;
        continue;
      }
      is_over = error == -ENOENT;
      if (error != 0 && !is_over) {
        return fail_errno(-error, "read");
      }
      for (std::size_t i = 0; i < count; ++i) {
        if (Status status = visit(ConstBytes(keys).subspan(i * key_size, key_size),
                                  ConstBytes(values).subspan(i * value_size, value_size));
            !status) {
          return status;
        }
      }
      mark = next;
      is_first = false;
    }
    return {};
  }

  template <typename Visit>
  [[nodiscard]] static Status walk_by_one(const PinnedMap& side, const Visit& visit) {
    std::vector<std::byte> key(side.info.key_size);
    std::vector<std::byte> value(side.info.value_size);
    for (const void* previous = nullptr;
         bpf_map_get_next_key(side.fd.get(), previous, key.data()) == 0; previous = key.data()) {
      if (bpf_map_lookup_elem(side.fd.get(), key.data(), value.data()) == 0) {
        if (Status status = visit(ConstBytes(key), ConstBytes(value)); !status) {
          return status;
        }
      }
    }
    return errno == ENOENT ? Status{} : fail_errno(errno, "read");
  }

  Conversion keys_;
  const Field* seen_ = nullptr;                         // in a value of the new side
  std::unordered_map<std::uint64_t, Written> written_;  // by the key's hash
  std::uint32_t pass_ = 0;
  std::vector<std::byte> waiting_keys_, waiting_values_;
  std::uint32_t waiting_ = 0;
};

namespace {

template <typename Step>
Status with_each(const auto& moved, const Step& step) {
  const LibraryLog quiet;
  for (const auto& map : moved) {
    if (const Status status = step(*map); !status) {
      return fail(status.error().in("take over map " + map->name()));
    }
  }
  return {};
}

}  // namespace

Migration::Migration(std::vector<std::unique_ptr<Moved>> moved) : moved_(std::move(moved)) {}
Migration::Migration(Migration&&) noexcept = default;
Migration& Migration::operator=(Migration&&) noexcept = default;
Migration::~Migration() = default;

Result<Migration> Migration::between(const std::string& from, const std::string& to) {
  const LibraryLog quiet;
  std::vector<std::unique_ptr<Moved>> moved;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(to, error)) {
    const std::string name = entry.path().filename();
    PinnedMap old;
    PinnedMap fresh;
    Status status = old.open(std::filesystem::path(from) / name);
    if (!status && status.error().kind() == ErrorKind::kNotFound) {
      continue;
    }
    if (status) {
      status = fresh.open(entry.path());
    }
    if (status && old.info.id == fresh.info.id) {
      continue;
    }
    for (PinnedMap* side : {&old, &fresh}) {
      if (status) {
        status = side->read_layout();
      }
    }
    if (status && old.info.type != fresh.info.type &&
        !(is_hash(old.info.type) && is_hash(fresh.info.type))) {
      status = fail(ErrorKind::kUnavailable, "it was a map of another kind");
    }
    Result<Conversion> keys = Conversion::between(old.key, fresh.key);
    Result<Conversion> values = Conversion::between(old.value, fresh.value);
    if (status && (!keys || !values)) {
      status = fail(keys ? values.error() : keys.error());
    }
    if (!status) {
      return fail(status.error().in("take over map " + name));
    }
    switch (old.info.type) {
      case BPF_MAP_TYPE_ARRAY:
        moved.push_back(std::make_unique<MovedArray>(name, std::move(old), std::move(fresh),
                                                     std::move(*values)));
        break;
      case BPF_MAP_TYPE_PERCPU_ARRAY:
        moved.push_back(std::make_unique<MovedCpus>(name, std::move(old), std::move(fresh),
                                                    std::move(*values)));
        break;
      default:
        moved.push_back(std::make_unique<MovedHash>(name, std::move(old), std::move(fresh),
                                                    std::move(*values), std::move(*keys)));
        break;
    }
  }
  if (error) {
    return fail_errno(error.value(), to);
  }
  return Migration(std::move(moved));
}

Status Migration::copy() {
  has_copied_ = true;
  return with_each(moved_, [](Moved& map) { return map.copy(); });
}
Status Migration::catch_up() {
  return has_copied_ ? with_each(moved_, [](Moved& map) { return map.catch_up(); }) : Status{};
}
Status Migration::settle() {
  return with_each(moved_, [](Moved& map) { return map.settle(); });
}

std::set<std::uint32_t> Migration::old_maps() const {
  std::set<std::uint32_t> ids;
  for (const auto& map : moved_) {
    ids.insert(map->old_id());
  }
  return ids;
}
std::set<std::uint32_t> Migration::new_maps() const {
  std::set<std::uint32_t> ids;
  for (const auto& map : moved_) {
    ids.insert(map->new_id());
  }
  return ids;
}

Result<ProgramInfo> info_of(const UniqueFd& program) {
  constexpr std::uint32_t kMostMaps = 64;  // that the kernel lets one program use
  std::array<std::uint32_t, kMostMaps> used{};
  bpf_prog_info info{};
  info.nr_map_ids = kMostMaps;
  info.map_ids = reinterpret_cast<std::uintptr_t>(used.data());
  std::uint32_t size = sizeof(info);
  if (bpf_obj_get_info_by_fd(program.get(), &info, &size) != 0) {
    return fail_errno(errno, "look at a BPF program");
  }
  const std::span<const std::uint32_t> ids(used.data(), std::min(info.nr_map_ids, kMostMaps));
  return ProgramInfo{&info.name[0], {ids.begin(), ids.end()}};
}

Result<std::vector<LoadedProgram>> programs_with(const std::set<std::uint32_t>& maps) {
  std::vector<LoadedProgram> out;
  std::uint32_t id = 0;
  while (bpf_prog_get_next_id(id, &id) == 0) {
    UniqueFd program(bpf_prog_get_fd_by_id(id));
    if (!program) {
      if (errno == ENOENT) {
        continue;  // gone meanwhile
      }
      return fail_errno(errno, "look at the kernel's BPF programs (wants CAP_SYS_ADMIN)");
    }
    Result<ProgramInfo> info = info_of(program);
    if (!info) {
      return fail(info.error());
    }
    if (std::ranges::any_of(info->maps, [&](std::uint32_t map) { return maps.contains(map); })) {
      out.push_back({std::move(info->name), std::move(program)});
    }
  }
  return errno == ENOENT
             ? Result<std::vector<LoadedProgram>>(std::move(out))
             : fail_errno(errno, "list the kernel's BPF programs (wants CAP_SYS_ADMIN)");
}

}  // namespace fairlead::bpf
