// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>

#include "metrics/metrics.h"

namespace fairlead::metrics {
namespace {

constexpr std::array kInstruments = {
    Instrument{.id = Histogram::kSyncDuration,
               .name = "kubeproxy_sync_proxy_rules_duration_seconds",
               .help = "Time from the start of a sync until the data plane has answered it."},
    Instrument{.id = Gauge::kLastSyncTime,
               .name = "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
               .help = "Unix time of the last sync without a failure."},
    Instrument{.id = Gauge::kLastSyncQueuedTime,
               .name = "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
               .help = "Unix time at which a sync was last asked for."},
    Instrument{.id = Counter::kHealthzAnswers,
               .name = "kubeproxy_proxy_healthz_total",
               .help = "Answers to /healthz by HTTP status code.",
               .label_names = {"code"}},
    Instrument{.id = Counter::kLivezAnswers,
               .name = "kubeproxy_proxy_livez_total",
               .help = "Answers to /livez by HTTP status code.",
               .label_names = {"code"}},
    Instrument{.id = Gauge::kVirtualServers,
               .name = "fairlead_virtual_servers",
               .help = "Virtual servers in the kernel, draining ones included."},
    Instrument{.id = Gauge::kRealServers,
               .name = "fairlead_real_servers",
               .help = "Real servers in the kernel, draining ones included."},
    Instrument{.id = Gauge::kDrainingRealServers,
               .name = "fairlead_draining_real_servers",
               .help = "Removed real servers that keep their connections until these end."},
    Instrument{.id = Gauge::kFailedKeys,
               .name = "fairlead_failed_keys",
               .help = "Objects whose programming failed and is retried."},
    Instrument{.id = Counter::kDataplaneOperations,
               .name = "fairlead_dataplane_operations_total",
               .help = "Operations sent to the kernel by result.",
               .label_names = {"result"}},
    Instrument{.id = Counter::kDriftRepaired,
               .name = "fairlead_drift_repaired_total",
               .help = "Differences mended that something else had made in the kernel, by kind.",
               .label_names = {"kind"}},
    Instrument{.id = Counter::kDataplaneEvents,
               .name = "fairlead_dataplane_events_total",
               .help = "What happened to packets in the ebpf data plane by event, every 5 seconds.",
               .label_names = {"event"}},
};

}  // namespace

std::size_t Instrument::label_count() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(label_names, [](std::string_view label) { return !label.empty(); }));
}

std::span<const Instrument> instruments() { return kInstruments; }

}  // namespace fairlead::metrics
