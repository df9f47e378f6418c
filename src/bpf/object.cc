// SPDX-License-Identifier: Apache-2.0
#include "bpf/object.h"

#include <algorithm>
#include <array>
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <optional>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <fairlead.skel.h>
#include <fairlead_old.skel.h>

#include "bpf/abi.h"
#include "bpf/helpers.h"
#include "bpf/layout.h"
#include "bpf/library_log.h"
#include "bpf/migration.h"
#include "bpf/options.h"

namespace fairlead::bpf {
namespace {

constexpr std::string_view kMountPoint = "/sys/fs/bpf";
constexpr long kBpfFsMagic = 0xcafe4a11;

/// Maps that are a matter of one load and not state.
constexpr std::array<std::string_view, 6> kUnpinned = {"before",  "ending", "lock",
                                                       "scratch", "walks",  "ways"};

// A migration's maps are in kBuilding until they hold all that the old ones do, then in kNext; once
// they have settled, the old ones go to kOld and they to kMaps. Each step is one rename.
constexpr std::string_view kMaps = "maps";
constexpr std::string_view kNext = "next";
constexpr std::string_view kBuilding = "building";
constexpr std::string_view kOld = "old";

std::string root_of(const std::string& pin_directory) { return pin_directory + "/v1"; }
std::string directory(const std::string& pin_directory, std::string_view name) {
  return root_of(pin_directory) + "/" + std::string(name);
}

bool is_bpffs(const std::string& path) {
  struct statfs info{};
  return ::statfs(path.c_str(), &info) == 0 && info.f_type == kBpfFsMagic;
}

/// The deepest part of the path that exists.
std::string existing_part(std::filesystem::path path) {
  std::error_code error;
  while (!std::filesystem::exists(path, error) && path.has_relative_path()) {
    path = path.parent_path();
  }
  return path.string();
}

std::uint32_t wanted_size(std::string_view map, const Sizes& sizes) {
  const std::array<std::pair<std::string_view, std::uint32_t>, 13> table = {{
      {"vs", sizes.virtual_servers},
      {"vs_counts", sizes.virtual_servers},
      {"numbers", sizes.virtual_servers * 2},  // with the addresses
      {"rs", sizes.real_servers},
      {"rs_counts", sizes.real_servers},
      {"slots", sizes.slots},
      {"flows", sizes.connections * 2},
      {"half", sizes.half_open},
      {"clients", sizes.clients},
      {"fragments", sizes.fragments},
      {"socket_peers", sizes.sockets},
      {"devices", sizes.devices},
      {"classes", sizes.devices},
  }};
  const auto* found =
      std::ranges::find(table, map, &std::pair<std::string_view, std::uint32_t>::first);
  return found == table.end() ? 0 : found->second;
}

bool is_pinned(std::string_view map) {
  return map.find('.') == std::string_view::npos &&  // .rodata and its like
         std::ranges::find(kUnpinned, map) == kUnpinned.end();
}

Error with_mend(const Error& error) {
  return {error.kind(),
          error.text() + "; `fairlead cleanup` removes what was left, and with it the connections",
          error.errno_value()};
}

Status remove_directory(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  return error && error.value() != ENOENT ? fail_errno(error.value(), "remove " + path) : Status{};
}

Status rename_directory(const std::string& from, const std::string& to) {
  std::error_code error;
  std::filesystem::rename(from, to, error);
  return error ? fail_errno(error.value(), "rename " + from + " to " + to) : Status{};
}

/// The maps in kNext become those that serve.
Status publish(const std::string& pin_directory) {
  const std::string maps = directory(pin_directory, kMaps);
  Status status = rename_directory(maps, directory(pin_directory, kOld));
  if (status) {
    status = rename_directory(directory(pin_directory, kNext), maps);
  }
  return status ? remove_directory(directory(pin_directory, kOld)) : status;
}

/// Puts in order what a migration that was cut short has left. kNext is there afterwards only if
/// programs that use it are in place: such a migration can only go on.
Status recover(const std::string& pin_directory) {
  const std::string maps = directory(pin_directory, kMaps);
  const std::string next = directory(pin_directory, kNext);
  for (const std::string_view left : {kOld, kBuilding}) {
    if (Status status = remove_directory(directory(pin_directory, left)); !status) {
      return status;
    }
  }
  std::error_code error;
  if (!std::filesystem::exists(next, error)) {
    return {};
  }
  if (std::filesystem::is_empty(maps, error)) {
    return rename_directory(next, maps);
  }
  Result<Migration> migration = Migration::between(maps, next);
  if (!migration) {
    return fail(with_mend(migration.error()));
  }
  const auto programs = programs_with(migration->new_maps());
  if (!programs) {
    return fail(programs.error());
  }
  return programs->empty() ? remove_directory(next) : Status{};
}

/// A pinned map beside ours of that name.
struct Pinned {
  UniqueFd fd;  // none: there is no such map
  bpf_map_info info{};

