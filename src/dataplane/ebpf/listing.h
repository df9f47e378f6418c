// SPDX-License-Identifier: Apache-2.0
// The view of the ebpf plane, from its maps.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "bpf/tables.h"
#include "dataplane/view.h"

namespace fairlead::dataplane::ebpf {

/// Totals are those of connections that have ended and of those that live.
[[nodiscard]] Result<Listing> list_table(bpf::Tables& tables);

/// Connections, and clients bound by persistence as such with port 0 and state NONE. `now` in
/// ticks.
[[nodiscard]] Result<std::vector<ListedConnection>> list_connections(bpf::Tables& tables,
                                                                     std::uint32_t now);

/// Of what is pinned there; kNotFound if nothing is.
[[nodiscard]] Result<std::unique_ptr<View>> open_view(const std::string& pin_directory);

/// Names of enum fl_event, in its order.
[[nodiscard]] std::vector<std::string_view> event_names();

}  // namespace fairlead::dataplane::ebpf
