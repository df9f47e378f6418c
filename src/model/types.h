// SPDX-License-Identifier: Apache-2.0
// Words that the model and everything behind it share.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "net/address.h"

namespace fairlead::model {

/// What kind of service address this is; decides binding, masquerade and which sets it joins.
/// A firewall mark is none, but takes the place of one.
enum class AddressKind : std::uint8_t {
  kClusterIp,
  kExternalIp,
  kLoadBalancerIp,
  kNodePort,
  kFirewallMark
};
[[nodiscard]] std::string_view text(AddressKind kind);  // "cluster-ip", ...

struct Scheduler {
  std::string name = "rr";  // at most 15 characters
  std::uint32_t flags = 0;  // kernel bits SCHED1 0x8, SCHED2 0x10, SCHED3 0x20
  friend bool operator==(const Scheduler&, const Scheduler&) = default;
};

/// How a packet gets to its real server: with the server's address and port written into it (NAT),
/// with an address of the node's as its source as well (full NAT), unchanged to the server as next
/// hop (direct routing), or unchanged within another packet (tunnel). After the latter two the
/// server answers the client itself, so it must have the virtual address, too.
enum class Forwarding : std::uint8_t { kMasquerade, kDirectRouting, kTunnel, kFullNat };
/// Numbers as in the kernel.
enum class TunnelType : std::uint8_t { kIpip, kGue, kGre };

struct ForwardingMethod {
  Forwarding forwarding = Forwarding::kMasquerade;
  TunnelType tunnel = TunnelType::kIpip;
  net::Port tunnel_port{};  // UDP, of kGue

  /// The packet keeps its destination, port included.
  [[nodiscard]] bool keeps_destination() const {
    return forwarding == Forwarding::kDirectRouting || forwarding == Forwarding::kTunnel;
  }
  /// As in the annotation: `nat`, `gue:6080`.
  [[nodiscard]] std::string text() const;
  friend auto operator<=>(const ForwardingMethod&, const ForwardingMethod&) = default;
};

/// Of a real server's connections: at `upper` it gets no new ones, until it has fewer than `lower`,
/// or less than three quarters of `upper` if there is no `lower`. 0: none.
struct Thresholds {
  std::uint32_t upper = 0;
  std::uint32_t lower = 0;  // at most `upper`

  /// As in the annotation: `100`, `100:80`.
  [[nodiscard]] std::string text() const;
  friend auto operator<=>(const Thresholds&, const Thresholds&) = default;
};

/// Something in an object that we cannot honour. Whatever it concerns is left out or takes its
/// default; the rest of the service goes on.
struct Problem {
  std::string object;  // `Service shop/web`
  std::string field;   // `metadata.annotations[fairlead.io/scheduler]`
  std::string what;    // what is wrong, and what is done instead or what to do

  /// `Service shop/web: FIELD: what`
  [[nodiscard]] std::string text() const;
  friend auto operator<=>(const Problem&, const Problem&) = default;
};

}  // namespace fairlead::model