  [[nodiscard]] Status open(const std::string& path) {
    fd = UniqueFd(bpf_obj_get(path.c_str()));
    std::uint32_t size = sizeof(info);
    if (!fd) {
      return errno == ENOENT ? Status{} : fail_errno(errno, path);
    }
    return bpf_obj_get_info_by_fd(fd.get(), &info, &size) == 0 ? Status{} : fail_errno(errno, path);
  }
};

bool is_array(const bpf_map* map) {
  return bpf_map__type(map) == BPF_MAP_TYPE_ARRAY ||
         bpf_map__type(map) == BPF_MAP_TYPE_PERCPU_ARRAY;
}

bool is_of_size(const Pinned& pinned, const bpf_map* map) {
  return pinned.info.type == static_cast<std::uint32_t>(bpf_map__type(map)) &&
         pinned.info.key_size == bpf_map__key_size(map) &&
         pinned.info.value_size == bpf_map__value_size(map) &&
         pinned.info.map_flags == bpf_map__map_flags(map) &&
         pinned.info.max_entries == bpf_map__max_entries(map);
}

/// Field for field, by BTF.
Result<bool> is_of_layout(const Pinned& pinned, const bpf_object* object, const bpf_map* map) {
  const Btf types = own(btf__load_from_kernel_by_id(pinned.info.btf_id));
  if (types == nullptr) {
    return fail_errno(errno, "read its BTF (wants CAP_SYS_ADMIN)");
  }
  const btf& ours = *bpf_object__btf(object);
  const Result<Layout> old_key = Layout::of(*types, pinned.info.btf_key_type_id);
  const Result<Layout> old_value = Layout::of(*types, pinned.info.btf_value_type_id);
  const Result<Layout> key = Layout::of(ours, bpf_map__btf_key_type_id(map));
  const Result<Layout> value = Layout::of(ours, bpf_map__btf_value_type_id(map));
  for (const auto* each : {&old_key, &old_value, &key, &value}) {
    if (!*each) {
      return fail(each->error());
    }
  }
  return *old_key == *key && *old_value == *value;
}

/// The number of the layout that maps are of, 0 if it has not been written; it comes first in
/// fl_config, whatever follows.
std::uint32_t layout_number(const Pinned& config) {
  std::vector<std::byte> value(config.info.value_size);
  const std::uint32_t first = 0;
  std::uint32_t layout = 0;
  if (config.fd && value.size() >= sizeof(layout) &&
      bpf_map_lookup_elem(config.fd.get(), &first, value.data()) == 0) {
    std::memcpy(&layout, value.data(), sizeof(layout));
  }
  return layout;
}

Status write_layout_number(const std::string& config_path) {
  const UniqueFd config(bpf_obj_get(config_path.c_str()));
  const std::uint32_t first = 0;
  fl_config value{};
  if (!config || bpf_map_lookup_elem(config.get(), &first, &value) != 0) {
    return fail_errno(errno, config_path);
  }
  value.layout = FL_LAYOUT;
  return bpf_map_update_elem(config.get(), &first, &value, BPF_ANY) == 0
             ? Status{}
             : fail_errno(errno, config_path);
}

}  // namespace

struct Object::Impl {
  bpf_object* object = nullptr;
  std::string pin_directory;
  MapSet maps = MapSet::kServing;
  std::optional<Migration> migration;
  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() { bpf_object__close(object); }

