// SPDX-License-Identifier: Apache-2.0
// The kernel settings that IPVS needs (kube-proxy-ipvs.md section 3.10).
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace fairlead::dataplane::ipvs {

struct Setting {
  std::string name;  // below /proc/sys, such as "net/ipv4/vs/conntrack"
  std::string value;
};

/// What has to be set on a kernel of this release (`6.1.0-13-amd64`). Pure.
[[nodiscard]] std::vector<Setting> required_settings(std::string_view kernel_release,
                                                     bool strict_arp);

class Sysctl {
 public:
  Sysctl() = default;
  Sysctl(const Sysctl&) = delete;
  Sysctl& operator=(const Sysctl&) = delete;
  virtual ~Sysctl() = default;

  /// Writes only if the value differs. True if it wrote.
  [[nodiscard]] virtual Result<bool> ensure(const Setting& setting) = 0;
};
/// /proc/sys of the calling thread's network namespace.
[[nodiscard]] std::unique_ptr<Sysctl> make_sysctl();

}  // namespace fairlead::dataplane::ipvs
