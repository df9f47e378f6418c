// SPDX-License-Identifier: Apache-2.0
// The incremental plan equals the full rebuild, whatever the way that led there.
//
// A run is a list of steps; each step is a number that tells all about it, so that steps can be
// left out of a failing run until only those remain that matter. Settings by environment:
// FAIRLEAD_PROPERTY_SEED (default 1), FAIRLEAD_PROPERTY_STEPS (default 30000).
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <gtest/gtest.h>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/text.h"
#include "model/test_objects.h"
#include "plan/plan.h"
#include "plan/planner.h"
#include "plan/print.h"
#include "store/store.h"

namespace fairlead::plan {
namespace {

using namespace fairlead::test;

constexpr std::size_t kStepsPerRun = 150;

using Step = std::uint64_t;

class Choice {
 public:
  explicit Choice(Step step) : engine_(step) {}
  /// From 0 to n - 1.
  int below(int n) { return std::uniform_int_distribution<int>(0, n - 1)(engine_); }
  bool one_in(int n) { return below(n) == 0; }
  template <typename T>
  const T& of(const std::vector<T>& values) {
    return values[static_cast<std::size_t>(below(static_cast<int>(values.size())))];
  }

 private:
  std::mt19937_64 engine_;
};

// Few values of everything, so that things meet: names, addresses, ports, ages.
const std::vector<std::string> service_names = {"a/s1", "a/s2", "a/s3", "b/s1", "b/s2", "b/s3"};
const std::vector<std::string> slice_names = {"a/x1", "a/x2", "a/x3", "a/x4",
                                              "b/x1", "b/x2", "b/x3"};
const std::vector<std::string> address_texts = {"198.51.100.1", "198.51.100.2", "198.51.100.3",
                                                "2001:db8::1",  "2001:db8::2",  "127.0.0.1"};
const std::vector<std::string> node_names = {"", "node-1", "node-2"};
const std::vector<std::string> port_names = {"", "p", "q"};
const std::vector<net::Protocol> protocols = {net::Protocol::kTcp, net::Protocol::kTcp,
                                              net::Protocol::kUdp, net::Protocol::kSctp};

std::vector<net::IpAddress> some_addresses(Choice& choice, int at_most) {
  std::vector<net::IpAddress> out;
  for (int left = choice.below(at_most + 1); left > 0; --left) {
    out.push_back(ip(choice.of(address_texts)));
  }
  return out;
}

api::Service some_service(Choice& choice, const std::string& name) {
  api::Service out;
  out.meta.key = key(name);
  out.meta.creation_time = choice.below(3);
  if (choice.one_in(8)) {
    out.headless = true;
    return out;
  }
  if (choice.one_in(12)) {
    out.meta.labels["service.kubernetes.io/service-proxy-name"] = "x";
  }
  if (choice.one_in(12)) {
    out.type = api::ServiceType::kExternalName;
  }
  // Also the addresses that others have as external ones: in a manifest all is possible.
  out.cluster_ips = choice.one_in(3) ? some_addresses(choice, 2)
                                     : ips({choice.one_in(2) ? "10.96.0.1" : "10.96.0.2"});
  if (choice.one_in(3)) {
    out.external_ips = some_addresses(choice, 2);
  }
  if (choice.one_in(3)) {
    out.load_balancer_ips = some_addresses(choice, 2);
  }
  for (int left = choice.below(3); left >= 0; --left) {
    api::ServicePort port;
    port.name = choice.of(port_names);
    port.protocol = choice.of(protocols);
    port.port = test::port(80 + choice.below(2));
    port.node_port = test::port(choice.one_in(2) ? 0 : 80 + choice.below(3));
    out.ports.push_back(std::move(port));
  }
  if (choice.one_in(4)) {
    out.client_ip_affinity = std::chrono::seconds(choice.below(3));
  }
  if (choice.one_in(4)) {
    out.meta.annotations["fairlead.io/scheduler"] =
        choice.of(std::vector<std::string>{"sh", "mh", "wrx"});
  }
  if (choice.one_in(6)) {
    out.meta.annotations["fairlead.io/weights"] = "node-1=2,10.1.0.1=5";
  }
  if (choice.one_in(6)) {
    out.meta.annotations["fairlead.io/one-packet"] = "true";
  }
  if (choice.one_in(6)) {
    out.meta.annotations["fairlead.io/connection-thresholds"] =
        choice.of(std::vector<std::string>{"5", "5:6"});
  }
  if (choice.one_in(6)) {
    out.meta.annotations["fairlead.io/affinity-prefix"] = "24";
  }
  if (choice.one_in(6)) {
    out.meta.annotations["fairlead.io/firewall-mark"] = choice.one_in(2) ? "7" : "8";
  }
  return out;
}

api::EndpointSlice some_slice(Choice& choice, const std::string& name) {
  api::EndpointSlice out;
  out.meta.key = key(name);
  out.service_name = choice.of(std::vector<std::string>{"s1", "s2", "s3", "s4", ""});
  out.family = choice.one_in(4) ? net::Family::kIpv6 : net::Family::kIpv4;
  for (int left = choice.below(3); left >= 0; --left) {
    out.ports.push_back(
        {choice.of(port_names), choice.of(protocols), test::port(8080 + choice.below(2))});
  }
  for (int left = choice.below(5); left > 0; --left) {
    api::Endpoint endpoint;
    const std::string last = std::to_string(choice.below(4));
    endpoint.address = ip((out.family == net::Family::kIpv4 ? "10.1.0." : "2001:db8:1::") + last);
    if (choice.one_in(12)) {
      endpoint.address = ip(choice.of(address_texts));
    }
    endpoint.node_name = choice.of(node_names);
    endpoint.ready = !choice.one_in(4);
    endpoint.serving = endpoint.ready || choice.one_in(2);
    endpoint.terminating = !endpoint.ready && choice.one_in(2);
    out.endpoints.push_back(std::move(endpoint));
  }
  return out;
}

model::NodeFacts some_node(Choice& choice) {
  model::NodeFacts out;
  out.name = choice.one_in(6) ? "node-2" : "node-1";
  out.zone = choice.one_in(2) ? "z" : "";
  out.interface_addresses = some_addresses(choice, 4);
  out.node_ips = some_addresses(choice, 2);
  if (choice.one_in(2)) {
    out.pod_cidrs = cidrs({"10.1.0.0/16"});
  }
  return out;
}

std::string describe(const api::Service& service) {
  std::string out = "service " + service.meta.key.text() +
                    " created=" + std::to_string(service.meta.creation_time);
  const auto list = [&](const char* name, const std::vector<net::IpAddress>& addresses) {
    for (const net::IpAddress& address : addresses) {
      out += " " + std::string(name) + "=" + address.text();
    }
  };
  list("cluster", service.cluster_ips);
  list("external", service.external_ips);
  list("balancer", service.load_balancer_ips);
  for (const api::ServicePort& port : service.ports) {
    out += " port=" + port.name + ":" + std::to_string(number(port.port)) + "/" +
           std::string(net::text(port.protocol)) + ":" + std::to_string(number(port.node_port));
  }
  for (const auto& [name, value] : service.meta.annotations) {
    out.append(" ").append(name).append("=").append(value);
  }
  out += service.headless ? " headless" : "";
  out += service.meta.labels.empty() ? "" : " other-proxy";
  out += service.type == api::ServiceType::kExternalName ? " external-name" : "";
  out += service.client_ip_affinity
             ? " affinity=" + std::to_string(service.client_ip_affinity->count())
             : "";
  return out;
}

std::string describe(const api::EndpointSlice& slice) {
  std::string out = "slice " + slice.meta.key.text() + " of " + slice.service_name;
  for (const api::EndpointPort& port : slice.ports) {
    out += " port=" + port.name + ":" + std::to_string(number(port.port)) + "/" +
           std::string(net::text(port.protocol));
  }
  for (const api::Endpoint& endpoint : slice.endpoints) {
    out += " " + endpoint.address.text() + "@" + endpoint.node_name +
           (endpoint.ready ? "" : "!ready") + (endpoint.terminating ? "!terminating" : "");
  }
  return out;
}

std::string describe(const model::NodeFacts& facts) {
  std::string out = "node " + facts.name + (facts.pod_cidrs.empty() ? "" : " pod-cidr");
  for (const net::IpAddress& address : facts.interface_addresses) {
    out += " has=" + address.text();
  }
  for (const net::IpAddress& address : facts.node_ips) {
    out += " ip=" + address.text();
  }
  return out;
}

using Table = std::map<VirtualServerKey, VirtualServerPtr>;

/// Why the two differ; empty: they do not.
std::string difference(const Table& folded, const Table& rebuilt) {
  for (const auto& [key, server] : rebuilt) {
    const auto found = folded.find(key);
    if (found == folded.end()) {
      return key.text() + " is missing";
    }
    if (*found->second != *server) {
      return "should be\n" + print_json({{server}}, {}) + "but is\n" +
             print_json({{found->second}}, {});
    }
  }
  for (const auto& [key, server] : folded) {
    if (!rebuilt.contains(key)) {
      return key.text() + " should be gone";
    }
  }
  return {};
}

class Machine {
 public:
  explicit Machine(model::ModelOptions options)
      : options_(std::move(options)), planner_(store_, options_) {}

