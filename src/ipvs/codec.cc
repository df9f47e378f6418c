// SPDX-License-Identifier: Apache-2.0
#include "ipvs/codec.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <linux/ip_vs.h>
#include <sys/socket.h>
#include <type_traits>
#include <utility>
#include <variant>

#include "base/byte_order.h"
#include "base/text.h"
#include "netlink/generic.h"

namespace fairlead::ipvs {
namespace {

using net::Family;
using net::IpAddress;
using netlink::Attribute;
using netlink::Attributes;
using netlink::Request;

// Names come from users. Cut far beyond what the kernel takes (15), so that it still refuses a long
// one and yet the message stays a message.
constexpr std::size_t kLongestName = 64;

struct Flags {
  std::uint32_t flags;
  std::uint32_t mask;
};

Request request(std::uint16_t family, std::uint8_t command) {
  return netlink::generic_request(family, command, IPVS_GENL_VERSION);
}

// Always 16 bytes, as the kernel emits them; the rest of an IPv4 address is zero.
void put_address(Request& request, std::uint16_t attribute, const IpAddress& address) {
  std::array<std::uint8_t, 16> bytes{};
  std::ranges::copy(address.bytes(), bytes.begin());
  request.put_bytes(attribute, bytes);
}

std::uint16_t family_number(const IpAddress& address) {
  return static_cast<std::uint16_t>(net::socket_family(address.family()));
}

void put_id(Request& request, const ServiceId& id) {
  request.put_u16(IPVS_SVC_ATTR_AF, family_number(id.address));
  if (id.fwmark != 0) {
    request.put_u32(IPVS_SVC_ATTR_FWMARK, id.fwmark);
    return;
  }
  request.put_u16(IPVS_SVC_ATTR_PROTOCOL, static_cast<std::uint16_t>(id.protocol));
  put_address(request, IPVS_SVC_ATTR_ADDR, id.address);
  request.put_be16(IPVS_SVC_ATTR_PORT, Be16(net::number(id.port)));
}

void put_service_id(Request& request, const ServiceId& id) {
  const auto nest = request.begin(IPVS_CMD_ATTR_SERVICE);
  put_id(request, id);
  request.end(nest);
}

// The persistence mask is a mask for IPv4 and a prefix length for IPv6, in different byte orders.
void put_netmask(Request& request, const VirtualServer& server) {
  if (!server.id.address.is_v4()) {
    request.put_u32(IPVS_SVC_ATTR_NETMASK, server.netmask);
    return;
  }
  const unsigned length = std::min<unsigned>(server.netmask, 32);
  const std::uint32_t mask = length == 0 ? 0 : UINT32_MAX << (32 - length);
  request.put_be32(IPVS_SVC_ATTR_NETMASK, Be32(mask));
}

Request encode_virtual_server(std::uint16_t family, std::uint8_t command,
                              const VirtualServer& server) {
  Request out = request(family, command);
  const auto nest = out.begin(IPVS_CMD_ATTR_SERVICE);
  put_id(out, server.id);
  out.put_string(IPVS_SVC_ATTR_SCHED_NAME,
                 std::string_view(server.scheduler).substr(0, kLongestName));
  const Flags flags{.flags = server.flags & ~kFlagHashed, .mask = UINT32_MAX};
  const auto bytes = std::bit_cast<std::array<std::uint8_t, sizeof(Flags)>>(flags);
  out.put_bytes(IPVS_SVC_ATTR_FLAGS, bytes);
  out.put_u32(IPVS_SVC_ATTR_TIMEOUT, server.timeout);
  put_netmask(out, server);
  out.end(nest);
  return out;
}

void put_real_id(Request& request, const net::SocketAddress& server) {
  put_address(request, IPVS_DEST_ATTR_ADDR, server.address);
  request.put_be16(IPVS_DEST_ATTR_PORT, Be16(net::number(server.port)));
  request.put_u16(IPVS_DEST_ATTR_ADDR_FAMILY, family_number(server.address));
}

Request encode_real_server(std::uint16_t family, std::uint8_t command, const ServiceId& id,
                           const RealServer& server) {
  Request out = request(family, command);
  put_service_id(out, id);
  const auto nest = out.begin(IPVS_CMD_ATTR_DEST);
  put_real_id(out, server.socket());
  out.put_u32(IPVS_DEST_ATTR_FWD_METHOD, static_cast<std::uint32_t>(server.method));
  out.put_u32(IPVS_DEST_ATTR_WEIGHT, server.weight);
  out.put_u32(IPVS_DEST_ATTR_U_THRESH, server.upper_threshold);
  out.put_u32(IPVS_DEST_ATTR_L_THRESH, server.lower_threshold);
  if (server.method == ForwardMethod::kTunnel) {
    out.put_u8(IPVS_DEST_ATTR_TUN_TYPE, static_cast<std::uint8_t>(server.tunnel));
    out.put_be16(IPVS_DEST_ATTR_TUN_PORT, Be16(net::number(server.tunnel_port)));
  }
  out.end(nest);
  return out;
}

std::optional<Family> decode_family(std::uint16_t number) {
  switch (number) {
    case AF_INET:
      return Family::kIpv4;
    case AF_INET6:
      return Family::kIpv6;
    default:
      return std::nullopt;
  }
}

std::optional<IpAddress> decode_address(const Attribute& attribute, Family family) {
  const std::size_t size = family == Family::kIpv4 ? 4 : 16;
  if (attribute.bytes().size() < size) {
    return std::nullopt;
  }
  return IpAddress::from_bytes(attribute.bytes().first(size));
}

std::optional<net::Protocol> decode_protocol(std::uint16_t number) {
  for (const net::Protocol protocol :
       {net::Protocol::kTcp, net::Protocol::kUdp, net::Protocol::kSctp}) {
    if (number == static_cast<std::uint16_t>(protocol)) {
      return protocol;
    }
  }
  return std::nullopt;
}

std::optional<ServiceId> decode_id(const Attributes& service) {
  const auto family_value = service[IPVS_SVC_ATTR_AF].u16();
  const auto family = family_value ? decode_family(*family_value) : std::nullopt;
  if (!family) {
    return std::nullopt;
  }
  ServiceId id;
  if (const auto mark = service[IPVS_SVC_ATTR_FWMARK].u32(); mark.value_or(0) != 0) {
    id.address = IpAddress::any(*family);
    id.fwmark = *mark;
    return id;
  }
  const auto protocol_number = service[IPVS_SVC_ATTR_PROTOCOL].u16();
  const auto protocol = protocol_number ? decode_protocol(*protocol_number) : std::nullopt;
  const auto address = decode_address(service[IPVS_SVC_ATTR_ADDR], *family);
  const auto port = service[IPVS_SVC_ATTR_PORT].be16();
  if (!protocol || !address || !port) {
    return std::nullopt;
  }
  id.address = *address;
  id.protocol = *protocol;
  id.port = net::Port{port->host()};
  return id;
}

Stats decode_stats(const Attributes& stats) {
  const auto value = [&](int attribute) {
    return stats[static_cast<std::uint16_t>(attribute)].u64().value_or(0);
  };
  return {.connections = value(IPVS_STATS_ATTR_CONNS),
          .in_packets = value(IPVS_STATS_ATTR_INPKTS),
          .out_packets = value(IPVS_STATS_ATTR_OUTPKTS),
          .in_bytes = value(IPVS_STATS_ATTR_INBYTES),
          .out_bytes = value(IPVS_STATS_ATTR_OUTBYTES)};
}

// /proc text

// Takes the next word (blanks around it are dropped); empty at the end.
std::string_view take_word(std::string_view& text) {
  const std::size_t begin = text.find_first_not_of(' ');
  if (begin == std::string_view::npos) {
    text = {};
    return {};
  }
  text.remove_prefix(begin);
  const std::string_view word = text.substr(0, text.find(' '));
  text.remove_prefix(word.size());
  return word;
}

std::optional<std::uint32_t> parse_hex(std::string_view text, std::size_t digits) {
  if (text.size() != digits) {
    return std::nullopt;
  }
  std::uint32_t value = 0;
  for (const char c : text) {
    unsigned digit = 0;
    if (c >= '0' && c <= '9') {
      digit = static_cast<unsigned>(c - '0');
    } else if (c >= 'A' && c <= 'F') {
      digit = static_cast<unsigned>(c - 'A') + 10;
    } else if (c >= 'a' && c <= 'f') {
      digit = static_cast<unsigned>(c - 'a') + 10;
    } else {
      return std::nullopt;
    }
    value = (value << 4U) | digit;
  }
  return value;
}

// `0A000064` or `2001:0db8:...`, all groups in full. Not IpAddress::parse: that reads a v4-mapped
// address as IPv4, but here the table says IPv6.
std::optional<net::IpAddress> parse_proc_address(std::string_view text) {
  std::array<std::uint8_t, 16> bytes{};
  if (text.find(':') == std::string_view::npos) {
    const auto value = parse_hex(text, 8);
    if (!value) {
      return std::nullopt;
    }
    for (std::size_t i = 0; i < 4; ++i) {
      bytes[i] = static_cast<std::uint8_t>(*value >> (24 - (8 * i)));
    }
    return IpAddress::from_bytes(std::span(bytes).first(4));
  }
  constexpr std::size_t kV6Length = (8 * 4) + 7;
  if (text.size() != kV6Length) {
    return std::nullopt;
  }
  for (std::size_t group = 0; group < 8; ++group) {
    const auto value = parse_hex(text.substr(group * 5, 4), 4);
    if (!value || (group != 7 && text[(group * 5) + 4] != ':')) {
      return std::nullopt;
    }
    bytes[2 * group] = static_cast<std::uint8_t>(*value >> 8U);
    bytes[(2 * group) + 1] = static_cast<std::uint8_t>(*value & 0xffU);
  }
  return IpAddress::from_bytes(bytes);
}

std::optional<net::SocketAddress> parse_proc_socket(std::string_view host, std::string_view port) {
  const auto address = parse_proc_address(host);
  const auto number = parse_hex(port, 4);
  if (!address || !number) {
    return std::nullopt;
  }
  return net::SocketAddress{*address, net::Port{static_cast<std::uint16_t>(*number)}};
}

// `0A000064:0050` or `[2001:0db8:...]:0050`.
std::optional<net::SocketAddress> parse_proc_socket(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) {
    return std::nullopt;
  }
  std::string_view host = text.substr(0, colon);
  const bool is_v6 = host.starts_with('[') && host.ends_with(']');
  if (is_v6) {
    host = host.substr(1, host.size() - 2);
  }
  const auto socket = parse_proc_socket(host, text.substr(colon + 1));
  return socket && socket->address.is_v4() != is_v6 ? socket : std::nullopt;
}

std::optional<ForwardMethod> parse_method(std::string_view text) {
  constexpr std::array<std::pair<std::string_view, ForwardMethod>, 5> kNames = {
      {{"Masq", ForwardMethod::kMasquerade},
       {"Local", ForwardMethod::kLocalNode},
       {"Tunnel", ForwardMethod::kTunnel},
       {"Route", ForwardMethod::kDirectRouting},
       {"Bypass", ForwardMethod::kBypass}}};
  for (const auto& [name, method] : kNames) {
    if (text == name) {
      return method;
    }
  }
  return std::nullopt;
}

std::optional<std::uint32_t> parse_u32(std::string_view text) {
  const auto value = parse_number(text, UINT32_MAX);
  return value ? std::optional(static_cast<std::uint32_t>(*value)) : std::nullopt;
}

// What follows the arrow: `0A01000B:1F90      Masq    3      0          3         `.
std::optional<ObservedRealServer> parse_proc_real_server(std::string_view text) {
  const auto socket = parse_proc_socket(take_word(text));
  const auto method = parse_method(take_word(text));
  const auto weight = parse_u32(take_word(text));
  // Signed in the kernel's format, and a counter may dip below zero for a moment.
  const std::string_view active_text = take_word(text);
  const std::string_view inactive_text = take_word(text);
  const auto active = active_text.starts_with('-') ? 0U : parse_u32(active_text);
  const auto inactive = inactive_text.starts_with('-') ? 0U : parse_u32(inactive_text);
  if (!socket || !method || !weight || !active || !inactive || !take_word(text).empty()) {
    return std::nullopt;
  }
  ObservedRealServer real;
  real.server.address = socket->address;
  real.server.port = socket->port;
  real.server.method = *method;
  real.server.weight = *weight;
  real.active_connections = *active;
  real.inactive_connections = *inactive;
  return real;
}

std::string_view scheduler_of(const Op& op) {
  if (const auto* add = std::get_if<AddVirtualServer>(&op)) {
    return add->server.scheduler;
  }
  if (const auto* set = std::get_if<SetVirtualServer>(&op)) {
    return set->server.scheduler;
  }
  return {};
}

// What the errno means for this op; empty: nothing better than its usual text.
std::string meaning(const Op& op, int errno_value) {
  const bool is_virtual = std::holds_alternative<AddVirtualServer>(op) ||
                          std::holds_alternative<SetVirtualServer>(op) ||
                          std::holds_alternative<DeleteVirtualServer>(op);
  switch (errno_value) {
    case ENOENT:
      return is_virtual ? "no such scheduler \"" +
                              std::string(scheduler_of(op).substr(0, kLongestName)) + "\""
                        : "no such real server";
    case ESRCH:
      return "no such virtual server";
    case EEXIST:
      return "already exists";
    case EINVAL:
      return is_virtual ? "" : "invalid, or the address is not unicast, or not of this family";
    default:
      return "";
  }
}

}  // namespace

