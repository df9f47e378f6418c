// SPDX-License-Identifier: Apache-2.0
// What a frame says, whatever it is; read independently of the programs under test.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace fairlead::frames {

enum class Sum : std::uint8_t {
  kUnknown,  // none there, or not to be told from this packet alone
  kNone,     // UDP: left out
  kWrong,
  kRight,
};

struct Look {
  bool v6 = false;
  std::span<const std::uint8_t> source, destination;
  std::uint8_t protocol = 0;
  std::size_t l3 = 0, l4 = 0, end = 0;
  bool is_fragment = false, is_later_fragment = false;
  Sum network = Sum::kUnknown, transport = Sum::kUnknown;
  std::uint8_t event = 0;  // TCP: flags; SCTP: type of the first chunk
};

/// nullopt: not a packet of that protocol (ETH_P_*), or its lengths are not those of what is there.
/// `partial`: the transport checksum is still to be finished by a device.
[[nodiscard]] std::optional<Look> look(std::span<const std::uint8_t> frame, std::size_t l3,
                                       std::uint16_t protocol, bool partial = false);

}  // namespace fairlead::frames
