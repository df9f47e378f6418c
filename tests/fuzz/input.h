// SPDX-License-Identifier: Apache-2.0
// A string of bytes as a source of decisions. Past its end all are 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace fairlead::fuzz {

class Input {
 public:
  explicit Input(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

  [[nodiscard]] bool at_end() const { return at_ >= bytes_.size(); }
  std::uint8_t byte() { return at_end() ? 0 : bytes_[at_++]; }
  std::uint16_t word() {
    const std::uint16_t high = byte();
    return static_cast<std::uint16_t>(high << 8U | byte());
  }
  /// Below `count`, which is not 0.
  std::size_t below(std::size_t count) { return byte() % count; }
  /// One of them.
  template <typename Choices>
  auto& of(Choices& choices) {
    return choices[below(std::size(choices))];
  }

 private:
  std::span<const std::uint8_t> bytes_;
  std::size_t at_ = 0;
};

}  // namespace fairlead::fuzz