Request encode(std::uint16_t family, const Op& op) {
  return std::visit(
      [&](const auto& o) -> Request {
        using T = std::decay_t<decltype(o)>;
        if constexpr (std::is_same_v<T, AddVirtualServer>) {
          return encode_virtual_server(family, IPVS_CMD_NEW_SERVICE, o.server);
        } else if constexpr (std::is_same_v<T, SetVirtualServer>) {
          return encode_virtual_server(family, IPVS_CMD_SET_SERVICE, o.server);
        } else if constexpr (std::is_same_v<T, DeleteVirtualServer>) {
          Request out = request(family, IPVS_CMD_DEL_SERVICE);
          put_service_id(out, o.id);
          return out;
        } else if constexpr (std::is_same_v<T, AddRealServer>) {
          return encode_real_server(family, IPVS_CMD_NEW_DEST, o.id, o.server);
        } else if constexpr (std::is_same_v<T, SetRealServer>) {
          return encode_real_server(family, IPVS_CMD_SET_DEST, o.id, o.server);
        } else {
          static_assert(std::is_same_v<T, DeleteRealServer>);
          Request out = request(family, IPVS_CMD_DEL_DEST);
          put_service_id(out, o.id);
          const auto nest = out.begin(IPVS_CMD_ATTR_DEST);
          put_real_id(out, o.server);
          out.end(nest);
          return out;
        }
      },
      op);
}

