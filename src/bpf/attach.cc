// SPDX-License-Identifier: Apache-2.0
#include "bpf/attach.h"

#include <algorithm>
#include <array>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <limits>
#include <linux/bpf.h>
#include <net/if.h>
#include <optional>
#include <sstream>
#include <string_view>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <vector>

#include "base/text.h"
#include "bpf/library_log.h"
#include "bpf/migration.h"
#include "bpf/options.h"

namespace fairlead::bpf {
namespace {

/// Ours among the filters of a clsact qdisc.
constexpr std::uint32_t kHandle = 0xf1ee;
constexpr std::uint32_t kPriority = 1;

struct Side {
  std::string_view name;
  std::uint32_t tcx;
  bpf_tc_attach_point clsact;
};
constexpr std::array<Side, 2> kSides = {
    {{"in", kTcxIngress, BPF_TC_INGRESS}, {"out", kTcxEgress, BPF_TC_EGRESS}}};

struct CgroupHook {
  const char* program;
  bpf_attach_type type;
};
constexpr std::array<CgroupHook, 8> kCgroupHooks = {{
    {"fl_recvmsg4", BPF_CGROUP_UDP4_RECVMSG},
    {"fl_recvmsg6", BPF_CGROUP_UDP6_RECVMSG},
    {"fl_getpeername4", BPF_CGROUP_INET4_GETPEERNAME},
    {"fl_getpeername6", BPF_CGROUP_INET6_GETPEERNAME},
    {"fl_connect4", BPF_CGROUP_INET4_CONNECT},
    {"fl_connect6", BPF_CGROUP_INET6_CONNECT},
    {"fl_sendmsg4", BPF_CGROUP_UDP4_SENDMSG},
    {"fl_sendmsg6", BPF_CGROUP_UDP6_SENDMSG},
}};

std::string program_name(const Side& side, bool is_ethernet) {
  return "fl_" + std::string(side.name) + (is_ethernet ? "" : "_l3");
}

std::string link_path(const std::string& pin_directory, std::uint32_t interface,
                      std::string_view side) {
  return link_directory(pin_directory) + "/" + std::to_string(interface) + "-" + std::string(side);
}

/// bpf(BPF_LINK_CREATE): the library's wrapper knows no TCX.
Result<UniqueFd> create_link(int program, std::uint32_t target, std::uint32_t type) {
  bpf_attr attr{};
  attr.link_create.prog_fd = static_cast<std::uint32_t>(program);
  attr.link_create.target_fd = target;  // the interface's index, for TCX
  attr.link_create.attach_type = type;
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): the only form the call has
  const long fd = ::syscall(SYS_bpf, BPF_LINK_CREATE, &attr, sizeof(attr));
  if (fd < 0) {
    return fail_errno(errno, "attach");
  }
  return UniqueFd(static_cast<int>(fd));
}

/// bpf(BPF_PROG_QUERY) as of Linux 6.6.
struct TcxQuery {
  std::uint32_t interface, attach_type, query_flags, attach_flags;
  std::uint64_t program_ids;
  std::uint32_t count, pad;
  std::uint64_t program_flags, link_ids, link_flags, revision;
};
static_assert(sizeof(TcxQuery) == 64);
constexpr std::size_t kMaxPrograms = 64;  // the kernel's limit on one side of a device

/// A pinned link that still hangs on this device. The link of a device that went away hangs on
/// nothing, and one with the same index may be of another network namespace, which the link does
/// not tell: so the device is asked.
bool leads_to(int link, std::uint32_t interface, std::uint32_t type) {
  bpf_link_info info{};
  std::uint32_t size = sizeof(info);
  if (bpf_obj_get_info_by_fd(link, &info, &size) != 0) {
    return false;
  }
  std::array<std::uint32_t, kMaxPrograms> programs{};
  std::array<std::uint32_t, kMaxPrograms> links{};
  TcxQuery query{};
  query.interface = interface;
  query.attach_type = type;
  query.program_ids = reinterpret_cast<std::uintptr_t>(programs.data());
  query.link_ids = reinterpret_cast<std::uintptr_t>(links.data());
  query.count = kMaxPrograms;
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): the only form the call has
  if (::syscall(SYS_bpf, BPF_PROG_QUERY, &query, sizeof(query)) != 0) {
    return false;
  }
  return std::ranges::find(links, info.id) != links.end();
}

