// SPDX-License-Identifier: Apache-2.0
#include "store/store.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace fairlead::store {
namespace {}  // namespace

Store::Store(std::string node_name) : node_name_(std::move(node_name)) {}

void Store::put(api::Shared<api::Service> service) {
  const auto [entry, is_new] = services_.try_emplace(service->meta.key);
  entry->second.round = round_of(api::Kind::kService).number;
  if (is_new || *entry->second.object != *service) {
    entry->second.object = std::move(service);
    dirty_.insert(entry->first);
  }
}

void Store::put(api::Shared<api::EndpointSlice> slice) {
  if (slice->service_name.empty()) {
    log::warn("slice without label kubernetes.io/service-name is ignored",
              {{"slice", slice->meta.key.text()}});
    erase(api::Kind::kEndpointSlice, slice->meta.key);
    return;
  }
  const auto [entry, is_new] = slices_.try_emplace(slice->meta.key);
  api::Shared<api::EndpointSlice>& object = entry->second.object;
  entry->second.round = round_of(api::Kind::kEndpointSlice).number;
  if (!is_new) {
    if (*object == *slice) {
      return;
    }
    dirty_.insert(object->service());
    unlink(*object);
  }
  object = std::move(slice);
  link(*object);
  dirty_.insert(object->service());
}

void Store::put(api::Node node) {
  if (node.meta.key.name != node_name_) {
    return;
  }
  node_round_ = round_of(api::Kind::kNode).number;
  if (node_ != node) {
    node_ = std::move(node);
    node_dirty_ = true;
  }
}

void Store::erase(api::Kind kind, const api::ObjectKey& key) {
  switch (kind) {
    case api::Kind::kService:
      if (const auto entry = services_.find(key); entry != services_.end()) {
        erase_service(entry);
      }
      break;
    case api::Kind::kEndpointSlice:
      if (const auto entry = slices_.find(key); entry != slices_.end()) {
        erase_slice(entry);
      }
      break;
    case api::Kind::kNode:
      if (key.name == node_name_) {
        erase_node();
      }
      break;
  }
}

void Store::replace_begin(api::Kind kind) {
  // One that was broken off is simply begun again.
  Round& round = round_of(kind);
  ++round.number;
  round.running = true;
}

void Store::replace_end(api::Kind kind) {
  Round& round = round_of(kind);
  FAIRLEAD_CHECK(round.running);
  round.running = false;
  if (!round.synced) {
    round.synced = true;
    sync_changed_ = true;
  }
  switch (kind) {
    case api::Kind::kService:
      for (auto entry = services_.begin(); entry != services_.end();) {
        const auto here = entry++;
        if (here->second.round != round.number) {
          erase_service(here);
        }
      }
      break;
    case api::Kind::kEndpointSlice:
      for (auto entry = slices_.begin(); entry != slices_.end();) {
        const auto here = entry++;
        if (here->second.round != round.number) {
          erase_slice(here);
        }
      }
      break;
    case api::Kind::kNode:
      if (node_round_ != round.number) {
        erase_node();
      }
      break;
  }
}

void Store::flush() {
  if (dirty_.empty() && !node_dirty_ && !sync_changed_) {
    return;
  }
  sync_changed_ = false;
  if (on_dirty_) {
    on_dirty_();
  }
}

Dirty Store::take_dirty() {
  Dirty dirty;
  dirty.services.reserve(dirty_.size());
  while (!dirty_.empty()) {
    dirty.services.push_back(std::move(dirty_.extract(dirty_.begin()).value()));
  }
  std::ranges::sort(dirty.services);
  dirty.node = std::exchange(node_dirty_, false);
  return dirty;
}

bool Store::synced() const { return std::ranges::all_of(rounds_, &Round::synced); }

const api::Service* Store::service(const api::ObjectKey& key) const {
  const auto entry = services_.find(key);
  return entry == services_.end() ? nullptr : entry->second.object.get();
}

std::span<const api::EndpointSlice* const> Store::slices(const api::ObjectKey& service) const {
  const auto found = slices_of_.find(service);
  if (found == slices_of_.end()) {
    return {};
  }
  return found->second;
}

std::vector<api::ObjectKey> Store::service_keys() const {
  std::vector<api::ObjectKey> keys;
  keys.reserve(services_.size());
  for (const auto& [key, entry] : services_) {
    keys.push_back(key);
  }
  std::ranges::sort(keys);
  return keys;
}

void Store::erase_service(Table<api::Service>::iterator entry) {
  dirty_.insert(entry->first);
  services_.erase(entry);
}

void Store::erase_slice(Table<api::EndpointSlice>::iterator entry) {
  dirty_.insert(entry->second.object->service());
  unlink(*entry->second.object);
  slices_.erase(entry);
}

void Store::erase_node() {
  if (node_) {
    node_.reset();
    node_dirty_ = true;
  }
}

void Store::link(const api::EndpointSlice& slice) {
  auto& list = slices_of_[slice.service()];
  const auto place = std::ranges::upper_bound(
      list, slice.meta.key.name, {},
      [](const api::EndpointSlice* other) -> const std::string& { return other->meta.key.name; });
  list.insert(place, &slice);
}

void Store::unlink(const api::EndpointSlice& slice) {
  const auto found = slices_of_.find(slice.service());
  FAIRLEAD_CHECK(found != slices_of_.end());
  std::erase(found->second, &slice);
  if (found->second.empty()) {
    slices_of_.erase(found);
  }
}

}  // namespace fairlead::store
