// SPDX-License-Identifier: Apache-2.0
// Keeps the plan up to date with the store, service by service. No I/O, no clock. Control thread.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "api/objects.h"
#include "model/node.h"
#include "model/service_model.h"
#include "plan/plan.h"
#include "store/store.h"

namespace fairlead::plan {

/// Folding all deltas, in order, gives `full()`; `full()` depends only on what is in the store and
/// on the node, not on the way that led there.
///
/// A virtual server that two service ports claim belongs to one of them: the kind of address with
/// the better right first (model::precedence), then the service created first (one whose time is
/// unknown is the youngest), then by name. The other has a Problem that names both, and takes over
/// in the delta in which the owner leaves.
class Planner {
 public:
  /// `store` must outlive the planner; it is only read, and only within update() and set_node().
  /// Starts with an empty plan: call set_node() and update() with all keys.
  Planner(const store::Store& store, model::ModelOptions options);
  Planner(const Planner&) = delete;
  Planner& operator=(const Planner&) = delete;
  ~Planner() = default;

  /// Recomputes the services that depend on what differs from the facts so far.
  [[nodiscard]] Delta set_node(model::NodeFacts facts);
  /// Recomputes these services from the store's objects of now. A key of no service is fine.
  [[nodiscard]] Delta update(std::span<const api::ObjectKey> services);

  /// The whole plan, as a change of an empty one.
  [[nodiscard]] Delta full() const;
  /// Null if there is none.
  [[nodiscard]] VirtualServerPtr find(const VirtualServerKey& key) const;
  [[nodiscard]] std::size_t size() const { return owners_.size(); }
  [[nodiscard]] const model::NodeContext& node() const { return node_; }

  /// Sorted.
  [[nodiscard]] std::vector<model::Problem> problems() const;
  [[nodiscard]] std::vector<model::Problem> problems(const api::ObjectKey& service) const;
  /// Services whose problems may differ from those at the last call; sorted.
  [[nodiscard]] std::vector<api::ObjectKey> take_changed_problems();

 private:
  struct ServiceState {
    const api::ObjectKey* key = nullptr;  // in services_
    std::int64_t created = 0;
    /// What the service asks for, by key; it may not own all of it.
    std::vector<VirtualServerPtr> claims;
    std::vector<model::Problem> problems;  // but for conflicts, which follow from the claims
    bool uses_node_addresses = false;
  };
  struct Claim {
    VirtualServerPtr server;
    ServiceState* service = nullptr;
  };
  /// The servers as they were when the current update first touched them.
  using Before = std::unordered_map<VirtualServerKey, VirtualServerPtr>;

  [[nodiscard]] static std::weak_ordering rank(const Claim& a, const Claim& b);
  void recompute(const api::ObjectKey& key, Before& before);
  [[nodiscard]] std::vector<VirtualServerPtr> servers_of(
      const api::ObjectKey& key, const model::ServiceModel& model, const ServiceState& old,
      std::vector<model::Problem>& problems) const;
  void set_claims(ServiceState& service, std::int64_t created, std::vector<VirtualServerPtr> claims,
                  Before& before);
  void claim(const VirtualServerPtr& server, ServiceState& service, Before& before);
  void withdraw(const VirtualServerKey& key, ServiceState& service, Before& before);
  void touch(const VirtualServerKey& key, Before& before) const;
  void note_conflict(const Claim& owner, const std::vector<Claim>& waiting);
  [[nodiscard]] Delta since(const Before& before) const;
  void append_problems(const ServiceState& service, std::vector<model::Problem>& out) const;

  const store::Store& store_;
  model::NodeContext node_;
  std::unordered_map<api::ObjectKey, ServiceState> services_;  // those with a claim or a problem
  std::unordered_map<VirtualServerKey, Claim> owners_;
  std::unordered_map<VirtualServerKey, std::vector<Claim>> waiting_;  // who claims in vain
  std::unordered_set<api::ObjectKey> changed_problems_;
};

}  // namespace fairlead::plan
