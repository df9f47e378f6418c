// SPDX-License-Identifier: Apache-2.0
#include "packets.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace fairlead::packets {
namespace {

constexpr std::size_t kEthernet = 14;
constexpr std::array<std::uint8_t, 6> kFromMac = {2, 0, 0, 0, 0, 1}, kToMac = {2, 0, 0, 0, 0, 2};

struct End {
  Bytes address;
  std::uint16_t port = 0;
};

End parse_end(const std::string& text) {
  End end;
  net::IpAddress address;
  if (const auto socket = net::SocketAddress::parse(text)) {
    address = socket->address;
    end.port = net::number(socket->port);
  } else if (const auto bare = net::IpAddress::parse(text)) {
    address = *bare;
  } else {
    throw std::runtime_error("no address: " + text);
  }
  const auto bytes = address.bytes();
  end.address.assign(bytes.begin(), bytes.end());
  return end;
}

void put16(Bytes& out, std::uint32_t value) {
  out.push_back(static_cast<std::uint8_t>(value >> 8U));
  out.push_back(static_cast<std::uint8_t>(value));
}
void put32(Bytes& out, std::uint32_t value) {
  put16(out, value >> 16U);
  put16(out, value & 0xffffU);
}
void set16(Bytes& out, std::size_t at, std::uint32_t value) {
  out.at(at) = static_cast<std::uint8_t>(value >> 8U);
  out.at(at + 1) = static_cast<std::uint8_t>(value);
}
std::uint16_t get16(std::span<const std::uint8_t> in, std::size_t at) {
  return static_cast<std::uint16_t>(in[at] << 8U | in[at + 1]);
}
std::uint32_t get32(std::span<const std::uint8_t> in, std::size_t at) {
  return std::uint32_t{get16(in, at)} << 16U | get16(in, at + 2);
}

std::uint32_t pseudo_sum(const Bytes& source, const Bytes& destination, std::uint8_t protocol,
                         std::size_t length) {
  std::uint32_t sum = protocol + static_cast<std::uint32_t>(length);
  for (const Bytes* address : {&source, &destination}) {
    for (std::size_t i = 0; i < address->size(); i += 2) {
      sum += get16(*address, i);
    }
  }
  return sum;
}

void set_crc32c(Bytes& transport) {
  std::fill_n(transport.begin() + 8, 4, std::uint8_t{0});
  const std::uint32_t crc = crc32c(transport);
  for (std::size_t i = 0; i < 4; ++i) {
    transport[8 + i] = static_cast<std::uint8_t>(crc >> (8 * i));
  }
}

Bytes transport_of(const Packet& packet, const End& from, const End& to) {
  Bytes out;
  put16(out, from.port);
  put16(out, to.port);
  std::size_t checksum = 0;
  switch (packet.protocol) {
    case IPPROTO_TCP:
      put32(out, packet.sequence);
      put32(out, packet.acknowledged);
      out.push_back(5U << 4U);
      out.push_back(packet.tcp_flags);
      put16(out, 1000);
      put32(out, 0);
      checksum = 16;
      break;
    case IPPROTO_UDP:
      put16(out, static_cast<std::uint32_t>(8 + packet.payload));
      put16(out, 0);
      checksum = packet.udp_checksum ? 6 : 0;
      break;
    default:
      put32(out, 0x01020304);  // verification tag
      put32(out, 0);
      out.push_back(packet.sctp_chunk);
      out.push_back(0);
      put16(out, 4);
      break;
  }
  for (std::size_t i = 0; i < packet.payload; ++i) {
    out.push_back(static_cast<std::uint8_t>(i * 7));
  }
  if (packet.protocol == IPPROTO_SCTP) {
    set_crc32c(out);
  } else if (checksum != 0) {
    std::uint16_t sum =
        internet_checksum(out, pseudo_sum(from.address, to.address, packet.protocol, out.size()));
    if (sum == 0 && packet.protocol == IPPROTO_UDP) {
      sum = 0xffff;
    }
    set16(out, checksum, sum);
  }
  return out;
}

Bytes with_network_header(const Packet& packet, const End& from, const End& to,
                          std::uint8_t protocol, Bytes payload) {
  Bytes out(kToMac.begin(), kToMac.end());
  out.insert(out.end(), kFromMac.begin(), kFromMac.end());
  const bool is_fragment = packet.fragment_offset.has_value();
  const std::uint16_t offset = packet.fragment_offset.value_or(0);
  if (from.address.size() == 4) {
    put16(out, 0x0800);
    put16(out, 0x4500U | packet.traffic_class);
    put16(out, static_cast<std::uint32_t>(20 + payload.size()));
    put16(out, packet.id);
    put16(out, (offset / 8U) | (packet.more_fragments ? 0x2000U : 0U) |
                   (packet.dont_fragment ? 0x4000U : 0U));
    out.push_back(packet.ttl);
    out.push_back(protocol);
    put16(out, 0);
    out.insert(out.end(), from.address.begin(), from.address.end());
    out.insert(out.end(), to.address.begin(), to.address.end());
    set16(out, kEthernet + 10, internet_checksum(std::span(out).subspan(kEthernet, 20)));
  } else {
    Bytes extensions;
    std::vector<std::uint8_t> kinds(static_cast<std::size_t>(packet.extensions), IPPROTO_DSTOPTS);
    if (is_fragment) {
      kinds.push_back(IPPROTO_FRAGMENT);
    }
    for (std::size_t i = 0; i < kinds.size(); ++i) {
      extensions.push_back(i + 1 < kinds.size() ? kinds[i + 1] : protocol);
      extensions.push_back(0);
      if (kinds[i] == IPPROTO_FRAGMENT) {
        put16(extensions, offset | (packet.more_fragments ? 1U : 0U));
        put32(extensions, packet.id);
      } else {
        extensions.insert(extensions.end(), {1, 4, 0, 0, 0, 0});  // PadN
      }
    }
    put16(out, 0x86dd);
    put32(out, 0x60000000U | std::uint32_t{packet.traffic_class} << 20U);
    put16(out, static_cast<std::uint32_t>(extensions.size() + payload.size()));
    out.push_back(kinds.empty() ? protocol : kinds.front());
    out.push_back(packet.ttl);
    out.insert(out.end(), from.address.begin(), from.address.end());
    out.insert(out.end(), to.address.begin(), to.address.end());
    out.insert(out.end(), extensions.begin(), extensions.end());
  }
  out.insert(out.end(), payload.begin(), payload.end());
  return out;
}

void require(bool holds, const char* what) {
  if (!holds) {
    throw std::runtime_error(what);
  }
}

std::string end_text(std::span<const std::uint8_t> address, std::optional<std::uint16_t> port) {
  const net::IpAddress parsed = net::IpAddress::from_bytes(address);
  return port ? net::SocketAddress{parsed, net::Port{*port}}.text() : parsed.text();
}

struct Network {
  Bytes source, destination;
  std::uint8_t protocol = 0, ttl = 0, traffic_class = 0;
  bool dont_fragment = false;
  std::size_t transport = 0;  // offset
  std::size_t end = 0;
  bool later_fragment = false, fragment = false;
};

/// `whole`: lengths must be those of what is there; a quoted packet may be cut.
Network read_network(std::span<const std::uint8_t> in, std::size_t at, bool whole) {
  Network network;
  require(in.size() >= at + 20, "too short for a network header");
  if (in[at] >> 4U == 4) {
    const std::size_t header = std::size_t{in[at] & 0xfU} * 4;
    require(internet_checksum(in.subspan(at, header)) == 0, "IPv4 checksum is wrong");
    network.end = at + get16(in, at + 2);
    network.protocol = in[at + 9];
    network.ttl = in[at + 8];
    network.traffic_class = in[at + 1];
    network.dont_fragment = (in[at + 6] & 0x40U) != 0;
    network.transport = at + header;
    network.source.assign(&in[at + 12], &in[at + 16]);
    network.destination.assign(&in[at + 16], &in[at + 20]);
    network.later_fragment = (get16(in, at + 6) & 0x1fffU) != 0;
    network.fragment = (get16(in, at + 6) & 0x3fffU) != 0;
  } else {
    require(in[at] >> 4U == 6 && in.size() >= at + 40, "no IP header");
    network.end = at + 40 + get16(in, at + 4);
    network.source.assign(&in[at + 8], &in[at + 24]);
    network.destination.assign(&in[at + 24], &in[at + 24] + 16);
    network.protocol = in[at + 6];
    network.ttl = in[at + 7];
    network.traffic_class = static_cast<std::uint8_t>(get16(in, at) >> 4U);
    network.transport = at + 40;
    while (network.protocol == IPPROTO_DSTOPTS || network.protocol == IPPROTO_FRAGMENT) {
      if (network.protocol == IPPROTO_FRAGMENT) {
        network.fragment = true;
        network.later_fragment = (get16(in, network.transport + 2) & 0xfff8U) != 0;
      }
      network.protocol = in[network.transport];
      network.transport += 8;
    }
  }
  require(!whole || network.end == in.size(), "length of the packet is wrong");
  return network;
}

}  // namespace

