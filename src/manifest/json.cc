// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "manifest/yaml.h"

namespace fairlead::manifest {
namespace {

void append_utf8(std::string& out, std::uint32_t code) {
  const auto put = [&out](std::uint32_t byte) { out += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xc0U | (code >> 6U));
    put(0x80U | (code & 0x3fU));
  } else if (code < 0x10000) {
    put(0xe0U | (code >> 12U));
    put(0x80U | ((code >> 6U) & 0x3fU));
    put(0x80U | (code & 0x3fU));
  } else {
    put(0xf0U | (code >> 18U));
    put(0x80U | ((code >> 12U) & 0x3fU));
    put(0x80U | ((code >> 6U) & 0x3fU));
    put(0x80U | (code & 0x3fU));
  }
}

class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : text_(text) {}

  Documents read() {
    Documents result;
    skip_blanks();
    while (at_ < text_.size()) {
      document_ = Document{};
      const std::optional<NodeId> root = value(0);
      if (!root) {
        result.error = std::move(error_);
        return result;
      }
      document_.root = *root;
      if (document_.at(*root).kind != Node::Kind::kNull) {
        result.documents.push_back(std::move(document_));
      }
      skip_blanks();
    }
    return result;
  }

 private:
  [[nodiscard]] char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  [[nodiscard]] Mark mark() const { return {line_, static_cast<int>(at_ - line_start_) + 1}; }

