// SPDX-License-Identifier: Apache-2.0
// A store and a planner joined as the control loop joins them, for tests.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/test_objects.h"
#include "plan/plan.h"
#include "plan/planner.h"
#include "store/store.h"

namespace fairlead::test {

/// `10.96.0.1:80/TCP cluster-ip: 10.1.0.1:8080 10.1.0.2:8080`
inline std::string line(const plan::VirtualServer& server) {
  std::string out = server.key.text() + " " + std::string(text(server.kind)) + ":";
  for (const plan::RealServer& real : *server.policy(plan::ClientClass::kPod).servers) {
    out += " " + real.socket().text();
    if (real.is_local) {
      out += "(local)";
    }
    if (real.weight != 1) {
      out += "*" + std::to_string(real.weight);
    }
  }
  return out;
}

class Rig {
 public:
  explicit Rig(model::NodeFacts facts = {}, model::ModelOptions options = {})
      : planner_(store_, std::move(options)) {
    facts.name = "node-1";
    (void)planner_.set_node(std::move(facts));  // an empty plan does not change
  }
  Rig(const Rig&) = delete;
  Rig& operator=(const Rig&) = delete;
  ~Rig() = default;

  template <typename... Objects>
  plan::Delta put(Objects&&... objects) {
    (put_one(std::forward<Objects>(objects)), ...);
    return update();
  }
  plan::Delta erase(api::Kind kind, std::string_view name) {
    store_.erase(kind, key(name));
    return update();
  }
  plan::Delta update() { return planner_.update(store_.take_dirty().services); }

  plan::Planner& planner() { return planner_; }
  store::Store& store() { return store_; }

  [[nodiscard]] std::vector<std::string> lines() const {
    const plan::Delta full = planner_.full();
    std::vector<std::string> out;
    out.reserve(full.put.size());
    for (const plan::VirtualServerPtr& server : full.put) {
      out.push_back(line(*server));
    }
    return out;
  }
  [[nodiscard]] plan::VirtualServerPtr find(std::string_view socket,
                                            net::Protocol protocol = net::Protocol::kTcp) const {
    const auto parsed = net::SocketAddress::parse(socket).value();
    return planner_.find({parsed.address, parsed.port, protocol});
  }
  [[nodiscard]] std::vector<std::string> problems() const {
    const std::vector<model::Problem> problems = planner_.problems();
    std::vector<std::string> out;
    out.reserve(problems.size());
    for (const model::Problem& problem : problems) {
      out.push_back(problem.text());
    }
    return out;
  }

 private:
  void put_one(api::Service service) { store_.put(std::move(service)); }
  void put_one(api::EndpointSlice slice) { store_.put(std::move(slice)); }

  store::Store store_{"node-1"};
  plan::Planner planner_;
};

/// `put KEY`, `remove KEY`.
inline std::vector<std::string> changes(const plan::Delta& delta) {
  std::vector<std::string> out;
  out.reserve(delta.put.size() + delta.removed.size());
  for (const plan::VirtualServerPtr& server : delta.put) {
    out.push_back("put " + line(*server));
  }
  for (const plan::VirtualServerKey& removed : delta.removed) {
    out.push_back("remove " + removed.text());
  }
  return out;
}

}  // namespace fairlead::test
