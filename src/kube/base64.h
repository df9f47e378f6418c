// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace fairlead::kube {

/// Standard alphabet; blanks and line ends are skipped, padding may be left out. Nothing for any
/// other character or a length that cannot be.
[[nodiscard]] std::optional<std::string> decode_base64(std::string_view text);

}  // namespace fairlead::kube
