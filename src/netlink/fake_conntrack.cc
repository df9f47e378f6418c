// SPDX-License-Identifier: Apache-2.0
#include "netlink/fake_conntrack.h"

#include <algorithm>

namespace fairlead::netlink {

Status FakeConntrack::dump(net::Family family, net::Protocol protocol,
                           const std::function<void(const Flow&)>& on_flow) {
  count("dump");
  return with_faults("dump", std::string(net::text(protocol)), [&]() -> Status {
    for (const Flow& flow : flows) {
      if (flow.protocol == protocol && flow.original.source.address.family() == family) {
        on_flow(flow);
      }
    }
    return {};
  });
}

std::vector<Status> FakeConntrack::remove(std::span<const Flow> gone) {
  count("remove");
  count("remove.op", gone.size());
  std::vector<Status> results;
  results.reserve(gone.size());
  for (const Flow& flow : gone) {
    results.push_back(with_faults("remove", flow.original.destination.text(), [&]() -> Status {
      std::erase_if(flows, [&](const Flow& other) {
        return other.protocol == flow.protocol && other.original == flow.original;
      });
      return {};
    }));
  }
  return results;
}

}  // namespace fairlead::netlink
