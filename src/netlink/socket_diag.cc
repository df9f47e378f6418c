// SPDX-License-Identifier: Apache-2.0
#include "netlink/socket_diag.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <optional>
#include <sched.h>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <utility>

#include "base/unique_fd.h"
#include "netlink/socket.h"

namespace fairlead::netlink {
namespace {

// A UDP socket that is connected is in the state that TCP calls so.
constexpr std::uint32_t kConnected = 1U << TCP_ESTABLISHED;

/// `words` as in inet_diag_sockid, IPv4 in the first.
net::IpAddress address_of(int family, std::span<const __be32, 4> words) {
  std::array<std::uint8_t, 16> bytes{};
  std::memcpy(bytes.data(), words.data(), bytes.size());
  const std::span<const std::uint8_t> all(bytes);
  if (family == AF_INET) {
    return net::IpAddress::from_bytes(all.first(4));
  }
  constexpr std::array<std::uint8_t, 12> kMapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  return net::IpAddress::from_bytes(std::ranges::equal(kMapped, all.first(12)) ? all.subspan(12)
                                                                               : all);
}

net::Port port_of(__be16 port) { return net::Port{Be16::from_raw(port).host()}; }

std::optional<UdpSocket> parse(const Message& message) {
  const auto header = message.header<inet_diag_msg>();
  if (message.type != SOCK_DIAG_BY_FAMILY || !header ||
      (header->idiag_family != AF_INET && header->idiag_family != AF_INET6)) {
    return std::nullopt;
  }
  const inet_diag_sockid& id = header->id;
  UdpSocket socket;
  socket.local = {address_of(header->idiag_family, id.idiag_src), port_of(id.idiag_sport)};
  socket.remote = {address_of(header->idiag_family, id.idiag_dst), port_of(id.idiag_dport)};
  socket.interface = id.idiag_if;
  socket.cookie = id.idiag_cookie[0] | std::uint64_t{id.idiag_cookie[1]} << 32U;
  return socket;
}

inet_diag_req_v2 udp_header(net::Family family) {
  inet_diag_req_v2 header{};
  header.sdiag_family = static_cast<std::uint8_t>(net::socket_family(family));
  header.sdiag_protocol = IPPROTO_UDP;
  return header;
}

/// The kernel looks for the socket as if a packet had come from its remote end, also for a
/// v4-mapped one, and then compares the cookie.
Request destroy_request(const UdpSocket& socket) {
  inet_diag_req_v2 header = udp_header(socket.remote.address.family());
  const auto local = socket.local.address.bytes();
  const auto remote = socket.remote.address.bytes();
  std::memcpy(header.id.idiag_src, local.data(), local.size());
  std::memcpy(header.id.idiag_dst, remote.data(), remote.size());
  header.id.idiag_sport = Be16(net::number(socket.local.port)).raw();
  header.id.idiag_dport = Be16(net::number(socket.remote.port)).raw();
  header.id.idiag_if = socket.interface;
  header.id.idiag_cookie[0] = static_cast<std::uint32_t>(socket.cookie);
  header.id.idiag_cookie[1] = static_cast<std::uint32_t>(socket.cookie >> 32U);
  Request request(SOCK_DESTROY);
  request.put_header(header);
  return request;
}

Status destroy_result(const UdpSocket& socket, Status status) {
  if (status || status.error().kind() == ErrorKind::kNotFound ||
      status.error().errno_value() == ESTALE) {
    return {};
  }
  if (status.error().errno_value() == EOPNOTSUPP) {
    return fail(Error(ErrorKind::kUnavailable,
                      "the kernel cannot close UDP sockets (CONFIG_INET_DIAG_DESTROY)",
                      EOPNOTSUPP));
  }
  return fail(std::move(status.error())
                  .in("close UDP socket " + socket.local.text() + " to " + socket.remote.text()));
}

class KernelSocketDiag final : public SocketDiag {
 public:
  explicit KernelSocketDiag(Socket socket) : socket_(std::move(socket)) {}

  Result<std::vector<UdpSocket>> connected_udp() override {
    std::vector<UdpSocket> found;
    for (const net::Family family : {net::Family::kIpv4, net::Family::kIpv6}) {
      inet_diag_req_v2 header = udp_header(family);
      header.idiag_states = kConnected;
      Request request(SOCK_DIAG_BY_FAMILY);
      request.put_header(header);
      const std::size_t before = found.size();
      Status status = socket_.dump(
          request,
          [&](const Message& message) {
            if (const auto socket = parse(message)) {
              found.push_back(*socket);
            }
          },
          [&] { found.resize(before); });
      if (!status && status.error().kind() == ErrorKind::kNotFound) {
        return fail(Error(ErrorKind::kUnavailable,
                          "the kernel cannot list UDP sockets (module udp_diag)",
                          status.error().errno_value()));
      }
      if (!status) {
        return fail(std::move(status.error()).in("list UDP sockets"));
      }
    }
    return found;
  }

  std::vector<Status> destroy(std::span<const UdpSocket> sockets) override {
    std::vector<Request> requests;
    requests.reserve(sockets.size());
    for (const UdpSocket& socket : sockets) {
      requests.push_back(destroy_request(socket));
    }
    std::vector<Status> results = socket_.execute(requests);
    for (std::size_t i = 0; i < sockets.size(); ++i) {
      results[i] = destroy_result(sockets[i], std::move(results[i]));
    }
    return results;
  }

 private:
  Socket socket_;
};

}  // namespace

Result<std::unique_ptr<SocketDiag>> make_socket_diag() {
  Result<Socket> socket = Socket::open(NETLINK_SOCK_DIAG);
  if (!socket) {
    return fail(std::move(socket.error()).in("sock_diag"));
  }
  return std::make_unique<KernelSocketDiag>(std::move(*socket));
}

Result<std::unique_ptr<SocketDiag>> make_socket_diag_in(const std::string& namespace_file) {
  const UniqueFd there(::open(namespace_file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!there) {
    return fail(Error::from_errno(errno, "open " + namespace_file));
  }
  Result<std::unique_ptr<SocketDiag>> made;
  // A thread that ends there cannot fail to come back.
  std::thread([&] {
    made = ::setns(there.get(), CLONE_NEWNET) == 0
               ? make_socket_diag()
               : fail(Error::from_errno(errno, "enter " + namespace_file));
  }).join();
  return made;
}

}  // namespace fairlead::netlink
