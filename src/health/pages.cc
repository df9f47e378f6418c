// SPDX-License-Identifier: Apache-2.0
#include "health/pages.h"

#include <array>
#include <ctime>
#include <string>
#include <string_view>
#include <utility>

namespace fairlead::health {
namespace {

std::string bool_text(bool value) { return value ? "true" : "false"; }

/// `eligible`: absent on /livez.
std::string body(const HealthSnapshot& snapshot, bool healthy, bool with_eligible) {
  std::string json = R"({"lastUpdated":")" + rfc3339(snapshot.last_updated()) +
                     R"(","currentTime":")" + rfc3339(snapshot.now) + '"';
  if (with_eligible) {
    json += R"(,"nodeEligible":)" + bool_text(snapshot.node_eligible);
  }
  json += R"(,"healthy":)" + bool_text(healthy) + R"(,"status":{)";
  std::string_view separator;
  for (const auto& [family, health] : snapshot.families) {
    json += std::string(separator) + '"' + std::string(net::text(family)) +
            R"(":{"lastUpdated":")" + rfc3339(health.last_updated) + R"(","healthy":)" +
            bool_text(health.healthy) + '}';
    separator = ",";
  }
  return json + "}}";
}

Response answer(metrics::Metrics& metrics, metrics::Counter counter, bool ok, std::string text) {
  const int status = ok ? 200 : 503;
  metrics.add(counter, 1, {std::to_string(status)});
  return {.status = status, .content_type = "application/json", .body = std::move(text)};
}

}  // namespace

std::string rfc3339(std::chrono::system_clock::time_point time) {
  const auto since_epoch =
      std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch());
  const auto seconds = std::chrono::floor<std::chrono::seconds>(since_epoch);
  const std::time_t whole = seconds.count();
  std::tm parts{};
  // Fails only for a year beyond an int; nanoseconds in 64 bits reach some 292 years.
  static_cast<void>(::gmtime_r(&whole, &parts));
  std::array<char, 32> date{};
  const std::size_t length = std::strftime(date.data(), date.size(), "%Y-%m-%dT%H:%M:%S", &parts);
  const std::string fraction = std::to_string((since_epoch - seconds).count());
  return std::string(date.data(), length) + "." + std::string(9 - fraction.size(), '0') + fraction +
         "Z";
}

Routes health_pages(std::function<HealthSnapshot()> snapshot, metrics::Metrics& metrics) {
  Routes routes;
  routes["/healthz"] = [snapshot, &metrics] {
    const HealthSnapshot state = snapshot();
    const bool ok = state.healthy() && state.node_eligible;
    return answer(metrics, metrics::Counter::kHealthzAnswers, ok, body(state, ok, true));
  };
  routes["/livez"] = [snapshot = std::move(snapshot), &metrics] {
    const HealthSnapshot state = snapshot();
    const bool ok = state.healthy();
    return answer(metrics, metrics::Counter::kLivezAnswers, ok, body(state, ok, false));
  };
  return routes;
}

Routes metrics_pages(metrics::Metrics& metrics, std::string proxy_mode,
                     std::function<std::string()> statusz, std::function<void()> before_metrics) {
  Routes routes;
  routes["/metrics"] = [&metrics, before_metrics = std::move(before_metrics)] {
    if (before_metrics) {
      before_metrics();
    }
    return Response{.content_type = "text/plain; version=0.0.4; charset=utf-8",
                    .body = metrics.text()};
  };
  routes["/healthz"] = [] { return Response{.body = "ok"}; };
  routes["/proxyMode"] = [mode = std::move(proxy_mode)] { return Response{.body = mode}; };
  routes["/statusz"] = [statusz = std::move(statusz)] {
    return Response{.content_type = "application/json", .body = statusz()};
  };
  return routes;
}

}  // namespace fairlead::health
