// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "api/objects.h"

namespace fairlead::api {

/// The kinds that a source delivers downstream. Pods and Endpoints end in the manifest source.
enum class Kind { kService, kEndpointSlice, kNode };
[[nodiscard]] constexpr std::string_view text(Kind kind) {
  switch (kind) {
    case Kind::kService:
      return "Service";
    case Kind::kEndpointSlice:
      return "EndpointSlice";
    case Kind::kNode:
      return "Node";
  }
  return "?";
}

/// Where sources deliver whole objects. All calls come from the control thread.
///
/// A (re)list of a kind is `replace_begin`, a `put` per object, `replace_end`: what was not put in
/// between is gone. An equal object is no change. A kind counts as synced after its first
/// `replace_end`.
class Sink {
 public:
  Sink() = default;
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;
  virtual ~Sink() = default;

  // Never null. Shared, for services and slices are what a cluster's objects weigh, and the
  // manifest source must hold on to its own.
  virtual void put(Shared<Service> service) = 0;
  virtual void put(Shared<EndpointSlice> slice) = 0;
  virtual void put(Node node) = 0;
  virtual void erase(Kind kind, const ObjectKey& key) = 0;
  virtual void replace_begin(Kind kind) = 0;
  virtual void replace_end(Kind kind) = 0;
  /// A batch of calls is over: now is the time to look for dirty keys.
  virtual void flush() = 0;
};

}  // namespace fairlead::api
