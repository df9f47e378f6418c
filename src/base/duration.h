// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string_view>

#include "base/result.h"

namespace fairlead {

/// Go's duration syntax, as Kubernetes flags and annotations use it: `30s`, `1m30s`, `1.5h`,
/// `250ms`, bare `0`. Negative ones are refused.
[[nodiscard]] Result<std::chrono::nanoseconds> parse_duration(std::string_view text);

}  // namespace fairlead
