// SPDX-License-Identifier: Apache-2.0
#include "metrics/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace fairlead::metrics {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(Metrics, WithoutLabelsShowsFromTheStart) {
  const Metrics metrics;
  const std::string text = metrics.text();
  EXPECT_THAT(
      text,
      AllOf(HasSubstr("# HELP fairlead_failed_keys Objects whose"),
            HasSubstr("# TYPE fairlead_failed_keys gauge\nfairlead_failed_keys 0\n"),
            HasSubstr("kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.001\"} 0\n"),
            HasSubstr("kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"16.384\"} 0\n"),
            HasSubstr("kubeproxy_sync_proxy_rules_duration_seconds_count 0\n"),
            HasSubstr("# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total "),
            HasSubstr("\nprocess_resident_memory_bytes "), HasSubstr("\nprocess_open_fds "),
            HasSubstr("\nprocess_start_time_seconds "), HasSubstr("\nprocess_max_fds ")));
  EXPECT_THAT(text, Not(HasSubstr("fairlead_drift_repaired_total{")));
}

TEST(Metrics, ValuesAndLabels) {
  Metrics metrics;
  metrics.add(Counter::kHealthzAnswers, 1, {"200"});
  metrics.add(Counter::kHealthzAnswers, 4, {"200"});
  metrics.add(Counter::kDataplaneOperations, 2, {"ok"});
  metrics.add(Counter::kDataplaneOperations, 3, {"error"});
  metrics.add(Counter::kDataplaneOperations, 1, {"ok"});
  metrics.set(Gauge::kRealServers, 7);
  metrics.set(Gauge::kRealServers, 5);
  metrics.observe(Histogram::kSyncDuration, 0.003);
  EXPECT_THAT(
      metrics.text(),
      AllOf(HasSubstr("\nkubeproxy_proxy_healthz_total{code=\"200\"} 5\n"),
            HasSubstr("\nfairlead_dataplane_operations_total{result=\"error\"} 3\n"
                      "fairlead_dataplane_operations_total{result=\"ok\"} 3\n"),
            HasSubstr("\nfairlead_real_servers 5\n"),
            HasSubstr("kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.002\"} 0\n"),
            HasSubstr("kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.004\"} 1\n")));
}

TEST(Metrics, EveryInstrumentIsDeclaredOnceAndExplained) {
  std::set<std::string_view> names;
  std::set<Id> ids;
  for (const Instrument& instrument : instruments()) {
    EXPECT_TRUE(names.insert(instrument.name).second) << instrument.name;
    EXPECT_TRUE(ids.insert(instrument.id).second) << instrument.name;
    EXPECT_TRUE(instrument.help.ends_with('.')) << instrument.name;
    if (std::holds_alternative<Counter>(instrument.id)) {
      EXPECT_TRUE(instrument.name.ends_with("_total")) << instrument.name;
    }
  }
  // A new enumerator without a line in the table would abort at its first use.
  EXPECT_TRUE(ids.contains(Counter::kDataplaneEvents));
  EXPECT_EQ(ids.size(), static_cast<std::size_t>(Counter::kDataplaneEvents) + 1 +
                            static_cast<std::size_t>(Gauge::kDrainingRealServers) + 1 +
                            static_cast<std::size_t>(Histogram::kSyncDuration) + 1);
}

TEST(MetricsDeath, WrongNumberOfLabels) {
  Metrics metrics;
  EXPECT_DEATH(metrics.add(Counter::kDriftRepaired), "label_count");
}

TEST(Metrics, FromManyThreads) {
  Metrics metrics;
  {
    std::vector<std::jthread> threads;
    threads.reserve(4);
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (int n = 0; n < 1000; ++n) {
          metrics.add(Counter::kDataplaneOperations, 1, {n % 2 == 0 ? "ok" : "error"});
          metrics.observe(Histogram::kSyncDuration, 0.1);
          if (n % 100 == 0) {
            EXPECT_FALSE(metrics.text().empty());
          }
        }
      });
    }
  }
  EXPECT_THAT(metrics.text(),
              AllOf(HasSubstr("fairlead_dataplane_operations_total{result=\"ok\"} 2000\n"),
                    HasSubstr("fairlead_dataplane_operations_total{result=\"error\"} 2000\n"),
                    HasSubstr("kubeproxy_sync_proxy_rules_duration_seconds_count 4000\n")));
}

}  // namespace
}  // namespace fairlead::metrics
