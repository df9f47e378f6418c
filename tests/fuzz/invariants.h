// SPDX-License-Identifier: Apache-2.0
// What holds of the maps and of packets whatever comes. A claim that does not hold is printed with
// what it is about, and ends the process.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>

#include "bpf/abi.h"
#include "frames.h"
#include "shim/kernel.h"

namespace fairlead::fuzz {

[[noreturn]] void fail(const std::string& what);
/// Ends the process, with what `what` says, unless it holds.
template <typename What>
void claim(bool holds, What what) {
  if (!holds) {
    fail(what());
  }
}

[[nodiscard]] std::string text(const bpf::fl_tuple& key);

/// Order of keys, by their bytes.
struct KeyLess {
  bool operator()(const bpf::fl_tuple& a, const bpf::fl_tuple& b) const;
};
using Flows = std::map<bpf::fl_tuple, bpf::fl_flow, KeyLess>;
[[nodiscard]] Flows flows_of(shim::Kernel& kernel, const char* map = "flows");

/// Counters are what is in the table; a connection has all its flows, and they name each other.
void check_tables(shim::Kernel& kernel);

/// A connection that was there before a packet and is not there after it had a reason to end: its
/// server is gone, it was silent for too long, or the packet, on its tuple, may start another one.
void check_survivors(shim::Kernel& kernel, const Flows& before, const shim::Packet& packet);

/// What a sweep ended was over, and what was over has ended.
void check_swept(shim::Kernel& kernel, const Flows& before);

/// A whole packet of a flow that was there, of a connection whose server is, gets what the flow
/// writes; `verdict` is of the programs.
void check_translation(shim::Kernel& kernel, const Flows& flows, const shim::Packet& before,
                       const shim::Packet& after, bpf::fl_point point, int verdict);

/// Checksums that were right are right.
void check_sums(const shim::Packet& before, const shim::Packet& after);

}  // namespace fairlead::fuzz
