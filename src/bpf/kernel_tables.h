// SPDX-License-Identifier: Apache-2.0
// The pinned maps as Tables.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "bpf/object.h"
#include "bpf/tables.h"

namespace fairlead::bpf {

/// Opens and maps what Object::load pinned. An error names the map; kNotFound: nothing is there,
/// kUnavailable: it is of another layout than ours. `programs`, which must outlive the tables, are
/// what ends connections; theirs are the maps then.
[[nodiscard]] Result<std::unique_ptr<Tables>> open_tables(const std::string& pin_directory,
                                                          const Object* programs = nullptr);

}  // namespace fairlead::bpf
