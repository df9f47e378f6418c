// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "config/config.h"

namespace fairlead::proxy {

/// `fairlead get`: prints what the ebpf data plane holds. 0, or 1 if nothing can be read.
[[nodiscard]] int print_state(const config::StateCommand& command);

/// `fairlead cleanup`: takes the ebpf data plane out of the kernel; of what others have, nothing.
[[nodiscard]] int clean_up(const config::StateCommand& command);

}  // namespace fairlead::proxy
