// SPDX-License-Identifier: Apache-2.0
// Packets as bytes, made and read independently of the programs under test.
#pragma once

#include <array>
#include <cstdint>
#include <netinet/in.h>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "net/address.h"

namespace fairlead::packets {

using Bytes = std::vector<std::uint8_t>;

inline constexpr std::uint8_t kFin = 1, kSyn = 2, kRst = 4, kAck = 16;

/// What a test says of a packet, and what it reads of one.
struct Packet {
  std::string source, destination;  // `192.0.2.1:80`, `[2001:db8::1]:80`
  std::uint8_t protocol = IPPROTO_TCP;
  std::uint8_t tcp_flags = kSyn;
  std::uint8_t sctp_chunk = 1;
  std::uint32_t sequence = 1000, acknowledged = 0;
  std::size_t payload = 0;
  bool udp_checksum = true;
  std::uint8_t ttl = 64;
  std::uint8_t traffic_class = 0;
  bool dont_fragment = false;
  /// IPv6: so many destination options headers of 8 bytes before the transport header.
  int extensions = 0;
  /// Fragment: offset in bytes, and whether more follow; both unset: whole.
  std::optional<std::uint16_t> fragment_offset{};
  bool more_fragments = false;
  std::uint32_t id = 77;
};

/// An Ethernet frame.
[[nodiscard]] Bytes build(const Packet& packet);
/// An ICMP error from `source` to `destination` (addresses without ports) that quotes `about`.
/// `rest` is its second word: an MTU.
[[nodiscard]] Bytes build_error(const std::string& source, const std::string& destination,
                                std::uint8_t type, std::uint8_t code, const Bytes& about,
                                std::uint32_t rest = 1280);
/// A ping, with so many bytes.
[[nodiscard]] Bytes build_echo(const std::string& source, const std::string& destination,
                               std::size_t payload);
/// The same in fragments, each but the last with so many bytes behind the network header; or the
/// answer that it wants.
[[nodiscard]] std::vector<Bytes> build_echo_fragments(const std::string& source,
                                                      const std::string& destination,
                                                      std::size_t payload, std::size_t piece,
                                                      bool is_answer = false);

/// What a frame holds. Throws std::runtime_error with the reason if any length or checksum in it is
/// wrong.
struct Read {
  std::string source, destination;  // with ports, or without for ICMP
  std::uint8_t protocol = 0;
  std::uint8_t tcp_flags = 0;
  std::uint32_t sequence = 0, acknowledged = 0;
  std::uint8_t ttl = 0;
  std::uint8_t icmp_type = 0, icmp_code = 0;
  std::uint32_t icmp_rest = 0;  // the second word: an MTU
  std::string quoted_source, quoted_destination;
  std::array<std::uint8_t, 6> source_mac{}, destination_mac{};
  bool has_checksum = true;

  /// `192.0.2.1:1 > 192.0.2.2:2`
  [[nodiscard]] std::string text() const { return source + " > " + destination; }
};
[[nodiscard]] Read read(std::span<const std::uint8_t> frame);

/// A tunnel's packet taken apart. Throws as read() does.
struct Opened {
  std::string outer;  // `192.0.2.1 > 192.0.2.2`
  std::string type;   // `ipip`, `gue:6080`, `gre`
  std::uint8_t ttl = 0, traffic_class = 0;
  bool dont_fragment = false;
  Bytes inner;  // as a frame
};
[[nodiscard]] Opened open_tunnel(std::span<const std::uint8_t> frame);

/// Of what comes in network byte order; `sum` is added, for a pseudo header. 0 over what is right.
[[nodiscard]] std::uint16_t internet_checksum(std::span<const std::uint8_t> bytes,
                                              std::uint32_t sum = 0);
[[nodiscard]] std::uint32_t crc32c(std::span<const std::uint8_t> bytes);

}  // namespace fairlead::packets
