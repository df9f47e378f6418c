// SPDX-License-Identifier: Apache-2.0
// Which functions of the kernel's BPF programs can call, and which of our programs that makes.
#pragma once

#include <linux/bpf.h>

namespace fairlead::bpf {

/// Found by trying. True, too, where the process may not try.
[[nodiscard]] bool has_helper(bpf_prog_type type, bpf_func_id helper);

/// Whether the kernel lacks what our programs call (the newest is of Linux 5.18). It gets them as
/// they are compiled for such kernels, from Linux 5.10 on (bpf/age.h).
[[nodiscard]] bool is_old_kernel();

}  // namespace fairlead::bpf
