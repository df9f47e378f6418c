// SPDX-License-Identifier: Apache-2.0
// Finds connections that are over. The programs look at a flow's age when a packet comes; what no
// packet comes for is found here, by walking the table in slices, and ended by a program
// (bpf/sweep.h), which keeps the books.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "bpf/tables.h"

namespace fairlead::dataplane::ebpf {

/// Flows read in one slice.
inline constexpr std::size_t kSweepSlice = 8192;

/// Of so many passes, each flow is in one asked whether its connection is still there. That takes a
/// call to the kernel, which all silent flows together would make longer than the pass itself.
inline constexpr std::uint32_t kOrphanShare = 16;

struct SweepStats {
  std::uint64_t passes = 0;
  std::uint64_t ended = 0;
  std::uint64_t orphans = 0;  // flows whose connection was not there
  std::uint64_t drift = 0;    // counters put right
  std::size_t flows = 0;      // met in the last whole pass
};

class Sweep {
 public:
  explicit Sweep(bpf::Tables& tables) : tables_(tables) {}

  /// Looks at the next flows. True when the pass is over.
  [[nodiscard]] Result<bool> slice(std::uint32_t now);
  [[nodiscard]] const SweepStats& stats() const { return stats_; }

 private:
  struct Tally {
    std::uint32_t active = 0, inactive = 0;
    friend bool operator==(const Tally&, const Tally&) = default;
  };
  struct Suspicion {
    Tally counted, told;
    friend bool operator==(const Suspicion&, const Suspicion&) = default;
  };

  void look_at(const bpf::FlowEntry& entry, std::uint32_t now);
  [[nodiscard]] bool may_be_over(const bpf::FlowEntry& forward, std::uint32_t now) const;
  [[nodiscard]] Status end_what_is_over(std::uint32_t now);
  void tally(const bpf::FlowEntry& forward);
  void look_at_clients(std::uint32_t now);
  void correct_counters();

  bpf::Tables& tables_;
  bpf::Cursor cursor_;
  std::vector<bpf::FlowEntry> flows_;
  std::vector<bpf::FlowEntry> suspects_;  // of this slice: they seem to be over
  std::vector<bpf::ClientEntry> clients_;
  std::size_t met_ = 0;
  std::uint32_t half_open_ = 0;
  std::unordered_map<std::uint32_t, Tally> tallies_;
  std::unordered_map<std::uint32_t, Suspicion> suspicions_;
  SweepStats stats_;
};

}  // namespace fairlead::dataplane::ebpf