  [[nodiscard]] Status open() {
    // Of the skeleton only the bytes: what else it does is for globals, and we have none.
    std::size_t size = 0;
    const void* const bytes =
        is_old_kernel() ? fairlead_old_bpf__elf_bytes(&size) : fairlead_bpf__elf_bytes(&size);
    auto opts = options<bpf_object_open_opts>();
    opts.object_name = "fairlead";
    object = bpf_object__open_mem(bytes, size, &opts);
    return object != nullptr ? Status{} : fail_errno(errno, "open the BPF programs");
  }
  [[nodiscard]] Status load(const LibraryLog& log) const {
    if (const int error = bpf_object__load(object); error != 0) {
      return fail_errno(-error, "load the BPF programs (" + log.text() + ")");
    }
    return {};
  }

  template <typename Visit>
  [[nodiscard]] Status each_pinned(const Visit& visit) const {
    for (bpf_map* map = bpf_object__next_map(object, nullptr); map != nullptr;
         map = bpf_object__next_map(object, map)) {
      const std::string name = bpf_map__name(map);
      if (!is_pinned(name)) {
        continue;
      }
      if (Status status = visit(map, name); !status) {
        return fail(status.error().in("map " + name));
      }
    }
    return {};
  }

  [[nodiscard]] Status set_sizes(const Sizes& sizes, MapSet set) const {
    return each_pinned([&](bpf_map* map, const std::string& name) {
      if (const std::uint32_t size = wanted_size(name, sizes); size != 0) {
        bpf_map__set_max_entries(map, size);
      }
      Pinned pinned;
      Status status = pinned.open(map_directory(pin_directory, set) + "/" + name);
      if (status && pinned.fd && is_array(map)) {
        // What is numbered beyond the smaller size would be lost.
        bpf_map__set_max_entries(map, std::max(pinned.info.max_entries, bpf_map__max_entries(map)));
      }
      return status;
    });
  }

  /// Takes the maps of the set that are as ours are to be. False: there are others among them.
  [[nodiscard]] Result<bool> take(const Sizes& sizes, MapSet set) const {
    if (Status status = set_sizes(sizes, set); !status) {
      return fail(std::move(status.error()));
    }
    const std::string from = map_directory(pin_directory, set) + "/";
    Pinned config;
    if (Status status = config.open(from + "config"); !status) {
      return fail(std::move(status.error()));
    }
    const std::uint32_t number = layout_number(config);
    bool takes_all = true;
    Status status = each_pinned([&](bpf_map* map, const std::string& name) -> Status {
      Pinned pinned;
      if (Status opened = pinned.open(from + name); !opened || !pinned.fd) {
        return opened;
      }
      bool is_same = is_of_size(pinned, map);
      if (is_same && number != FL_LAYOUT) {
        const Result<bool> layout = is_of_layout(pinned, object, map);
        if (!layout) {
          return fail(layout.error());
        }
        // It says which layout the maps beside it are of.
        is_same = *layout && (name != "config" || number == 0);
      }
      takes_all = takes_all && is_same;
      return !is_same || bpf_map__reuse_fd(map, pinned.fd.get()) == 0
                 ? Status{}
                 : fail_errno(errno, "reuse it");
    });
    return status ? Result<bool>(takes_all) : fail(std::move(status.error()));
  }

  [[nodiscard]] Status load_with_maps(const Sizes& sizes, const LibraryLog& log) {
    const std::string serving = directory(pin_directory, kMaps);
    const std::string next = directory(pin_directory, kNext);
    std::error_code error;
    if (std::filesystem::exists(next, error)) {
      Result<Migration> interrupted = Migration::between(serving, next);
      if (!interrupted) {
        return fail(with_mend(interrupted.error()));
      }
      const Result<bool> takes_all = take(sizes, MapSet::kNext);
      if (!takes_all) {
        return fail(with_mend(takes_all.error()));
      }
      if (*takes_all) {
        migration.emplace(std::move(*interrupted));
        maps = MapSet::kNext;
        return load(log);
      }
      // It was another version's: it ends here, and ours begins with what it has come to.
      Status status = interrupted->settle();
      if (status) {
        status = publish(pin_directory);
      }
      if (!status) {
        return status;
      }
    }
    const Result<bool> takes_all = take(sizes, MapSet::kServing);
    if (!takes_all) {
      return fail(with_mend(takes_all.error()));
    }
    Status status = load(log);
    if (!status) {
      return status;
    }
    return *takes_all ? pin(serving) : build_next();
  }

