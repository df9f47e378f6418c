// SPDX-License-Identifier: Apache-2.0
// What the two servers of kube-proxy answer, for those of their pages that we have.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "health/http_server.h"
#include "health/sync_health.h"
#include "metrics/metrics.h"

namespace fairlead::health {

/// Port 10256. `/healthz`: should new connections come to this node (200 or 503); `/livez`: does
/// the proxy make progress. Answers are counted in `metrics`, which must outlive the server.
[[nodiscard]] Routes health_pages(std::function<HealthSnapshot()> snapshot,
                                  metrics::Metrics& metrics);

/// Port 10249: `/metrics`, `/healthz` (`ok`, always), `/proxyMode`, `/statusz`, whose JSON text
/// comes from `statusz`. `before_metrics`, if any, may bring gauges up to date before each scrape.
[[nodiscard]] Routes metrics_pages(metrics::Metrics& metrics, std::string proxy_mode,
                                   std::function<std::string()> statusz,
                                   std::function<void()> before_metrics = {});

/// `2026-01-02T03:04:05.678901234Z`.
[[nodiscard]] std::string rfc3339(std::chrono::system_clock::time_point time);

}  // namespace fairlead::health
