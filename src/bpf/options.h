// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace fairlead::bpf {

/// An options struct of libbpf, empty: what its LIBBPF_OPTS does, in C++ that every compiler takes.
template <typename Options>
[[nodiscard]] Options options() {
  Options out{};
  out.sz = sizeof(Options);
  return out;
}

}  // namespace fairlead::bpf
