// SPDX-License-Identifier: Apache-2.0
// Takes connections out that have ended. The programs look at a flow's age when a packet comes;
// what no packet comes for is found here, by walking the table in slices. Also keeps the books:
// what an ended connection carried goes to its servers' totals, and its place in their counters is
// freed.
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

/// Ticks that a flow may be silent, by its protocol and state.
[[nodiscard]] std::uint32_t timeout_of(const bpf::fl_config& config, std::uint8_t protocol,
                                       std::uint32_t state);

// Keys of a connection's flows, as bpf/flows.h derives them.
[[nodiscard]] bpf::fl_tuple key_of_reply(const bpf::fl_tuple& forward, const bpf::fl_flow& flow);
[[nodiscard]] bpf::fl_tuple key_of_hide(const bpf::fl_tuple& forward, const bpf::fl_flow& flow);
[[nodiscard]] bpf::fl_tuple key_of_forward(const bpf::fl_tuple& reply, const bpf::fl_flow& flow);
[[nodiscard]] bpf::fl_tuple key_of_unhide(const bpf::fl_tuple& hide, const bpf::fl_flow& flow);

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
  [[nodiscard]] bool is_over(const bpf::FlowEntry& forward, std::uint32_t now);
  void end(const bpf::FlowEntry& forward);
  void book(const bpf::fl_flow& flow);
  void look_at_clients(std::uint32_t now);
  void correct_counters();

  bpf::Tables& tables_;
  bpf::Cursor cursor_;
  std::vector<bpf::FlowEntry> flows_;
  std::vector<bpf::ClientEntry> clients_;
  std::size_t met_ = 0;
  std::uint32_t half_open_ = 0;
  std::unordered_map<std::uint32_t, Tally> tallies_;
  std::unordered_map<std::uint32_t, Suspicion> suspicions_;
  SweepStats stats_;
};

}  // namespace fairlead::dataplane::ebpf
