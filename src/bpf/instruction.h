// SPDX-License-Identifier: Apache-2.0
// Programs of a few instructions, without a compiler.
#pragma once

#include <cstdint>
#include <linux/bpf.h>

namespace fairlead::bpf {

[[nodiscard]] inline bpf_insn instruction(int code, int destination, int source, int offset,
                                          int value) {
  bpf_insn out{};
  out.code = static_cast<std::uint8_t>(code);
  out.dst_reg = static_cast<std::uint8_t>(destination) & 0xfU;
  out.src_reg = static_cast<std::uint8_t>(source) & 0xfU;
  out.off = static_cast<std::int16_t>(offset);
  out.imm = value;
  return out;
}

}  // namespace fairlead::bpf
