// SPDX-License-Identifier: Apache-2.0
// The kernel's IPVS table as values, and a client for it. Facts: ipvs-engine.md section 1.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "net/address.h"

namespace fairlead::ipvs {

inline constexpr std::uint32_t kFlagPersistent = 0x1;
inline constexpr std::uint32_t kFlagHashed = 0x2;  // set by the kernel; stripped when read
inline constexpr std::uint32_t kFlagOnePacket = 0x4;
inline constexpr std::uint32_t kFlagSched1 = 0x8;
inline constexpr std::uint32_t kFlagSched2 = 0x10;
inline constexpr std::uint32_t kFlagSched3 = 0x20;

/// Identity: address, port, protocol; or family and firewall mark (non-zero), the rest being zero.
struct ServiceId {
  net::IpAddress address;
  net::Port port{};
  net::Protocol protocol = net::Protocol::kTcp;
  std::uint32_t fwmark = 0;  // non-zero: only the address's family counts

  /// `10.96.0.1:80/TCP`, `FWM 7 IPv4`.
  [[nodiscard]] std::string text() const;
  friend auto operator<=>(const ServiceId&, const ServiceId&) = default;
};

struct VirtualServer {
  ServiceId id;
  std::string scheduler = "rr";  // at most 15 characters
  std::uint32_t flags = 0;       // without kFlagHashed
  std::uint32_t timeout = 0;     // persistence in seconds
  /// Prefix length of the persistence mask: 32 or 128 means per client address.
  std::uint8_t netmask = 32;

  friend auto operator<=>(const VirtualServer&, const VirtualServer&) = default;
};

enum class ForwardMethod : std::uint8_t {
  kMasquerade = 0,
  kLocalNode = 1,
  kTunnel = 2,
  kDirectRouting = 3,
  kBypass = 4
};

/// Numbers are the kernel's.
enum class TunnelType : std::uint8_t { kIpip, kGue, kGre };

struct RealServer {
  net::IpAddress address;
  net::Port port{};
  ForwardMethod method = ForwardMethod::kMasquerade;
  std::uint32_t weight = 1;
  std::uint32_t upper_threshold = 0;
  std::uint32_t lower_threshold = 0;
  /// With method kTunnel; no checksums outside. Kernels before 5.2 know ipip only.
  TunnelType tunnel = TunnelType::kIpip;
  net::Port tunnel_port{};  // of kGue

  [[nodiscard]] net::SocketAddress socket() const { return {address, port}; }
  friend auto operator<=>(const RealServer&, const RealServer&) = default;
};

/// Since the entry was made.
struct Stats {
  std::uint64_t connections = 0, in_packets = 0, out_packets = 0, in_bytes = 0, out_bytes = 0;
  friend bool operator==(const Stats&, const Stats&) = default;
};

/// A real server as the kernel shows it. Statistics are told by netlink, as thresholds are.
struct ObservedRealServer {
  RealServer server;
  std::uint32_t active_connections = 0;
  std::uint32_t inactive_connections = 0;
  std::uint32_t persistent_connections = 0;  // as `stats`
  Stats stats{};
};

struct ObservedVirtualServer {
  VirtualServer server;
  std::vector<ObservedRealServer> real_servers{};
  Stats stats{};
};

struct Connection {
  net::Protocol protocol = net::Protocol::kTcp;
  net::SocketAddress client, virtual_server, server;  // a template's client has port 0
  std::string state;                                  // `ESTABLISHED`
  std::uint32_t expires = 0;                          // seconds

  friend bool operator==(const Connection&, const Connection&) = default;
};

struct AddVirtualServer {
  VirtualServer server;
};
struct SetVirtualServer {
  VirtualServer server;
};
struct DeleteVirtualServer {
  ServiceId id;
};
struct AddRealServer {
  ServiceId id;
  RealServer server;
};
struct SetRealServer {
  ServiceId id;
  RealServer server;
};
struct DeleteRealServer {
  ServiceId id;
  net::SocketAddress server;
};
using Op = std::variant<AddVirtualServer, SetVirtualServer, DeleteVirtualServer, AddRealServer,
                        SetRealServer, DeleteRealServer>;
[[nodiscard]] std::string text(const Op& op);  // `add real server 10.0.0.7:80 to 10.96.0.1:80/TCP`

/// 0: keep the kernel's value. Seconds.
struct Timeouts {
  std::uint32_t tcp = 0;
  std::uint32_t tcp_fin = 0;
  std::uint32_t udp = 0;
  friend bool operator==(const Timeouts&, const Timeouts&) = default;
};

struct Info {
  std::uint32_t version = 0;  // 0x010201 is 1.2.1
  std::uint32_t connection_table_size = 0;
};

/// Not thread-safe; every call blocks at most a few seconds (deadline inside) and never hangs.
class Client {
 public:
  Client() = default;
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  virtual ~Client() = default;

  [[nodiscard]] virtual Result<Info> info() = 0;
  [[nodiscard]] virtual Result<Timeouts> timeouts() = 0;
  [[nodiscard]] virtual Status set_timeouts(const Timeouts& timeouts) = 0;

  /// The whole table, every virtual server with its real servers in the kernel's order. Connection
  /// thresholds and statistics may be missing (0) here, see netlink_client.h; the other two tell
  /// them.
  [[nodiscard]] virtual Result<std::vector<ObservedVirtualServer>> dump() = 0;
  /// The same with everything, at several system calls per virtual server.
  [[nodiscard]] virtual Result<std::vector<ObservedVirtualServer>> dump_exactly() = 0;
  /// One virtual server; nullopt if the kernel has none such.
  [[nodiscard]] virtual Result<std::optional<ObservedVirtualServer>> get(const ServiceId& id) = 0;

  /// Applies `ops` in order, many per system call; one result per op, in the same order. A failed
  /// op does not stop the later ones. Errors are the kernel's, unjudged, their text beginning with
  /// `text(op)`: kAlreadyExists and kNotFound are for the caller to accept. (ENOENT for a virtual
  /// server means its scheduler; a missing virtual server is ESRCH: errno_value() tells.) When
  /// answers were lost or late, every op whose fate is unknown gets kOverflow or kTimeout, and the
  /// caller has to read the state again.
  [[nodiscard]] virtual std::vector<Status> apply(std::span<const Op> ops) = 0;
};

/// Over generic netlink in the network namespace of the calling thread. kUnavailable if the kernel
/// has no IPVS (naming the module), kPermission without CAP_NET_ADMIN.
[[nodiscard]] Result<std::unique_ptr<Client>> make_netlink_client();

/// From /proc/net/ip_vs_conn, which misses some and repeats some while they come and go.
[[nodiscard]] Result<std::vector<Connection>> read_connections();

}  // namespace fairlead::ipvs

template <>
struct std::hash<fairlead::ipvs::ServiceId> {
  std::size_t operator()(const fairlead::ipvs::ServiceId& id) const noexcept;
};
