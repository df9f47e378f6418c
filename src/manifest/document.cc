// SPDX-License-Identifier: Apache-2.0
#include "manifest/document.h"

#include <optional>

#include "base/text.h"

namespace fairlead::manifest {
namespace {

void append_json_string(std::string& out, std::string_view text) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20) {
      out += "\\u00";
      out += kDigits[byte >> 4U];
      out += kDigits[byte & 0xfU];
    } else {
      out += c;
    }
  }
  out += '"';
}

class JsonWriter {
 public:
  JsonWriter(const Document& document, Budget& budget) : document_(document), budget_(budget) {}

  [[nodiscard]] std::optional<TextError> write(NodeId id, int depth, std::string& out) {
    const Node& node = document_.at(id);
    if (depth > kMaxDepth) {
      return TextError{node.mark, "is nested deeper than " + std::to_string(kMaxDepth) +
                                      " levels (aliases expanded); flatten it"};
    }
    // The smallest piece of JSON is two bytes with its separator.
    if (!budget_.spend(node.text.size() + 2)) {
      return TextError{node.mark,
                       "aliases and merge keys make the file far too large; write less "
                       "with them"};
    }
    switch (node.kind) {
      case Node::Kind::kNull:
        out += "null";
        return std::nullopt;
      case Node::Kind::kBool:
      case Node::Kind::kNumber:
        out += node.text;
        return std::nullopt;
      case Node::Kind::kString:
        append_json_string(out, node.text);
        return std::nullopt;
      case Node::Kind::kSequence:
        return write_sequence(node, depth, out);
      case Node::Kind::kMap:
        return write_map(node, depth, out);
    }
    return std::nullopt;
  }

 private:
  std::optional<TextError> write_sequence(const Node& node, int depth, std::string& out) {
    out += '[';
    bool first = true;
    for (const NodeId item : node.items) {
      if (!first) {
        out += ',';
      }
      first = false;
      if (auto error = write(item, depth + 1, out)) {
        return error;
      }
    }
    out += ']';
    return std::nullopt;
  }

  std::optional<TextError> write_map(const Node& node, int depth, std::string& out) {
    out += '{';
    bool first = true;
    for (const Entry& entry : node.entries) {
      if (!first) {
        out += ',';
      }
      first = false;
      append_json_string(out, entry.key);
      out += ':';
      if (!budget_.spend(entry.key.size())) {
        return TextError{entry.key_mark,
                         "aliases and merge keys make the file far too large; "
                         "write less with them"};
      }
      if (auto error = write(entry.value, depth + 1, out)) {
        return error;
      }
    }
    out += '}';
    return std::nullopt;
  }

  const Document& document_;
  Budget& budget_;
};

/// Takes `[...]` off the front of `path` and returns what is within.
std::optional<std::string_view> take_brackets(std::string_view& path) {
  if (!path.starts_with('[')) {
    return std::nullopt;
  }
  const std::size_t end = path.find(']');
  if (end == std::string_view::npos) {
    return std::nullopt;
  }
  const std::string_view inner = path.substr(1, end - 1);
  path.remove_prefix(end + 1);
  return inner;
}

/// The entry that the front of `path` names, taken off it. The longest key wins: keys may hold
/// dots.
const Entry* take_key(const Document& document, NodeId id, std::string_view& path) {
  std::string_view rest = path;
  if (const auto inner = take_brackets(rest)) {
    std::string_view key = *inner;
    if (key.size() >= 2 && key.front() == '"' && key.back() == '"') {
      key = key.substr(1, key.size() - 2);
    }
    const Entry* entry = document.find(id, key);
    if (entry != nullptr) {
      path = rest;
    }
    return entry;
  }
  if (path.starts_with('.')) {
    rest.remove_prefix(1);
  }
  const Entry* best = nullptr;
  for (const Entry& entry : document.at(id).entries) {
    if (!entry.key.empty() && rest.starts_with(entry.key) &&
        (best == nullptr || entry.key.size() > best->key.size())) {
      const std::string_view after = rest.substr(entry.key.size());
      if (after.empty() || after.front() == '.' || after.front() == '[') {
        best = &entry;
      }
    }
  }
  if (best != nullptr) {
    rest.remove_prefix(best->key.size());
    path = rest;
  }
  return best;
}

}  // namespace

const Entry* Document::find(NodeId id, std::string_view key) const {
  for (const Entry& entry : at(id).entries) {
    if (entry.key == key) {
      return &entry;
    }
  }
  return nullptr;
}

tl::expected<std::string, TextError> to_json(const Document& document, NodeId id, Budget& budget) {
  std::string out;
  if (auto error = JsonWriter(document, budget).write(id, 0, out)) {
    return tl::unexpected(std::move(*error));
  }
  return out;
}

Mark locate(const Document& document, NodeId start, std::string_view field) {
  NodeId id = start;
  Mark deepest = document.at(start).mark;
  std::string_view path = field;
  while (!path.empty()) {
    const Node& node = document.at(id);
    if (node.kind == Node::Kind::kMap) {
      const Entry* entry = take_key(document, id, path);
      if (entry == nullptr) {
        return deepest;
      }
      // A block map begins at its first key, a line below its name: the name tells more.
      deepest = entry->key_mark;
      id = entry->value;
    } else if (node.kind == Node::Kind::kSequence) {
      const auto inner = take_brackets(path);
      const auto index = inner ? parse_number(*inner, UINT32_MAX) : std::nullopt;
      if (!index || *index >= node.items.size()) {
        return deepest;
      }
      id = node.items[*index];
      deepest = document.at(id).mark;
    } else {
      return deepest;
    }
  }
  const Mark value = document.at(id).mark;
  return value.line == 0 ? deepest : value;
}

}  // namespace fairlead::manifest