  /// Pins what is not pinned there.
  [[nodiscard]] Status pin(const std::string& to) const {
    return each_pinned([&](bpf_map* map, const std::string& name) -> Status {
      const std::string path = to + "/" + name;
      if (bpf_obj_pin(bpf_map__fd(map), path.c_str()) != 0 && errno != EEXIST) {
        return fail_errno(errno, "pin " + path);
      }
      return {};
    });
  }

  /// A set of maps beside those that serve, with what those hold.
  [[nodiscard]] Status build_next() {
    const std::string building = directory(pin_directory, kBuilding);
    std::error_code error;
    std::filesystem::create_directories(building, error);
    if (error) {
      return fail_errno(error.value(), "make " + building);
    }
    Status status = pin(building);
    if (status) {
      Result<Migration> found = Migration::between(directory(pin_directory, kMaps), building);
      status = found ? found->copy() : fail(found.error());
      if (status) {
        migration.emplace(std::move(*found));
        status = write_layout_number(building + "/config");
      }
    }
    if (status) {
      status = rename_directory(building, directory(pin_directory, kNext));
    }
    if (!status) {
      std::filesystem::remove_all(building, error);  // what fails here the next start does
      return fail(with_mend(status.error()));
    }
    maps = MapSet::kNext;
    return {};
  }

  /// The programs that ours replace, for what ours do not know (bpf/fairlead.bpf.c).
  [[nodiscard]] Status ask_before() const {
    constexpr std::array<std::string_view, FL_BEFORES> kNames = {"fl_in", "fl_out", "fl_in_l3",
                                                                 "fl_out_l3"};
    const auto programs = programs_with(migration->old_maps());
    if (!programs) {
      return fail(programs.error());
    }
    const int before = bpf_object__find_map_fd_by_name(object, "before");
    for (const LoadedProgram& program : *programs) {
      const auto* const name = std::ranges::find(kNames, program.name);
      if (name == kNames.end()) {
        continue;
      }
      const auto slot = static_cast<std::uint32_t>(name - kNames.begin());
      const int fd = program.fd.get();
      if (bpf_map_update_elem(before, &slot, &fd, BPF_ANY) != 0) {
        return fail_errno(errno, "hand on to the program " + program.name + " of before");
      }
    }
    return {};
  }

  void ask_nobody() const {
    const int before = bpf_object__find_map_fd_by_name(object, "before");
    for (std::uint32_t slot = 0; slot < FL_BEFORES; ++slot) {
      (void)bpf_map_delete_elem(before, &slot);  // it may be empty
    }
  }
};

std::string map_directory(const std::string& pin_directory, MapSet set) {
  return directory(pin_directory, set == MapSet::kServing ? kMaps : kNext);
}
std::string link_directory(const std::string& pin_directory) {
  return directory(pin_directory, "links");
}

bool is_on_bpffs(const std::string& pin_directory) {
  return is_bpffs(existing_part(pin_directory));
}

bool can_get_bpffs(const std::string& pin_directory) {
  return pin_directory == kMountPoint || pin_directory.starts_with(std::string(kMountPoint) + "/");
}

Status prepare_directory(const std::string& pin_directory) {
  if (!is_on_bpffs(pin_directory) && can_get_bpffs(pin_directory)) {
    if (::mount("bpf", std::string(kMountPoint).c_str(), "bpf", 0, "mode=0700") != 0) {
      return fail(Error::from_errno(errno, "mount bpffs on " + std::string(kMountPoint)));
    }
  }
  if (!is_on_bpffs(pin_directory)) {
    return fail(ErrorKind::kUnavailable, "--ebpf-pin-dir " + pin_directory +
                                             " is on no bpffs; mount one there or name another");
  }
  for (const std::string& path : {map_directory(pin_directory), link_directory(pin_directory)}) {
    std::error_code error;
    std::filesystem::create_directories(path, error);
    if (error) {
      return fail_errno(error.value(), "make " + path);
    }
  }
  return {};
}

Result<UniqueFd> lock_directory(const std::string& pin_directory) {
  // A file of a bpffs cannot be opened, a directory can, and takes a lock as any other.
  const std::string path = root_of(pin_directory);
  UniqueFd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory) {
    return fail_errno(errno, path);
  }
  if (::flock(directory.get(), LOCK_EX | LOCK_NB) != 0) {
    return errno == EWOULDBLOCK ? fail(ErrorKind::kUnavailable,
                                       path +
                                           ": another process works with these maps; stop it "
                                           "or name another --ebpf-pin-dir")
                                : fail_errno(errno, "lock " + path);
  }
  return directory;
}