Request encode_get_info(std::uint16_t family) { return request(family, IPVS_CMD_GET_INFO); }

Request encode_get_config(std::uint16_t family) { return request(family, IPVS_CMD_GET_CONFIG); }

Request encode_set_config(std::uint16_t family, const Timeouts& timeouts) {
  Request out = request(family, IPVS_CMD_SET_CONFIG);
  const auto put = [&](std::uint16_t attribute, std::uint32_t value) {
    if (value != 0) {
      out.put_u32(attribute, value);
    }
  };
  put(IPVS_CMD_ATTR_TIMEOUT_TCP, timeouts.tcp);
  put(IPVS_CMD_ATTR_TIMEOUT_TCP_FIN, timeouts.tcp_fin);
  put(IPVS_CMD_ATTR_TIMEOUT_UDP, timeouts.udp);
  return out;
}

Request encode_get_virtual_servers(std::uint16_t family) {
  return request(family, IPVS_CMD_GET_SERVICE);
}

Request encode_get_virtual_server(std::uint16_t family, const ServiceId& id) {
  Request out = request(family, IPVS_CMD_GET_SERVICE);
  put_service_id(out, id);
  return out;
}

Request encode_get_real_servers(std::uint16_t family, const ServiceId& id) {
  Request out = request(family, IPVS_CMD_GET_DEST);
  put_service_id(out, id);
  return out;
}

