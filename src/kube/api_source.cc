// SPDX-License-Identifier: Apache-2.0
#include "kube/api_source.h"

#include <algorithm>
#include <random>
#include <utility>

#include "base/log.h"

namespace fairlead::kube {
namespace {

/// Services that another proxy serves and headless ones, with the slices of both; label selectors
/// only, since servers before 1.31 refuse a field selector on spec.clusterIP.
constexpr const char* kOurs =
    "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

std::function<double()> system_random() {
  std::random_device device;
  std::seed_seq seed{device(), device(), device(), device()};
  return [engine = std::mt19937_64(seed), share = std::uniform_real_distribution<double>(
                                              0.0, 1.0)]() mutable { return share(engine); };
}

}  // namespace

std::vector<Resource> resources(const std::string& node_name) {
  std::vector<Resource> wanted{
      Resource{api::Kind::kService, {"/api/v1/services"}, kOurs, ""},
      Resource{api::Kind::kEndpointSlice,
               {"/apis/discovery.k8s.io/v1/endpointslices",
                "/apis/discovery.k8s.io/v1beta1/endpointslices"},
               kOurs,
               ""},
  };
  if (!node_name.empty()) {
    wanted.push_back(
        Resource{api::Kind::kNode, {"/api/v1/nodes"}, "", "metadata.name=" + node_name});
  }
  return wanted;
}

bool ApiSourceStatus::synced() const {
  return std::ranges::all_of(kinds, [](const ReflectorStatus& each) { return each.synced; });
}

bool ApiSourceStatus::connected() const {
  return std::ranges::all_of(kinds, [](const ReflectorStatus& each) { return each.watching; });
}

std::string ApiSourceStatus::text() const {
  std::string line = server + ":";
  if (connected()) {
    return line + " connected";
  }
  for (const ReflectorStatus& each : kinds) {
    if (!each.watching) {
      line += ' ';
      line += api::text(each.kind);
      line += each.synced ? " not watched" : " not synced";
      line += each.last_error.empty() ? "" : " (" + each.last_error + ")";
    }
  }
  return line;
}

Result<std::unique_ptr<ApiSource>> ApiSource::make(event::Loop& loop, const ApiServerConfig& config,
                                                   const std::string& node_name, api::Sink& sink,
                                                   ApiSourceOptions options) {
  Result<std::unique_ptr<HttpClient>> client = HttpClient::make(loop, config, options.http);
  if (!client) {
    return fail(std::move(client.error()));
  }
  return std::make_unique<ApiSource>(loop, std::move(*client), config.server, node_name, sink,
                                     std::move(options));
}

ApiSource::ApiSource(event::Loop& loop, std::unique_ptr<Transport> transport, std::string server,
                     const std::string& node_name, api::Sink& sink, ApiSourceOptions options)
    : server_(std::move(server)),
      transport_(std::move(transport)),
      limiter_(options.qps, options.burst),
      shared_{loop,
              *transport_,
              decoder_,
              sink,
              limiter_,
              options.random ? std::move(options.random) : system_random(),
              [this] {
                for (const auto& reflector : reflectors_) {
                  reflector->hurry();
                }
              }} {
  for (Resource& resource : resources(node_name)) {
    reflectors_.push_back(
        std::make_unique<Reflector>(shared_, std::move(resource), options.list_watch));
  }
}

ApiSource::~ApiSource() = default;

void ApiSource::start() {
  log::info("API source started", {{"server", server_}});
  for (const auto& reflector : reflectors_) {
    reflector->start();
  }
}

void ApiSource::stop() {
  for (const auto& reflector : reflectors_) {
    reflector->stop();
  }
}

ApiSourceStatus ApiSource::status() const {
  ApiSourceStatus status;
  status.server = server_;
  for (const auto& reflector : reflectors_) {
    status.kinds.push_back(reflector->status());
  }
  return status;
}

}  // namespace fairlead::kube