std::uint16_t internet_checksum(std::span<const std::uint8_t> bytes, std::uint32_t sum) {
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    sum += i % 2 == 0 ? std::uint32_t{bytes[i]} << 8U : bytes[i];
  }
  while (sum >> 16U != 0) {
    sum = (sum & 0xffffU) + (sum >> 16U);
  }
  return static_cast<std::uint16_t>(~sum);
}

std::uint32_t crc32c(std::span<const std::uint8_t> bytes) {
  std::uint32_t crc = 0xffffffffU;
  for (const std::uint8_t byte : bytes) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1U) ^ ((crc & 1U) != 0 ? 0x82f63b78U : 0);
    }
  }
  return ~crc;
}

Bytes build(const Packet& packet) {
  const End from = parse_end(packet.source);
  const End to = parse_end(packet.destination);
  Bytes transport = transport_of(packet, from, to);
  if (packet.fragment_offset) {
    // The whole datagram has a checksum; a fragment is a piece of it.
    const std::size_t first = *packet.fragment_offset;
    const std::size_t last =
        packet.more_fragments ? std::min(first + 64, transport.size()) : transport.size();
    transport = Bytes(transport.begin() + static_cast<std::ptrdiff_t>(first),
                      transport.begin() + static_cast<std::ptrdiff_t>(last));
  }
  return with_network_header(packet, from, to, packet.protocol, std::move(transport));
}

