// SPDX-License-Identifier: Apache-2.0
// Putting programs where packets and sockets pass. What is attached stays when the process ends;
// the next one replaces the programs in place. One thread, in the network namespace of the devices.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include "base/result.h"
#include "bpf/object.h"

namespace fairlead::bpf {

/// How programs hang on a device.
enum class Hook { kTcx, kClsact };
[[nodiscard]] std::string_view text(Hook hook);  // "tcx", "clsact"

/// TCX (Linux 6.6) where the kernel has it: nobody's `tc qdisc del` takes such a program away.
[[nodiscard]] Hook best_hook();

/// Ingress and egress of a device. `is_ethernet`: packets begin with an Ethernet header. Replaces
/// what an earlier process of ours attached, with no packet unseen in between.
[[nodiscard]] Status attach_device(const std::string& pin_directory, const Object& object,
                                   Hook hook, std::uint32_t interface, bool is_ethernet);
/// What is gone already is success.
[[nodiscard]] Status detach_device(const std::string& pin_directory, Hook hook,
                                   std::uint32_t interface);

/// Devices that have programs of this directory, or had them and left a pin: whatever an earlier
/// process chose. Filters are told by their maps, which others' do not use, or by their handle
/// alone where the process lacks CAP_SYS_ADMIN.
[[nodiscard]] Result<std::set<std::uint32_t>> attached_devices(const std::string& pin_directory,
                                                               Hook hook);

/// connect, sendmsg, recvmsg and getpeername of the processes below a cgroup2 directory.
[[nodiscard]] Status attach_cgroup(const std::string& pin_directory, const Object& object,
                                   const std::string& cgroup);
[[nodiscard]] Status detach_cgroup(const std::string& pin_directory);

/// Where cgroup2 is mounted; kNotFound if nowhere.
[[nodiscard]] Result<std::string> cgroup_mount();

/// Removes everything of ours from this network namespace and below the directory: filters on
/// devices, links, maps.
[[nodiscard]] Status remove_all(const std::string& pin_directory);

}  // namespace fairlead::bpf
