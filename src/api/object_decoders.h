// SPDX-License-Identifier: Apache-2.0
// From the parts of one JSON object to one of our values. Internal to the decoder.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "api/objects.h"
#include "api/reader.h"

namespace fairlead::api {

/// The top-level members that any of our kinds has; null counts as absent.
struct Parts {
  std::optional<Element> api_version;
  std::optional<Element> kind;
  std::optional<Element> metadata;
  std::optional<Element> spec;
  std::optional<Element> status;
  std::optional<Element> address_type;  // EndpointSlice
  std::optional<Element> endpoints;     // EndpointSlice
  std::optional<Element> ports;         // EndpointSlice
  std::optional<Element> subsets;       // Endpoints
  std::optional<Element> items;         // lists
};
[[nodiscard]] bool read_parts(Reader& reader, Element object, Parts& out);

/// What names of a kind look like.
struct NameRules {
  bool namespaced = true;
  bool label = false;  // a DNS label; else a DNS subdomain
};
/// `key` is filled as far as possible even on failure.
[[nodiscard]] bool read_metadata(Reader& reader, const Parts& parts, NameRules rules, Meta& meta,
                                 std::string& resource_version);

/// From the label.
void set_service_name(EndpointSlice& slice);

// Each fills the rest behind `meta`.
[[nodiscard]] bool decode_service(Reader& reader, const Parts& parts, Service& out);
[[nodiscard]] bool decode_slice(Reader& reader, const Parts& parts, bool v1beta1,
                                EndpointSlice& out);
[[nodiscard]] bool decode_node(Reader& reader, const Parts& parts, Node& out);
[[nodiscard]] bool decode_pod(Reader& reader, const Parts& parts, Pod& out);
[[nodiscard]] bool decode_endpoints(Reader& reader, const Parts& parts, Endpoints& out);

}  // namespace fairlead::api
