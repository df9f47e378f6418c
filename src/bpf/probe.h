// SPDX-License-Identifier: Apache-2.0
// What this kernel and this process's rights allow, found by doing it: distributions port features
// back, so a version number says little.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace fairlead::bpf {

enum class Feature {
  kSyscall,      // bpf(2) makes a map
  kPrograms,     // ours pass the verifier, as they are for this kernel
  kFetchAdd,     // atomic operations with a result (Linux 5.12)
  kLoop,         // bpf_loop (5.17)
  kReason,       // bpf_set_retval (5.18)
  kRouteMtu,     // a route lookup tells what fits (5.12)
  kArrayMmap,    // arrays in the process's memory (5.5)
  kBatches,      // many entries per call (5.6)
  kTcx,          // links on devices (6.6)
  kClsact,       // filters on devices
  kSocketHooks,  // programs of a cgroup at connect, sendmsg, recvmsg, getpeername (5.8)
  kPinning,      // a bpffs at the pin directory
  kNetnsCookie,  // whose socket it is (5.14)
};

struct Finding {
  enum class State { kAvailable, kRefused, kNotTried };
  Feature feature{};
  State state = State::kNotTried;
  /// Refused: what the kernel said. Not tried: why.
  std::string detail;

  friend bool operator==(const Finding&, const Finding&) = default;
};

struct ProbeRequest {
  std::string pin_directory;
  /// Below it a cgroup is made and removed. Empty: socket hooks are not tried.
  std::string cgroup;
};

/// One finding per feature, in the order of the enum. Leaves nothing behind, and no device, cgroup
/// or directory of the caller's is touched: what needs a device is tried on a thread with a network
/// namespace of its own. Blocks for some 100 ms, as the verifier reads the programs.
[[nodiscard]] std::vector<Finding> probe(const ProbeRequest& request);

// Pure.

[[nodiscard]] std::string_view text(Feature feature);
[[nodiscard]] std::string_view text(Finding::State state);
/// One line per finding, with what is lost where something is missing.
[[nodiscard]] std::string format(std::span<const Finding> findings);
/// kUnavailable, with all reasons, if the ebpf plane cannot work. What was not tried is no reason.
[[nodiscard]] Status can_serve(std::span<const Finding> findings);
/// The same for a mode that nobody asked for: the node's own processes must reach services, too, so
/// that their sockets can be translated must have been seen. `translates`: whether they are to be.
[[nodiscard]] Status can_serve_unasked(std::span<const Finding> findings, bool translates);

}  // namespace fairlead::bpf
