// SPDX-License-Identifier: Apache-2.0
// How long connections may be silent, by state: as in kernel IPVS, and less as the table fills.
// Pure.
#pragma once

#include <chrono>
#include <cstddef>

#include "bpf/abi.h"

namespace fairlead::dataplane::ebpf {

/// As `ipvsadm --set`; 0: kernel IPVS's own.
struct Timeouts {
  std::chrono::seconds tcp{0}, tcpfin{0}, udp{0};
};

/// How much of their time connections that have ended are kept. Half a table is theirs, if need be;
/// from there on it shrinks, to a sixtieth at nine tenths: what waits in TIME_WAIT must not keep
/// new ones out. What makes room by that makes the table look empty, so it grows again slowly:
/// doubled in five seconds.
class Patience {
 public:
  /// After a pass through the table that met so many flows.
  void adapt(std::size_t flows, std::size_t capacity, std::chrono::nanoseconds since_last_pass);
  /// 1: all of their time.
  [[nodiscard]] double share() const { return share_; }
  /// Until the next pass: 5 s, and less as the table fills.
  [[nodiscard]] std::chrono::milliseconds pause() const { return pause_; }

 private:
  double share_ = 1;
  std::chrono::milliseconds pause_ = std::chrono::seconds(5);
};

/// Writes them; of ended connections that share, but a second.
void set_timeouts(bpf::fl_config& config, const Timeouts& wishes, double share_of_ended);

}  // namespace fairlead::dataplane::ebpf
