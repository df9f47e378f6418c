// SPDX-License-Identifier: Apache-2.0
// Which data plane serves this node, and why.
#pragma once

#include <functional>
#include <string>

#include "base/result.h"
#include "config/config.h"

namespace fairlead::proxy {

inline constexpr std::string_view kIpvs = "ipvs";
inline constexpr std::string_view kEbpf = "ebpf";

struct Mode {
  std::string name;
  std::string reason;
};

/// Whether the kernel and our rights allow a mode; the error says what is missing. Looked at only
/// when it decides: a look loads programs or modules.
struct Support {
  std::function<Status()> ebpf;
  std::function<Status()> ipvs;
};

/// What --proxy-mode stands for. Pure, but for the look.
[[nodiscard]] Result<Mode> choose_mode(const std::string& asked, const Support& support);

/// Of this kernel, for a daemon of this configuration. Where sockets are to be translated and the
/// kernel's hooks for that do not work, ebpf is not chosen unasked: the node's own processes would
/// reach no service.
[[nodiscard]] Support kernel_support(const config::Config& config);

/// Before the ipvs mode serves: what the ebpf mode has left in the kernel would go on in front of
/// it, with what it knew last.
[[nodiscard]] Status clear_way_for_ipvs(const std::string& pin_directory);

/// `fairlead doctor`: prints what this kernel has, what is lost without the rest, and the mode that
/// would be chosen. 0, or 1 if no mode can work.
[[nodiscard]] int examine(const config::StateCommand& command);

}  // namespace fairlead::proxy
