// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/result.h"
#include "event/loop.h"
#include "net/address.h"

namespace fairlead::health {

struct Response {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

/// By path without query; every method is answered, `X-Content-Type-Options: nosniff` always added.
/// A handler must not destroy its server.
using Routes = std::map<std::string, std::function<Response()>, std::less<>>;

/// A small plain-HTTP server for probes and scrapers, driven by the loop: handlers run on the
/// loop's thread, so they read the program's state without locks, and an answer also proves that
/// the loop turns. Slow or idle clients cost a connection (of at most 64) for at most 60 s.
class HttpServer {
 public:
  /// An unspecified address listens on both families where the host has IPv6; port 0 takes a free
  /// one. Fails with the address in the text if it cannot be bound; the caller may try again.
  [[nodiscard]] static Result<std::unique_ptr<HttpServer>> listen(event::Loop& loop,
                                                                  const net::SocketAddress& address,
                                                                  Routes routes);
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;
  ~HttpServer();

  [[nodiscard]] net::Port port() const;

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fairlead::health
