// SPDX-License-Identifier: Apache-2.0
// sock_diag: the UDP sockets that are connected, and closing some of them over their owners' heads.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "net/address.h"

namespace fairlead::netlink {

/// A connected UDP socket. One of IPv6 that is connected to a v4-mapped address has IPv4 addresses.
struct UdpSocket {
  net::SocketAddress local;
  net::SocketAddress remote;
  std::uint32_t interface = 0;  // it is bound to; 0: none
  std::uint64_t cookie = 0;     // as BPF programs see it

  friend bool operator==(const UdpSocket&, const UdpSocket&) = default;
};

/// Not thread-safe; blocking with a deadline. Acts in the network namespace it was opened in.
class SocketDiag {
 public:
  SocketDiag() = default;
  SocketDiag(const SocketDiag&) = delete;
  SocketDiag& operator=(const SocketDiag&) = delete;
  virtual ~SocketDiag() = default;

  /// All of both families. kUnavailable if the kernel cannot list them.
  [[nodiscard]] virtual Result<std::vector<UdpSocket>> connected_udp() = 0;
  /// Disconnects the sockets; their owners' next calls fail (ECONNABORTED on receiving). One result
  /// per socket; one that is gone, or connected elsewhere by now, is success. kUnavailable if the
  /// kernel was built without this.
  [[nodiscard]] virtual std::vector<Status> destroy(std::span<const UdpSocket> sockets) = 0;
};
[[nodiscard]] Result<std::unique_ptr<SocketDiag>> make_socket_diag();
/// In the network namespace that the file names. Takes CAP_SYS_ADMIN there and here.
[[nodiscard]] Result<std::unique_ptr<SocketDiag>> make_socket_diag_in(
    const std::string& namespace_file);

}  // namespace fairlead::netlink
