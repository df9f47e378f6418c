// SPDX-License-Identifier: Apache-2.0
#include "metrics/metrics.h"

#include <algorithm>
#include <map>
#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <sstream>
#include <type_traits>
#include <variant>
#include <vector>

#include "base/check.h"
#include "metrics/process.h"

namespace fairlead::metrics {
namespace {

prometheus::Histogram::BucketBoundaries buckets(Histogram id) {
  switch (id) {
    case Histogram::kSyncDuration: {
      prometheus::Histogram::BucketBoundaries bounds;
      for (double bound = 0.001; bounds.size() < 15; bound *= 2) {
        bounds.push_back(bound);
      }
      return bounds;
    }
  }
  return {};
}

}  // namespace

struct Metrics::Impl {
  template <typename T>
  struct Entry {
    const Instrument* instrument = nullptr;
    prometheus::Family<T>* family = nullptr;

    [[nodiscard]] prometheus::Labels labels(LabelValues values) const {
      FAIRLEAD_CHECK(values.size() == instrument->label_count());
      prometheus::Labels labels;
      const auto* name = instrument->label_names.begin();
      for (const std::string_view value : values) {
        labels.emplace(*name++, value);
      }
      return labels;
    }
  };

  prometheus::Registry registry;
  std::map<Counter, Entry<prometheus::Counter>> counters;
  std::map<Gauge, Entry<prometheus::Gauge>> gauges;
  std::map<Histogram, Entry<prometheus::Histogram>> histograms;

  void declare(const Instrument& instrument, Counter id) {
    declare(instrument, counters[id], prometheus::BuildCounter());
  }
  void declare(const Instrument& instrument, Gauge id) {
    declare(instrument, gauges[id], prometheus::BuildGauge());
  }
  void declare(const Instrument& instrument, Histogram id) {
    declare(instrument, histograms[id], prometheus::BuildHistogram(), buckets(id));
  }
  template <typename T, typename Builder, typename... Args>
  void declare(const Instrument& instrument, Entry<T>& entry, Builder builder,
               const Args&... args) {
    FAIRLEAD_CHECK(entry.family == nullptr && "an instrument is declared once");
    entry.instrument = &instrument;
    entry.family = &builder.Name(std::string(instrument.name))
                        .Help(std::string(instrument.help))
                        .Register(registry);
    if (instrument.label_count() == 0) {
      entry.family->Add({}, args...);
    }
  }
};

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {
  for (const Instrument& instrument : instruments()) {
    std::visit([&](auto id) { impl_->declare(instrument, id); }, instrument.id);
  }
}
Metrics::~Metrics() = default;

// The maps are never changed after the constructor, and a family guards itself: hence no lock here.
// Adding labels that are there already gives the same instrument again.
void Metrics::add(Counter id, double amount, LabelValues labels) {
  const auto& entry = impl_->counters.at(id);
  entry.family->Add(entry.labels(labels)).Increment(amount);
}

void Metrics::set(Gauge id, double value, LabelValues labels) {
  const auto& entry = impl_->gauges.at(id);
  entry.family->Add(entry.labels(labels)).Set(value);
}

void Metrics::observe(Histogram id, double seconds, LabelValues labels) {
  const auto& entry = impl_->histograms.at(id);
  entry.family->Add(entry.labels(labels), buckets(id)).Observe(seconds);
}

std::string Metrics::text() const {
  std::vector<prometheus::MetricFamily> families = impl_->registry.Collect();
  const auto table = instruments();
  const auto place = [&](const prometheus::MetricFamily& family) {
    return std::ranges::find(table, family.name, &Instrument::name) - table.begin();
  };
  std::ranges::sort(families, {}, place);
  for (auto& family : families) {
    std::ranges::sort(family.metric, [](const auto& a, const auto& b) {
      return std::ranges::lexicographical_compare(a.label, b.label, {},
                                                  &prometheus::ClientMetric::Label::value,
                                                  &prometheus::ClientMetric::Label::value);
    });
  }
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, families);
  return out.str() + process_text();
}

}  // namespace fairlead::metrics
