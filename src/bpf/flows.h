// SPDX-License-Identifier: Apache-2.0
// What user space knows about flows as bpf/flows.h does: how those of one connection are found from
// each other, and how long they live. Pure.
#pragma once

#include <cstdint>

#include "bpf/abi.h"

namespace fairlead::bpf {

[[nodiscard]] fl_tuple key_of_reply(const fl_tuple& forward, const fl_flow& flow);
[[nodiscard]] fl_tuple key_of_hide(const fl_tuple& forward, const fl_flow& flow);
[[nodiscard]] fl_tuple key_of_forward(const fl_tuple& reply, const fl_flow& flow);
[[nodiscard]] fl_tuple key_of_unhide(const fl_tuple& hide, const fl_flow& flow);

/// Ticks that a flow may be silent, by its protocol and state.
[[nodiscard]] std::uint32_t timeout_of(const fl_config& config, std::uint8_t protocol,
                                       std::uint32_t state);

/// Whether more than `limit` ticks lie between. Signed: a packet may have stamped a flow after
/// `now` was taken.
[[nodiscard]] bool is_silent(std::uint32_t now, std::uint32_t seen, std::uint32_t limit);

/// For whoever changes a server's counts besides the programs.
void mind_thresholds(const fl_rs& server, fl_rs_counts& counts);

}  // namespace fairlead::bpf
