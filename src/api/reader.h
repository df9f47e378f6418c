// SPDX-License-Identifier: Apache-2.0
// Strict reading of a parsed JSON tree. Internal to the decoder: nobody else sees simdjson.
//
// Every reading function returns false after it told `fail` what is wrong; the caller passes that
// on. `null` counts as absent everywhere, and of a repeated key the last value holds, as for the
// API server: so whatever fills a container empties it first.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <simdjson.h>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "net/address.h"

namespace fairlead::api {

using Element = simdjson::dom::element;

/// Shortened and with control characters replaced: input goes to logs and terminals.
[[nodiscard]] std::string printable(std::string_view text, std::size_t longest);
/// `"text"`, printable.
[[nodiscard]] std::string in_quotes(std::string_view text);
/// The value for an error message: `"text"`, `70000`, `true`, `a list`.
[[nodiscard]] std::string describe(Element value);

class Reader {
 public:
  /// A step down the tree for as long as it lives.
  class At {
   public:
    At(Reader& reader, std::string_view key) : reader_(reader) {
      reader.path_.push_back({.key = key, .index = 0});
    }
    At(Reader& reader, std::size_t index) : reader_(reader) {
      reader.path_.push_back({.key = {}, .index = index});
    }
    At(const At&) = delete;
    At& operator=(const At&) = delete;
    ~At() { reader_.path_.pop_back(); }

   private:
    Reader& reader_;
  };

  /// Takes the error from the first failure, if any, and forgets it.
  struct Failure {
    std::string field;
    std::string problem;
  };
  [[nodiscard]] Failure take_failure() { return std::exchange(failure_, {}); }

  /// Always false.
  bool fail(std::string problem);
  bool fail_at(std::string_view key, std::string problem) {
    const At at(*this, key);
    return fail(std::move(problem));
  }
  bool fail_at(std::string_view list, std::size_t index, std::string_view key,
               std::string problem) {
    const At at(*this, list);
    const At at_item(*this, index);
    return fail_at(key, std::move(problem));
  }

  /// Calls `bool f(std::string_view key, Element value)` for each member that is not null.
  template <typename F>
  [[nodiscard]] bool fields(Element value, F&& f) {
    simdjson::dom::object object;
    if (value.get(object) != simdjson::SUCCESS) {
      return wrong_type("a mapping", value);
    }
    for (const auto member : object) {
      if (member.value.is_null()) {
        continue;
      }
      const At at(*this, member.key);
      if (!f(member.key, member.value)) {
        return false;
      }
    }
    return true;
  }
  /// Calls `bool f(std::size_t index, Element value)` for each item.
  template <typename F>
  [[nodiscard]] bool items(Element value, F&& f) {
    simdjson::dom::array array;
    if (value.get(array) != simdjson::SUCCESS) {
      return wrong_type("a list", value);
    }
    std::size_t index = 0;
    for (const Element item : array) {
      const At at(*this, index);
      if (!f(index, item)) {
        return false;
      }
      ++index;
    }
    return true;
  }
  /// Fills `out` with what `bool f(Element, T&)` makes of each item.
  template <typename T, typename F>
  [[nodiscard]] bool list(Element value, std::vector<T>& out, F&& f) {
    // A text of 30 MB may be a list of 15 million items that all are wrong.
    constexpr std::size_t kTrusted = 1024;
    out.clear();
    simdjson::dom::array array;
    if (value.get(array) == simdjson::SUCCESS) {
      out.reserve(std::min(array.size(), kTrusted));
    }
    return items(value, [&](std::size_t, Element item) { return f(item, out.emplace_back()); });
  }

  [[nodiscard]] bool read(Element value, std::string_view& out);
  [[nodiscard]] bool read(Element value, std::string& out);
  [[nodiscard]] bool read(Element value, bool& out);
  [[nodiscard]] bool read(Element value, std::int64_t min, std::int64_t max, std::int64_t& out);
  /// 1 to 65535, or from 0.
  [[nodiscard]] bool read_port(Element value, net::Port& out, bool zero_allowed = false);
  [[nodiscard]] bool read(Element value, net::Protocol& out);
  [[nodiscard]] bool read(Element value, net::IpAddress& out);
  [[nodiscard]] bool read(Element value, net::IpPrefix& out);
  /// RFC 3339 to Unix seconds.
  [[nodiscard]] bool read_time(Element value, std::int64_t& out);

  /// One of the names in `choices`. An empty text counts as absent: `out` stays.
  template <typename T, std::size_t N>
  [[nodiscard]] bool choose(Element value,
                            const std::array<std::pair<std::string_view, T>, N>& choices, T& out) {
    std::string_view text;
    if (!read(value, text)) {
      return false;
    }
    if (text.empty()) {
      return true;
    }
    std::string allowed;
    for (const auto& [name, choice] : choices) {
      if (text == name) {
        out = choice;
        return true;
      }
    }
    for (std::size_t i = 0; i < N; ++i) {
      allowed += i == 0 ? "" : i + 1 == N ? " or " : ", ";
      allowed += choices[i].first;
    }
    return fail("must be " + allowed + ", is " + in_quotes(text));
  }

 private:
  struct Step {
    std::string_view key;  // no data: an index
    std::size_t index = 0;
  };
  bool wrong_type(std::string_view wanted, Element value);

  std::vector<Step> path_;
  Failure failure_;
};

/// Lower-case letters, digits and `-`, which does not begin or end it; at most 63 long.
[[nodiscard]] bool is_dns_label(std::string_view text);
/// DNS labels with dots between; at most 253 long.
[[nodiscard]] bool is_dns_subdomain(std::string_view text);

}  // namespace fairlead::api
