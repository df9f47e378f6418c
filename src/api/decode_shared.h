// SPDX-License-Identifier: Apache-2.0
// What several kinds have in common. Internal to the decoder.
#pragma once

#include <array>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/objects.h"
#include "api/reader.h"

namespace fairlead::api {

template <typename T, std::size_t N>
using Choices = std::array<std::pair<std::string_view, T>, N>;

/// The members whose key is `wanted`.
[[nodiscard]] bool read_labels(Reader& reader, Element value, Labels& out, auto&& wanted) {
  out.clear();
  return reader.fields(value, [&](std::string_view key, Element text) {
    if (!wanted(key)) {
      return true;
    }
    std::string_view label;
    if (!reader.read(text, label)) {
      return false;
    }
    // Mostly sorted already.
    out.emplace_hint(out.end(), key, label);
    return true;
  });
}

[[nodiscard]] inline bool any_key(std::string_view) { return true; }

[[nodiscard]] inline bool check_port_name(Reader& reader, std::string_view name) {
  if (name.empty() || is_dns_label(name)) {
    return true;
  }
  return reader.fail("must be lower-case letters, digits and '-', at most 63 of them, is " +
                     in_quotes(name));
}

[[nodiscard]] inline bool read_port_name(Reader& reader, Element value, std::string& out) {
  std::string_view name;
  if (!reader.read(value, name) || !check_port_name(reader, name)) {
    return false;
  }
  out = name;
  return true;
}

/// The first two items with equal keys, in order; items without a key differ from all.
template <typename T, typename KeyOf>
std::optional<std::pair<std::size_t, std::size_t>> first_duplicate(const std::vector<T>& items,
                                                                   KeyOf key_of) {
  // Few as a rule, so no memory for them; but input may be hostile.
  constexpr std::size_t kFew = 16;
  if (items.size() <= kFew) {
    for (std::size_t i = 1; i < items.size(); ++i) {
      for (std::size_t before = 0; before < i; ++before) {
        if (key_of(items[i]) && key_of(items[i]) == key_of(items[before])) {
          return std::pair(before, i);
        }
      }
    }
    return std::nullopt;
  }
  std::map<typename decltype(key_of(items[0]))::value_type, std::size_t> seen;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (const auto key = key_of(items[i])) {
      const auto [entry, is_new] = seen.emplace(*key, i);
      if (!is_new) {
        return std::pair(entry->second, i);
      }
    }
  }
  return std::nullopt;
}

template <typename Port>
bool check_unique_names(Reader& reader, const std::vector<Port>& ports) {
  const auto duplicate = first_duplicate(
      ports, [](const Port& port) { return std::optional<std::string_view>(port.name); });
  if (!duplicate) {
    return true;
  }
  const auto [before, index] = *duplicate;
  return reader.fail_at("ports", index, "name",
                        "must differ from that of ports[" + std::to_string(before) +
                            "], both are " + in_quotes(ports[index].name));
}

[[nodiscard]] inline bool required(Reader& reader, std::string_view key, bool present,
                                   std::string_view mend) {
  return present || reader.fail_at(key, "is missing: " + std::string(mend));
}

}  // namespace fairlead::api
