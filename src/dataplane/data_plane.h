// SPDX-License-Identifier: Apache-2.0
// What a data plane is to the rest: it takes changes of the plan, makes the kernel follow, and
// tells how it stands. A plane lives on one thread (see worker.h) and never blocks for longer than
// its kernel calls' deadlines.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "event/loop.h"
#include "plan/plan.h"

namespace fairlead::dataplane {

using event::Duration;
using event::TimePoint;

/// One thing that the kernel refused and that is being retried. `object` is a virtual server's key
/// or a part of the plane's own furniture ("iptables IPv6").
struct Failure {
  std::string object;
  std::string error;
  unsigned attempts = 0;
};

/// A snapshot for status pages and metrics; plain data, free to cross threads.
struct Summary {
  bool synced = false;  // the first whole plan has been applied
  std::size_t virtual_servers = 0;
  std::size_t real_servers = 0;  // draining ones included
  std::size_t draining = 0;
  std::uint64_t operations = 0;  // that succeeded; what was as wanted already takes none
  std::uint64_t operation_errors = 0;
  /// Objects that someone else changed and we mended, by kind ("virtual server", "iptables", ...).
  std::map<std::string, std::uint64_t, std::less<>> drift_repaired;
  /// What happened to packets ("refused", "table_full", ...), where the plane counts it.
  std::map<std::string, std::uint64_t, std::less<>> events;
  std::uint64_t generation = 0;  // of the newest submitted delta that has been applied
  std::vector<Failure> failures;
};

class DataPlane {
 public:
  DataPlane() = default;
  DataPlane(const DataPlane&) = delete;
  DataPlane& operator=(const DataPlane&) = delete;
  virtual ~DataPlane() = default;

  /// Prepares what does not depend on services and reads the kernel's state. Removes nothing.
  /// An error means that the mode cannot work; the text names what is missing.
  [[nodiscard]] virtual Status start(TimePoint now) = 0;

  /// Makes the kernel follow. The first delta must be the whole plan: what is ours and not in it
  /// is drained and removed. Failures are kept per object and retried from `run_due`.
  virtual void apply(const plan::Delta& delta, TimePoint now) = 0;

  /// Retries, drains and audits whose time has come.
  virtual void run_due(TimePoint now) = 0;
  [[nodiscard]] virtual std::optional<TimePoint> next_due() const = 0;

  [[nodiscard]] virtual Summary summary() const = 0;
};

}  // namespace fairlead::dataplane
