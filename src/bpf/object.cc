// SPDX-License-Identifier: Apache-2.0
#include "bpf/object.h"

#include <algorithm>
#include <array>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <fairlead.skel.h>

#include "bpf/abi.h"
#include "bpf/library_log.h"
#include "bpf/options.h"

namespace fairlead::bpf {
namespace {

constexpr std::string_view kMountPoint = "/sys/fs/bpf";
constexpr long kBpfFsMagic = 0xcafe4a11;

/// Maps that are a matter of one load and not state.
constexpr std::array<std::string_view, 2> kUnpinned = {"scratch", "ending"};

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

/// Takes the pinned map if there is one; true then.
Result<bool> take_pinned(bpf_map* map, const std::string& path) {
  const UniqueFd pinned(bpf_obj_get(path.c_str()));
  if (!pinned) {
    return errno == ENOENT ? Result<bool>(false) : fail_errno(errno, path);
  }
  bpf_map_info info{};
  std::uint32_t size = sizeof(info);
  if (bpf_obj_get_info_by_fd(pinned.get(), &info, &size) != 0) {
    return fail_errno(errno, path);
  }
  if (info.type != static_cast<std::uint32_t>(bpf_map__type(map)) ||
      info.key_size != bpf_map__key_size(map) || info.value_size != bpf_map__value_size(map)) {
    return fail(ErrorKind::kUnavailable,
                path + ": is a map of another layout; `fairlead cleanup` removes what was left");
  }
  if (bpf_map__set_max_entries(map, info.max_entries) != 0 ||
      bpf_map__reuse_fd(map, pinned.get()) != 0) {
    return fail_errno(errno, path);
  }
  return true;
}

}  // namespace

struct Object::Impl {
  bpf_object* object = nullptr;
  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() { bpf_object__close(object); }

  [[nodiscard]] Status open() {
    // Of the skeleton only the bytes: what else it does is for globals, and we have none.
    std::size_t size = 0;
    const void* const bytes = fairlead_bpf__elf_bytes(&size);
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
};

std::string map_directory(const std::string& pin_directory) {
  return pin_directory + "/v" + std::to_string(FL_LAYOUT) + "/maps";
}
std::string link_directory(const std::string& pin_directory) {
  return pin_directory + "/v" + std::to_string(FL_LAYOUT) + "/links";
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
  const std::string path = std::filesystem::path(map_directory(pin_directory)).parent_path();
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
  std::vector<std::pair<bpf_map*, std::string>> fresh;
  for (bpf_map* map = bpf_object__next_map(object, nullptr); map != nullptr;
       map = bpf_object__next_map(object, map)) {
    const std::string name = bpf_map__name(map);
    if (!is_pinned(name)) {
      continue;
    }
    if (const std::uint32_t size = wanted_size(name, sizes); size != 0) {
      bpf_map__set_max_entries(map, size);
    }
    const std::string path = map_directory(pin_directory) + "/" + name;
    const Result<bool> taken = take_pinned(map, path);
    if (!taken) {
      return fail(taken.error());
    }
    if (!*taken) {
      fresh.emplace_back(map, path);
    }
  }
  if (const Status loaded = impl->load(log); !loaded) {
    return fail(loaded.error());
  }
  for (const auto& [map, path] : fresh) {
    if (const int error = bpf_map__pin(map, path.c_str()); error != 0) {
      return fail(Error::from_errno(-error, "pin " + path));
    }
  }
  return Object(std::move(impl));
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

Result<UniqueFd> open_map(const std::string& pin_directory, const std::string& name) {
  const std::string path = map_directory(pin_directory) + "/" + name;
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
  for (const std::string& directory :
       {link_directory(pin_directory), map_directory(pin_directory)}) {
    std::error_code error;
    std::filesystem::remove_all(directory, error);
    if (error && error.value() != ENOENT) {
      return fail_errno(error.value(), "remove " + directory);
    }
  }
  // Each level only if nobody else has anything in it.
  std::error_code ignored;
  std::filesystem::remove(std::filesystem::path(map_directory(pin_directory)).parent_path(),
                          ignored);
  std::filesystem::remove(pin_directory, ignored);
  return {};
}

}  // namespace fairlead::bpf
