// SPDX-License-Identifier: Apache-2.0
// All instruments of the program, declared in one table (instruments.cc), and their values. Names
// that dashboards of kube-proxy know are kept; our own begin with `fairlead_`. An instrument joins
// the table with the code that feeds it: one that stays at 0 would tell a dashboard a lie.
//
// `Metrics` is made once by main and passed by reference; its functions may be called from any
// thread. An instrument without labels shows from the start, one with labels after its first value.
// Label values must come from a small fixed set: never a name of an object.
#pragma once

#include <array>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>

namespace fairlead::metrics {

enum class Counter {
  kHealthzAnswers,       // code
  kLivezAnswers,         // code
  kDriftRepaired,        // kind
  kDataplaneOperations,  // result
  kDataplaneEvents,      // event
};

enum class Gauge {
  kLastSyncTime,        // Unix seconds
  kLastSyncQueuedTime,  // Unix seconds
  kFailedKeys,
  kVirtualServers,
  kRealServers,
  kDrainingRealServers,
};

/// All in seconds.
enum class Histogram {
  kSyncDuration,
};

using Id = std::variant<Counter, Gauge, Histogram>;

struct Instrument {
  static constexpr std::size_t kMostLabels = 3;

  Id id;
  std::string_view name;
  std::string_view help;
  std::array<std::string_view, kMostLabels> label_names{};  // empty ones at the end

  [[nodiscard]] std::size_t label_count() const;
};

/// For the reference page as well.
[[nodiscard]] std::span<const Instrument> instruments();

using LabelValues = std::initializer_list<std::string_view>;

class Metrics {
 public:
  Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;
  ~Metrics();

  // As many label values as the instrument has labels, in the table's order (aborts otherwise).
  void add(Counter id, double amount = 1, LabelValues labels = {});
  void set(Gauge id, double value, LabelValues labels = {});
  void observe(Histogram id, double seconds, LabelValues labels = {});

  /// Prometheus text format 0.0.4, in the table's order, with the usual `process_*` ones.
  [[nodiscard]] std::string text() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fairlead::metrics
