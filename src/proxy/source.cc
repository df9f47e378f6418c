// SPDX-License-Identifier: Apache-2.0
#include "proxy/source.h"

#include <cstdlib>
#include <utility>

#include "base/log.h"
#include "kube/api_source.h"
#include "kube/kubeconfig.h"
#include "manifest/manifest_source.h"

namespace fairlead::proxy {
namespace {

class Manifests final : public Source {
 public:
  Manifests(event::Loop& loop, api::Sink& sink, manifest::ManifestOptions options)
      : source_(loop, sink, std::move(options)) {
    source_.start();
  }
  [[nodiscard]] std::vector<std::string> problems() const override {
    std::vector<std::string> texts;
    for (const manifest::Problem& problem : source_.errors()) {
      texts.push_back(problem.text());
    }
    return texts;
  }

 private:
  manifest::ManifestSource source_;
};

class ApiServer final : public Source {
 public:
  explicit ApiServer(std::unique_ptr<kube::ApiSource> source) : source_(std::move(source)) {
    source_->start();
  }
  [[nodiscard]] std::vector<std::string> problems() const override {
    const kube::ApiSourceStatus status = source_->status();
    return status.connected() ? std::vector<std::string>{} : std::vector{status.text()};
  }

 private:
  std::unique_ptr<kube::ApiSource> source_;
};

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

}  // namespace

manifest::ManifestOptions manifest_options(const config::Config& config) {
  manifest::ManifestOptions options;
  options.path = config.manifests;
  options.state_file = config.allocation_file;
  options.allocation.service_ranges = config.service_cluster_ip_range;
  return options;
}

Result<std::unique_ptr<Source>> open_source(event::Loop& loop, const config::Config& config,
                                            api::Sink& sink) {
  if (!config.manifests.empty()) {
    return std::make_unique<Manifests>(loop, sink, manifest_options(config));
  }
  kube::ApiServerChoice choice;
  choice.kubeconfig = config.kubeconfig;
  choice.master = config.master;
  choice.in_cluster.service_host = environment("KUBERNETES_SERVICE_HOST");
  choice.in_cluster.service_port = environment("KUBERNETES_SERVICE_PORT");
  auto server = kube::load_api_server_config(choice);
  if (!server) {
    return fail(server.error());
  }
  kube::ApiSourceOptions options;
  options.qps = config.api_qps;
  options.burst = config.api_burst;
  auto source = kube::ApiSource::make(loop, *server, config.node_name, sink, std::move(options));
  if (!source) {
    return fail(source.error());
  }
  log::info("reading from the API server", {{"server", server->server}});
  return std::make_unique<ApiServer>(std::move(*source));
}

}  // namespace fairlead::proxy
