// SPDX-License-Identifier: Apache-2.0
// Kubernetes JSON -> api values. The one decoder for the API server and for manifests (whose YAML
// is turned into JSON first). Pure but for the parser's own buffers; one Decoder per thread.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include <tl/expected.hpp>

#include "api/objects.h"

namespace fairlead::api {

/// What is wrong with one object: which field (`spec.ports[1].nodePort`, in a list
/// `items[3].spec.ports[1].nodePort`; empty: the whole), and what to do (`must be a number from 1
/// to 65535, is 70000`). Only the first thing that is wrong. Keys with dots are in brackets:
/// `metadata.labels[app.kubernetes.io/name]`. Texts of the input are shortened and printable.
struct DecodeError {
  std::string object;  // `Service shop/web`, as far as known
  std::string field;
  std::string problem;

  /// `Service shop/web: spec.ports[1].nodePort: must be ...`
  [[nodiscard]] std::string text() const;
};

/// A kind that we do not use.
struct Unsupported {
  std::string api_version;
  std::string kind;
};

using AnyObject = std::variant<Service, EndpointSlice, Node, Pod, Endpoints, Unsupported>;

struct Decoded {
  AnyObject object;
  std::string resource_version;  // metadata.resourceVersion, empty if absent
};

/// One page of a list as the API server sends it.
struct ListPage {
  std::string resource_version;
  std::string continue_token;
};

/// One line of a watch stream.
struct WatchEvent {
  enum class Type { kAdded, kModified, kDeleted, kBookmark, kError };
  Type type = Type::kAdded;
  /// Of kAdded, kModified, kDeleted; its object may be Unsupported. Of kDeleted only the metadata
  /// is read (and a slice's service name): what goes away need not be right.
  std::optional<Decoded> decoded;
  std::string resource_version;  // of any but kError
  int status_code = 0;           // of kError: Status.code
  std::string status_message;
};

class Decoder {
 public:
  Decoder();
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
  Decoder(Decoder&&) noexcept;
  Decoder& operator=(Decoder&&) noexcept;

  using OnObject = std::function<void(tl::expected<Decoded, DecodeError>)>;

  /// One object, told by its apiVersion and kind. `List` and `*List` kinds give their items one by
  /// one; an item without kind takes the list's (`ServiceList` -> Service). A broken item does not
  /// stop the others. Returns an error only if the text is not JSON or not an object at all.
  [[nodiscard]] tl::expected<void, DecodeError> decode(std::string_view json,
                                                       const OnObject& on_object);

  /// A list answer of the API server: items to `on_object`, returns the page's marks.
  [[nodiscard]] tl::expected<ListPage, DecodeError> decode_list(std::string_view json,
                                                                const OnObject& on_object);
  [[nodiscard]] tl::expected<WatchEvent, DecodeError> decode_watch_event(std::string_view json);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fairlead::api