  /// What went wrong, or nothing.
  std::string run(Step step, std::string* log) {
    Choice choice(step);
    const auto note = [&](const std::string& what) {
      if (log != nullptr) {
        *log += what + "\n";
      }
    };
    switch (choice.below(20)) {
      case 0:
      case 1: {
        const std::string& name = choice.of(service_names);
        note("erase service " + name);
        store_.erase(api::Kind::kService, key(name));
        break;
      }
      case 2:
      case 3: {
        const std::string& name = choice.of(slice_names);
        note("erase slice " + name);
        store_.erase(api::Kind::kEndpointSlice, key(name));
        break;
      }
      case 4: {
        note("replace services:");
        store_.replace_begin(api::Kind::kService);
        for (const std::string& name : service_names) {
          if (const api::Service* old = store_.service(key(name)); old != nullptr) {
            if (choice.one_in(2)) {
              note("  same " + name);
              store_.put(api::Service(*old));
            }
          } else if (choice.one_in(3)) {
            const api::Service service = some_service(choice, name);
            note("  " + describe(service));
            store_.put(service);
          }
        }
        store_.replace_end(api::Kind::kService);
        break;
      }
      case 5: {
        note("replace slices:");
        store_.replace_begin(api::Kind::kEndpointSlice);
        for (const std::string& name : slice_names) {
          if (choice.one_in(2)) {
            const api::EndpointSlice slice = some_slice(choice, name);
            note("  " + describe(slice));
            store_.put(slice);
          }
        }
        store_.replace_end(api::Kind::kEndpointSlice);
        break;
      }
      case 6:
      case 7: {
        facts_ = some_node(choice);
        note(describe(facts_));
        if (std::string wrong = fold(planner_.set_node(facts_)); !wrong.empty()) {
          return wrong;
        }
        break;
      }
      case 8:
      case 9:
      case 10:
      case 11:
      case 12: {
        const api::EndpointSlice slice = some_slice(choice, choice.of(slice_names));
        note(describe(slice));
        store_.put(slice);
        break;
      }
      default: {
        const api::Service service = some_service(choice, choice.of(service_names));
        note(describe(service));
        store_.put(service);
        break;
      }
    }
    if (choice.one_in(4)) {
      return {};  // one update for several changes
    }
    note("update");
    if (std::string wrong = fold(planner_.update(store_.take_dirty().services)); !wrong.empty()) {
      return wrong;
    }
    return compare();
  }

