// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "config/config.h"
#include "dataplane/view.h"

namespace fairlead::proxy {

/// The view of the mode's plane; of no mode, of the ebpf plane if something is pinned, else of
/// kernel IPVS if there is one.
[[nodiscard]] Result<std::unique_ptr<dataplane::View>> open_view(const std::string& mode,
                                                                 const std::string& pin_directory);

/// `fairlead get`: prints what the data plane holds. 0, or 1 if nothing can be read.
[[nodiscard]] int print_state(const config::StateCommand& command);

/// `fairlead cleanup`: takes the ebpf data plane out of the kernel; of what others have, nothing.
[[nodiscard]] int clean_up(const config::StateCommand& command);

}  // namespace fairlead::proxy
