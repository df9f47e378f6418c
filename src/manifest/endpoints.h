// SPDX-License-Identifier: Apache-2.0
// EndpointSlices from Pods and Services, by the rules of the cluster's own controllers. Pure.
#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "api/objects.h"

namespace fairlead::manifest {

/// Endpoints that one derived slice holds at most.
inline constexpr std::size_t kMaxEndpointsPerSlice = 100;

using NodesByName = std::unordered_map<std::string, api::Shared<api::Node>>;

/// Slices for a service from the pods that its selector matches, in the order given. One slice per
/// family of the service and per set of resolved ports (pods may have different numbers for one
/// port name), split at kMaxEndpointsPerSlice. `nodes` gives zones, and the addresses of
/// host-network pods that have none of their own; nodes that it lacks are no error.
///
/// Names are a function of service, family, ports and position, and hold a `~`, which no real
/// slice's name can.
[[nodiscard]] std::vector<api::EndpointSlice> slices_for(const api::Service& service,
                                                         std::span<const api::Pod* const> pods,
                                                         const NodesByName& nodes);

/// Slices that mirror a legacy Endpoints object of a service without selector.
[[nodiscard]] std::vector<api::EndpointSlice> mirrored_slices(const api::Endpoints& endpoints);

/// Keeps derived slices up to date: a change recomputes only the services that it touches.
class SliceDeriver {
 public:
  /// With allocated families: they decide which slices there are.
  void put(api::Shared<api::Service> service);
  void put(api::Shared<api::Pod> pod);
  void put(api::Shared<api::Endpoints> endpoints);
  void put(api::Shared<api::Node> node);
  void erase_service(const api::ObjectKey& key);
  void erase_pod(const api::ObjectKey& key);
  void erase_endpoints(const api::ObjectKey& key);
  void erase_node(const std::string& name);

  struct Changes {
    std::vector<api::Shared<api::EndpointSlice>> put;
    std::vector<api::ObjectKey> erased;
  };
  /// What differs from the last call's result.
  [[nodiscard]] Changes settle();

 private:
  using Label = std::pair<std::string, std::string>;
  struct Namespace {
    std::map<std::string, api::Shared<api::Pod>> pods;
    std::map<Label, std::set<std::string>> pods_by_label;
    /// Services by the first label of their selector: a pod looks up each of its own labels.
    std::map<Label, std::set<std::string>> services_by_label;
  };

  void touch_services_of(const std::string& ns, const api::Labels& labels);
  void touch_services_on(const std::string& node_name);
  void index_service(const api::Service& service, bool add);
  void index_pod(const api::Pod& pod, bool add);
  [[nodiscard]] std::vector<api::EndpointSlice> compute(const api::ObjectKey& key) const;
  [[nodiscard]] std::vector<const api::Pod*> matching_pods(const api::Service& service) const;

  std::unordered_map<std::string, Namespace> namespaces_;
  std::map<api::ObjectKey, api::Shared<api::Service>> services_;
  std::map<api::ObjectKey, api::Shared<api::Endpoints>> endpoints_;
  NodesByName nodes_;
  /// By service; as delivered.
  std::map<api::ObjectKey, std::vector<api::Shared<api::EndpointSlice>>> slices_;
  std::set<api::ObjectKey> touched_;  // services
};

}  // namespace fairlead::manifest
