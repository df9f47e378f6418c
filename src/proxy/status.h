// SPDX-License-Identifier: Apache-2.0
// How it stands, for people, probes and scrapers: the health and metrics servers and what they
// show. Control thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/objects.h"
#include "base/result.h"
#include "config/config.h"
#include "dataplane/data_plane.h"
#include "event/loop.h"
#include "event/rate.h"
#include "health/http_server.h"
#include "health/sync_health.h"
#include "metrics/metrics.h"
#include "net/address.h"
#include "proxy/mode.h"

namespace fairlead::proxy {

class StatusServer {
 public:
  /// What only others know; asked when somebody looks.
  struct View {
    std::function<bool()> node_eligible;
    std::function<std::vector<std::string>()> problems;  // of objects and sources
  };

  StatusServer(event::Loop& loop, const config::Config& config, Mode mode, View view);

  /// Listens. A listen that fails is retried every few seconds, or is an error with
  /// --bind-address-hard-fail.
  [[nodiscard]] Status open();

  /// The plane serves these families from now on.
  void started(const std::vector<net::Family>& families);
  /// A change is on its way to the plane.
  void planned(std::uint64_t generation);
  /// What the plane made of it.
  void applied(const dataplane::Summary& summary);

 private:
  struct Listener {
    std::string name;
    std::optional<net::SocketAddress> address;
    std::function<health::Routes()> routes;
    std::unique_ptr<health::HttpServer> server;
    std::string last_error;
  };
  [[nodiscard]] Status listen();
  [[nodiscard]] health::Now now() const;
  [[nodiscard]] std::string statusz() const;

  event::Loop& loop_;
  bool hard_fail_;
  Mode mode_;
  View view_;
  metrics::Metrics metrics_;
  health::SyncHealth health_;
  std::vector<net::Family> families_;
  std::uint64_t planned_ = 0;
  std::optional<event::TimePoint> sync_began_;  // of the oldest change not yet answered
  dataplane::Summary summary_;
  std::vector<Listener> listeners_;
  event::BoundedRunner retry_;
};

}  // namespace fairlead::proxy
