// SPDX-License-Identifier: Apache-2.0
#include "manifest/manifest_set.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <variant>

namespace fairlead::manifest {
namespace {

enum class ObjectKind : std::size_t { kService, kEndpointSlice, kNode, kPod, kEndpoints };
constexpr std::array<std::string_view, 5> kNames = {"Service", "EndpointSlice", "Node", "Pod",
                                                    "Endpoints"};
static_assert(std::variant_size_v<Object> == kNames.size());
template <std::size_t kIndex, typename T>
constexpr bool kIsAt = std::is_same_v<std::variant_alternative_t<kIndex, Object>, api::Shared<T>>;
static_assert(kIsAt<0, api::Service> && kIsAt<1, api::EndpointSlice> && kIsAt<2, api::Node> &&
              kIsAt<3, api::Pod> && kIsAt<4, api::Endpoints>);

/// By content. An object that was read again from an unchanged part of a file is no change.
bool is_equal(const Object& a, const Object& b) {
  return a.index() == b.index() && std::visit(
                                       [&](const auto& value) {
                                         const auto& other =
                                             std::get<std::decay_t<decltype(value)>>(b);
                                         return value == other || *value == *other;
                                       },
                                       a);
}

}  // namespace

void ManifestSet::put_file(const std::string& path, ParsedFile parsed) {
  File& file = files_[path];
  file.errors = std::move(parsed.errors);
  if (file.errors.empty()) {
    replace_objects(files_.find(path)->first, file, std::move(parsed.objects));
  }
}

void ManifestSet::fail_file(const std::string& path, std::string what) {
  files_[path].errors = {Problem{path, {}, "", "", std::move(what)}};
}

void ManifestSet::erase_file(const std::string& path) {
  const auto found = files_.find(path);
  if (found != files_.end()) {
    replace_objects(found->first, found->second, {});
    files_.erase(found);
  }
}

ManifestSet::Changes ManifestSet::settle() {
  Changes changes;
  const auto before = std::exchange(before_, {});
  for (const auto& [identity, old] : before) {
    const Claim* claim = in_force(identity);
    if (claim == nullptr) {
      if (old) {
        withdraw(identity, changes);
      }
    } else if (const Object& now = object_of(*claim).object; !old || !is_equal(*old, now)) {
      apply(now, changes);
    }
  }
  for (api::Shared<api::Service>& service : allocator_.settle()) {
    deriver_.put(service);
    changes.services.push_back(std::move(service));
  }
  SliceDeriver::Changes derived = deriver_.settle();
  std::ranges::move(derived.put, std::back_inserter(changes.slices));
  for (api::ObjectKey& key : derived.erased) {
    changes.erased.emplace_back(api::Kind::kEndpointSlice, std::move(key));
  }
  return changes;
}

std::vector<Problem> ManifestSet::errors() const {
  std::vector<Problem> all;
  for (const auto& [path, file] : files_) {
    all.insert(all.end(), file.errors.begin(), file.errors.end());
  }
  for (const Identity& identity : repeated_) {
    const std::vector<Claim>& claims = claims_.at(identity);
    const Problem first{*claims.front().path, object_of(claims.front()).mark, "", "", ""};
    for (std::size_t i = 1; i < claims.size(); ++i) {
      all.push_back({*claims[i].path, object_of(claims[i]).mark, describe(identity), "",
                     "is also in " + first.text() + ", and that one is used; remove one of them"});
    }
  }
  for (const AllocationError& error : allocator_.errors()) {
    const Identity identity{static_cast<std::size_t>(ObjectKind::kService), error.service};
    if (const Claim* claim = in_force(identity)) {
      all.push_back(
          {*claim->path, object_of(*claim).mark, describe(identity), error.field, error.problem});
    }
  }
  std::ranges::sort(all, {}, [](const Problem& problem) {
    return std::tie(problem.file, problem.mark, problem.object, problem.field, problem.what);
  });
  return all;
}

ManifestSet::Identity ManifestSet::identity_of(const Object& object) {
  return {object.index(), std::visit([](const auto& value) { return value->meta.key; }, object)};
}

std::string ManifestSet::describe(const Identity& identity) {
  return std::string(kNames.at(identity.kind)) + " " + identity.key.text();
}

const ParsedObject& ManifestSet::object_of(const Claim& claim) const {
  return files_.at(*claim.path).objects[claim.index];
}

const ManifestSet::Claim* ManifestSet::in_force(const Identity& identity) const {
  const auto found = claims_.find(identity);
  return found == claims_.end() ? nullptr : &found->second.front();
}

void ManifestSet::touch(const Identity& identity) {
  if (before_.contains(identity)) {
    return;
  }
  const Claim* claim = in_force(identity);
  before_.emplace(
      identity, claim == nullptr ? std::nullopt : std::optional<Object>(object_of(*claim).object));
}

void ManifestSet::replace_objects(const std::string& path, File& file,
                                  std::vector<ParsedObject> objects) {
  for (const ParsedObject& object : file.objects) {
    touch(identity_of(object.object));
  }
  for (const ParsedObject& object : file.objects) {
    const Identity identity = identity_of(object.object);
    const auto found = claims_.find(identity);
    if (found == claims_.end()) {
      continue;  // given twice in this file
    }
    std::erase_if(found->second, [&](const Claim& claim) { return claim.path == &path; });
    if (found->second.size() < 2) {
      repeated_.erase(identity);
    }
    if (found->second.empty()) {
      claims_.erase(found);
    }
  }
  for (const ParsedObject& object : objects) {
    touch(identity_of(object.object));
  }
  file.objects = std::move(objects);
  for (std::size_t i = 0; i < file.objects.size(); ++i) {
    const Identity identity = identity_of(file.objects[i].object);
    std::vector<Claim>& claims = claims_[identity];
    const auto place = std::ranges::upper_bound(
        claims, std::tie(path, i), {},
        [](const Claim& claim) { return std::tie(*claim.path, claim.index); });
    claims.insert(place, Claim{&path, i});
    if (claims.size() > 1) {
      repeated_.insert(identity);
    }
  }
}

void ManifestSet::apply(const Object& object, Changes& changes) {
  if (const auto* service = std::get_if<api::Shared<api::Service>>(&object)) {
    allocator_.put(*service);
  } else if (const auto* slice = std::get_if<api::Shared<api::EndpointSlice>>(&object)) {
    changes.slices.push_back(*slice);
  } else if (const auto* node = std::get_if<api::Shared<api::Node>>(&object)) {
    deriver_.put(*node);
    changes.nodes.push_back(*node);
  } else if (const auto* pod = std::get_if<api::Shared<api::Pod>>(&object)) {
    deriver_.put(*pod);
  } else if (const auto* endpoints = std::get_if<api::Shared<api::Endpoints>>(&object)) {
    deriver_.put(*endpoints);
  }
}

void ManifestSet::withdraw(const Identity& identity, Changes& changes) {
  switch (static_cast<ObjectKind>(identity.kind)) {
    case ObjectKind::kService:
      allocator_.erase(identity.key);
      deriver_.erase_service(identity.key);
      changes.erased.emplace_back(api::Kind::kService, identity.key);
      break;
    case ObjectKind::kEndpointSlice:
      changes.erased.emplace_back(api::Kind::kEndpointSlice, identity.key);
      break;
    case ObjectKind::kNode:
      deriver_.erase_node(identity.key.name);
      changes.erased.emplace_back(api::Kind::kNode, identity.key);
      break;
    case ObjectKind::kPod:
      deriver_.erase_pod(identity.key);
      break;
    case ObjectKind::kEndpoints:
      deriver_.erase_endpoints(identity.key);
      break;
  }
}

}  // namespace fairlead::manifest
