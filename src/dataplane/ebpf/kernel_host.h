// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "bpf/devices.h"
#include "bpf/object.h"
#include "dataplane/ebpf/plane.h"
#include "event/loop.h"

namespace fairlead::dataplane::ebpf {

struct HostConfig {
  std::string pin_directory;
  bpf::Sizes sizes;
  bpf::Options options;
  bpf::DeviceChoice devices;
  /// cgroup2 directory whose sockets are translated; empty: none.
  std::string cgroup;
  /// Where files name the network namespaces of others whose sockets are translated, too; empty:
  /// nobody's are.
  std::string namespaces;
};

/// The devices and sockets of the calling thread's network namespace. Closing it leaves everything
/// in the kernel as it is.
[[nodiscard]] std::unique_ptr<Host> make_kernel_host(event::Loop& loop, HostConfig config);

}  // namespace fairlead::dataplane::ebpf
