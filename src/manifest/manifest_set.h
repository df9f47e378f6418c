// SPDX-License-Identifier: Apache-2.0
// From parsed files to what a source delivers: which object of which file is in force, its
// allocated addresses, and the slices that follow. Pure.
#pragma once

#include <compare>
#include <cstddef>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "api/objects.h"
#include "api/sink.h"
#include "manifest/allocator.h"
#include "manifest/endpoints.h"
#include "manifest/parse.h"

namespace fairlead::manifest {

class ManifestSet {
 public:
  explicit ManifestSet(AllocatorOptions options, Memory memory = {})
      : allocator_(std::move(options), std::move(memory)) {}

  /// The file's new content. If it has errors, the objects it gave before stay, all of them.
  void put_file(const std::string& path, ParsedFile parsed);
  /// The file could not be read: as a broken one.
  void fail_file(const std::string& path, std::string what);
  /// The file is gone, and its objects with it.
  void erase_file(const std::string& path);

  struct Changes {
    std::vector<api::Shared<api::Service>> services;  // complete
    std::vector<api::Shared<api::EndpointSlice>> slices;
    std::vector<api::Shared<api::Node>> nodes;
    std::vector<std::pair<api::Kind, api::ObjectKey>> erased;
    [[nodiscard]] bool empty() const {
      return services.empty() && slices.empty() && nodes.empty() && erased.empty();
    }
  };
  /// What differs from the last call's result, over all files put in between.
  [[nodiscard]] Changes settle();

  /// Of files, of objects given twice, of allocation; as of the last `settle`. In path order.
  [[nodiscard]] std::vector<Problem> errors() const;
  [[nodiscard]] const Memory& memory() const { return allocator_.memory(); }

 private:
  /// The kind is the index in Object.
  struct Identity {
    std::size_t kind = 0;
    api::ObjectKey key;
    friend auto operator<=>(const Identity&, const Identity&) = default;
  };
  /// An object in a file. The first in the order of paths and places is the one in force.
  struct Claim {
    const std::string* path = nullptr;  // key of files_
    std::size_t index = 0;
  };
  struct File {
    std::vector<ParsedObject> objects;
    std::vector<Problem> errors;
  };

  static Identity identity_of(const Object& object);
  static std::string describe(const Identity& identity);
  [[nodiscard]] const ParsedObject& object_of(const Claim& claim) const;
  [[nodiscard]] const Claim* in_force(const Identity& identity) const;
  void touch(const Identity& identity);
  void replace_objects(const std::string& path, File& file, std::vector<ParsedObject> objects);
  void apply(const Object& object, Changes& changes);
  void withdraw(const Identity& identity, Changes& changes);

  Allocator allocator_;
  SliceDeriver deriver_;
  std::map<std::string, File> files_;
  std::map<Identity, std::vector<Claim>> claims_;
  std::set<Identity> repeated_;
  /// What was in force at the last `settle`, of identities touched since.
  std::map<Identity, std::optional<Object>> before_;
};

}  // namespace fairlead::manifest