std::optional<Info> decode_info(const Attributes& message) {
  const auto version = message[IPVS_INFO_ATTR_VERSION].u32();
  const auto size = message[IPVS_INFO_ATTR_CONN_TAB_SIZE].u32();
  if (!version || !size) {
    return std::nullopt;
  }
  return Info{.version = *version, .connection_table_size = *size};
}

Timeouts decode_timeouts(const Attributes& message) {
  return Timeouts{.tcp = message[IPVS_CMD_ATTR_TIMEOUT_TCP].u32().value_or(0),
                  .tcp_fin = message[IPVS_CMD_ATTR_TIMEOUT_TCP_FIN].u32().value_or(0),
                  .udp = message[IPVS_CMD_ATTR_TIMEOUT_UDP].u32().value_or(0)};
}

std::optional<VirtualServer> decode_virtual_server(const Attributes& message) {
  const Attributes service = message.nest(IPVS_CMD_ATTR_SERVICE);
  const auto id = decode_id(service);
  const auto scheduler = service[IPVS_SVC_ATTR_SCHED_NAME].string();
  const auto flags = service[IPVS_SVC_ATTR_FLAGS].read<Flags>();
  const auto timeout = service[IPVS_SVC_ATTR_TIMEOUT].u32();
  const auto netmask = service[IPVS_SVC_ATTR_NETMASK].u32();
  if (!id || !scheduler || !flags || !timeout || !netmask) {
    return std::nullopt;
  }
  VirtualServer server;
  server.id = *id;
  server.scheduler = std::string(*scheduler);
  server.flags = flags->flags & ~kFlagHashed;
  server.timeout = *timeout;
  server.netmask = id->address.is_v4()
                       ? static_cast<std::uint8_t>(std::popcount(*netmask))
                       : static_cast<std::uint8_t>(std::min<std::uint32_t>(*netmask, 128));
  return server;
}

