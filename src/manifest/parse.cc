// SPDX-License-Identifier: Apache-2.0
#include "manifest/parse.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

#include "manifest/yaml.h"

namespace fairlead::manifest {
namespace {

Documents read(std::string_view path, std::string_view text, Budget& budget) {
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  if (text.starts_with(kByteOrderMark)) {
    text.remove_prefix(kByteOrderMark.size());
  }
  if (auto error = check_text(text)) {
    return Documents{{}, std::move(error)};
  }
  const bool must_be_json = path.ends_with(".json");
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (must_be_json || (first != std::string_view::npos && text[first] == '{')) {
    Documents json = read_json(text);
    if (must_be_json || !json.error) {
      return json;
    }
  }
  return read_yaml(text, budget);
}

/// The objects below `id` in the order in which the decoder gives them: the items of `List` and
/// `ServiceList`, or the object itself.
void collect_objects(const Document& document, NodeId id, std::vector<NodeId>& out) {
  const Entry* kind = document.find(id, "kind");
  const Entry* items = document.find(id, "items");
  if (kind == nullptr || items == nullptr || !document.at(kind->value).text.ends_with("List") ||
      document.at(items->value).kind != Node::Kind::kSequence) {
    out.push_back(id);
    return;
  }
  for (const NodeId item : document.at(items->value).items) {
    collect_objects(document, item, out);
  }
}

class FileParser {
 public:
  FileParser(api::Decoder& decoder, std::string_view path) : decoder_(decoder), path_(path) {}

  ParsedFile run(std::string_view text) {
    Budget budget = Budget::for_text(text);
    Documents read_documents = read(path_, text, budget);
    for (const Document& document : read_documents.documents) {
      take(document, budget);
    }
    if (read_documents.error) {
      add_error(read_documents.error->mark, "", "", std::move(read_documents.error->problem));
    }
    return std::move(result_);
  }

 private:
  void take(const Document& document, Budget& budget) {
    const Mark start = document.at(document.root).mark;
    if (document.at(document.root).kind != Node::Kind::kMap) {
      add_error(start, "", "", "is not an object; it needs apiVersion, kind and metadata");
      return;
    }
    auto json = to_json(document, document.root, budget);
    if (!json) {
      add_error(json.error().mark, "", "", std::move(json.error().problem));
      return;
    }
    std::vector<NodeId> nodes;
    collect_objects(document, document.root, nodes);
    std::size_t index = 0;
    const auto on_object = [&](tl::expected<api::Decoded, api::DecodeError> decoded) {
      const NodeId node = index < nodes.size() ? nodes[index] : document.root;
      ++index;
      if (decoded) {
        add_object(std::move(decoded->object), document.at(node).mark);
      } else {
        add_decode_error(document, node, std::move(decoded.error()));
      }
    };
    if (auto status = decoder_.decode(*json, on_object); !status) {
      add_decode_error(document, document.root, std::move(status.error()));
    }
  }

  void add_object(api::AnyObject object, Mark mark) {
    std::visit(
        [&]<typename T>(T&& value) {
          if constexpr (std::is_same_v<std::decay_t<T>, api::Unsupported>) {
            result_.skipped.push_back(std::forward<T>(value));
          } else {
            result_.objects.push_back(
                {std::make_shared<const std::decay_t<T>>(std::forward<T>(value)), mark});
          }
        },
        std::move(object));
  }

  void add_decode_error(const Document& document, NodeId node, api::DecodeError error) {
    // Fields of a list's items are told as seen from the list.
    const NodeId start = error.field.starts_with("items[") ? document.root : node;
    const Mark mark = locate(document, start, error.field);
    add_error(mark, std::move(error.object), std::move(error.field), std::move(error.problem));
  }

  void add_error(Mark mark, std::string object, std::string field, std::string what) {
    result_.errors.push_back(
        {std::string(path_), mark, std::move(object), std::move(field), std::move(what)});
  }

  api::Decoder& decoder_;
  std::string_view path_;
  ParsedFile result_;
};

}  // namespace

std::string Problem::text() const {
  std::string out = file;
  if (mark.line > 0) {
    out += ":" + std::to_string(mark.line) + ":" + std::to_string(mark.column);
  }
  for (const std::string* part : {&object, &field, &what}) {
    if (!part->empty()) {
      out += (out.empty() ? "" : ": ") + *part;
    }
  }
  // Keys and file names may hold what a terminal would obey.
  std::ranges::replace_if(
      out, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, '?');
  return out;
}

ParsedFile parse(api::Decoder& decoder, std::string_view path, std::string_view text) {
  return FileParser(decoder, path).run(text);
}

}  // namespace fairlead::manifest