namespace {

std::uint8_t icmp_of(const End& end) {
  return end.address.size() == 16 ? std::uint8_t{IPPROTO_ICMPV6} : std::uint8_t{IPPROTO_ICMP};
}

void set_icmp_checksum(Bytes& message, const End& from, const End& to) {
  const std::uint8_t protocol = icmp_of(from);
  const bool v6 = protocol == IPPROTO_ICMPV6;
  set16(message, 2,
        internet_checksum(message,
                          v6 ? pseudo_sum(from.address, to.address, protocol, message.size()) : 0));
}

Bytes build_icmp(const std::string& source, const std::string& destination, Bytes message) {
  const End from = parse_end(source);
  const End to = parse_end(destination);
  set_icmp_checksum(message, from, to);
  return with_network_header({}, from, to, icmp_of(from), std::move(message));
}

Bytes echo_message(bool v6, std::size_t payload, bool is_answer) {
  Bytes message = {v6 ? std::uint8_t{128} : std::uint8_t{8}, 0, 0, 0, 0x12, 0x34, 0, 7};
  if (is_answer) {
    message[0] = v6 ? std::uint8_t{129} : std::uint8_t{0};
  }
  for (std::size_t i = 0; i < payload; ++i) {
    message.push_back(static_cast<std::uint8_t>(i));
  }
  return message;
}

}  // namespace

Bytes build_error(const std::string& source, const std::string& destination, std::uint8_t type,
                  std::uint8_t code, const Bytes& about, std::uint32_t rest) {
  Bytes message = {type, code, 0, 0};
  put32(message, rest);
  message.insert(message.end(), about.begin() + kEthernet, about.end());
  return build_icmp(source, destination, std::move(message));
}

Bytes build_echo(const std::string& source, const std::string& destination, std::size_t payload) {
  const bool v6 = parse_end(source).address.size() == 16;
  return build_icmp(source, destination, echo_message(v6, payload, false));
}

std::vector<Bytes> build_echo_fragments(const std::string& source, const std::string& destination,
                                        std::size_t payload, std::size_t piece, bool is_answer) {
  const End from = parse_end(source);
  const End to = parse_end(destination);
  Bytes message = echo_message(icmp_of(from) == IPPROTO_ICMPV6, payload, is_answer);
  set_icmp_checksum(message, from, to);
  std::vector<Bytes> fragments;
  for (std::size_t at = 0; at < message.size(); at += piece) {
    const std::size_t end = std::min(at + piece, message.size());
    Packet packet;
    packet.fragment_offset = static_cast<std::uint16_t>(at);
    packet.more_fragments = end < message.size();
    fragments.push_back(
        with_network_header(packet, from, to, icmp_of(from),
                            Bytes(message.begin() + static_cast<std::ptrdiff_t>(at),
                                  message.begin() + static_cast<std::ptrdiff_t>(end))));
  }
  return fragments;
}

