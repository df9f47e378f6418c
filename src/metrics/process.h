// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace fairlead::metrics {

/// CPU time, memory, open files and start of this process in the text format, under the names that
/// every exporter uses. What /proc does not tell is left out.
[[nodiscard]] std::string process_text();

}  // namespace fairlead::metrics
