// SPDX-License-Identifier: Apache-2.0
// What needs no kernel: JSON -> objects -> model -> plan, at three sizes, 10 endpoints a service.
#include <benchmark/benchmark.h>
#include <string>
#include <vector>

#include "api/decode.h"
#include "cluster.h"
#include "plan/planner.h"
#include "store/store.h"

namespace fairlead::bench {
namespace {

constexpr std::size_t kEndpoints = 10;
constexpr std::size_t kPage = 500;

// As the API server would send them: pages of 500.
std::vector<std::string> pages(const std::string& kind, std::size_t services) {
  std::vector<std::string> result;
  for (std::size_t first = 0; first < services; first += kPage) {
    std::string items;
    for (std::size_t s = first; s < std::min(services, first + kPage); ++s) {
      items += items.empty() ? "" : ",";
      items += kind == "ServiceList" ? service_json(s) : slice_json(s, kEndpoints);
    }
    result.push_back(page(kind, items));
  }
  return result;
}

struct Input {
  std::vector<std::string> services;
  std::vector<std::string> slices;
  explicit Input(std::size_t n)
      : services(pages("ServiceList", n)), slices(pages("EndpointSliceList", n)) {}
};

void decode_into(const Input& input, store::Store& store) {
  api::Decoder decoder;
  const auto put = [&](tl::expected<api::Decoded, api::DecodeError> decoded) {
    if (auto* service = std::get_if<api::Service>(&decoded->object)) {
      store.put(std::move(*service));
    } else if (auto* slice = std::get_if<api::EndpointSlice>(&decoded->object)) {
      store.put(std::move(*slice));
    }
  };
  store.replace_begin(api::Kind::kService);
  for (const std::string& text : input.services) {
    benchmark::DoNotOptimize(decoder.decode_list(text, put));
  }
  store.replace_end(api::Kind::kService);
  store.replace_begin(api::Kind::kEndpointSlice);
  for (const std::string& text : input.slices) {
    benchmark::DoNotOptimize(decoder.decode_list(text, put));
  }
  store.replace_end(api::Kind::kEndpointSlice);
}

void decode(benchmark::State& state) {
  const Input input(static_cast<std::size_t>(state.range(0)));
  std::size_t bytes = 0;
  for (const auto* list : {&input.services, &input.slices}) {
    for (const std::string& text : *list) {
      bytes += text.size();
    }
  }
  for (auto _ : state) {
    store::Store store("node-1");
    decode_into(input, store);
    benchmark::DoNotOptimize(store.service_count());
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(bytes) * state.iterations());
}

void model_and_plan(benchmark::State& state) {
  store::Store store("node-1");
  decode_into(Input(static_cast<std::size_t>(state.range(0))), store);
  const auto keys = store.service_keys();
  for (auto _ : state) {
    plan::Planner planner(store, {});
    benchmark::DoNotOptimize(planner.update(keys));
  }
}

// The budget of the project: all of it within 1.0 s of CPU at 10,000.
void decode_model_and_plan(benchmark::State& state) {
  const Input input(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) {
    store::Store store("node-1");
    decode_into(input, store);
    plan::Planner planner(store, {});
    benchmark::DoNotOptimize(planner.update(store.service_keys()));
  }
}

void one_endpoint_changes(benchmark::State& state) {
  const auto services = static_cast<std::size_t>(state.range(0));
  store::Store store("node-1");
  decode_into(Input(services), store);
  plan::Planner planner(store, {});
  benchmark::DoNotOptimize(planner.update(store.service_keys()));
  benchmark::DoNotOptimize(store.take_dirty());
  std::size_t endpoints = kEndpoints;
  for (auto _ : state) {
    endpoints = endpoints == kEndpoints ? kEndpoints + 1 : kEndpoints;
    store.put(make_slice(services / 2, endpoints));
    benchmark::DoNotOptimize(planner.update(store.take_dirty().services));
  }
}

BENCHMARK(decode)->Arg(1000)->Arg(10000)->Unit(benchmark::kMillisecond);
BENCHMARK(model_and_plan)->Arg(1000)->Arg(10000)->Unit(benchmark::kMillisecond);
BENCHMARK(decode_model_and_plan)->Arg(1000)->Arg(10000)->Unit(benchmark::kMillisecond);
BENCHMARK(one_endpoint_changes)->Arg(100)->Arg(1000)->Arg(10000)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace fairlead::bench

BENCHMARK_MAIN();