  void skip_blanks() {
    for (; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c == '\n') {
        ++line_;
        line_start_ = at_ + 1;
      } else if (c != ' ' && c != '\t' && c != '\r') {
        return;
      }
    }
  }

  std::nullopt_t fail(Mark where, std::string problem) {
    if (!error_) {
      error_ = TextError{where, "is not JSON: " + std::move(problem)};
    }
    return std::nullopt;
  }

  bool take(char c) {
    if (peek() != c) {
      return false;
    }
    ++at_;
    return true;
  }

  NodeId add(Node node) {
    document_.nodes.push_back(std::move(node));
    return static_cast<NodeId>(document_.nodes.size() - 1);
  }

  std::optional<NodeId> value(int depth) {
    if (depth > kMaxDepth) {
      return fail(mark(), "nested deeper than " + std::to_string(kMaxDepth) + " levels");
    }
    Node node;
    node.mark = mark();
    switch (peek()) {
      case '{':
        return map(std::move(node), depth);
      case '[':
        return sequence(std::move(node), depth);
      case '"': {
        auto text = string();
        if (!text) {
          return std::nullopt;
        }
        node.kind = Node::Kind::kString;
        node.text = std::move(*text);
        return add(std::move(node));
      }
      default:
        return word(std::move(node));
    }
  }

  std::optional<NodeId> word(Node node) {
    const std::size_t end = text_.find_first_of(" \t\r\n,:]}[{\"", at_);
    const std::string_view text =
        text_.substr(at_, end == std::string_view::npos ? end : end - at_);
    if (text == "true" || text == "false") {
      node.kind = Node::Kind::kBool;
    } else if (is_number(text)) {
      node.kind = Node::Kind::kNumber;
    } else if (text != "null") {
      return fail(node.mark, text.empty() ? "a value is missing here"
                                          : "\"" + std::string(text.substr(0, 40)) +
                                                "\" is no value; text needs double quotes");
    }
    node.text = node.kind == Node::Kind::kNull ? "" : text;
    at_ += text.size();
    return add(std::move(node));
  }

  static bool is_number(std::string_view text) {
    const auto digits = [&text] {
      std::size_t count = 0;
      while (!text.empty() && text.front() >= '0' && text.front() <= '9') {
        text.remove_prefix(1);
        ++count;
      }
      return count;
    };
    if (text.starts_with('-')) {
      text.remove_prefix(1);
    }
    const bool zero = text.starts_with('0');
    const std::size_t whole = digits();
    if (whole == 0 || (zero && whole > 1)) {
      return false;
    }
    if (text.starts_with('.')) {
      text.remove_prefix(1);
      if (digits() == 0) {
        return false;
      }
    }
    if (text.starts_with('e') || text.starts_with('E')) {
      text.remove_prefix(1);
      if (text.starts_with('-') || text.starts_with('+')) {
        text.remove_prefix(1);
      }
      if (digits() == 0) {
        return false;
      }
    }
    return text.empty();
  }

  std::optional<NodeId> sequence(Node node, int depth) {
    node.kind = Node::Kind::kSequence;
    ++at_;
    skip_blanks();
    if (take(']')) {
      return add(std::move(node));
    }
    while (true) {
      const std::optional<NodeId> item = value(depth + 1);
      if (!item) {
        return std::nullopt;
      }
      node.items.push_back(*item);
      skip_blanks();
      if (take(']')) {
        return add(std::move(node));
      }
      if (!take(',')) {
        return fail(mark(), "a comma or ] is missing here");
      }
      skip_blanks();
    }
  }

  std::optional<NodeId> map(Node node, int depth) {
    node.kind = Node::Kind::kMap;
    ++at_;
    skip_blanks();
    if (take('}')) {
      return add(std::move(node));
    }
    std::unordered_set<std::string> keys;
    while (true) {
      Entry entry;
      entry.key_mark = mark();
      auto key = string();
      if (!key) {
        return std::nullopt;
      }
      if (!keys.insert(*key).second) {
        if (!error_) {
          error_ = TextError{entry.key_mark,
                             "key \"" + *key + "\" is given twice in this object; remove one"};
        }
        return std::nullopt;
      }
      entry.key = std::move(*key);
      skip_blanks();
      if (!take(':')) {
        return fail(mark(), "a colon is missing here");
      }
      skip_blanks();
      const std::optional<NodeId> value_id = value(depth + 1);
      if (!value_id) {
        return std::nullopt;
      }
      entry.value = *value_id;
      node.entries.push_back(std::move(entry));
      skip_blanks();
      if (take('}')) {
        return add(std::move(node));
      }
      if (!take(',')) {
        return fail(mark(), "a comma or } is missing here");
      }
      skip_blanks();
    }
  }

  std::optional<std::string> string() {
    if (!take('"')) {
      return fail(mark(), "text in double quotes is missing here");
    }
    std::string out;
    while (true) {
      const std::size_t end = text_.find_first_of("\"\\\n\t\r", at_);
      if (end == std::string_view::npos || text_[end] == '\n' || text_[end] == '\t' ||
          text_[end] == '\r') {
        return fail(mark(), "this text has no closing double quote in its line, or a tab in it");
      }
      out += text_.substr(at_, end - at_);
      at_ = end;
      if (take('"')) {
        return out;
      }
      if (!escape(out)) {
        return std::nullopt;
      }
    }
  }

  bool escape(std::string& out) {
    const Mark start = mark();
    ++at_;
    constexpr std::string_view kFrom = "\"\\/bfnrt";
    constexpr std::string_view kTo = "\"\\/\b\f\n\r\t";
    const char c = peek();
    if (const std::size_t known = kFrom.find(c); c != '\0' && known != std::string_view::npos) {
      out += kTo[known];
      ++at_;
      return true;
    }
    std::optional<std::uint32_t> code = take('u') ? hex4() : std::nullopt;
    if (code && *code >= 0xd800 && *code < 0xdc00) {
      const std::uint32_t high = *code;
      code = take('\\') && take('u') ? hex4() : std::nullopt;
      code = code && *code >= 0xdc00 && *code < 0xe000
                 ? std::optional(0x10000U + ((high - 0xd800U) << 10U) + (*code - 0xdc00U))
                 : std::nullopt;
    } else if (code && *code >= 0xdc00 && *code < 0xe000) {
      code.reset();
    }
    if (!code) {
      fail(start, "this escape is not known");
      return false;
    }
    append_utf8(out, *code);
    return true;
  }

  std::optional<std::uint32_t> hex4() {
    std::uint32_t code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = peek();
      const char low = static_cast<char>(static_cast<unsigned char>(c) | 0x20U);
      if (c >= '0' && c <= '9') {
        code = (code << 4U) | static_cast<std::uint32_t>(c - '0');
      } else if (low >= 'a' && low <= 'f') {
        code = (code << 4U) | static_cast<std::uint32_t>(low - 'a' + 10);
      } else {
        return std::nullopt;
      }
    }
    return code;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  std::size_t line_start_ = 0;
  int line_ = 1;
  Document document_;
  std::optional<TextError> error_;
};

}  // namespace

Documents read_json(std::string_view text) { return JsonReader(text).read(); }

}  // namespace fairlead::manifest
