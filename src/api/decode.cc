// SPDX-License-Identifier: Apache-2.0
#include "api/decode.h"

#include <array>
#include <simdjson.h>
#include <string>
#include <string_view>
#include <utility>

#include "api/object_decoders.h"
#include "api/reader.h"

namespace fairlead::api {
namespace {

enum class Known { kService, kSlice, kSliceV1beta1, kNode, kPod, kEndpoints };

struct KindInfo {
  std::string_view api_version;
  std::string_view kind;
  Known known;
};

constexpr std::array<KindInfo, 6> kKinds = {{
    {"v1", "Service", Known::kService},
    {"discovery.k8s.io/v1", "EndpointSlice", Known::kSlice},
    {"discovery.k8s.io/v1beta1", "EndpointSlice", Known::kSliceV1beta1},
    {"v1", "Node", Known::kNode},
    {"v1", "Pod", Known::kPod},
    {"v1", "Endpoints", Known::kEndpoints},
}};

constexpr std::string_view kListSuffix = "List";

std::optional<Known> find_kind(std::string_view api_version, std::string_view kind) {
  for (const KindInfo& info : kKinds) {
    if (info.kind == kind && info.api_version == api_version) {
      return info.known;
    }
  }
  return std::nullopt;
}

/// apiVersion and kind.
struct TypeMeta {
  std::string_view api_version;
  std::string_view kind;

  [[nodiscard]] std::string_view item_kind() const {
    return kind.substr(0, kind.size() - kListSuffix.size());
  }
};

bool read_type_member(Reader& reader, std::string_view key, const std::optional<Element>& value,
                      std::string_view mend, std::string_view& out) {
  const Reader::At at(reader, key);
  std::string_view text;
  if (value && !reader.read(*value, text)) {
    return false;
  }
  if (!text.empty()) {
    out = text;
  }
  return !out.empty() || reader.fail("is missing: write " + std::string(mend));
}

/// `type` comes with what holds where the object says nothing.
bool read_type(Reader& reader, const Parts& parts, TypeMeta& type) {
  return read_type_member(reader, "kind", parts.kind, "what the object is, such as Service",
                          type.kind) &&
         read_type_member(reader, "apiVersion", parts.api_version, "the kind's version, such as v1",
                          type.api_version);
}

bool is_list(const TypeMeta& type, const Parts& parts) {
  if (!type.kind.ends_with(kListSuffix)) {
    return false;
  }
  // Kinds of others may end so by chance. Ours may be empty: `items: null`.
  return (parts.items && parts.items->is_array()) || type.item_kind().empty() ||
         find_kind(type.api_version, type.item_kind()).has_value();
}

bool read_resource_version(Reader& reader, const Parts& parts, std::string& out) {
  const Reader::At at(reader, "metadata");
  return !parts.metadata ||
         reader.fields(*parts.metadata, [&](std::string_view key, Element value) {
           return key != "resourceVersion" || reader.read(value, out);
         });
}

enum class Depth { kWhole, kMetadataOnly };

/// For error messages, as far as known.
struct Identity {
  TypeMeta type;
  ObjectKey key;

