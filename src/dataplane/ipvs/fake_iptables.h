// SPDX-License-Identifier: Apache-2.0
// Iptables that remembers what it was told. For tests only.
#pragma once

#include <map>
#include <string>

#include "dataplane/ipvs/iptables.h"
#include "netlink/fake_fault.h"

namespace fairlead::dataplane::ipvs {

class FakeIptables final : public Iptables, public netlink::FakeBase {
 public:
  /// Rules in force by family.
  std::map<net::Family, IptablesConfig> installed;
  /// How often rules were written.
  int restores = 0;

  /// As when somebody flushed the tables.
  void damage(net::Family family) { installed.erase(family); }

  [[nodiscard]] Result<bool> ensure(const IptablesConfig& config) override {
    count("ensure");
    return with_faults("ensure", std::string(net::text(config.family)), [&]() -> Result<bool> {
      const auto found = installed.find(config.family);
      if (found != installed.end() && found->second == config) {
        return false;
      }
      installed.insert_or_assign(config.family, config);
      ++restores;
      return true;
    });
  }
  [[nodiscard]] Status cleanup(net::Family family) override {
    count("cleanup");
    return with_faults("cleanup", std::string(net::text(family)), [&]() -> Status {
      installed.erase(family);
      return {};
    });
  }
};

}  // namespace fairlead::dataplane::ipvs
