// SPDX-License-Identifier: Apache-2.0
// Addresses, prefixes, ports and protocols as values: parsed at the edge, one canonical text form,
// ordered and hashable. No I/O; free of threads.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace fairlead::net {

enum class Family : std::uint8_t { kIpv4 = 4, kIpv6 = 6 };

/// AF_INET or AF_INET6.
[[nodiscard]] int socket_family(Family family);
/// "IPv4" / "IPv6", as the Kubernetes API spells them.
[[nodiscard]] std::string_view text(Family family);

/// An IPv4 or IPv6 address, in network byte order. A v4-mapped IPv6 text is read as IPv4, so that
/// one address has one value. Orders IPv4 before IPv6, then by bytes.
class IpAddress {
 public:
  /// 0.0.0.0.
  constexpr IpAddress() = default;

  [[nodiscard]] static Result<IpAddress> parse(std::string_view text);
  /// `bytes` is 4 or 16 long (aborts otherwise).
  [[nodiscard]] static IpAddress from_bytes(std::span<const std::uint8_t> bytes);
  [[nodiscard]] static IpAddress any(Family family);

  [[nodiscard]] Family family() const { return family_; }
  [[nodiscard]] bool is_v4() const { return family_ == Family::kIpv4; }
  /// 4 or 16 bytes, network order.
  [[nodiscard]] std::span<const std::uint8_t> bytes() const {
    return {bytes_.data(), is_v4() ? 4U : 16U};
  }
  /// RFC 5952 form for IPv6, always hexadecimal groups (never `::1.2.3.4`).
  [[nodiscard]] std::string text() const;

  [[nodiscard]] bool is_unspecified() const;
  [[nodiscard]] bool is_loopback() const;    // 127/8, ::1
  [[nodiscard]] bool is_link_local() const;  // 169.254/16, fe80::/10
  [[nodiscard]] bool is_multicast() const;

  friend auto operator<=>(const IpAddress&, const IpAddress&) = default;

 private:
  Family family_ = Family::kIpv4;
  std::array<std::uint8_t, 16> bytes_{};  // IPv4 in the first four, the rest zero
};

/// An address range by prefix length; host bits are zero in the stored address.
class IpPrefix {
 public:
  IpPrefix() = default;
  /// `10.0.0.0/8`; blanks around are trimmed; host bits are masked off. A length is required.
  [[nodiscard]] static Result<IpPrefix> parse(std::string_view text);
  /// /32 or /128.
  [[nodiscard]] static IpPrefix host(const IpAddress& address);

  [[nodiscard]] const IpAddress& address() const { return address_; }
  [[nodiscard]] int length() const { return length_; }
  [[nodiscard]] Family family() const { return address_.family(); }
  [[nodiscard]] bool contains(const IpAddress& address) const;
  [[nodiscard]] std::string text() const;

  friend auto operator<=>(const IpPrefix&, const IpPrefix&) = default;

 private:
  IpAddress address_;
  int length_ = 0;
};

/// A transport port in host order. Strong type: never mixes with counts or protocol numbers.
enum class Port : std::uint16_t {};
[[nodiscard]] constexpr std::uint16_t number(Port port) { return static_cast<std::uint16_t>(port); }

/// Values are the IP protocol numbers.
enum class Protocol : std::uint8_t { kTcp = 6, kUdp = 17, kSctp = 132 };
/// "TCP", "UDP", "SCTP".
[[nodiscard]] std::string_view text(Protocol protocol);
/// "tcp", "udp", "sctp", as ipset and iptables want it.
[[nodiscard]] std::string_view lower_text(Protocol protocol);
/// Exactly the upper-case names; nothing else.
[[nodiscard]] std::optional<Protocol> parse_protocol(std::string_view text);

/// Address and port: `10.0.0.1:80`, `[2001:db8::1]:80`.
struct SocketAddress {
  IpAddress address;
  Port port{};

  [[nodiscard]] std::string text() const;
  [[nodiscard]] static Result<SocketAddress> parse(std::string_view text);
  friend auto operator<=>(const SocketAddress&, const SocketAddress&) = default;
};

}  // namespace fairlead::net

template <>
struct std::hash<fairlead::net::IpAddress> {
  std::size_t operator()(const fairlead::net::IpAddress& address) const noexcept;
};
template <>
struct std::hash<fairlead::net::SocketAddress> {
  std::size_t operator()(const fairlead::net::SocketAddress& address) const noexcept;
};