  [[nodiscard]] std::string text() const {
    std::string text = printable(type.kind, 64);
    if (!key.name.empty()) {
      text += " " + key.text();
    }
    return text;
  }
};

template <typename T, typename Decode>
bool read_object(Reader& reader, const Parts& parts, NameRules rules, Identity& identity,
                 Decoded& out, Decode decode) {
  T& object = out.object.emplace<T>();
  const bool ok = read_metadata(reader, parts, rules, object.meta, out.resource_version);
  if (!object.meta.key.name.empty()) {
    identity.key = object.meta.key;
  }
  return ok && decode(object);
}

bool read_known(Reader& reader, Known known, const Parts& parts, Depth depth, Identity& identity,
                Decoded& out) {
  const bool whole = depth == Depth::kWhole;
  switch (known) {
    case Known::kService:
      return read_object<Service>(
          reader, parts, {.label = true}, identity, out,
          [&](Service& object) { return !whole || decode_service(reader, parts, object); });
    case Known::kSlice:
    case Known::kSliceV1beta1:
      return read_object<EndpointSlice>(
          reader, parts, {}, identity, out, [&](EndpointSlice& object) {
            set_service_name(object);
            return !whole || decode_slice(reader, parts, known == Known::kSliceV1beta1, object);
          });
    case Known::kNode:
      return read_object<Node>(
          reader, parts, {.namespaced = false}, identity, out,
          [&](Node& object) { return !whole || decode_node(reader, parts, object); });
    case Known::kPod:
      return read_object<Pod>(reader, parts, {}, identity, out, [&](Pod& object) {
        return !whole || decode_pod(reader, parts, object);
      });
    case Known::kEndpoints:
      return read_object<Endpoints>(reader, parts, {}, identity, out, [&](Endpoints& object) {
        return !whole || decode_endpoints(reader, parts, object);
      });
  }
  return false;
}

DecodeError error_of(Reader& reader, std::string object) {
  Reader::Failure failure = reader.take_failure();
  return {.object = std::move(object),
          .field = std::move(failure.field),
          .problem = std::move(failure.problem)};
}

/// One object that is no list.
tl::expected<Decoded, DecodeError> read_single(Reader& reader, const Parts& parts, TypeMeta type,
                                               Depth depth) {
  Decoded decoded;
  Identity identity{.type = type, .key = {}};
  const auto known = find_kind(type.api_version, type.kind);
  if (!known) {
    // What it looks like is not our business.
    if (!read_resource_version(reader, parts, decoded.resource_version)) {
      decoded.resource_version.clear();
    }
    decoded.object =
        Unsupported{.api_version = std::string(type.api_version), .kind = std::string(type.kind)};
    return decoded;
  }
  if (!read_known(reader, *known, parts, depth, identity, decoded)) {
    return tl::unexpected(error_of(reader, identity.text()));
  }
  return decoded;
}

void read_any(Reader& reader, Element element, TypeMeta defaults,
              const Decoder::OnObject& on_object);

bool read_items(Reader& reader, const Parts& parts, TypeMeta list,
                const Decoder::OnObject& on_object) {
  if (!parts.items) {
    return true;
  }
  // In a plain `List` every item tells what it is.
  const TypeMeta defaults = list.item_kind().empty() ? TypeMeta{}
                                                     : TypeMeta{.api_version = list.api_version,
                                                                .kind = list.item_kind()};
  const Reader::At at(reader, "items");
  return reader.items(*parts.items, [&](std::size_t, Element item) {
    read_any(reader, item, defaults, on_object);
    return true;
  });
}

/// An object, or a list and all its items.
void read_any(Reader& reader, Element element, TypeMeta defaults,
              const Decoder::OnObject& on_object) {
  Parts parts;
  TypeMeta type = defaults;
  if (!read_parts(reader, element, parts) || !read_type(reader, parts, type)) {
    on_object(tl::unexpected(error_of(reader, printable(type.kind, 64))));
    return;
  }
  if (!is_list(type, parts)) {
    on_object(read_single(reader, parts, type, Depth::kWhole));
    return;
  }
  if (!read_items(reader, parts, type, on_object)) {
    on_object(tl::unexpected(error_of(reader, printable(type.kind, 64))));
  }
}

bool read_event_type(Reader& reader, Element value, WatchEvent::Type& out) {
  using Type = WatchEvent::Type;
  static constexpr std::array<std::pair<std::string_view, Type>, 5> kTypes = {
      {{"ADDED", Type::kAdded},
       {"MODIFIED", Type::kModified},
       {"DELETED", Type::kDeleted},
       {"BOOKMARK", Type::kBookmark},
       {"ERROR", Type::kError}}};
  return reader.choose(value, kTypes, out);
}

void read_status(Element object, WatchEvent& out) {
  // An answer that something is wrong: whatever of it can be read helps.
  std::int64_t code = 0;
  if (object["code"].get(code) == simdjson::SUCCESS && code > 0 && code < 1000) {
    out.status_code = static_cast<int>(code);
  }
  std::string_view text;
  if (object["message"].get(text) == simdjson::SUCCESS ||
      object["reason"].get(text) == simdjson::SUCCESS) {
    out.status_message = printable(text, 1000);
  }
}

}  // namespace

struct Decoder::Impl {
  simdjson::dom::parser parser;
  Reader reader;

