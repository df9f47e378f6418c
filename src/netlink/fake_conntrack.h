// SPDX-License-Identifier: Apache-2.0
// A connection-tracking table in memory. For tests only.
#pragma once

#include <functional>
#include <vector>

#include "netlink/conntrack.h"
#include "netlink/fake_fault.h"

namespace fairlead::netlink {

class FakeConntrack final : public Conntrack, public FakeBase {
 public:
  /// The table; tests fill and read it directly.
  std::vector<Flow> flows;

  [[nodiscard]] Status dump(net::Family family, net::Protocol protocol,
                            const std::function<void(const Flow&)>& on_flow) override;
  [[nodiscard]] std::vector<Status> remove(std::span<const Flow> gone) override;
};

}  // namespace fairlead::netlink
