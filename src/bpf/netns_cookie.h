// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/result.h"

namespace fairlead::bpf {

/// What the kernel calls the network namespace of the calling thread. Before Linux 5.14 only
/// programs are told: then one hangs on the process's own cgroup for as long as it takes.
[[nodiscard]] Result<std::uint64_t> netns_cookie();

}  // namespace fairlead::bpf