bool is_of_cgroup(int link, int directory) {
  bpf_link_info info{};
  std::uint32_t size = sizeof(info);
  struct stat status{};
  return bpf_obj_get_info_by_fd(link, &info, &size) == 0 && info.type == BPF_LINK_TYPE_CGROUP &&
         ::fstat(directory, &status) == 0 && info.cgroup.cgroup_id == status.st_ino;
}

template <typename StillGood>
Status attach_link(const std::string& path, int program, std::uint32_t target, std::uint32_t type,
                   const StillGood& still_good) {
  if (const UniqueFd pinned(bpf_obj_get(path.c_str())); pinned) {
    if (still_good(pinned.get()) && bpf_link_update(pinned.get(), program, nullptr) == 0) {
      return {};
    }
    if (Status status = remove_link(path); !status) {
      return status;
    }
  }
  const Result<UniqueFd> link = create_link(program, target, type);
  if (!link) {
    return fail(link.error());
  }
  if (bpf_obj_pin(link->get(), path.c_str()) != 0) {
    return fail_errno(errno, "pin " + path);
  }
  return {};
}

/// Ours on that side of the device, whether it is there or not.
struct Filter {
  bpf_tc_hook hook = options<bpf_tc_hook>();
  bpf_tc_opts opts = options<bpf_tc_opts>();

  Filter(std::uint32_t interface, const Side& side) {
    hook.ifindex = static_cast<int>(interface);
    hook.attach_point = side.clsact;
    opts.handle = kHandle;
    opts.priority = kPriority;
  }
};

Status attach_clsact(int program, std::uint32_t interface, const Side& side) {
  const LibraryLog quiet;
  Filter filter(interface, side);
  if (const int error = bpf_tc_hook_create(&filter.hook); error != 0 && error != -EEXIST) {
    return fail_errno(-error, "add clsact");
  }
  filter.opts.prog_fd = program;
  filter.opts.flags = BPF_TC_F_REPLACE;
  if (const int error = bpf_tc_attach(&filter.hook, &filter.opts); error != 0) {
    return fail_errno(-error, "attach to clsact");
  }
  return {};
}

Status detach_clsact(std::uint32_t interface) {
  const LibraryLog quiet;
  for (const Side& side : kSides) {
    const Filter filter(interface, side);
    // The qdisc stays: others may use it. Where there is no device, qdisc or filter the answer is
    // an error of one of several kinds, and all but this one mean that nothing is left.
    if (const int error = bpf_tc_detach(&filter.hook, &filter.opts); error == -EPERM) {
      return fail_errno(EPERM, "remove the filter of device " + std::to_string(interface));
    }
  }
  return {};
}

/// Of this network namespace.
std::vector<std::uint32_t> interfaces() {
  std::vector<std::uint32_t> out;
  if (struct if_nameindex* devices = ::if_nameindex(); devices != nullptr) {
    for (const struct if_nameindex* device = devices; device->if_index != 0; ++device) {
      out.push_back(device->if_index);
    }
    ::if_freenameindex(devices);
  }
  return out;
}

/// The device of a link's pin, if it is one.
std::optional<std::uint32_t> interface_of(std::string_view pin) {
  for (const Side& side : kSides) {
    const std::string suffix = "-" + std::string(side.name);
    if (pin.ends_with(suffix)) {
      pin.remove_suffix(suffix.size());
      const auto number = parse_number(pin, std::numeric_limits<std::uint32_t>::max());
      return number ? std::optional(static_cast<std::uint32_t>(*number)) : std::nullopt;
    }
  }
  return std::nullopt;
}

Result<std::set<std::uint32_t>> interfaces_of_links(const std::string& pin_directory) {
  std::set<std::uint32_t> out;
  std::error_code error;
  for (std::filesystem::directory_iterator pin(link_directory(pin_directory), error), end;
       !error && pin != end; pin.increment(error)) {
    if (const auto interface = interface_of(pin->path().filename().string())) {
      out.insert(*interface);
    }
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return fail_errno(error.value(), "list " + link_directory(pin_directory));
  }
  return out;
}

/// What every program for devices uses, of those that serve and of those that follow.
std::set<std::uint32_t> flow_maps(const std::string& pin_directory) {
  std::set<std::uint32_t> ids;
  for (const MapSet set : {MapSet::kServing, MapSet::kNext}) {
    const auto map = open_map(pin_directory, "flows", set);
    bpf_map_info info{};
    std::uint32_t size = sizeof(info);
    if (map && bpf_obj_get_info_by_fd(map->get(), &info, &size) == 0) {
      ids.insert(info.id);
    }
  }
  return ids;
}