Stats decode_virtual_server_stats(const Attributes& message) {
  return decode_stats(message.nest(IPVS_CMD_ATTR_SERVICE).nest(IPVS_SVC_ATTR_STATS64));
}

std::optional<ObservedRealServer> decode_real_server(const Attributes& message, Family family) {
  const Attributes dest = message.nest(IPVS_CMD_ATTR_DEST);
  if (const auto number = dest[IPVS_DEST_ATTR_ADDR_FAMILY].u16(); number.value_or(0) != 0) {
    const auto own = decode_family(*number);
    if (!own) {
      return std::nullopt;
    }
    family = *own;
  }
  const auto address = decode_address(dest[IPVS_DEST_ATTR_ADDR], family);
  const auto port = dest[IPVS_DEST_ATTR_PORT].be16();
  const auto method = dest[IPVS_DEST_ATTR_FWD_METHOD].u32();
  const auto weight = dest[IPVS_DEST_ATTR_WEIGHT].u32();
  constexpr std::uint32_t kMethodMask = 0x7;
  if (!address || !port || !method || !weight ||
      (*method & kMethodMask) > static_cast<std::uint32_t>(ForwardMethod::kBypass)) {
    return std::nullopt;
  }
  ObservedRealServer real;
  real.server.address = *address;
  real.server.port = net::Port{port->host()};
  real.server.method = static_cast<ForwardMethod>(*method & kMethodMask);
  real.server.weight = *weight;
  real.server.upper_threshold = dest[IPVS_DEST_ATTR_U_THRESH].u32().value_or(0);
  real.server.lower_threshold = dest[IPVS_DEST_ATTR_L_THRESH].u32().value_or(0);
  if (real.server.method == ForwardMethod::kTunnel) {
    const std::uint8_t tunnel = dest[IPVS_DEST_ATTR_TUN_TYPE].u8().value_or(0);
    if (tunnel > static_cast<std::uint8_t>(TunnelType::kGre)) {
      return std::nullopt;
    }
    real.server.tunnel = static_cast<TunnelType>(tunnel);
    if (const auto tunnel_port = dest[IPVS_DEST_ATTR_TUN_PORT].be16()) {
      real.server.tunnel_port = net::Port{tunnel_port->host()};
    }
  }
  real.active_connections = dest[IPVS_DEST_ATTR_ACTIVE_CONNS].u32().value_or(0);
  real.inactive_connections = dest[IPVS_DEST_ATTR_INACT_CONNS].u32().value_or(0);
  real.persistent_connections = dest[IPVS_DEST_ATTR_PERSIST_CONNS].u32().value_or(0);
  real.stats = decode_stats(dest.nest(IPVS_DEST_ATTR_STATS64));
  return real;
}

