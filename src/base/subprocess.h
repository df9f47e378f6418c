// SPDX-License-Identifier: Apache-2.0
// Runs a helper program to its end. For the few kernel interfaces that are stable only through
// their program (iptables-restore).
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace fairlead {

/// Runs `argv` (the program found through PATH; no shell), feeds it `input` and returns its
/// standard output. Blocks at most for `deadline`, then kills the program. Errors: kUnavailable if
/// there is no such program, kTimeout at the deadline, kSystem if it ended with a status other
/// than 0, with its standard error in the text and the status as `errno_value`. Thread-safe.
[[nodiscard]] Result<std::string> run_program(const std::vector<std::string>& argv,
                                              std::string_view input,
                                              std::chrono::milliseconds deadline);

}  // namespace fairlead