Read read(std::span<const std::uint8_t> frame) {
  Read out;
  require(frame.size() > kEthernet, "too short for Ethernet");
  std::copy_n(frame.begin(), 6, out.destination_mac.begin());
  std::copy_n(frame.begin() + 6, 6, out.source_mac.begin());
  const Network network = read_network(frame, kEthernet, true);
  const auto transport = frame.subspan(network.transport);
  out.protocol = network.protocol;
  out.ttl = network.ttl;
  const std::uint32_t pseudo =
      pseudo_sum(network.source, network.destination, network.protocol, transport.size());
  if (network.protocol == IPPROTO_ICMP || network.protocol == IPPROTO_ICMPV6) {
    const bool v6 = network.protocol == IPPROTO_ICMPV6;
    require(internet_checksum(transport, v6 ? pseudo : 0) == 0, "ICMP checksum is wrong");
    out.source = end_text(network.source, std::nullopt);
    out.destination = end_text(network.destination, std::nullopt);
    out.icmp_type = transport[0];
    out.icmp_code = transport[1];
    out.icmp_rest = get32(transport, 4);
    if (out.icmp_type == 0 || out.icmp_type == 8 || out.icmp_type >= 128) {
      return out;  // quotes nothing
    }
    const Network quoted = read_network(frame, network.transport + 8, false);
    out.quoted_source = end_text(quoted.source, get16(frame, quoted.transport));
    out.quoted_destination = end_text(quoted.destination, get16(frame, quoted.transport + 2));
    return out;
  }
  if (network.later_fragment) {
    out.source = end_text(network.source, std::nullopt);
    out.destination = end_text(network.destination, std::nullopt);
    return out;
  }
  out.source = end_text(network.source, get16(transport, 0));
  out.destination = end_text(network.destination, get16(transport, 2));
  switch (network.protocol) {
    case IPPROTO_TCP:
      out.sequence = get32(transport, 4);
      out.acknowledged = get32(transport, 8);
      out.tcp_flags = transport[13];
      require(network.fragment || internet_checksum(transport, pseudo) == 0,
              "TCP checksum is wrong");
      break;
    case IPPROTO_UDP:
      out.has_checksum = get16(transport, 6) != 0;
      require(network.fragment || !out.has_checksum || internet_checksum(transport, pseudo) == 0,
              "UDP checksum is wrong");
      break;
    default: {
      Bytes copy(transport.begin(), transport.end());
      set_crc32c(copy);
      require(network.fragment || std::ranges::equal(copy, transport), "SCTP checksum is wrong");
      break;
    }
  }
  return out;
}

Opened open_tunnel(std::span<const std::uint8_t> frame) {
  const Network network = read_network(frame, kEthernet, true);
  Opened out;
  out.outer =
      end_text(network.source, std::nullopt) + " > " + end_text(network.destination, std::nullopt);
  out.ttl = network.ttl;
  out.traffic_class = network.traffic_class;
  out.dont_fragment = network.dont_fragment;
  std::size_t at = network.transport;
  std::uint8_t inner = network.protocol;
  switch (network.protocol) {
    case IPPROTO_IPIP:
    case IPPROTO_IPV6:
      out.type = "ipip";
      break;
    case IPPROTO_UDP:
      require(get16(frame, at + 4) == frame.size() - at, "length of the UDP header is wrong");
      require(get16(frame, at + 6) == 0, "a tunnel with a checksum");
      require(frame[at + 8] == 0 && get16(frame, at + 10) == 0, "not a plain GUE header");
      out.type = "gue:" + std::to_string(get16(frame, at + 2));
      inner = frame[at + 9];
      at += 12;
      break;
    case IPPROTO_GRE:
      require(get16(frame, at) == 0, "not a plain GRE header");
      out.type = "gre";
      inner = get16(frame, at + 2) == 0x0800 ? IPPROTO_IPIP : IPPROTO_IPV6;
      require(inner == IPPROTO_IPIP || get16(frame, at + 2) == 0x86dd,
              "GRE of an unknown protocol");
      at += 4;
      break;
    default:
      require(false, "not a tunnel's packet");
  }
  require(inner == (frame[at] >> 4U == 4 ? IPPROTO_IPIP : IPPROTO_IPV6),
          "the inner protocol is not the one announced");
  out.inner.assign(frame.begin(), frame.begin() + 12);
  put16(out.inner, inner == IPPROTO_IPIP ? 0x0800 : 0x86dd);
  out.inner.insert(out.inner.end(), frame.begin() + static_cast<std::ptrdiff_t>(at), frame.end());
  return out;
}

}  // namespace fairlead::packets
