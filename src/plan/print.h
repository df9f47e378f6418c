// SPDX-License-Identifier: Apache-2.0
// The plan as text. Equal plans give equal bytes.
#pragma once

#include <span>
#include <string>

#include "model/types.h"
#include "plan/plan.h"

namespace fairlead::plan {

/// A table for people, problems below.
[[nodiscard]] std::string print_text(std::span<const VirtualServerPtr> servers,
                                     std::span<const model::Problem> problems);
/// {"virtualServers": [...], "problems": [...]}, indented, one line feed at the end. A virtual
/// server has `realServers`, unless its client classes differ in them: then each class has its own.
[[nodiscard]] std::string print_json(std::span<const VirtualServerPtr> servers,
                                     std::span<const model::Problem> problems);
/// What `ipvsadm -S -n` prints once the plan is in a kernel that had nothing else: virtual servers
/// by family, protocol, address and port, each followed by its real servers by address and port.
[[nodiscard]] std::string print_ipvsadm(std::span<const VirtualServerPtr> servers);

}  // namespace fairlead::plan
