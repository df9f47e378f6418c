// SPDX-License-Identifier: Apache-2.0
// What the stages are told, from the one configuration. Pure.
#pragma once

#include <string>

#include "base/result.h"
#include "config/config.h"
#include "dataplane/ebpf/kernel_host.h"
#include "dataplane/ebpf/plane.h"
#include "dataplane/ipvs/plane.h"
#include "model/node.h"

namespace fairlead::proxy {

/// kInvalidInput names the flag.
[[nodiscard]] Result<model::ModelOptions> model_options(const config::Config& config);

/// `node` gives the pod CIDRs for --detect-local-mode NodeCIDR.
[[nodiscard]] dataplane::ipvs::PlaneConfig ipvs_config(const config::Config& config,
                                                       const model::NodeFacts& node, bool has_ipv6);

/// `netns_cookie`: of the namespace whose sockets are the node's own.
[[nodiscard]] dataplane::ebpf::PlaneConfig ebpf_config(const config::Config& config,
                                                       const model::NodeFacts& node,
                                                       std::uint64_t netns_cookie);
/// `cgroup_mount`: where cgroup2 is, for --ebpf-cgroup left empty; empty: nowhere.
[[nodiscard]] dataplane::ebpf::HostConfig ebpf_host_config(const config::Config& config,
                                                           const std::string& cgroup_mount);

}  // namespace fairlead::proxy
