// SPDX-License-Identifier: Apache-2.0
#include "proxy/status.h"

#include <chrono>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "health/pages.h"

namespace fairlead::proxy {
namespace {

constexpr auto kListenRetry = std::chrono::seconds(5);

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

StatusServer::StatusServer(event::Loop& loop, const config::Config& config, Mode mode, View view)
    : loop_(loop),
      hard_fail_(config.bind_address_hard_fail),
      mode_(std::move(mode)),
      view_(std::move(view)),
      health_(2 * config.sync_period),
      retry_(loop, kListenRetry, [this] {
        if (!listen()) {
          retry_.retry_after(kListenRetry);
        }
      }) {
  listeners_.push_back({.name = "health",
                        .address = config.healthz_bind_address,
                        .routes =
                            [this] {
                              return health::health_pages(
                                  [this] { return health_.snapshot(now(), view_.node_eligible()); },
                                  metrics_);
                            },
                        .server = nullptr,
                        .last_error = {}});
  listeners_.push_back({.name = "metrics",
                        .address = config.metrics_bind_address,
                        .routes =
                            [this] {
                              return health::metrics_pages(metrics_, mode_.name,
                                                           [this] { return statusz(); });
                            },
                        .server = nullptr,
                        .last_error = {}});
}

Status StatusServer::open() {
  Status status = listen();
  if (status) {
    return {};
  }
  if (hard_fail_) {
    return status;
  }
  retry_.retry_after(kListenRetry);
  return {};
}

Status StatusServer::listen() {
  Status result;
  for (Listener& listener : listeners_) {
    if (!listener.address || listener.server != nullptr) {
      continue;
    }
    auto server = health::HttpServer::listen(loop_, *listener.address, listener.routes());
    if (server) {
      listener.server = std::move(*server);
      continue;
    }
    if (std::exchange(listener.last_error, server.error().text()) != server.error().text()) {
      log::error("cannot listen, will retry",
                 {{"server", listener.name}, {"error", server.error().text()}});
    }
    result = fail(server.error().in(listener.name + " server"));
  }
  return result;
}

health::Now StatusServer::now() const { return {loop_.now(), std::chrono::system_clock::now()}; }

void StatusServer::started(const std::vector<net::Family>& families) {
  families_ = families;
  for (const net::Family family : families_) {
    health_.started(family, now());
  }
}

void StatusServer::planned(std::uint64_t generation) {
  planned_ = generation;
  if (!sync_began_) {
    sync_began_ = loop_.now();
  }
  metrics_.set(metrics::Gauge::kLastSyncQueuedTime, unix_seconds());
  for (const net::Family family : families_) {
    health_.queued(family, now());
  }
}

void StatusServer::applied(const dataplane::Summary& summary) {
  using metrics::Counter;
  using metrics::Gauge;
  if (summary.generation == planned_) {
    if (sync_began_) {
      const std::chrono::duration<double> took = loop_.now() - *std::exchange(sync_began_, {});
      metrics_.observe(metrics::Histogram::kSyncDuration, took.count());
    }
    for (const net::Family family : families_) {
      health_.synced(family, now());
    }
  }
  if (summary.generation != summary_.generation) {
    metrics_.set(Gauge::kLastSyncTime, unix_seconds());
  }
  // Counters only grow; the plane tells totals.
  metrics_.add(Counter::kDataplaneOperations,
               static_cast<double>(summary.operations - summary_.operations), {"ok"});
  metrics_.add(Counter::kDataplaneOperations,
               static_cast<double>(summary.operation_errors - summary_.operation_errors),
               {"error"});
  const auto add_growth = [&](Counter counter, const auto& counts, const auto& before) {
    for (const auto& [label, count] : counts) {
      const auto known = before.find(label);
      const std::uint64_t old = known == before.end() ? 0 : known->second;
      metrics_.add(counter, static_cast<double>(count - old), {label});
    }
  };
  add_growth(Counter::kDriftRepaired, summary.drift_repaired, summary_.drift_repaired);
  add_growth(Counter::kDataplaneEvents, summary.events, summary_.events);
  metrics_.set(Gauge::kFailedKeys, static_cast<double>(summary.failures.size()));
  metrics_.set(Gauge::kVirtualServers, static_cast<double>(summary.virtual_servers));
  metrics_.set(Gauge::kRealServers, static_cast<double>(summary.real_servers));
  metrics_.set(Gauge::kDrainingRealServers, static_cast<double>(summary.draining));
  summary_ = summary;
}

std::string StatusServer::statusz() const {
  using nlohmann::json;
  json failures = json::array();
  for (const dataplane::Failure& failure : summary_.failures) {
    failures.push_back(
        {{"object", failure.object}, {"error", failure.error}, {"attempts", failure.attempts}});
  }
  const json page = {{"mode", mode_.name},
                     {"modeReason", mode_.reason},
                     {"synced", summary_.synced},
                     {"upToDate", summary_.synced && summary_.generation == planned_},
                     {"virtualServers", summary_.virtual_servers},
                     {"realServers", summary_.real_servers},
                     {"draining", summary_.draining},
                     {"operations", summary_.operations},
                     {"operationErrors", summary_.operation_errors},
                     {"driftRepaired", summary_.drift_repaired},
                     {"events", summary_.events},
                     {"failures", failures},
                     {"problems", view_.problems()}};
  // Texts come from files and kernels: never let a byte that is not UTF-8 throw.
  return page.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace fairlead::proxy
