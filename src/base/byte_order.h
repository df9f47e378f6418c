// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>

namespace fairlead {

/// Integers in network byte order, for structs and attributes that the kernel reads as such.
class Be16 {
 public:
  Be16() = default;
  explicit constexpr Be16(std::uint16_t host) : raw_(swap(host)) {}
  [[nodiscard]] static constexpr Be16 from_raw(std::uint16_t raw) {
    Be16 value;
    value.raw_ = raw;
    return value;
  }
  [[nodiscard]] constexpr std::uint16_t host() const { return swap(raw_); }
  [[nodiscard]] constexpr std::uint16_t raw() const { return raw_; }
  friend constexpr bool operator==(Be16, Be16) = default;

 private:
  static constexpr std::uint16_t swap(std::uint16_t v) {
    return std::endian::native == std::endian::little ? __builtin_bswap16(v) : v;
  }
  std::uint16_t raw_ = 0;
};

class Be32 {
 public:
  Be32() = default;
  explicit constexpr Be32(std::uint32_t host) : raw_(swap(host)) {}
  [[nodiscard]] static constexpr Be32 from_raw(std::uint32_t raw) {
    Be32 value;
    value.raw_ = raw;
    return value;
  }
  [[nodiscard]] constexpr std::uint32_t host() const { return swap(raw_); }
  [[nodiscard]] constexpr std::uint32_t raw() const { return raw_; }
  friend constexpr bool operator==(Be32, Be32) = default;

 private:
  static constexpr std::uint32_t swap(std::uint32_t v) {
    return std::endian::native == std::endian::little ? __builtin_bswap32(v) : v;
  }
  std::uint32_t raw_ = 0;
};

}  // namespace fairlead
