// SPDX-License-Identifier: Apache-2.0
// The latest objects, and which services a change concerns. Control thread only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "api/objects.h"
#include "api/sink.h"

namespace fairlead::store {

/// What changed since the last look.
struct Dirty {
  /// Sorted. Services that came, went or changed, or one of whose slices did.
  std::vector<api::ObjectKey> services;
  bool node = false;

  [[nodiscard]] bool empty() const { return services.empty() && !node; }
};

/// An object that equals the one before makes nothing dirty. A slice that names no service is left
/// out, with a warning.
///
/// The cost of a call is that of the objects it touches; `replace_end` also walks its kind.
class Store final : public api::Sink {
 public:
  /// Only the Node of this name is kept.
  explicit Store(std::string node_name);

  void put(api::Shared<api::Service> service) override;
  void put(api::Shared<api::EndpointSlice> slice) override;
  void put(api::Node node) override;
  // For objects that nobody else holds.
  void put(api::Service service) { put(std::make_shared<const api::Service>(std::move(service))); }
  void put(api::EndpointSlice slice) {
    put(std::make_shared<const api::EndpointSlice>(std::move(slice)));
  }
  void erase(api::Kind kind, const api::ObjectKey& key) override;
  void replace_begin(api::Kind kind) override;
  void replace_end(api::Kind kind) override;
  void flush() override;

  /// Called from flush() when there is something to take, or a kind became synced; at most once per
  /// flush. May take_dirty(), must not change the store.
  void set_on_dirty(std::function<void()> on_dirty) { on_dirty_ = std::move(on_dirty); }
  [[nodiscard]] Dirty take_dirty();

  [[nodiscard]] bool synced(api::Kind kind) const { return round_of(kind).synced; }
  /// All kinds: before that nothing may be pruned.
  [[nodiscard]] bool synced() const;

  /// Null if there is none. Valid until the object is put or erased.
  [[nodiscard]] const api::Service* service(const api::ObjectKey& key) const;
  [[nodiscard]] const api::Node* node() const { return node_ ? &*node_ : nullptr; }
  /// The service's slices, sorted by name. Valid until one of them is put or erased.
  [[nodiscard]] std::span<const api::EndpointSlice* const> slices(
      const api::ObjectKey& service) const;

  [[nodiscard]] std::size_t service_count() const { return services_.size(); }
  [[nodiscard]] std::size_t slice_count() const { return slices_.size(); }
  /// Sorted.
  [[nodiscard]] std::vector<api::ObjectKey> service_keys() const;

 private:
  /// Of a replace: what does not carry the round's number at its end was not put in it.
  struct Round {
    std::uint32_t number = 0;
    bool running = false;
    bool synced = false;
  };
  template <typename Object>
  struct Entry {
    api::Shared<Object> object;
    std::uint32_t round = 0;
  };
  template <typename Object>
  using Table = std::unordered_map<api::ObjectKey, Entry<Object>>;

  [[nodiscard]] const Round& round_of(api::Kind kind) const {
    return rounds_[static_cast<std::size_t>(kind)];
  }
  [[nodiscard]] Round& round_of(api::Kind kind) { return rounds_[static_cast<std::size_t>(kind)]; }
  void erase_service(Table<api::Service>::iterator entry);
  void erase_slice(Table<api::EndpointSlice>::iterator entry);
  void erase_node();
  void link(const api::EndpointSlice& slice);
  void unlink(const api::EndpointSlice& slice);

  std::string node_name_;
  std::array<Round, 3> rounds_;  // by api::Kind
  Table<api::Service> services_;
  Table<api::EndpointSlice> slices_;
  std::unordered_map<api::ObjectKey, std::vector<const api::EndpointSlice*>> slices_of_;
  std::optional<api::Node> node_;
  std::uint32_t node_round_ = 0;

  std::unordered_set<api::ObjectKey> dirty_;
  bool node_dirty_ = false;
  bool sync_changed_ = false;
  std::function<void()> on_dirty_;
};

}  // namespace fairlead::store
