// SPDX-License-Identifier: Apache-2.0
// What the headers and the library that we build with do not have.
#pragma once

#include <cstdint>

namespace fairlead::bpf {

/// Attach types of Linux 6.6.
constexpr std::uint32_t kTcxIngress = 46;
constexpr std::uint32_t kTcxEgress = 47;

/// An options struct of libbpf, empty: what its LIBBPF_OPTS does, in C++ that every compiler takes.
template <typename Options>
[[nodiscard]] Options options() {
  Options out{};
  out.sz = sizeof(Options);
  return out;
}

}  // namespace fairlead::bpf
