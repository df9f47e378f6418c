// SPDX-License-Identifier: Apache-2.0
// One test suite (contract_test.cc) for kernel and fakes, so that the fakes stay honest. The
// program that links it says where the tests run.
#pragma once

#include <memory>

#include "netlink/ipset.h"
#include "netlink/route.h"

namespace fairlead::netlink {

/// Empty but for `lo`, which is up. Where a member is null, its tests skip.
struct World {
  std::unique_ptr<Route> route;
  std::unique_ptr<IpSet> sets;
  bool has_dummy = true;
};
/// A new world for each test.
[[nodiscard]] World make_world();

}  // namespace fairlead::netlink
