// SPDX-License-Identifier: Apache-2.0
#include "proxy/proxy.h"

#include <chrono>
#include <csignal>
#include <unistd.h>
#include <utility>

#include "base/log.h"
#include "base/subprocess.h"
#include "bpf/attach.h"
#include "bpf/netns_cookie.h"
#include "dataplane/ebpf/kernel_host.h"
#include "dataplane/ebpf/plane.h"
#include "dataplane/ipvs/plane.h"
#include "proxy/settings.h"

namespace fairlead::proxy {
namespace {

constexpr auto kProbeDeadline = std::chrono::seconds(5);

// IPv6 is served where the kernel has it, and ip6tables where rules are needed; else this node is
// single stack.
bool ipv6_is_usable(bool needs_rules) {
  if (::access("/proc/net/if_inet6", F_OK) != 0) {
    log::info("the kernel has no IPv6: serving IPv4 only");
    return false;
  }
  if (!needs_rules) {
    return true;
  }
  const auto saved = run_program({"ip6tables-save", "-t", "nat"}, "", kProbeDeadline);
  if (!saved) {
    log::warn("ip6tables does not work: serving IPv4 only", {{"error", saved.error().text()}});
    return false;
  }
  return true;
}

dataplane::Worker::Factory ipvs_factory(const config::Config& config, const model::NodeFacts& facts,
                                        bool has_ipv6) {
  return [plane = ipvs_config(config, facts, has_ipv6)](
             event::Loop&) -> Result<std::unique_ptr<dataplane::DataPlane>> {
    auto kernel = dataplane::ipvs::open_kernel();
    if (!kernel) {
      return fail(kernel.error());
    }
    return std::make_unique<dataplane::ipvs::Plane>(std::move(*kernel), plane);
  };
}

dataplane::Worker::Factory ebpf_factory(const config::Config& config,
                                        const model::NodeFacts& facts) {
  return [config, facts](event::Loop& loop) -> Result<std::unique_ptr<dataplane::DataPlane>> {
    std::uint64_t cookie = 0;
    std::string cgroup;
    if (config.ebpf_sockets != config::SocketScope::kOff) {
      const auto known = bpf::netns_cookie();
      if (!known && config.ebpf_sockets == config::SocketScope::kNode) {
        return fail(known.error().in("--ebpf-sockets node"));
      }
      cookie = known.value_or(0);
      if (const auto mount = bpf::cgroup_mount()) {
        cgroup = *mount;
      } else if (config.ebpf_cgroup.empty()) {
        log::warn("sockets are not translated: the node's own processes reach no service",
                  {{"error", mount.error().text()}});
      }
    }
    return std::make_unique<dataplane::ebpf::Plane>(
        dataplane::ebpf::make_kernel_host(loop, ebpf_host_config(config, cgroup)),
        ebpf_config(config, facts, cookie));
  };
}

}  // namespace

Proxy::Proxy(event::UvLoop& loop, config::Config config, model::ModelOptions options,
             const Mode& mode)
    : loop_(loop),
      config_(std::move(config)),
      has_ipv6_(options.ipv6),
      store_(config_.node_name),
      planner_(store_, std::move(options)),
      runner_(loop, config_.min_sync_period, [this] { sync(); }),
      status_(loop, config_, mode,
              StatusServer::View{.node_eligible =
                                     [this] {
                                       const api::Node* node = store_.node();
                                       return node == nullptr ||
                                              !(node->meta.deleting || node->leaving);
                                     },
                                 .problems = [this] { return problems(); }}) {}

Status Proxy::start() {
  on_term_ = loop_.watch_signal(SIGTERM, [this] { loop_.stop(); });
  on_int_ = loop_.watch_signal(SIGINT, [this] { loop_.stop(); });

  auto node_watch = NodeWatch::open(loop_, [this](const auto& addresses) {
    log::info("the node's addresses changed", {{"count", addresses.size()}});
    runner_.request();
  });
  if (!node_watch) {
    return fail(node_watch.error().in("read the node's addresses"));
  }
  node_watch_ = std::move(*node_watch);

  if (Status status = status_.open(); !status) {
    return status;
  }

  store_.set_on_dirty([this] { runner_.request(); });
  auto source = open_source(loop_, config_, store_);
  if (!source) {
    return fail(source.error());
  }
  source_ = std::move(*source);
  return {};
}

// The one place where data moves: everything that is dirty goes through the planner to the plane.
void Proxy::sync() {
  // Nothing is pruned before every source has told everything once.
  if (!store_.synced()) {
    return;
  }
  if (worker_ == nullptr) {
    start_plane();
  }
  if (!plane_ready_) {
    return;
  }
  const store::Dirty dirty = store_.take_dirty();
  const model::NodeFacts now = facts();
  if (now.pod_cidrs != planned_facts_.pod_cidrs &&
      config_.detect_local_mode == config::LocalMode::kNodeCidr) {
    fatal("the node's pod CIDRs changed; a restart will take them up",
          Error(ErrorKind::kUnavailable, "--detect-local-mode is NodeCIDR"));
    return;
  }
  planned_facts_ = now;
  if (!planned_) {
    planned_ = true;
    (void)planner_.set_node(now);                  // the empty plan's change is empty
    (void)planner_.update(store_.service_keys());  // all of it follows
    status_.planned(++generation_);
    worker_->submit(planner_.full(), generation_);
  } else {
    const plan::Delta moved = planner_.set_node(now);
    const plan::Delta changed = planner_.update(dirty.services);
    if (!moved.empty() || !changed.empty()) {
      status_.planned(++generation_);
      // The plane may take the first half alone; only the second one completes the generation.
      worker_->submit(moved, generation_ - 1);
      worker_->submit(changed, generation_);
    }
  }
  log_problems();
}

model::NodeFacts Proxy::facts() const {
  model::NodeFacts facts;
  if (const api::Node* node = store_.node(); node != nullptr) {
    facts = model::node_facts(*node);
  }
  facts.name = config_.node_name;
  facts.interface_addresses = node_watch_->addresses();
  return facts;
}

void Proxy::start_plane() {
  planned_facts_ = facts();
  std::vector<net::Family> families = {net::Family::kIpv4};
  if (has_ipv6_) {
    families.push_back(net::Family::kIpv6);
  }
  status_.started(families);
  worker_ = std::make_unique<dataplane::Worker>(
      loop_,
      config_.proxy_mode == kEbpf ? ebpf_factory(config_, planned_facts_)
                                  : ipvs_factory(config_, planned_facts_, has_ipv6_),
      dataplane::Worker::Events{[this](const Status& status) { plane_started(status); },
                                [this](const dataplane::Summary& summary) { progress(summary); }});
}

void Proxy::plane_started(const Status& status) {
  if (!status) {
    fatal("the data plane cannot work; `fairlead doctor` tells what this kernel has",
          status.error());
    return;
  }
  plane_ready_ = true;
  runner_.request();
}

void Proxy::progress(const dataplane::Summary& summary) { status_.applied(summary); }

std::vector<std::string> Proxy::problems() const {
  std::vector<std::string> texts =
      source_ != nullptr ? source_->problems() : std::vector<std::string>{};
  for (const model::Problem& problem : planner_.problems()) {
    texts.push_back(problem.text());
  }
  return texts;
}

void Proxy::log_problems() {
  for (const api::ObjectKey& service : planner_.take_changed_problems()) {
    for (const model::Problem& problem : planner_.problems(service)) {
      log::warn("a service asks for something that cannot be honoured",
                {{"object", problem.object}, {"field", problem.field}, {"problem", problem.what}});
    }
  }
}

void Proxy::fatal(const std::string& message, const Error& error) {
  log::error(message, {{"error", error.text()}});
  exit_code_ = 1;
  loop_.stop();
}

int run(config::Config config) {
  log::set_level(config.verbosity >= 2 ? log::Level::kDebug : log::Level::kInfo);
  for (const std::string& flag : config.ignored_flags) {
    log::warn("flag is accepted but has no effect yet", {{"flag", "--" + flag}});
  }
  auto options = model_options(config);
  if (!options) {
    log::error("cannot start", {{"error", options.error().text()}});
    return 1;
  }
  const auto mode = choose_mode(config.proxy_mode, kernel_support(config));
  if (!mode) {
    log::error("no data plane can work here; `fairlead doctor` tells more",
               {{"error", mode.error().text()}});
    return 1;
  }
  log::info("proxy mode is chosen", {{"mode", mode->name}, {"reason", mode->reason}});
  config.proxy_mode = mode->name;
  if (config.proxy_mode == kIpvs) {
    if (const Status status = clear_way_for_ipvs(config.ebpf_pin_dir); !status) {
      log::error("cannot start", {{"error", status.error().text()}});
      return 1;
    }
  }
  options->ipv6 = ipv6_is_usable(config.proxy_mode == kIpvs);
  const auto loop = event::make_uv_loop();
  Proxy proxy(*loop, std::move(config), std::move(*options), *mode);
  if (const Status status = proxy.start(); !status) {
    log::error("cannot start", {{"error", status.error().text()}});
    return 1;
  }
  loop->run();
  return proxy.exit_code();
}

}  // namespace fairlead::proxy
