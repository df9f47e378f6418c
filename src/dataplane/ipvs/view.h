// SPDX-License-Identifier: Apache-2.0
// The view of kernel IPVS.
#pragma once

#include <memory>

#include "base/result.h"
#include "dataplane/view.h"
#include "ipvs/client.h"

namespace fairlead::dataplane::ipvs {

/// A listing's `refused` and `addresses` stay empty: IPVS has neither. A real server of weight 0
/// counts as draining.
[[nodiscard]] Listing listing_of(std::span<const fairlead::ipvs::ObservedVirtualServer> observed);

/// Of the network namespace of the calling thread. kUnavailable if the kernel has no IPVS.
[[nodiscard]] Result<std::unique_ptr<View>> open_view();

}  // namespace fairlead::dataplane::ipvs
