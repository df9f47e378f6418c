// SPDX-License-Identifier: Apache-2.0
// The Kubernetes API as a source: Services, EndpointSlices and this node's Node object, each
// listed and watched by a Reflector. Of the loop's thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "api/decode.h"
#include "api/sink.h"
#include "base/result.h"
#include "event/loop.h"
#include "kube/http.h"
#include "kube/kubeconfig.h"
#include "kube/list_watch.h"
#include "kube/pace.h"
#include "kube/reflector.h"
#include "kube/transport.h"

namespace fairlead::kube {

struct ApiSourceOptions {
  double qps = 5;  // of lists; zero or less: no limit
  double burst = 10;
  ListWatchOptions list_watch;
  HttpOptions http;
  std::function<double()> random;  // in [0, 1); empty: seeded by the system
};

struct ApiSourceStatus {
  std::string server;
  std::vector<ReflectorStatus> kinds;

  [[nodiscard]] bool synced() const;     // every kind was listed once
  [[nodiscard]] bool connected() const;  // every kind is being watched
  /// `https://...: connected`, or which kinds are not and why.
  [[nodiscard]] std::string text() const;
};

/// What is asked for; an empty node name leaves out the Node.
[[nodiscard]] std::vector<Resource> resources(const std::string& node_name);

class ApiSource {
 public:
  /// `sink` outlives the source. Fails if certificates cannot be read; the server need not be
  /// there.
  [[nodiscard]] static Result<std::unique_ptr<ApiSource>> make(event::Loop& loop,
                                                               const ApiServerConfig& config,
                                                               const std::string& node_name,
                                                               api::Sink& sink,
                                                               ApiSourceOptions options);
  /// On any transport. `server` is only for messages.
  ApiSource(event::Loop& loop, std::unique_ptr<Transport> transport, std::string server,
            const std::string& node_name, api::Sink& sink, ApiSourceOptions options);
  ApiSource(const ApiSource&) = delete;
  ApiSource& operator=(const ApiSource&) = delete;
  ~ApiSource();

  void start();
  void stop();
  [[nodiscard]] ApiSourceStatus status() const;

 private:
  std::string server_;
  std::unique_ptr<Transport> transport_;
  api::Decoder decoder_;
  RateLimiter limiter_;
  Reflector::Shared shared_;
  std::vector<std::unique_ptr<Reflector>> reflectors_;
};

}  // namespace fairlead::kube