ProcParser::ProcParser(OnEntry on_entry) : on_entry_(std::move(on_entry)) {}

bool ProcParser::feed(std::string_view piece) {
  for (;;) {
    const std::size_t end = piece.find('\n');
    if (end == std::string_view::npos) {
      carry_ += piece;
      return true;
    }
    bool good = false;
    if (carry_.empty()) {
      good = line(piece.substr(0, end));
    } else {
      carry_ += piece.substr(0, end);
      good = line(carry_);
      carry_.clear();
    }
    if (!good) {
      return false;
    }
    piece.remove_prefix(end + 1);
  }
}

bool ProcParser::finish() {
  flush();
  return carry_.empty();
}

void ProcParser::flush() {
  if (current_) {
    on_entry_(std::move(*current_));
    current_.reset();
  }
}

bool ProcParser::line(std::string_view text) {
  // Three lines of titles: version, columns of virtual servers, columns of real servers.
  constexpr std::size_t kHeaderLines = 3;
  if (header_lines_ < kHeaderLines) {
    ++header_lines_;
    return true;
  }
  constexpr std::string_view kArrow = "  -> ";
  if (text.starts_with(kArrow)) {
    if (skipping_) {
      return true;
    }
    auto real = parse_proc_real_server(text.substr(kArrow.size()));
    if (!real || !current_) {
      return false;
    }
    current_->real_servers.push_back(*real);
    return true;
  }
  flush();
  const std::string_view protocol_text = take_word(text);
  const auto protocol = net::parse_protocol(protocol_text);
  skipping_ = !protocol;
  if (skipping_) {
    return !protocol_text.empty();
  }
  const auto socket = parse_proc_socket(take_word(text));
  if (!socket) {
    return false;
  }
  ProcEntry entry;
  entry.id.address = socket->address;
  entry.id.port = socket->port;
  entry.id.protocol = *protocol;
  current_ = std::move(entry);
  return true;
}

std::optional<Connection> parse_connection(std::string_view line) {
  Connection connection;
  const auto protocol = net::parse_protocol(take_word(line));
  const auto take_socket = [&] {
    const std::string_view host = take_word(line);
    return parse_proc_socket(host, take_word(line));
  };
  const auto client = take_socket();
  const auto virtual_server = take_socket();
  const auto server = take_socket();
  connection.state = std::string(take_word(line));
  const auto expires = parse_u32(take_word(line));
  if (!protocol || !client || !virtual_server || !server || !expires) {
    return std::nullopt;
  }
  connection.protocol = *protocol;
  connection.client = *client;
  connection.virtual_server = *virtual_server;
  connection.server = *server;
  connection.expires = *expires;
  return connection;
}

Error describe(const Op& op, const Error& error) {
  const std::string better = meaning(op, error.errno_value());
  const std::string context = ipvs::text(op);
  if (better.empty()) {
    return error.in(context);
  }
  return {error.kind(), context + ": " + better + " (" + errno_name(error.errno_value()) + ")",
          error.errno_value()};
}

}  // namespace fairlead::ipvs
