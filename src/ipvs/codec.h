// SPDX-License-Identifier: Apache-2.0
// IPVS values to netlink messages and back, and the text of /proc/net/ip_vs. Pure; free of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "ipvs/client.h"
#include "netlink/socket.h"

namespace fairlead::ipvs {

/// `family` is the id that the name IPVS resolved to, here and below.
[[nodiscard]] netlink::Request encode(std::uint16_t family, const Op& op);

[[nodiscard]] netlink::Request encode_get_info(std::uint16_t family);
[[nodiscard]] netlink::Request encode_get_config(std::uint16_t family);
[[nodiscard]] netlink::Request encode_set_config(std::uint16_t family, const Timeouts& timeouts);
/// For a dump of all virtual servers.
[[nodiscard]] netlink::Request encode_get_virtual_servers(std::uint16_t family);
[[nodiscard]] netlink::Request encode_get_virtual_server(std::uint16_t family, const ServiceId& id);
/// For a dump of the real servers of one virtual server; the kernel answers with an empty dump, not
/// with an error, if there is no such virtual server.
[[nodiscard]] netlink::Request encode_get_real_servers(std::uint16_t family, const ServiceId& id);

// Decoders take the message's top-level attributes and give nullopt for what is not a whole object
// of their kind; unknown attributes are skipped.

[[nodiscard]] std::optional<Info> decode_info(const netlink::Attributes& message);
[[nodiscard]] Timeouts decode_timeouts(const netlink::Attributes& message);
/// nullopt also for protocols other than TCP, UDP, SCTP: the kernel keeps any number, no packet
/// ever matches those.
[[nodiscard]] std::optional<VirtualServer> decode_virtual_server(
    const netlink::Attributes& message);
/// Of the same message; what the kernel (before 4.1) does not tell is 0.
[[nodiscard]] Stats decode_virtual_server_stats(const netlink::Attributes& message);
/// `family`: of the virtual server, for kernels (before 3.18) that do not tell the real server's.
[[nodiscard]] std::optional<ObservedRealServer> decode_real_server(
    const netlink::Attributes& message, net::Family family);

/// Real servers of one virtual server as /proc/net/ip_vs shows them: no thresholds.
struct ProcEntry {
  ServiceId id;
  std::vector<ObservedRealServer> real_servers;
};

/// Reads the text of /proc/net/ip_vs piece by piece. Virtual servers by firewall mark are skipped,
/// with their real servers: the text does not tell IPv4 from IPv6 there. So are unknown protocols.
class ProcParser {
 public:
  using OnEntry = std::function<void(ProcEntry&&)>;
  explicit ProcParser(OnEntry on_entry);

  /// Any pieces, lines may be cut anywhere. False at a line of a shape we do not know; the rest of
  /// the text must not be trusted then.
  [[nodiscard]] bool feed(std::string_view piece);
  /// At the end of the text.
  [[nodiscard]] bool finish();

 private:
  bool line(std::string_view text);
  void flush();

  OnEntry on_entry_;
  std::string carry_;
  std::optional<ProcEntry> current_;
  bool skipping_ = false;  // real servers of a virtual server that we do not report
  std::size_t header_lines_ = 0;
};

/// A line of /proc/net/ip_vs_conn; nullopt for its title, and for other protocols than ours.
[[nodiscard]] std::optional<Connection> parse_connection(std::string_view line);

/// The error of a refused op, told in its words: which object, and what IPVS means by the errno.
/// Kind and errno stay the kernel's.
[[nodiscard]] Error describe(const Op& op, const Error& error);

}  // namespace fairlead::ipvs
