// SPDX-License-Identifier: Apache-2.0
#include "invariants.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <linux/pkt_cls.h>
#include <netinet/in.h>
#include <set>

#include "world.h"

namespace fairlead::fuzz {
namespace {

bpf::fl_tuple key(const bpf::fl_addr& from, __be16 from_port, const bpf::fl_addr& to,
                  __be16 to_port, std::uint8_t protocol, bpf::fl_point point) {
  bpf::fl_tuple out{};
  out.saddr = from;
  out.daddr = to;
  out.sport = from_port;
  out.dport = to_port;
  out.protocol = protocol;
  out.point = static_cast<std::uint8_t>(point);
  return out;
}

// Keys of a connection's flows, each from another one (bpf/abi.h).
bpf::fl_tuple key_of_reply(const bpf::fl_tuple& forward, const bpf::fl_flow& flow) {
  return key(flow.addr, flow.port, forward.saddr, flow.client_port, forward.protocol,
             bpf::FL_EGRESS);
}
bpf::fl_tuple key_of_hide(const bpf::fl_tuple& forward, const bpf::fl_flow& flow) {
  return key(forward.saddr, flow.client_port, flow.addr, flow.port, forward.protocol,
             bpf::FL_EGRESS);
}
bpf::fl_tuple key_of_forward(const bpf::fl_tuple& reply, const bpf::fl_flow& flow) {
  return key(reply.daddr, flow.client_port, flow.addr, flow.port, reply.protocol, bpf::FL_INGRESS);
}
bpf::fl_tuple key_of_unhide(const bpf::fl_tuple& hide, const bpf::fl_flow& flow) {
  return key(hide.daddr, hide.dport, flow.addr, flow.port, hide.protocol, bpf::FL_INGRESS);
}

/// Ticks that a connection may be silent.
std::uint32_t timeout_of(const bpf::fl_config& config, std::uint8_t protocol, std::uint32_t state) {
  switch (protocol) {
    case IPPROTO_TCP:
      return config.tcp_timeout[state];
    case IPPROTO_SCTP:
      return config.sctp_timeout[state];
    default:
      return config.udp_timeout;
  }
}

bool counts_as_active(std::uint8_t protocol, std::uint32_t state) {
  switch (protocol) {
    case IPPROTO_TCP:
      return state == bpf::FL_TCP_ESTABLISHED || state == bpf::FL_TCP_SYN_SENT ||
             state == bpf::FL_TCP_SYN_RECV || state == bpf::FL_TCP_SYNACK;
    case IPPROTO_SCTP:
      return state == bpf::FL_SCTP_ESTABLISHED;
    default:
      return false;
  }
}

bool is_same(const bpf::fl_addr& a, const bpf::fl_addr& b) {
  return std::memcmp(&a, &b, sizeof(a)) == 0;
}

const bpf::fl_flow* find(const Flows& flows, const bpf::fl_tuple& key) {
  const auto found = flows.find(key);
  return found == flows.end() ? nullptr : &found->second;
}

/// May start a connection that takes the place of one that has ended.
bool starts(const frames::Look& look) {
  return (look.protocol == IPPROTO_TCP && (look.event & 6U) == 2) ||
         (look.protocol == IPPROTO_SCTP && look.event == 1);
}

/// Its server is there, and it was not silent for too long.
bool lives(shim::Kernel& kernel, const Flows& flows, const bpf::fl_tuple& key,
           const bpf::fl_flow& flow) {
  const auto& real = *kernel.map("rs").at<bpf::fl_rs>(flow.rs);
  if (real.generation != flow.generation || real.state == bpf::FL_RS_GONE ||
      real.state == bpf::FL_RS_FREE) {
    return false;
  }
  const auto& config = *kernel.map("config").at<bpf::fl_config>(std::uint32_t{0});
  const auto now = static_cast<std::uint32_t>(kernel.now_ns >> FL_TICK_SHIFT);
  std::uint32_t silent = now - flow.seen;
  if ((flow.flags & bpf::FL_FLOW_NO_OUTPUT) == 0) {
    if (const bpf::fl_flow* const reply = find(flows, key_of_reply(key, flow))) {
      silent = std::min(silent, now - reply->seen);
    }
  }
  return silent <= timeout_of(config, key.protocol, flow.state);
}

/// Behind the outer IP header, by its protocol.
std::size_t bytes_of_tunnel(std::uint8_t protocol) {
  switch (protocol) {
    case IPPROTO_UDP:
      return 12;  // with the header of GUE
    case IPPROTO_GRE:
      return 4;
    default:
      return 0;
  }
}

bpf::fl_tuple key_of(const frames::Look& look, const shim::Bytes& frame, bpf::fl_point point) {
  bpf::fl_tuple key{};
  key.saddr = bpf::to_abi(net::IpAddress::from_bytes(look.source));
  key.daddr = bpf::to_abi(net::IpAddress::from_bytes(look.destination));
  std::memcpy(&key.sport, &frame.at(look.l4), 2);
  std::memcpy(&key.dport, &frame.at(look.l4 + 2), 2);
  key.protocol = look.protocol;
  key.point = static_cast<std::uint8_t>(point);
  return key;
}

void check_owned(const Flows& flows, const bpf::fl_tuple& key, const bpf::fl_flow& flow) {
  const bpf::fl_tuple reply_key = key_of_reply(key, flow);
  const bpf::fl_flow* const reply = find(flows, reply_key);
  claim(reply != nullptr && reply->kind == bpf::FL_REPLY,
        [&] { return text(key) + " has no FL_REPLY"; });
  // Which says, too, that no other connection has the same one.
  claim(KeyLess{}(key_of_forward(reply_key, *reply), key) ==
            KeyLess{}(key, key_of_forward(reply_key, *reply)),
        [&] {
          return text(key) + " has the FL_REPLY of " + text(key_of_forward(reply_key, *reply));
        });
  claim(reply->rs == flow.rs && reply->generation == flow.generation,
        [&] { return text(key) + " has a FL_REPLY of another server"; });
  if ((flow.flags & bpf::FL_FLOW_HIDDEN) == 0) {
    return;
  }
  const bpf::fl_tuple hide_key = key_of_hide(key, flow);
  const bpf::fl_flow* const hide = find(flows, hide_key);
  claim(hide != nullptr && hide->kind == bpf::FL_HIDE,
        [&] { return text(key) + " has no FL_HIDE"; });
  if (hide->port != 0) {
    const bpf::fl_flow* const unhide = find(flows, key_of_unhide(hide_key, *hide));
    claim(unhide != nullptr && unhide->kind == bpf::FL_UNHIDE,
          [&] { return text(key) + " has no FL_UNHIDE"; });
    claim(is_same(unhide->addr, key.saddr) && unhide->port == hide_key.sport,
          [&] { return text(key) + " has the FL_UNHIDE of another client"; });
  }
}

/// A flow that is not FL_FORWARD belongs to one, or to an answer of one-packet scheduling. FL_REPLY
/// does for all: whoever has FL_HIDE has FL_REPLY.
void check_owner(const Flows& flows, const bpf::fl_tuple& at, const bpf::fl_flow& flow) {
  if ((flow.flags & bpf::FL_FLOW_ONE_PACKET) != 0) {
    return;
  }
  if (flow.kind == bpf::FL_REPLY) {
    const bpf::fl_flow* const forward = find(flows, key_of_forward(at, flow));
    claim(forward != nullptr && forward->kind == bpf::FL_FORWARD,
          [&] { return text(at) + " is the FL_REPLY of nobody"; });
  } else if (flow.kind == bpf::FL_HIDE) {
    const bpf::fl_flow* const reply =
        find(flows, key(at.daddr, at.dport, at.saddr, at.sport, at.protocol, bpf::FL_EGRESS));
    claim(reply != nullptr && reply->kind == bpf::FL_REPLY,
          [&] { return text(at) + " is the FL_HIDE of nobody"; });
  } else {
    const bpf::fl_flow* const owner =
        find(flows, key(flow.addr, flow.port, at.saddr, at.sport, at.protocol, bpf::FL_EGRESS));
    claim(owner != nullptr && owner->kind == bpf::FL_HIDE && owner->port == at.dport,
          [&] { return text(at) + " is the FL_UNHIDE of nobody"; });
  }
}

}  // namespace

void fail(const std::string& what) {
  std::fprintf(stderr, "does not hold: %s\n", what.c_str());
  std::abort();
}

std::string text(const bpf::fl_tuple& key) {
  const net::SocketAddress from{bpf::to_address(key.saddr), bpf::to_port(key.sport)};
  const net::SocketAddress to{bpf::to_address(key.daddr), bpf::to_port(key.dport)};
  return from.text() + " > " + to.text() + " protocol " + std::to_string(key.protocol) +
         (key.point == bpf::FL_INGRESS ? " in" : " out");
}

bool KeyLess::operator()(const bpf::fl_tuple& a, const bpf::fl_tuple& b) const {
  return std::memcmp(&a, &b, sizeof(a)) < 0;
}

Flows flows_of(shim::Kernel& kernel, const char* map) {
  Flows flows;
  kernel.map(map).for_each<bpf::fl_tuple, bpf::fl_flow>(
      [&](const bpf::fl_tuple& key, const bpf::fl_flow& flow) { flows.emplace(key, flow); });
  return flows;
}

void check_tables(shim::Kernel& kernel) {
  const Flows flows = flows_of(kernel);
  std::map<std::uint32_t, std::array<std::uint32_t, 3>> tally;
  std::uint32_t half_open = 0;
  for (const auto& [key, flow] : flows) {
    if (flow.kind != bpf::FL_FORWARD) {
      check_owner(flows, key, flow);
      continue;
    }
    const bool active = counts_as_active(key.protocol, flow.state);
    claim(active == ((flow.flags & bpf::FL_FLOW_INACTIVE) == 0),
          [&] { return text(key) + " is flagged otherwise than its state says"; });
    ++tally[flow.rs][active ? 0 : 1];
    half_open += key.protocol == IPPROTO_TCP && flow.state == bpf::FL_TCP_SYN_RECV ? 1 : 0;
    if ((flow.flags & bpf::FL_FLOW_NO_OUTPUT) == 0) {
      check_owned(flows, key, flow);
    }
  }
  kernel.map("clients").for_each<bpf::fl_client_key, bpf::fl_client>(
      [&](const bpf::fl_client_key&, const bpf::fl_client& client) { ++tally[client.rs][2]; });
  std::uint32_t number = 0;
  for (const auto& counts : kernel.map("rs_counts").all<bpf::fl_rs_counts>()) {
    const auto& [active, inactive, persistent] = tally[number];
    claim(counts.active == active && counts.inactive == inactive && counts.persistent == persistent,
          [&] {
            return "real server " + std::to_string(number) + " counts " +
                   std::to_string(counts.active) + " active, " + std::to_string(counts.inactive) +
                   " inactive, " + std::to_string(counts.persistent) + " persistent, and has " +
                   std::to_string(active) + ", " + std::to_string(inactive) + ", " +
                   std::to_string(persistent);
          });
    ++number;
  }
  const auto& pressure = *kernel.map("pressure").at<bpf::fl_pressure>(std::uint32_t{0});
  claim(pressure.half_open == half_open, [&] {
    return "counted as half open: " + std::to_string(pressure.half_open) + ", are " +
           std::to_string(half_open);
  });
}

void check_survivors(shim::Kernel& kernel, const Flows& before, const shim::Packet& packet) {
  const Flows after = flows_of(kernel);
  const auto look = frames::look(packet.frame, packet.l3, packet.protocol);
  int ended = 0;
  for (const auto& [key, flow] : before) {
    const bpf::fl_flow* const left = find(after, key);
    if (flow.kind != bpf::FL_FORWARD || (left != nullptr && left->kind == bpf::FL_FORWARD &&
                                         left->rs == flow.rs && left->born == flow.born)) {
      continue;
    }
    claim(++ended == 1,
          [&] { return "one packet ended two connections; the second is " + text(key); });
    // What is cut short may be so behind what tells.
    claim(!lives(kernel, before, key, flow) || !look || starts(*look),
          [&] { return text(key) + " was ended, state " + std::to_string(flow.state); });
  }
}

void check_swept(shim::Kernel& kernel, const Flows& before) {
  const Flows after = flows_of(kernel);
  for (const auto& [at, flow] : before) {
    if (flow.kind == bpf::FL_FORWARD) {
      const bool is_left = find(after, at) != nullptr;
      claim(is_left == lives(kernel, before, at, flow), [&] {
        return text(at) + (is_left ? " is over and was left" : " lives and was ended");
      });
    }
  }
}

void check_translation(shim::Kernel& kernel, const Flows& flows, const shim::Packet& before,
                       const shim::Packet& after, bpf::fl_point point, int verdict) {
  const auto was = frames::look(before.frame, before.l3, before.protocol);
  const bool is_plain = was && !was->is_fragment && was->l4 - was->l3 == (was->v6 ? 40U : 20U) &&
                        before.frame.size() >= was->l4 + 20;
  if (!is_plain || (point == bpf::FL_EGRESS && before.tc_index != 0)) {
    return;
  }
  const bpf::fl_tuple key = key_of(*was, before.frame, point);
  const bpf::fl_flow* const flow = find(flows, key);
  if (flow == nullptr || (flow->flags & bpf::FL_FLOW_NO_OUTPUT) != 0 || flow->port == 0 ||
      (flow->kind == bpf::FL_FORWARD && (!lives(kernel, flows, key, *flow) || starts(*was)))) {
    return;
  }
  const auto is = frames::look(after.frame, after.l3, after.protocol);
  claim(verdict != TC_ACT_SHOT && is, [&] { return "a packet of " + text(key) + " is lost"; });
  const bpf::fl_tuple now = key_of(*is, after.frame, point);
  const bool to_destination = flow->kind == bpf::FL_FORWARD || flow->kind == bpf::FL_UNHIDE;
  const bool is_written = to_destination
                              ? is_same(now.daddr, flow->addr) && now.dport == flow->port
                              : is_same(now.saddr, flow->addr) && now.sport == flow->port;
  claim(is_written, [&] { return "a packet of " + text(key) + " became " + text(now); });
}

void check_sums(const shim::Packet& before, const shim::Packet& after) {
  using frames::Sum;
  const auto was =
      frames::look(before.frame, before.l3, before.protocol, before.partial.has_value());
  if (!was || was->network == Sum::kWrong || before.frame == after.frame) {
    return;
  }
  const auto is = frames::look(after.frame, after.l3, after.protocol, after.partial.has_value());
  claim(is && is->network != Sum::kWrong,
        [&] { return std::string("a sound IP header has become none"); });
  const auto& redirect = shim::Kernel::instance().redirect;
  if (redirect && redirect->kind == shim::Redirect::Kind::kOut) {
    // A ping's answer is as wrong as the ping.
    const bool is_echo = was->protocol == is->protocol && is->protocol != IPPROTO_TCP;
    claim(is->transport == Sum::kRight || before.partial ||
              (is_echo && was->transport != Sum::kRight),
          [&] { return std::string("an answer's checksum is wrong"); });
    return;
  }
  if (is->protocol == IPPROTO_ICMP || is->protocol == IPPROTO_ICMPV6) {
    claim(is->transport == Sum::kRight || was->transport != Sum::kRight,
          [&] { return std::string("an error's checksum is wrong"); });
    return;
  }
  auto inside = is;
  if (after.frame.size() - after.l3 > before.frame.size() - before.l3) {  // now in a tunnel
    const std::size_t added = after.frame.size() - after.l3 - (before.frame.size() - before.l3);
    const std::size_t outer = is->v6 ? 40 : 20;
    claim(added == outer + bytes_of_tunnel(is->protocol),
          [&] { return "protocol " + std::to_string(is->protocol) + " in front of the packet"; });
    inside =
        frames::look(after.frame, after.l3 + added, before.protocol, after.partial.has_value());
    claim(inside && inside->network != Sum::kWrong,
          [&] { return std::string("what is in the tunnel is not what came"); });
  }
  claim(inside->protocol == was->protocol,
        [&] { return std::string("another transport protocol"); });
  if (was->transport == Sum::kRight || was->transport == Sum::kNone) {
    claim(inside->transport == was->transport, [&] {
      return std::string("wrong transport checksum, protocol " + std::to_string(was->protocol));
    });
  }
}

}  // namespace fairlead::fuzz