 private:
  std::string fold(const Delta& delta) {
    std::set<VirtualServerKey> seen;
    for (const VirtualServerPtr& server : delta.put) {
      if (!seen.insert(server->key).second) {
        return server->key.text() + " is twice in a delta";
      }
      if (std::string wrong = malformed(*server); !wrong.empty()) {
        return server->key.text() + ": " + wrong;
      }
      auto& place = folded_[server->key];
      if (place != nullptr && *place == *server) {
        return server->key.text() + " is put without a change";
      }
      place = server;
    }
    for (const VirtualServerKey& key : delta.removed) {
      if (!seen.insert(key).second) {
        return key.text() + " is twice in a delta";
      }
      if (folded_.erase(key) == 0) {
        return key.text() + " is removed but was not there";
      }
    }
    return {};
  }

  static std::string malformed(const VirtualServer& server) {
    for (const ClassPolicy& policy : server.classes) {
      if (policy.servers == nullptr) {
        return "no real servers";
      }
      for (std::size_t i = 1; i < policy.servers->size(); ++i) {
        if (!((*policy.servers)[i - 1].socket() < (*policy.servers)[i].socket())) {
          return "real servers are not sorted or not unique";
        }
      }
    }
    return server.hairpin == nullptr ? "no hairpin list" : "";
  }

