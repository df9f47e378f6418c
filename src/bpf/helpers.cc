// SPDX-License-Identifier: Apache-2.0
#include "bpf/helpers.h"

#include <bpf/libbpf.h>

#include "bpf/library_log.h"

namespace fairlead::bpf {

bool has_helper(bpf_prog_type type, bpf_func_id helper) {
  const LibraryLog quiet;
  return libbpf_probe_bpf_helper(type, helper, nullptr) != 0;
}

bool is_old_kernel() {
  static const bool is_old = !has_helper(BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_loop) ||
                             !has_helper(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_FUNC_set_retval);
  return is_old;
}

}  // namespace fairlead::bpf
