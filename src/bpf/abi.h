// SPDX-License-Identifier: Apache-2.0
// The map layouts of bpf/abi.h, in a namespace, and what leads from our values to them and back.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <linux/types.h>

#include "net/address.h"

namespace fairlead::bpf {

#include "../../bpf/abi.h"

[[nodiscard]] fl_addr to_abi(const net::IpAddress& address);
[[nodiscard]] net::IpAddress to_address(const fl_addr& address);
[[nodiscard]] __be16 to_abi(net::Port port);
[[nodiscard]] net::Port to_port(__be16 port);
/// A prefix of 16-byte addresses: an IPv4 one is 96 bits longer.
[[nodiscard]] fl_prefix to_abi(const net::IpPrefix& prefix);
/// A time as the programs count it.
[[nodiscard]] std::uint32_t ticks(std::chrono::steady_clock::time_point time);
/// Bit of fl_filter in which an address is noted.
[[nodiscard]] std::uint32_t filter_bit(const fl_addr& address);

}  // namespace fairlead::bpf