  std::string compare() {
    Planner fresh(store_, options_);
    (void)fresh.update(
        store_.service_keys());  // with other facts first: the order is not to matter
    (void)fresh.set_node(facts_);
    const auto as_table = [](const Delta& delta) {
      Table out;
      for (const VirtualServerPtr& server : delta.put) {
        out.emplace(server->key, server);
      }
      return out;
    };
    const Table rebuilt = as_table(fresh.full());
    if (rebuilt.size() != fresh.full().put.size()) {
      return "a key is twice in the full plan";
    }
    if (std::string wrong = difference(folded_, rebuilt); !wrong.empty()) {
      return "folded deltas: " + wrong;
    }
    if (std::string wrong = difference(as_table(planner_.full()), rebuilt); !wrong.empty()) {
      return "full plan: " + wrong;
    }
    if (planner_.problems() != fresh.problems()) {
      return "the problems differ";
    }
    std::vector<model::Problem> by_service;
    for (const api::ObjectKey& key : store_.service_keys()) {
      for (model::Problem& problem : planner_.problems(key)) {
        by_service.push_back(std::move(problem));
      }
      const auto current = planner_.problems(key);
      if (current.empty() ? known_problems_.contains(key) : known_problems_[key] != current) {
        changed_.insert(key);
      }
    }
    std::ranges::sort(by_service);
    if (by_service != planner_.problems()) {
      return "problems of services that are not there";
    }
    const auto told = planner_.take_changed_problems();
    for (const api::ObjectKey& key : changed_) {
      if (!std::ranges::binary_search(told, key)) {
        return "the changed problems of " + key.text() + " are not told";
      }
    }
    changed_.clear();
    known_problems_.clear();
    for (const api::ObjectKey& key : store_.service_keys()) {
      if (auto current = planner_.problems(key); !current.empty()) {
        known_problems_[key] = std::move(current);
      }
    }
    return {};
  }

  model::ModelOptions options_;
  model::NodeFacts facts_;
  store::Store store_{"node-1"};
  Planner planner_;
  Table folded_;
  std::map<api::ObjectKey, std::vector<model::Problem>> known_problems_;
  std::set<api::ObjectKey> changed_;
};

model::ModelOptions some_options(Choice& choice) {
  model::ModelOptions options;
  options.ipv6 = !choice.one_in(4);
  options.masquerade_all = choice.one_in(4);
  options.local_detection =
      choice.one_in(2) ? model::LocalDetection::kNodeCidr : model::LocalDetection::kClusterCidr;
  options.node_port_addresses.primary = choice.one_in(3);
  if (choice.one_in(3)) {
    options.node_port_addresses.cidrs = cidrs({"198.51.100.0/31"});
  }
  return options;
}

std::string run(std::uint64_t seed, const std::vector<Step>& steps, std::string* log = nullptr) {
  Choice choice(seed);
  Machine machine(some_options(choice));
  for (const Step step : steps) {
    if (std::string wrong = machine.run(step, log); !wrong.empty()) {
      return wrong;
    }
  }
  return {};
}

/// Leaves out ever smaller pieces as long as the run still fails.
std::vector<Step> shrink(std::uint64_t seed, std::vector<Step> steps) {
  for (std::size_t piece = steps.size() / 2; piece > 0; piece /= 2) {
    for (std::size_t at = 0; at + piece <= steps.size();) {
      std::vector<Step> fewer = steps;
      const auto begin = fewer.begin() + static_cast<std::ptrdiff_t>(at);
      fewer.erase(begin, begin + static_cast<std::ptrdiff_t>(piece));
      if (run(seed, fewer).empty()) {
        at += piece;
      } else {
        steps = std::move(fewer);
      }
    }
  }
  return steps;
}

std::uint64_t setting(const char* name, std::uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : parse_number(value, UINT64_MAX).value_or(otherwise);
}

TEST(PlanProperty, IncrementsEqualTheFullRebuild) {
  log::set_level(log::Level::kError);  // slices without a service are warned of
  const std::uint64_t first = setting("FAIRLEAD_PROPERTY_SEED", 1);
  const std::uint64_t runs = setting("FAIRLEAD_PROPERTY_STEPS", 30000) / kStepsPerRun;
  for (std::uint64_t seed = first; seed < first + runs; ++seed) {
    std::mt19937_64 engine(seed);
    std::vector<Step> steps(kStepsPerRun);
    std::ranges::generate(steps, engine);
    if (run(seed, steps).empty()) {
      continue;
    }
    const std::vector<Step> fewer = shrink(seed, steps);
    std::string log;
    const std::string wrong = run(seed, fewer, &log);
    FAIL() << "FAIRLEAD_PROPERTY_SEED=" << seed << ", shrunk to " << fewer.size() << " steps:\n"
           << log << "=> " << wrong;
  }
}

}  // namespace
}  // namespace fairlead::plan
