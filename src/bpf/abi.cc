// SPDX-License-Identifier: Apache-2.0
#include "bpf/abi.h"

#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <cstring>
#include <span>

namespace fairlead::bpf {
namespace {

std::uint32_t v4_mark() { return htonl(0xffffU); }

}  // namespace

fl_addr to_abi(const net::IpAddress& address) {
  fl_addr out{};
  const auto bytes = address.bytes();
  if (address.is_v4()) {
    out.words[2] = v4_mark();
    std::memcpy(&out.words[3], bytes.data(), bytes.size());
  } else {
    std::memcpy(&out.words[0], bytes.data(), bytes.size());
  }
  return out;
}

net::IpAddress to_address(const fl_addr& address) {
  std::array<std::uint8_t, 16> bytes{};
  std::memcpy(bytes.data(), &address.words[0], bytes.size());
  const bool is_v4 =
      address.words[0] == 0 && address.words[1] == 0 && address.words[2] == v4_mark();
  return net::IpAddress::from_bytes(is_v4 ? std::span(bytes).last(4) : std::span(bytes));
}

__be16 to_abi(net::Port port) { return htons(net::number(port)); }
net::Port to_port(__be16 port) { return net::Port{ntohs(port)}; }

fl_prefix to_abi(const net::IpPrefix& prefix) {
  fl_prefix out{};
  out.length = static_cast<std::uint32_t>(prefix.length()) + (prefix.address().is_v4() ? 96U : 0U);
  out.addr = to_abi(prefix.address());
  return out;
}

std::uint32_t ticks(std::chrono::steady_clock::time_point time) {
  // The library's steady clock is CLOCK_MONOTONIC, of which the programs read the coarse form.
  const auto since = std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch());
  return static_cast<std::uint32_t>(static_cast<std::uint64_t>(since.count()) >> FL_TICK_SHIFT);
}

std::uint32_t filter_bit(const fl_addr& address) {
  return FL_FILTER_BIT(address.words[0], address.words[1], address.words[2], address.words[3]);
}

}  // namespace fairlead::bpf
