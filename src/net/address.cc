// SPDX-License-Identifier: Apache-2.0
#include "net/address.h"

#include <algorithm>
#include <arpa/inet.h>
#include <cstring>
#include <sys/socket.h>

#include "base/check.h"
#include "base/text.h"

namespace fairlead::net {
namespace {

constexpr std::array<std::uint8_t, 12> kV4MappedPrefix = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

void append_hex_group(std::string& out, unsigned group) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  bool started = false;
  for (int shift = 12; shift >= 0; shift -= 4) {
    const unsigned digit = (group >> static_cast<unsigned>(shift)) & 0xfU;
    if (digit != 0 || started || shift == 0) {
      out += kDigits[digit];
      started = true;
    }
  }
}

// RFC 5952 by hand: inet_ntop prints `::1.2.3.4` for some ranges, which is another text than
// other tools (and ourselves) use for the same address.
std::string v6_text(std::span<const std::uint8_t> bytes) {
  std::array<unsigned, 8> groups{};
  for (std::size_t i = 0; i < 8; ++i) {
    groups[i] = (static_cast<unsigned>(bytes[2 * i]) << 8U) | bytes[(2 * i) + 1];
  }
  std::size_t best = 8;
  std::size_t best_length = 1;  // a single zero group is not shortened
  for (std::size_t i = 0; i < 8;) {
    std::size_t end = i;
    while (end < 8 && groups[end] == 0) {
      ++end;
    }
    if (end - i > best_length) {
      best = i;
      best_length = end - i;
    }
    i = std::max(end, i + 1);
  }
  std::string out;
  for (std::size_t i = 0; i < 8;) {
    if (i == best) {
      out += "::";
      i += best_length;
      continue;
    }
    if (i != 0 && out.back() != ':') {
      out += ':';
    }
    append_hex_group(out, groups[i]);
    ++i;
  }
  return out;
}

}  // namespace

int socket_family(Family family) { return family == Family::kIpv4 ? AF_INET : AF_INET6; }

std::string_view text(Family family) { return family == Family::kIpv4 ? "IPv4" : "IPv6"; }

Result<IpAddress> IpAddress::parse(std::string_view text) {
  const std::string zero_terminated(text);
  std::array<std::uint8_t, 16> bytes{};
  // inet_pton would stop at a NUL within and take what is before it.
  const bool whole = text.find('\0') == std::string_view::npos;
  if (whole && ::inet_pton(AF_INET, zero_terminated.c_str(), bytes.data()) == 1) {
    return from_bytes(std::span(bytes).first(4));
  }
  if (whole && ::inet_pton(AF_INET6, zero_terminated.c_str(), bytes.data()) == 1) {
    if (std::equal(kV4MappedPrefix.begin(), kV4MappedPrefix.end(), bytes.begin())) {
      return from_bytes(std::span(bytes).subspan(12, 4));
    }
    return from_bytes(bytes);
  }
  return fail(ErrorKind::kInvalidInput, "\"" + zero_terminated + "\" is not an IP address");
}

IpAddress IpAddress::from_bytes(std::span<const std::uint8_t> bytes) {
  FAIRLEAD_CHECK(bytes.size() == 4 || bytes.size() == 16);
  IpAddress address;
  address.family_ = bytes.size() == 4 ? Family::kIpv4 : Family::kIpv6;
  std::ranges::copy(bytes, address.bytes_.begin());
  return address;
}

IpAddress IpAddress::any(Family family) {
  IpAddress address;
  address.family_ = family;
  return address;
}

std::string IpAddress::text() const {
  if (!is_v4()) {
    return v6_text(bytes_);
  }
  std::string out;
  for (std::size_t i = 0; i < 4; ++i) {
    if (i != 0) {
      out += '.';
    }
    out += std::to_string(bytes_[i]);
  }
  return out;
}

bool IpAddress::is_unspecified() const {
  return std::ranges::all_of(bytes_, [](std::uint8_t b) { return b == 0; });
}

bool IpAddress::is_loopback() const {
  if (is_v4()) {
    return bytes_[0] == 127;
  }
  return bytes_[15] == 1 &&
         std::all_of(bytes_.begin(), bytes_.begin() + 15, [](std::uint8_t b) { return b == 0; });
}

bool IpAddress::is_link_local() const {
  if (is_v4()) {
    return bytes_[0] == 169 && bytes_[1] == 254;
  }
  return bytes_[0] == 0xfe && (bytes_[1] & 0xc0U) == 0x80;
}

bool IpAddress::is_multicast() const {
  return is_v4() ? (bytes_[0] & 0xf0U) == 0xe0 : bytes_[0] == 0xff;
}

