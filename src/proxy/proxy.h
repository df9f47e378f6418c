// SPDX-License-Identifier: Apache-2.0
// The control loop: joins the stages and owns their lifetimes. The whole wiring reads in proxy.cc:
//
//   source -> store -> planner -> worker (data plane) -> kernel
//                         ^                  |
//      node's addresses --+                  +-> status, metrics
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "config/config.h"
#include "dataplane/data_plane.h"
#include "dataplane/worker.h"
#include "event/loop.h"
#include "event/rate.h"
#include "plan/planner.h"
#include "proxy/mode.h"
#include "proxy/node_watch.h"
#include "proxy/source.h"
#include "proxy/status.h"
#include "store/store.h"

namespace fairlead::proxy {

class Proxy {
 public:
  /// `config.proxy_mode` is `mode.name`.
  Proxy(event::UvLoop& loop, config::Config config, model::ModelOptions options, const Mode& mode);
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;
  ~Proxy() = default;

  /// Opens what can be opened at once. After that the loop carries everything until SIGTERM, SIGINT
  /// or a fatal error stops it. The kernel's state stays as it is then.
  [[nodiscard]] Status start();
  /// 0, or 1 after a fatal error.
  [[nodiscard]] int exit_code() const { return exit_code_; }

 private:
  void sync();
  void start_plane();
  void plane_started(const Status& status);
  void progress(const dataplane::Summary& summary);
  [[nodiscard]] std::vector<std::string> problems() const;
  void log_problems();
  void fatal(const std::string& message, const Error& error);
  [[nodiscard]] model::NodeFacts facts() const;

  event::UvLoop& loop_;
  config::Config config_;
  bool has_ipv6_;
  int exit_code_ = 0;

  store::Store store_;
  plan::Planner planner_;
  event::BoundedRunner runner_;
  StatusServer status_;
  std::unique_ptr<NodeWatch> node_watch_;
  std::unique_ptr<dataplane::Worker> worker_;
  std::unique_ptr<Source> source_;
  model::NodeFacts planned_facts_;
  bool plane_ready_ = false;
  bool planned_ = false;  // the whole plan has been handed to the plane
  std::uint64_t generation_ = 0;
  std::unique_ptr<event::SignalWatch> on_term_;
  std::unique_ptr<event::SignalWatch> on_int_;
};

/// `fairlead run`: returns the exit code.
[[nodiscard]] int run(config::Config config);

}  // namespace fairlead::proxy
