// SPDX-License-Identifier: Apache-2.0
// GET requests whose answers arrive in pieces: what the reflector needs of HTTP, so that it can be
// tested without one. Of the loop's thread.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "event/loop.h"

namespace fairlead::kube {

struct HttpRequest {
  std::string target;          // path and query, behind the server's own prefix
  event::Duration deadline{};  // for the whole exchange; zero: none
};

struct HttpHead {
  int status = 0;
  std::string content_type;
  std::optional<std::chrono::seconds> retry_after;
};

/// Why an exchange ended without a whole answer. The text names no credentials.
struct TransportError {
  enum class Kind {
    kUnreachable,  // no connection came about: refused, no route, unknown name
    kUntrusted,    // TLS: the certificate of either side was not accepted
    kTimeout,      // the deadline passed
    kBroken,       // the connection went away in between
    kInvalid,      // the request could not even start
  };
  Kind kind = Kind::kBroken;
  std::string text;
};

/// Callbacks come in this order: head at most once, data any number of times, end exactly once
/// (with nothing: the answer is whole). Never within the call that started the exchange.
struct HttpHandler {
  std::function<void(const HttpHead&)> on_head;
  std::function<void(std::string_view)> on_data;
  std::function<void(const std::optional<TransportError>&)> on_end;
};

/// A running request. Destroying it cancels: no callback follows. May be destroyed within its own
/// callbacks.
class HttpExchange {
 public:
  HttpExchange() = default;
  HttpExchange(const HttpExchange&) = delete;
  HttpExchange& operator=(const HttpExchange&) = delete;
  virtual ~HttpExchange() = default;
  /// The connection beneath looks dead: requests from now on get a new one. Other exchanges on it
  /// that have heard nothing lately end as broken; this one only by being destroyed.
  virtual void distrust_connection() = 0;
};

class Transport {
 public:
  Transport() = default;
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;
  virtual ~Transport() = default;
  [[nodiscard]] virtual std::unique_ptr<HttpExchange> get(HttpRequest request,
                                                          HttpHandler handler) = 0;
};

}  // namespace fairlead::kube