Result<IpPrefix> IpPrefix::parse(std::string_view text) {
  const std::string_view trimmed = trim(text);
  const std::size_t slash = trimmed.find('/');
  const auto bad = [&] {
    return fail(ErrorKind::kInvalidInput,
                "\"" + std::string(text) + "\" is not a CIDR (such as 10.0.0.0/8)");
  };
  if (slash == std::string_view::npos) {
    return bad();
  }
  const Result<IpAddress> address = IpAddress::parse(trimmed.substr(0, slash));
  if (!address) {
    return bad();
  }
  const auto length = parse_number(trimmed.substr(slash + 1), address->is_v4() ? 32 : 128);
  if (!length) {
    return bad();
  }
  std::array<std::uint8_t, 16> bytes{};
  std::ranges::copy(address->bytes(), bytes.begin());
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const auto kept = static_cast<unsigned>(std::clamp<std::int64_t>(
        static_cast<std::int64_t>(*length) - static_cast<std::int64_t>(8 * i), 0, 8));
    bytes[i] = static_cast<std::uint8_t>(bytes[i] & (0xff00U >> kept));
  }
  IpPrefix prefix;
  prefix.address_ = IpAddress::from_bytes(std::span(bytes).first(address->bytes().size()));
  prefix.length_ = static_cast<int>(*length);
  return prefix;
}

IpPrefix IpPrefix::host(const IpAddress& address) {
  IpPrefix prefix;
  prefix.address_ = address;
  prefix.length_ = address.is_v4() ? 32 : 128;
  return prefix;
}

bool IpPrefix::contains(const IpAddress& address) const {
  if (address.family() != family()) {
    return false;
  }
  const auto ours = address_.bytes();
  const auto theirs = address.bytes();
  int left = length_;
  for (std::size_t i = 0; i < ours.size() && left > 0; ++i, left -= 8) {
    const unsigned mask = left >= 8 ? 0xffU : (0xff00U >> static_cast<unsigned>(left)) & 0xffU;
    if (((static_cast<unsigned>(ours[i]) ^ theirs[i]) & mask) != 0) {
      return false;
    }
  }
  return true;
}

std::string IpPrefix::text() const { return address_.text() + "/" + std::to_string(length_); }

std::string_view text(Protocol protocol) {
  switch (protocol) {
    case Protocol::kTcp:
      return "TCP";
    case Protocol::kUdp:
      return "UDP";
    case Protocol::kSctp:
      return "SCTP";
  }
  return "?";
}

std::string_view lower_text(Protocol protocol) {
  switch (protocol) {
    case Protocol::kTcp:
      return "tcp";
    case Protocol::kUdp:
      return "udp";
    case Protocol::kSctp:
      return "sctp";
  }
  return "?";
}

std::optional<Protocol> parse_protocol(std::string_view text) {
  for (const Protocol protocol : {Protocol::kTcp, Protocol::kUdp, Protocol::kSctp}) {
    if (text == net::text(protocol)) {
      return protocol;
    }
  }
  return std::nullopt;
}

std::string SocketAddress::text() const {
  const std::string port_text = std::to_string(number(port));
  return address.is_v4() ? address.text() + ":" + port_text
                         : "[" + address.text() + "]:" + port_text;
}

Result<SocketAddress> SocketAddress::parse(std::string_view text) {
  const auto bad = [&] {
    return fail(ErrorKind::kInvalidInput,
                "\"" + std::string(text) + "\" is not ADDRESS:PORT or [IPV6]:PORT");
  };
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) {
    return bad();
  }
  std::string_view host = text.substr(0, colon);
  const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) {
    host = host.substr(1, host.size() - 2);
  }
  const Result<IpAddress> address = IpAddress::parse(host);
  const auto port = parse_number(text.substr(colon + 1), 65535);
  const bool has_colon = host.find(':') != std::string_view::npos;
  if (!address || !port || has_colon != bracketed) {
    return bad();
  }
  return SocketAddress{*address, Port{static_cast<std::uint16_t>(*port)}};
}

}  // namespace fairlead::net

std::size_t std::hash<fairlead::net::IpAddress>::operator()(
    const fairlead::net::IpAddress& address) const noexcept {
  auto seed = static_cast<std::size_t>(address.family());
  const auto bytes = address.bytes();
  for (std::size_t i = 0; i < bytes.size(); i += 4) {
    std::uint32_t word = 0;
    std::memcpy(&word, bytes.data() + i, 4);
    fairlead::hash_mix(seed, word);
  }
  return seed;
}

std::size_t std::hash<fairlead::net::SocketAddress>::operator()(
    const fairlead::net::SocketAddress& address) const noexcept {
  std::size_t seed = std::hash<fairlead::net::IpAddress>{}(address.address);
  fairlead::hash_mix(seed, number(address.port));
  return seed;
}
