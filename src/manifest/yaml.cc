// SPDX-License-Identifier: Apache-2.0
#include "manifest/yaml.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <exception>
#include <sstream>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

namespace fairlead::manifest {
namespace {

constexpr std::string_view kTagPrefix = "tag:yaml.org,2002:";

Mark from_yaml(const YAML::Mark& mark) {
  return mark.is_null() ? Mark{} : Mark{mark.line + 1, mark.column + 1};
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool all_of(std::string_view text, std::string_view digits) {
  return !text.empty() && text.find_first_not_of(digits) == std::string_view::npos;
}

/// `0x1F`, `0o17` as decimal digits. Longer than 64 bits: nothing, the text is kept as a string.
std::optional<std::string> prefixed_integer(std::string_view text) {
  const bool hex = text.starts_with("0x");
  const std::string_view digits = text.substr(2);
  if (!all_of(digits, hex ? "0123456789abcdefABCDEF" : "01234567") ||
      digits.size() > (hex ? 15U : 20U)) {
    return std::nullopt;
  }
  std::uint64_t value = 0;
  for (const char c : digits) {
    const unsigned digit = is_digit(c) ? static_cast<unsigned>(c - '0')
                                       : (static_cast<unsigned>(c) | 0x20U) - 'a' + 10U;
    value = value * (hex ? 16U : 8U) + digit;
  }
  return std::to_string(value);
}

/// A number of the core schema as JSON writes it (no plus sign, no leading zeros, no bare dot).
std::optional<std::string> core_number(std::string_view text) {
  if (text.starts_with("0x") || text.starts_with("0o")) {
    return prefixed_integer(text);
  }
  std::string out;
  if (text.starts_with('-') || text.starts_with('+')) {
    out = text.front() == '-' ? "-" : "";
    text.remove_prefix(1);
  }
  const std::size_t whole_end = std::min(text.find_first_not_of("0123456789"), text.size());
  std::string_view whole = text.substr(0, whole_end);
  text.remove_prefix(whole_end);
  std::string_view fraction;
  if (text.starts_with('.')) {
    text.remove_prefix(1);
    const std::size_t end = std::min(text.find_first_not_of("0123456789"), text.size());
    fraction = text.substr(0, end);
    text.remove_prefix(end);
  }
  if (whole.empty() && fraction.empty()) {
    return std::nullopt;
  }
  if (!text.empty()) {
    std::string_view exponent = text.substr(1);
    if (exponent.starts_with('-') || exponent.starts_with('+')) {
      exponent.remove_prefix(1);
    }
    if ((text.front() != 'e' && text.front() != 'E') || !all_of(exponent, "0123456789")) {
      return std::nullopt;
    }
  }
  whole.remove_prefix(std::min(whole.find_first_not_of('0'), whole.size()));
  out += whole.empty() ? "0" : whole;
  if (!fraction.empty()) {
    out += '.';
    out += fraction;
  }
  out += text;
  return out;
}

/// The core schema's type of a plain scalar.
Node plain_scalar(std::string_view text) {
  Node node;
  if (text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL") {
    return node;
  }
  if (text == "true" || text == "True" || text == "TRUE") {
    node.kind = Node::Kind::kBool;
    node.text = "true";
  } else if (text == "false" || text == "False" || text == "FALSE") {
    node.kind = Node::Kind::kBool;
    node.text = "false";
  } else if (auto number = core_number(text)) {
    node.kind = Node::Kind::kNumber;
    node.text = std::move(*number);
  } else {
    node.kind = Node::Kind::kString;
    node.text = text;
  }
  return node;
}

/// Builds documents from yaml-cpp's events. After the first error it only waits for the end.
class Builder final : public YAML::EventHandler {
 public:
  Builder(std::string_view text, Budget& budget) : text_(text), budget_(budget) {
    for (std::size_t at = 0; at != std::string_view::npos;) {
      lines_.push_back(at);
      at = text_.find('\n', at);
      at = at == std::string_view::npos ? at : at + 1;
    }
  }

  [[nodiscard]] bool failed() const { return result_.error.has_value(); }
  [[nodiscard]] Documents take() { return std::move(result_); }
  void fail(Mark mark, std::string problem) {
    if (!failed()) {
      result_.error = TextError{mark, std::move(problem)};
    }
  }

  void OnDocumentStart(const YAML::Mark& mark) override {
    check_separated(from_yaml(mark));
    document_ = Document{};
    anchors_.clear();
    open_.clear();
    stack_.clear();
  }

  void OnDocumentEnd() override {
    if (!failed() && !document_.nodes.empty() &&
        document_.at(document_.root).kind != Node::Kind::kNull) {
      result_.documents.push_back(std::move(document_));
    }
    document_ = Document{};
  }

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    add_scalar(Node{}, mark, anchor, false);
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    if (failed()) {
      return;
    }
    Node node;
    node.kind = Node::Kind::kString;
    node.text = value;
    const bool plain = tag == "?" || tag.empty();
    if (!plain && !check_closed(from_yaml(mark))) {
      return;
    }
    if (plain) {
      node = plain_scalar(value);
    } else if (tag != "!" && tag != std::string(kTagPrefix) + "str") {
      std::optional<Node> typed = tagged_scalar(tag, value);
      if (!typed) {
        fail(from_yaml(mark),
             "has a tag (" + tag + ") that does not fit or is not known; remove it");
        return;
      }
      node = std::move(*typed);
    }
    add_scalar(std::move(node), mark, anchor, plain && value == "<<", &value);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    if (failed()) {
      return;
    }
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end() || open_.contains(found->second)) {
      fail(from_yaml(mark), "alias points to what it is a part of; remove it");
      return;
    }
    if (stack_.empty()) {
      fail(from_yaml(mark), "a document cannot be an alias");
      return;
    }
    Frame& parent = stack_.back();
    if (expects_key(parent)) {
      const Node& node = document_.at(found->second);
      if (node.kind == Node::Kind::kMap || node.kind == Node::Kind::kSequence) {
        fail(from_yaml(mark), "a key must be plain text");
        return;
      }
      parent.key = Key{node.kind == Node::Kind::kNull ? "null" : node.text, from_yaml(mark), false};
      return;
    }
    attach(found->second, from_yaml(mark));
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value /*style*/) override {
    open(Node::Kind::kSequence, mark, tag, "seq", anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value /*style*/) override {
    open(Node::Kind::kMap, mark, tag, "map", anchor);
  }
  void OnMapEnd() override {
    if (!failed()) {
      finish_map(stack_.back());
    }
    close();
  }

 private:
  struct Key {
    std::string text;
    Mark mark;
    bool is_merge = false;
  };
  struct Merge {
    Mark mark;
    NodeId source = 0;
  };
  struct Frame {
    NodeId node = 0;
    std::optional<Key> key;
    std::vector<Merge> merges;
  };

  /// yaml-cpp starts a new document wherever it cannot go on with the last, even amid a line, and
  /// would do so forever at a stray bracket. A new document needs `---`, or `...` before it.
  void check_separated(Mark mark) {
    const bool is_first = !std::exchange(started_, true);
    const int from = std::exchange(last_start_, mark.line);
    if (is_first || failed()) {
      return;
    }
    if (line(mark.line).starts_with("---") && mark.column == 1) {
      return;
    }
    for (int above = mark.line - 1; above > from && mark.column == 1; --above) {
      const std::string_view text = line(above);
      if (text.starts_with("...")) {
        return;
      }
      if (!text.empty() && text.front() != '#' && text.front() != '%') {
        break;
      }
    }
    fail(mark,
         "is not part of what stands before it; check indentation and brackets, or start a "
         "new document with ---");
  }

  /// yaml-cpp takes the end of the file for a closing quote, and so would take a file of which the
  /// half is written for a whole one.
  bool check_closed(Mark mark) {
    const auto index = static_cast<std::size_t>(mark.line) - 1;
    if (mark.line < 1 || index >= lines_.size()) {
      return true;
    }
    std::size_t at = lines_[index] + static_cast<std::size_t>(mark.column) - 1;
    const char quote = at < text_.size() ? text_[at] : '\0';
    if (quote != '"' && quote != '\'') {
      return true;  // a block, or one with a tag or an anchor before it
    }
    for (++at; at < text_.size(); ++at) {
      if (text_[at] == quote) {
        if (quote == '"' || at + 1 == text_.size() || text_[at + 1] != '\'') {
          return true;
        }
        ++at;
      } else if (quote == '"' && text_[at] == '\\') {
        ++at;
      }
    }
    fail(mark, "is not YAML: this text has no closing quote");
    return false;
  }

  [[nodiscard]] std::string_view line(int number) const {
    const auto index = static_cast<std::size_t>(number) - 1;
    if (number < 1 || index >= lines_.size()) {
      return {};
    }
    std::string_view rest = text_.substr(lines_[index]);
    rest = rest.substr(0, rest.find('\n'));
    if (rest.ends_with('\r')) {
      rest.remove_suffix(1);
    }
    return rest;
  }

  static std::optional<Node> tagged_scalar(std::string_view tag, std::string_view value) {
    if (!tag.starts_with(kTagPrefix)) {
      return std::nullopt;
    }
    tag.remove_prefix(kTagPrefix.size());
    Node node = plain_scalar(value);
    const bool fits = (tag == "null" && node.kind == Node::Kind::kNull) ||
                      (tag == "bool" && node.kind == Node::Kind::kBool) ||
                      ((tag == "int" || tag == "float") && node.kind == Node::Kind::kNumber);
    return fits ? std::optional(std::move(node)) : std::nullopt;
  }

  [[nodiscard]] bool expects_key(const Frame& frame) const {
    return document_.at(frame.node).kind == Node::Kind::kMap && !frame.key;
  }

  NodeId add_node(Node node, const YAML::Mark& mark, YAML::anchor_t anchor) {
    node.mark = from_yaml(mark);
    const auto id = static_cast<NodeId>(document_.nodes.size());
    document_.nodes.push_back(std::move(node));
    if (anchor != YAML::NullAnchor) {
      anchors_[anchor] = id;
    }
    return id;
  }

  void add_scalar(Node node, const YAML::Mark& mark, YAML::anchor_t anchor, bool is_merge,
                  const std::string* raw = nullptr) {
    if (failed()) {
      return;
    }
    if (!stack_.empty() && expects_key(stack_.back())) {
      // A key is its text as written: `1.0:` is the key "1.0", `on:` is "on".
      stack_.back().key = Key{raw == nullptr ? "null" : *raw, from_yaml(mark), is_merge};
      if (anchor != YAML::NullAnchor) {
        add_node(std::move(node), mark, anchor);
      }
      return;
    }
    attach(add_node(std::move(node), mark, anchor), from_yaml(mark));
  }

  /// Puts a value where the stack says it belongs.
  void attach(NodeId id, Mark mark) {
    if (stack_.empty()) {
      document_.root = id;
      return;
    }
    Frame& parent = stack_.back();
    Node& node = document_.nodes[parent.node];
    if (node.kind == Node::Kind::kSequence) {
      node.items.push_back(id);
      return;
    }
    if (parent.key->is_merge) {
      parent.merges.push_back({mark, id});
    } else {
      node.entries.push_back({std::move(parent.key->text), parent.key->mark, id});
    }
    parent.key.reset();
  }

  void open(Node::Kind kind, const YAML::Mark& mark, const std::string& tag, std::string_view want,
            YAML::anchor_t anchor) {
    if (failed()) {
      return;
    }
    if (!tag.empty() && tag != "?" && tag != "!" &&
        tag != std::string(kTagPrefix) + std::string(want)) {
      fail(from_yaml(mark), "has a tag (" + tag + ") that does not fit or is not known; remove it");
      return;
    }
    if (!stack_.empty() && expects_key(stack_.back())) {
      fail(from_yaml(mark), "a key must be plain text");
      return;
    }
    if (stack_.size() >= static_cast<std::size_t>(kMaxDepth)) {
      fail(from_yaml(mark),
           "is nested deeper than " + std::to_string(kMaxDepth) + " levels; flatten it");
      return;
    }
    Node node;
    node.kind = kind;
    const NodeId id = add_node(std::move(node), mark, anchor);
    attach(id, from_yaml(mark));
    open_.insert(id);
    stack_.push_back(Frame{id, std::nullopt, {}});
  }

  void close() {
    if (failed()) {
      return;
    }
    open_.erase(stack_.back().node);
    stack_.pop_back();
  }

  void finish_map(Frame& frame) {
    std::unordered_map<std::string, Mark> keys;
    for (const Entry& entry : document_.at(frame.node).entries) {
      const auto [known, is_new] = keys.emplace(entry.key, entry.key_mark);
      if (!is_new) {
        fail(entry.key_mark, "key \"" + entry.key + "\" is already given in line " +
                                 std::to_string(known->second.line) + "; remove one of them");
        return;
      }
    }
    for (const Merge& merge : frame.merges) {
      const Node& source = document_.at(merge.source);
      std::vector<NodeId> maps = {merge.source};
      if (source.kind == Node::Kind::kSequence) {
        maps = source.items;
      }
      for (const NodeId map : maps) {
        if (!merge_map(frame.node, map, merge.mark, keys)) {
          return;
        }
      }
    }
  }

  /// Keys that are there already stay: the map's own, then those of earlier sources.
  bool merge_map(NodeId into, NodeId from, Mark mark, std::unordered_map<std::string, Mark>& keys) {
    if (document_.at(from).kind != Node::Kind::kMap) {
      fail(mark, "a merge key (<<) takes a map or a list of maps");
      return false;
    }
    const std::vector<Entry> entries = document_.at(from).entries;
    for (const Entry& entry : entries) {
      if (!budget_.spend(entry.key.size() + sizeof(Entry))) {
        fail(mark, "aliases and merge keys make the file far too large; write less with them");
        return false;
      }
      if (keys.emplace(entry.key, entry.key_mark).second) {
        document_.nodes[into].entries.push_back(entry);
      }
    }
    return true;
  }

  std::string_view text_;
  Budget& budget_;
  std::vector<std::size_t> lines_;
  bool started_ = false;
  int last_start_ = 0;
  Documents result_;
  Document document_;
  std::unordered_map<YAML::anchor_t, NodeId> anchors_;
  std::unordered_set<NodeId> open_;
  std::vector<Frame> stack_;
};

}  // namespace

Documents read_yaml(std::string_view text, Budget& budget) {
  Builder builder(text, budget);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    while (!builder.failed() && parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    builder.fail(from_yaml(error.mark), "is not YAML: " + error.msg);
  } catch (const std::exception& error) {
    // Its scanner lets some of the standard library's out (a version number out of range).
    builder.fail({}, std::string("is not YAML: ") + error.what());
  }
  return builder.take();
}

std::optional<TextError> check_text(std::string_view text) {
  Mark mark{1, 1};
  // Smallest code point that needs so many continuation bytes: below it, the form is overlong.
  constexpr std::array<std::uint32_t, 4> kSmallest = {0, 0x80, 0x800, 0x10000};
  for (std::size_t at = 0; at < text.size();) {
    const auto first = static_cast<unsigned char>(text[at]);
    if (first < 0x80) {
      if ((first < 0x20 && first != '\t' && first != '\n' && first != '\r') || first == 0x7f) {
        return TextError{mark, "has a control character (byte " + std::to_string(first) +
                                   "); write it as an escape within double quotes"};
      }
      ++at;
      mark = first == '\n' ? Mark{mark.line + 1, 1} : Mark{mark.line, mark.column + 1};
      continue;
    }
    const std::size_t more = first >= 0xf0 ? 3U : first >= 0xe0 ? 2U : 1U;
    std::uint32_t code = first & (0x3fU >> more);
    bool good = first >= 0xc2 && first <= 0xf4 && at + more < text.size();
    for (std::size_t i = 1; good && i <= more; ++i) {
      const auto next = static_cast<unsigned char>(text[at + i]);
      good = (next & 0xc0U) == 0x80;
      code = (code << 6U) | (next & 0x3fU);
    }
    if (!good || code < kSmallest[more] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) {
      return TextError{mark, "is not UTF-8; save the file as UTF-8"};
    }
    at += more + 1;
    mark.column += static_cast<int>(more) + 1;
  }
  return std::nullopt;
}

}  // namespace fairlead::manifest