Object::Object(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Object::Object(Object&&) noexcept = default;
Object& Object::operator=(Object&&) noexcept = default;
Object::~Object() = default;

Result<Object> Object::load(const std::string& pin_directory, const Sizes& sizes,
                            const Options& options) {
  // Kernels before 5.11 count maps against this; where it may not be raised, it may not matter.
  const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
  (void)::setrlimit(RLIMIT_MEMLOCK, &unlimited);  // a failure shows when the maps are made

  const LibraryLog log;
  auto impl = std::make_unique<Impl>();
  if (const Status opened = impl->open(); !opened) {
    return fail(opened.error());
  }
  bpf_object* const object = impl->object;
  const std::uint32_t fast_path = options.fast_path ? 1 : 0;
  if (const int error = bpf_map__set_initial_value(
          bpf_object__find_map_by_name(object, ".rodata.options"), &fast_path, sizeof(fast_path));
      error != 0) {
    return fail_errno(-error, "set the programs' options");
  }
  impl->pin_directory = pin_directory;
  Status status = recover(pin_directory);
  if (status) {
    status = impl->load_with_maps(sizes, log);
  }
  return status ? Result<Object>(Object(std::move(impl))) : fail(std::move(status.error()));
}

MapSet Object::maps() const { return impl_->maps; }

Status Object::catch_up() {
  const LibraryLog quiet;
  Status status = impl_->migration->catch_up();
  return status ? impl_->ask_before() : status;
}

Status Object::settle() {
  Status status = impl_->migration->settle();
  if (!status) {
    return status;
  }
  impl_->ask_nobody();
  status = publish(impl_->pin_directory);
  if (status) {
    impl_->migration.reset();
    impl_->maps = MapSet::kServing;
  }
  return status;
}

Status Object::try_load() {
  const LibraryLog log;
  Impl impl;
  const Status opened = impl.open();
  return opened ? impl.load(log) : opened;
}

int Object::program(std::string_view name) const {
  const bpf_program* program =
      bpf_object__find_program_by_name(impl_->object, std::string(name).c_str());
  return program == nullptr ? -1 : bpf_program__fd(program);
}

int Object::map(std::string_view name) const {
  const bpf_map* map = bpf_object__find_map_by_name(impl_->object, std::string(name).c_str());
  return map == nullptr ? -1 : bpf_map__fd(map);
}

Result<UniqueFd> open_map(const std::string& pin_directory, const std::string& name, MapSet set) {
  const std::string path = map_directory(pin_directory, set) + "/" + name;
  UniqueFd map(bpf_obj_get(path.c_str()));
  if (!map) {
    return fail_errno(errno, path);
  }
  return map;
}

Status remove_link(const std::string& path) {
  if (const UniqueFd link(bpf_obj_get(path.c_str())); link) {
    (void)bpf_link_detach(link.get());  // fails if the device or cgroup is gone: nothing to do then
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return fail_errno(errno, "remove " + path);
  }
  return {};
}

Status remove_pins(const std::string& pin_directory) {
  std::error_code no_directory;
  for (const auto& entry :
       std::filesystem::directory_iterator(link_directory(pin_directory), no_directory)) {
    if (Status status = remove_link(entry.path().string()); !status) {
      return status;
    }
  }
  for (const std::string_view name : {std::string_view("links"), kNext, kBuilding, kOld, kMaps}) {
    if (Status status = remove_directory(directory(pin_directory, name)); !status) {
      return status;
    }
  }
  // Each level only if nobody else has anything in it.
  std::error_code ignored;
  std::filesystem::remove(root_of(pin_directory), ignored);
  std::filesystem::remove(pin_directory, ignored);
  return {};
}

}  // namespace fairlead::bpf
