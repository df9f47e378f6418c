// SPDX-License-Identifier: Apache-2.0
// Keys of the map `numbers`, from the plan's words and back.
#pragma once

#include <arpa/inet.h>

#include "bpf/abi.h"
#include "plan/plan.h"

namespace fairlead::dataplane::ebpf {

[[nodiscard]] inline bpf::fl_vs_key key_of(const plan::VirtualServerKey& key) {
  bpf::fl_vs_key out{};
  out.addr = bpf::to_abi(key.address);
  out.port = bpf::to_abi(key.port);
  out.protocol = static_cast<std::uint8_t>(key.protocol);
  if (key.mark != 0) {
    out.addr.words[3] = htonl(key.mark);
    out.protocol = FL_VS_MARK;
  }
  return out;
}

/// Of the entry that claims an address for services.
[[nodiscard]] inline bpf::fl_vs_key key_of(const net::IpAddress& address) {
  bpf::fl_vs_key out{};
  out.addr = bpf::to_abi(address);
  return out;
}

[[nodiscard]] inline bool is_address_entry(const bpf::fl_vs_key& key) {
  return key.port == 0 && key.protocol == 0;
}

[[nodiscard]] inline plan::VirtualServerKey key_from(const bpf::fl_addr& address, __be16 port,
                                                     std::uint8_t protocol) {
  if (protocol == FL_VS_MARK) {
    return {.address = net::IpAddress::any(bpf::to_address(address).family()),
            .mark = ntohl(address.words[3])};
  }
  return {bpf::to_address(address), bpf::to_port(port), static_cast<net::Protocol>(protocol)};
}

}  // namespace fairlead::dataplane::ebpf