  tl::expected<Element, DecodeError> parse(std::string_view json) {
    // The buffers are some ten times as large as the text. After the pages of a list they would
    // be kept for watch events that need a thousandth of it.
    constexpr std::size_t kSmall = std::size_t{256} * 1024;
    constexpr std::size_t kFarLess = 16;
    if (parser.capacity() > kSmall && json.size() < parser.capacity() / kFarLess) {
      parser = simdjson::dom::parser();
    }
    Element root;
    if (const auto error = parser.parse(json.data(), json.size()).get(root);
        error != simdjson::SUCCESS) {
      return tl::unexpected(
          DecodeError{.object = {},
                      .field = {},
                      .problem = std::string("is not JSON: ") + simdjson::error_message(error)});
    }
    if (!root.is_object()) {
      return tl::unexpected(DecodeError{
          .object = {}, .field = {}, .problem = "must be a mapping, is " + describe(root)});
    }
    return root;
  }

  DecodeError error(std::string object) { return error_of(reader, std::move(object)); }
};

std::string DecodeError::text() const {
  std::string text = object;
  for (const std::string* part : {&field, &problem}) {
    if (!part->empty()) {
      text += (text.empty() ? "" : ": ") + *part;
    }
  }
  return text;
}

Decoder::Decoder() : impl_(std::make_unique<Impl>()) {}
Decoder::~Decoder() = default;
Decoder::Decoder(Decoder&&) noexcept = default;
Decoder& Decoder::operator=(Decoder&&) noexcept = default;

tl::expected<void, DecodeError> Decoder::decode(std::string_view json, const OnObject& on_object) {
  const auto root = impl_->parse(json);
  if (!root) {
    return tl::unexpected(root.error());
  }
  read_any(impl_->reader, *root, {}, on_object);
  return {};
}

tl::expected<ListPage, DecodeError> Decoder::decode_list(std::string_view json,
                                                         const OnObject& on_object) {
  const auto root = impl_->parse(json);
  if (!root) {
    return tl::unexpected(root.error());
  }
  Reader& reader = impl_->reader;
  Parts parts;
  TypeMeta type;
  ListPage page;
  const auto read_page_marks = [&] {
    const Reader::At at(reader, "metadata");
    return !parts.metadata ||
           reader.fields(*parts.metadata, [&](std::string_view key, Element value) {
             if (key == "resourceVersion") {
               return reader.read(value, page.resource_version);
             }
             return key != "continue" || reader.read(value, page.continue_token);
           });
  };
  // Marks first: the items are not to be delivered from an answer that turns out broken.
  const bool ok = read_parts(reader, *root, parts) && read_type(reader, parts, type) &&
                  (is_list(type, parts) ||
                   reader.fail_at("kind", "must be a list, is " + in_quotes(type.kind))) &&
                  read_page_marks() && read_items(reader, parts, type, on_object);
  if (!ok) {
    return tl::unexpected(impl_->error(printable(type.kind, 64)));
  }
  return page;
}

tl::expected<WatchEvent, DecodeError> Decoder::decode_watch_event(std::string_view json) {
  const auto root = impl_->parse(json);
  if (!root) {
    return tl::unexpected(root.error());
  }
  Reader& reader = impl_->reader;
  WatchEvent event;
  bool has_type = false;
  bool has_object = false;
  Element object;
  const bool ok = reader.fields(*root, [&](std::string_view key, Element value) {
    if (key == "type") {
      has_type = true;
      return read_event_type(reader, value, event.type);
    }
    if (key == "object") {
      has_object = true;
      object = value;
      return value.is_object() || reader.fail("must be a mapping, is " + describe(value));
    }
    return true;
  });
  if (!ok || !(has_type || reader.fail_at("type", "is missing")) ||
      !(has_object || reader.fail_at("object", "is missing"))) {
    return tl::unexpected(impl_->error("watch event"));
  }
  if (event.type == WatchEvent::Type::kError) {
    read_status(object, event);
    return event;
  }
  Parts parts;
  if (!read_parts(reader, object, parts)) {
    return tl::unexpected(impl_->error("watch event"));
  }
  if (event.type == WatchEvent::Type::kBookmark) {
    if (!read_resource_version(reader, parts, event.resource_version)) {
      return tl::unexpected(impl_->error("watch event"));
    }
    return event;
  }
  TypeMeta type;
  if (!read_type(reader, parts, type)) {
    return tl::unexpected(impl_->error(printable(type.kind, 64)));
  }
  auto decoded =
      read_single(reader, parts, type,
                  event.type == WatchEvent::Type::kDeleted ? Depth::kMetadataOnly : Depth::kWhole);
  if (!decoded) {
    return tl::unexpected(std::move(decoded.error()));
  }
  event.resource_version = decoded->resource_version;
  event.decoded = std::move(*decoded);
  return event;
}

}  // namespace fairlead::api
