// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "config/config.h"

namespace fairlead::proxy {

/// `fairlead plan`: prints what `run` would program for a folder of manifests, on stdout; mistakes
/// in the manifests on stderr. 0, or 1 if anything was wrong with the input.
[[nodiscard]] int print_plan(const config::PlanCommand& command);

/// `fairlead diff`: prints in what the kernel differs from that plan, made with the addresses that
/// this node has. 0 alike, 1 different, 2 if one of both cannot be had.
[[nodiscard]] int print_difference(const config::PlanCommand& command);

}  // namespace fairlead::proxy