bool uses_one_of(std::uint32_t program_id, const std::set<std::uint32_t>& maps) {
  const UniqueFd program(bpf_prog_get_fd_by_id(program_id));
  if (!program) {
    return errno == EPERM;  // without CAP_SYS_ADMIN: then its handle and priority must do
  }
  const Result<ProgramInfo> info = info_of(program);
  return info &&
         std::ranges::any_of(info->maps, [&](std::uint32_t id) { return maps.contains(id); });
}

std::set<std::uint32_t> interfaces_of_filters(const std::string& pin_directory) {
  const LibraryLog quiet;
  const std::set<std::uint32_t> maps = flow_maps(pin_directory);
  std::set<std::uint32_t> out;
  for (const std::uint32_t interface : interfaces()) {
    for (const Side& side : kSides) {
      Filter filter(interface, side);
      // An error: no qdisc, or no such filter in it.
      if (bpf_tc_query(&filter.hook, &filter.opts) == 0 && uses_one_of(filter.opts.prog_id, maps)) {
        out.insert(interface);
      }
    }
  }
  return out;
}

}  // namespace

std::string_view text(Hook hook) { return hook == Hook::kTcx ? "tcx" : "clsact"; }

Hook best_hook() {
  // A kernel without it knows no such attach type.
  bpf_attr attr{};
  attr.query.target_fd = 1;  // the loopback device
  attr.query.attach_type = kTcxIngress;
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): the only form the call has
  return ::syscall(SYS_bpf, BPF_PROG_QUERY, &attr, sizeof(attr)) == 0 ? Hook::kTcx : Hook::kClsact;
}

Status attach_device(const std::string& pin_directory, const Object& object, Hook hook,
                     std::uint32_t interface, bool is_ethernet) {
  for (const Side& side : kSides) {
    const int program = object.program(program_name(side, is_ethernet));
    const Status status =
        hook == Hook::kTcx
            ? attach_link(link_path(pin_directory, interface, side.name), program, interface,
                          side.tcx, [&](int link) { return leads_to(link, interface, side.tcx); })
            : attach_clsact(program, interface, side);
    if (!status) {
      return fail(status.error().in("device " + std::to_string(interface)));
    }
  }
  return {};
}

Status detach_device(const std::string& pin_directory, Hook hook, std::uint32_t interface) {
  if (hook == Hook::kClsact) {
    return detach_clsact(interface);
  }
  for (const Side& side : kSides) {
    if (Status status = remove_link(link_path(pin_directory, interface, side.name)); !status) {
      return status;
    }
  }
  return {};
}

Result<std::set<std::uint32_t>> attached_devices(const std::string& pin_directory, Hook hook) {
  return hook == Hook::kTcx ? interfaces_of_links(pin_directory)
                            : interfaces_of_filters(pin_directory);
}

Status attach_cgroup(const std::string& pin_directory, const Object& object,
                     const std::string& cgroup) {
  const UniqueFd directory(::open(cgroup.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory) {
    return fail_errno(errno, "cgroup " + cgroup);
  }
  for (const CgroupHook& hook : kCgroupHooks) {
    const std::string path = link_directory(pin_directory) + "/cgroup-" + (hook.program + 3);
    // Another cgroup than last time is a new link, for a link cannot move.
    if (const Status status = attach_link(
            path, object.program(hook.program), static_cast<std::uint32_t>(directory.get()),
            hook.type, [&](int link) { return is_of_cgroup(link, directory.get()); });
        !status) {
      return fail(status.error().in("cgroup " + cgroup + ": " + hook.program));
    }
  }
  return {};
}

Status detach_cgroup(const std::string& pin_directory) {
  for (const CgroupHook& hook : kCgroupHooks) {
    const std::string path = link_directory(pin_directory) + "/cgroup-" + (hook.program + 3);
    if (Status status = remove_link(path); !status) {
      return status;
    }
  }
  return {};
}

Result<std::string> cgroup_mount() {
  std::ifstream mounts("/proc/self/mounts");
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream words(line);
    std::string device;
    std::string path;
    std::string type;
    words >> device >> path >> type;
    if (type == "cgroup2") {
      return path;
    }
  }
  return fail(ErrorKind::kNotFound, "cgroup2 is mounted nowhere");
}

Status remove_all(const std::string& pin_directory) {
  for (const std::uint32_t interface : interfaces()) {
    if (Status status = detach_clsact(interface); !status) {
      return status;
    }
  }
  return remove_pins(pin_directory);
}

}  // namespace fairlead::bpf
