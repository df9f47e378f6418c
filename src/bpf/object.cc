// SPDX-License-Identifier: Apache-2.0
#include "bpf/object.h"

#include <algorithm>
#include <array>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <filesystem>
#include <span>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <utility>
#include <vector>

#include <fairlead.skel.h>

#include "base/text.h"
#include "bpf/abi.h"

namespace fairlead::bpf {
namespace {

constexpr std::string_view kMountPoint = "/sys/fs/bpf";
constexpr long kBpfFsMagic = 0xcafe4a11;
constexpr std::size_t kLinesOfLog = 12;

/// Maps that are a matter of one load and not state.
constexpr std::array<std::string_view, 1> kUnpinned = {"scratch"};

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

// libbpf speaks to a callback without context; what it says while one thread loads is kept here.
thread_local std::vector<std::string> library_lines;

int keep_line(libbpf_print_level level, const char* format, std::va_list arguments) {
  if (level == LIBBPF_WARN) {
    std::array<char, 2048> line{};
    std::vsnprintf(line.data(), line.size(), format, arguments);
    for (const std::string_view piece : split(line.data(), '\n')) {
      if (!trim(piece).empty()) {
        library_lines.emplace_back(trim(piece));
      }
    }
  }
  return 0;
}

std::string last_lines() {
  const std::size_t from =
      library_lines.size() > kLinesOfLog ? library_lines.size() - kLinesOfLog : 0;
  std::string text;
  for (std::size_t i = from; i < library_lines.size(); ++i) {
    text += (text.empty() ? "" : " | ") + library_lines[i];
  }
  return text;
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
  fairlead_bpf* skeleton = nullptr;
  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() { fairlead_bpf__destroy(skeleton); }
};

std::string map_directory(const std::string& pin_directory) {
  return pin_directory + "/v" + std::to_string(FL_LAYOUT) + "/maps";
}
std::string link_directory(const std::string& pin_directory) {
  return pin_directory + "/v" + std::to_string(FL_LAYOUT) + "/links";
}

Status prepare_directory(const std::string& pin_directory) {
  if (!is_bpffs(existing_part(pin_directory)) && pin_directory.starts_with(kMountPoint)) {
    if (::mount("bpf", std::string(kMountPoint).c_str(), "bpf", 0, "mode=0700") != 0) {
      return fail(Error::from_errno(errno, "mount bpffs on " + std::string(kMountPoint)));
    }
  }
  if (!is_bpffs(existing_part(pin_directory))) {
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

Object::Object(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Object::Object(Object&&) noexcept = default;
Object& Object::operator=(Object&&) noexcept = default;
Object::~Object() = default;

Result<Object> Object::load(const std::string& pin_directory, const Sizes& sizes) {
  // Kernels before 5.11 count maps against this; where it may not be raised, it may not matter.
  const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
  (void)::setrlimit(RLIMIT_MEMLOCK, &unlimited);  // a failure shows when the maps are made

  library_lines.clear();
  libbpf_set_print(keep_line);
  auto impl = std::make_unique<Impl>();
  impl->skeleton = fairlead_bpf__open();
  if (impl->skeleton == nullptr) {
    return fail(Error::from_errno(errno, "open the BPF programs"));
  }
  bpf_object* object = impl->skeleton->obj;
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
  if (const int error = fairlead_bpf__load(impl->skeleton); error != 0) {
    return fail(Error::from_errno(-error, "load the BPF programs (" + last_lines() + ")"));
  }
  for (const auto& [map, path] : fresh) {
    if (const int error = bpf_map__pin(map, path.c_str()); error != 0) {
      return fail(Error::from_errno(-error, "pin " + path));
    }
  }
  return Object(std::move(impl));
}

int Object::program(std::string_view name) const {
  const bpf_program* program =
      bpf_object__find_program_by_name(impl_->skeleton->obj, std::string(name).c_str());
  return program == nullptr ? -1 : bpf_program__fd(program);
}

Result<UniqueFd> open_map(const std::string& pin_directory, const std::string& name) {
  const std::string path = map_directory(pin_directory) + "/" + name;
  UniqueFd map(bpf_obj_get(path.c_str()));
  if (!map) {
    return fail_errno(errno, path);
  }
  return map;
}

Status remove_pins(const std::string& pin_directory) {
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
