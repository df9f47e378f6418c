// SPDX-License-Identifier: Apache-2.0
// From a virtual server's real servers to the block of slots from which the programs pick
// (bpf/schedule.h), so that the picks are those of kernel IPVS. Pure. Facts: ipvs-engine.md
// section 2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "bpf/abi.h"
#include "net/address.h"

namespace fairlead::dataplane::ebpf {

/// nullopt: this plane has no such scheduler (lblc, lblcr, twos).
[[nodiscard]] std::optional<bpf::fl_scheduler> parse_scheduler(std::string_view name);
[[nodiscard]] std::string_view text(bpf::fl_scheduler scheduler);

/// A real server as a scheduler sees it. Walk order is the kernel's list order: latest added first.
struct Member {
  std::uint32_t number = 0;
  net::SocketAddress socket;
  std::uint32_t weight = 1;
  /// The latest weight above 0; only mh remembers it. 0: never had one.
  std::uint32_t last_weight = 1;

  friend bool operator==(const Member&, const Member&) = default;
};

/// `header` and what follows it, as it lies in the slots.
struct Block {
  bpf::fl_slot header{};
  std::vector<bpf::fl_slot> slots;
  /// The cursor to start from: picks go on where the block before left off.
  std::uint32_t cursor = 0;
};
[[nodiscard]] bool operator==(const Block& a, const Block& b);  // what is published; not the cursor

/// A block that is in use, its walk, and how far its cursor has come.
struct Former {
  std::vector<Member> walk;
  Block block;
  std::uint32_t cursor = 0;
};

/// Most picks that a wrr sequence is made of. Heavier sets have their weights scaled down to it, so
/// that shares are right to within one part in some hundreds, and the order is no longer exactly
/// the kernel's.
inline constexpr std::size_t kMaxSequence = 4096;

/// `former`: what was there before, with an empty block if that was another scheduler's; null for a
/// set that is new, whose servers are added one by one. No slots: no server takes new connections;
/// the block is to be published all the same if its header is not empty, for it remembers where the
/// picks were. lc and its kind look at the first FL_MAX_SCAN servers.
[[nodiscard]] Block build_block(bpf::fl_scheduler scheduler, std::span<const Member> walk,
                                const Former* former);

// --- The kernel's hashes -------------------------------------------------------------------------

/// An address as one word: itself, or the XOR of its four, in the CPU's order.
[[nodiscard]] std::uint32_t fold(const net::IpAddress& address);
/// sh, dh: bucket of a folded address (plus port).
[[nodiscard]] std::uint32_t hash32(std::uint32_t value);
/// mh: SipHash-1-3, low half; `second` with the key that gives the skip.
[[nodiscard]] std::uint32_t maglev_hash(std::uint32_t value, bool second);

}  // namespace fairlead::dataplane::ebpf
