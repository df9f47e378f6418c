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
    Instrument{.id = Gauge::kServiceChangesPending,
               .name = "kubeproxy_sync_proxy_rules_service_changes_pending",
               .help = "Changed Services that wait for the next sync."},
    Instrument{.id = Counter::kServiceChanges,
               .name = "kubeproxy_sync_proxy_rules_service_changes_total",
               .help = "Changes of Services so far."},
    Instrument{.id = Gauge::kEndpointChangesPending,
               .name = "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
               .help = "Changed EndpointSlices that wait for the next sync."},
    Instrument{.id = Counter::kEndpointChanges,
               .name = "kubeproxy_sync_proxy_rules_endpoint_changes_total",
               .help = "Changes of EndpointSlices so far."},
    Instrument{.id = Counter::kIptablesRestoreFailures,
               .name = "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
               .help = "Runs of iptables-restore that failed."},
    Instrument{.id = Counter::kHealthzAnswers,
               .name = "kubeproxy_proxy_healthz_total",
               .help = "Answers to /healthz by HTTP status code.",
               .label_names = {"code"}},
    Instrument{.id = Counter::kLivezAnswers,
               .name = "kubeproxy_proxy_livez_total",
               .help = "Answers to /livez by HTTP status code.",
               .label_names = {"code"}},
    Instrument{.id = Histogram::kConntrackSyncDuration,
               .name = "kubeproxy_conntrack_reconciler_sync_duration_seconds",
               .help = "Time to find and delete stale connection tracking entries."},
    Instrument{.id = Counter::kConntrackDeletedEntries,
               .name = "kubeproxy_conntrack_reconciler_deleted_entries_total",
               .help = "Stale connection tracking entries deleted."},
    Instrument{.id = Counter::kApiRequests,
               .name = "rest_client_requests_total",
               .help = "Requests to the API server by status code, method and host.",
               .label_names = {"code", "method", "host"}},
    Instrument{.id = Histogram::kApiRequestDuration,
               .name = "rest_client_request_duration_seconds",
               .help = "Time of requests to the API server, watches left out.",
               .label_names = {"verb", "host"}},
    Instrument{.id = Gauge::kVirtualServers,
               .name = "fairlead_virtual_servers",
               .help = "Virtual servers in force."},
    Instrument{.id = Gauge::kRealServers,
               .name = "fairlead_real_servers",
               .help = "Real servers in force, draining ones left out."},
    Instrument{.id = Gauge::kDrainingRealServers,
               .name = "fairlead_draining_real_servers",
               .help = "Removed real servers that keep their connections until these end."},
    Instrument{.id = Gauge::kFailedKeys,
               .name = "fairlead_failed_keys",
               .help = "Virtual servers whose last programming failed and is retried."},
    Instrument{.id = Counter::kDataplaneOperations,
               .name = "fairlead_dataplane_operations_total",
               .help = "Operations sent to the kernel by result.",
               .label_names = {"result"}},
    Instrument{.id = Counter::kDriftRepaired,
               .name = "fairlead_drift_repaired_total",
               .help = "Differences mended that something else had made in the kernel, by kind.",
               .label_names = {"kind"}},
    Instrument{.id = Counter::kSourceErrors,
               .name = "fairlead_source_errors_total",
               .help = "Broken objects, files, requests and streams by source.",
               .label_names = {"source"}},
};

}  // namespace

std::size_t Instrument::label_count() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(label_names, [](std::string_view label) { return !label.empty(); }));
}

std::span<const Instrument> instruments() { return kInstruments; }

}  // namespace fairlead::metrics
