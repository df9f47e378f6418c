// SPDX-License-Identifier: Apache-2.0
// The pinned maps as Tables.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "bpf/tables.h"

namespace fairlead::bpf {

/// Opens and maps what Object::load pinned. An error names the map; kNotFound: nothing is there.
[[nodiscard]] Result<std::unique_ptr<Tables>> open_tables(const std::string& pin_directory);

}  // namespace fairlead::bpf
