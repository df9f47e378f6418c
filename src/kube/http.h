// SPDX-License-Identifier: Apache-2.0
// The API server over libcurl on our event loop: HTTP/2 with all requests on one connection where
// the server speaks it, else HTTP/1.1. Nothing blocks but the reading of small local files.
//
// Dead connections: TCP keep-alive and a limit on unacknowledged data end them after 45 s. What
// hides behind a live TCP peer (a frozen server, a balancer whose server is gone) is found by a
// small request when all streams have been silent for a while; where there is much to tell, as in
// large clusters, it is never sent. A stream that is dead on a live connection only its reader can
// notice; it then calls `distrust_connection`.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "base/result.h"
#include "event/loop.h"
#include "kube/kubeconfig.h"
#include "kube/transport.h"

namespace fairlead::kube {

struct HttpOptions {
  std::string user_agent = "fairlead";
  event::Duration connect_timeout = std::chrono::seconds(15);  // name, TCP and TLS together
  /// Certificate and key files are looked at this often; a change ends every running exchange, so
  /// that it comes back under the new identity.
  event::Duration certificate_poll = std::chrono::minutes(5);
  /// When every stream (a request without deadline) has been silent for so long, `probe_target` is
  /// asked for. Any answer will do; without one in time the silent streams end. Zero: never.
  event::Duration idle_probe = std::chrono::seconds(30);
  event::Duration probe_deadline = std::chrono::seconds(15);
  std::string probe_target = "/version";
  bool http2 = true;
};

/// Must not be destroyed within a callback of its exchanges. Exchanges may outlive it; they are
/// then silent.
class HttpClient final : public Transport {
 public:
  /// Fails if the certificates cannot be read.
  [[nodiscard]] static Result<std::unique_ptr<HttpClient>> make(event::Loop& loop,
                                                                ApiServerConfig config,
                                                                HttpOptions options);
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;
  ~HttpClient() override;

  [[nodiscard]] std::unique_ptr<HttpExchange> get(HttpRequest request,
                                                  HttpHandler handler) override;

 private:
  class Impl;
  explicit HttpClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fairlead::kube
