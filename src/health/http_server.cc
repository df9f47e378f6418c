// SPDX-License-Identifier: Apache-2.0
#include "health/http_server.h"

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <microhttpd.h>
#include <netinet/in.h>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <utility>

#include "base/byte_order.h"
#include "base/unique_fd.h"

namespace fairlead::health {
namespace {

constexpr unsigned kMostConnections = 64;
constexpr unsigned kIdleSeconds = 60;
constexpr std::size_t kConnectionMemory = std::size_t{16} * 1024;

struct Socket {
  UniqueFd fd;
  net::Port port{};
};

Result<Socket> bind_socket(const net::IpAddress& address, net::Port port, bool both_families) {
  const int family = net::socket_family(address.family());
  Socket result{.fd = UniqueFd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)),
                .port = port};
  const int fd = result.fd.get();
  if (!result.fd) {
    return fail_errno(errno, "socket");
  }
  const int on = 1;
  const int only_v6 = both_families ? 0 : 1;
  if (::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      (family == AF_INET6 &&
       ::setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only_v6, sizeof only_v6) != 0)) {
    return fail_errno(errno, "setsockopt");
  }
  sockaddr_storage storage{};
  socklen_t length = 0;
  if (address.is_v4()) {
    sockaddr_in name{};
    name.sin_family = AF_INET;
    name.sin_port = Be16(number(port)).raw();
    std::memcpy(&name.sin_addr, address.bytes().data(), sizeof name.sin_addr);
    length = sizeof name;
    std::memcpy(&storage, &name, sizeof name);
  } else {
    sockaddr_in6 name{};
    name.sin6_family = AF_INET6;
    name.sin6_port = Be16(number(port)).raw();
    std::memcpy(&name.sin6_addr, address.bytes().data(), sizeof name.sin6_addr);
    length = sizeof name;
    std::memcpy(&storage, &name, sizeof name);
  }
  auto* raw = reinterpret_cast<sockaddr*>(&storage);
  if (::bind(fd, raw, length) != 0) {
    return fail_errno(errno, "bind");
  }
  if (::listen(fd, SOMAXCONN) != 0) {
    return fail_errno(errno, "listen");
  }
  length = sizeof storage;
  if (::getsockname(fd, raw, &length) != 0) {
    return fail_errno(errno, "getsockname");
  }
  // The port is at the same place in both.
  static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));
  sockaddr_in name{};
  std::memcpy(&name, &storage, sizeof name);
  result.port = net::Port{Be16::from_raw(name.sin_port).host()};
  return result;
}

Result<Socket> open_socket(const net::SocketAddress& address) {
  if (address.address.is_unspecified()) {
    auto both = bind_socket(net::IpAddress::any(net::Family::kIpv6), address.port, true);
    // Without IPv6 in this kernel it is IPv4 alone; a port in use is in use for both.
    if (both || both.error().errno_value() == EADDRINUSE || !address.address.is_v4()) {
      return both;
    }
  }
  return bind_socket(address.address, address.port, false);
}

struct StopDaemon {
  void operator()(MHD_Daemon* daemon) const { MHD_stop_daemon(daemon); }
};
struct FreeResponse {
  void operator()(MHD_Response* response) const { MHD_destroy_response(response); }
};

MHD_Result send(MHD_Connection* connection, const Response& response) {
  // The library copies the text; that it takes a pointer to non-const is its oldness.
  std::string body = response.body;
  const std::unique_ptr<MHD_Response, FreeResponse> answer(
      MHD_create_response_from_buffer(body.size(), body.data(), MHD_RESPMEM_MUST_COPY));
  if (!answer ||
      MHD_add_response_header(answer.get(), MHD_HTTP_HEADER_CONTENT_TYPE,
                              response.content_type.c_str()) != MHD_YES ||
      MHD_add_response_header(answer.get(), "X-Content-Type-Options", "nosniff") != MHD_YES) {
    return MHD_NO;
  }
  return MHD_queue_response(connection, static_cast<unsigned>(response.status), answer.get());
}

}  // namespace

struct HttpServer::Impl {
  Routes routes;
  net::Port port{};
  std::unique_ptr<MHD_Daemon, StopDaemon> daemon;
  // Before the daemon in destruction: the watched fd is the daemon's.
  std::unique_ptr<event::Timer> timer;
  std::unique_ptr<event::FdWatch> watch;

  void turn() {
    MHD_run(daemon.get());
    // What is left to do, at once or when an idle connection is to be closed.
    MHD_UNSIGNED_LONG_LONG milliseconds = 0;
    if (MHD_get_timeout(daemon.get(), &milliseconds) == MHD_YES) {
      timer->start(std::chrono::milliseconds(milliseconds));
    } else {
      timer->stop();
    }
  }

  MHD_Result answer(MHD_Connection* connection, std::string_view path) const {
    const auto route = routes.find(path);
    return send(connection, route == routes.end()
                                ? Response{.status = 404, .body = "404 page not found\n"}
                                : route->second());
  }

  static MHD_Result on_request(void* self, MHD_Connection* connection, const char* url, const char*,
                               const char*, const char*, std::size_t* upload_size, void** seen) {
    // First call: headers only. Then one per piece of a body, which nobody reads; then the end.
    static char marker = 0;
    if (*seen == nullptr) {
      *seen = &marker;
      return MHD_YES;
    }
    if (*upload_size > 0) {
      *upload_size = 0;
      return MHD_YES;
    }
    return static_cast<const Impl*>(self)->answer(connection, url);
  }
};

Result<std::unique_ptr<HttpServer>> HttpServer::listen(event::Loop& loop,
                                                       const net::SocketAddress& address,
                                                       Routes routes) {
  const std::string what = "listen on " + address.text() + " (HTTP)";
  auto socket = open_socket(address);
  if (!socket) {
    return fail(std::move(socket.error()).in(what));
  }
  auto impl = std::make_unique<Impl>();
  impl->routes = std::move(routes);
  impl->port = socket->port;
  impl->daemon.reset(
      MHD_start_daemon(MHD_USE_EPOLL, 0, nullptr, nullptr, &Impl::on_request, impl.get(),
                       MHD_OPTION_LISTEN_SOCKET, socket->fd.get(), MHD_OPTION_CONNECTION_LIMIT,
                       kMostConnections, MHD_OPTION_CONNECTION_TIMEOUT, kIdleSeconds,
                       MHD_OPTION_CONNECTION_MEMORY_LIMIT, kConnectionMemory, MHD_OPTION_END));
  if (!impl->daemon) {
    return fail_errno(errno, what);
  }
  static_cast<void>(socket->fd.release());  // the daemon closes it
  const MHD_DaemonInfo* info = MHD_get_daemon_info(impl->daemon.get(), MHD_DAEMON_INFO_EPOLL_FD);
  if (info == nullptr) {
    return fail(ErrorKind::kUnavailable, what + ": libmicrohttpd has no epoll");
  }
  Impl* raw = impl.get();
  impl->timer = loop.timer([raw] { raw->turn(); });
  impl->watch =
      loop.watch_fd(info->epoll_fd, {.readable = true}, [raw](event::FdEvents) { raw->turn(); });
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() = default;

net::Port HttpServer::port() const { return impl_->port; }

}  // namespace fairlead::health
