// SPDX-License-Identifier: Apache-2.0
#include "bpf/flows.h"

#include <atomic>
#include <netinet/in.h>

namespace fairlead::bpf {

fl_tuple key_of_reply(const fl_tuple& forward, const fl_flow& flow) {
  return {flow.addr, forward.saddr, flow.port, flow.client_port, forward.protocol, FL_EGRESS, 0};
}

fl_tuple key_of_hide(const fl_tuple& forward, const fl_flow& flow) {
  return {forward.saddr, flow.addr, flow.client_port, flow.port, forward.protocol, FL_EGRESS, 0};
}

fl_tuple key_of_forward(const fl_tuple& reply, const fl_flow& flow) {
  return {reply.daddr, flow.addr, flow.client_port, flow.port, reply.protocol, FL_INGRESS, 0};
}

fl_tuple key_of_unhide(const fl_tuple& hide, const fl_flow& flow) {
  return {hide.daddr, flow.addr, hide.dport, flow.port, hide.protocol, FL_INGRESS, 0};
}

std::uint32_t timeout_of(const fl_config& config, std::uint8_t protocol, std::uint32_t state) {
  switch (protocol) {
    case IPPROTO_TCP:
      return state < FL_TCP_STATES ? config.tcp_timeout[state] : 0;
    case IPPROTO_SCTP:
      return state < FL_SCTP_STATES ? config.sctp_timeout[state] : 0;
    default:
      return config.udp_timeout;
  }
}

bool is_silent(std::uint32_t now, std::uint32_t seen, std::uint32_t limit) {
  return static_cast<std::int32_t>(now - seen) > static_cast<std::int32_t>(limit);
}

void mind_thresholds(const fl_rs& server, fl_rs_counts& counts) {
  const std::uint64_t all = std::uint64_t{std::atomic_ref(counts.active).load()} +
                            std::atomic_ref(counts.inactive).load();
  if (server.upper == 0) {
    return;
  }
  if (all >= server.upper) {
    std::atomic_ref(counts.overloaded).store(1);
  } else if (server.lower != 0 ? all < server.lower : all * 4 < std::uint64_t{server.upper} * 3) {
    std::atomic_ref(counts.overloaded).store(0);
  }
}

}  // namespace fairlead::bpf
