// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fairlead {

/// Pieces between separators; an empty text gives one empty piece.
[[nodiscard]] std::vector<std::string_view> split(std::string_view text, char separator);
[[nodiscard]] std::string_view trim(std::string_view text);
[[nodiscard]] std::string join(std::span<const std::string> pieces, std::string_view separator);
[[nodiscard]] std::string lower(std::string_view text);
/// Whole text as a decimal number within [0, max]; no sign, no blanks.
[[nodiscard]] std::optional<std::uint64_t> parse_number(std::string_view text, std::uint64_t max);

/// Mixes `value` into `seed`; for std::hash of our structs.
inline void hash_mix(std::size_t& seed, std::size_t value) {
  seed ^= value + 0x9e3779b97f4a7c15ULL + (seed << 12U) + (seed >> 4U);
  seed *= 0xff51afd7ed558ccdULL;
}
template <typename T>
void hash_mix_value(std::size_t& seed, const T& value) {
  hash_mix(seed, std::hash<T>{}(value));
}

}  // namespace fairlead
