// SPDX-License-Identifier: Apache-2.0
// A manifest document as a tree that remembers where each piece was written. YAML and JSON text
// become such trees; the decoder gets their JSON, and its complaints are led back to a place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <tl/expected.hpp>

namespace fairlead::manifest {

/// Nesting that a document may have, aliases expanded. Kubernetes objects need about a dozen.
inline constexpr int kMaxDepth = 100;

/// A place in a text, counted from 1; the column counts bytes. 0: unknown.
struct Mark {
  int line = 0;
  int column = 0;

  friend auto operator<=>(const Mark&, const Mark&) = default;
};

/// What is wrong with a text, and where.
struct TextError {
  Mark mark;
  std::string problem;
};

/// What aliases and merge keys may still grow a file to, in bytes of JSON. Shared by all documents
/// of a file, so that many small bombs are no better than a large one.
class Budget {
 public:
  explicit Budget(std::size_t bytes) : left_(bytes) {}
  /// Generous for honest files: their JSON is about as long as the text.
  [[nodiscard]] static Budget for_text(std::string_view text) {
    return Budget((std::size_t{1} << 20U) + (16 * text.size()));
  }
  [[nodiscard]] bool spend(std::size_t bytes) {
    const bool enough = bytes <= left_;
    left_ -= enough ? bytes : left_;
    return enough;
  }

 private:
  std::size_t left_;
};

/// Index into the document's nodes. An alias is the index of what it points to, so the tree is a
/// graph without cycles.
using NodeId = std::uint32_t;

struct Entry {
  std::string key;
  Mark key_mark;
  NodeId value = 0;
};

struct Node {
  enum class Kind : std::uint8_t { kNull, kBool, kNumber, kString, kSequence, kMap };
  Kind kind = Kind::kNull;
  Mark mark;
  std::string text;            // kBool, kNumber: as JSON; kString: the plain text
  std::vector<NodeId> items;   // kSequence
  std::vector<Entry> entries;  // kMap; keys are unique
};

struct Document {
  std::vector<Node> nodes;
  NodeId root = 0;

  [[nodiscard]] const Node& at(NodeId id) const { return nodes[id]; }
  /// Null if `id` is no map or has no such key.
  [[nodiscard]] const Entry* find(NodeId id, std::string_view key) const;
};

/// The part of the document below `id` as JSON.
[[nodiscard]] tl::expected<std::string, TextError> to_json(const Document& document, NodeId id,
                                                           Budget& budget);

/// Where `field` (`spec.ports[1].port`, seen from `start`) is written: its value, or for a field
/// that is not there the deepest part of the path that is. Keys with dots in them are found too, as
/// `labels.app.kubernetes.io/name` and as `labels[app.kubernetes.io/name]`.
[[nodiscard]] Mark locate(const Document& document, NodeId start, std::string_view field);

}  // namespace fairlead::manifest
