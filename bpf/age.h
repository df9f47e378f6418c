/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the kernel's age decides. The same programs are compiled twice: as they are, for Linux 5.18
 * and later, and with FL_OLD_KERNEL for those from 5.10 on, with what these have instead.
 */
#ifndef FAIRLEAD_BPF_AGE_H
#define FAIRLEAD_BPF_AGE_H

#include "kernel.h"

/* GLOBAL, for functions that are given memory: where they cannot be (before 5.13), the verifier
 * looks at them anew for each call. */
#ifdef FL_OLD_KERNEL
#define GLOBAL_MEM static __noinline
#else
#define GLOBAL_MEM GLOBAL
#endif

/* --- Atomic operations with a result (5.12) ----------------------------------------------------
 */

#ifdef FL_OLD_KERNEL
struct fl_lock {
  struct bpf_spin_lock lock;
};
/* One for all: what it guards is short, and does not happen to every packet. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct fl_lock);
} lock SEC(".maps");

static __always_inline __u32 fetch_and_add(__u32* at, __u32 change) {
  __u32 first = 0, before = 0;
  struct fl_lock* held = bpf_map_lookup_elem(&lock, &first);
  if (held) {
    bpf_spin_lock(&held->lock);
    before = *at;
    *at = before + change;
    bpf_spin_unlock(&held->lock);
  }
  return before;
}

/* What was there: `old`, if it is `new` now. */
static __always_inline __u32 compare_and_swap(__u32* at, __u32 old, __u32 new) {
  __u32 first = 0, before = ~old;
  struct fl_lock* held = bpf_map_lookup_elem(&lock, &first);
  if (held) {
    bpf_spin_lock(&held->lock);
    before = *at;
    if (before == old) {
      *at = new;
    }
    bpf_spin_unlock(&held->lock);
  }
  return before;
}
#else
static __always_inline __u32 fetch_and_add(__u32* at, __u32 change) {
  return __sync_fetch_and_add(at, change);
}
static __always_inline __u32 compare_and_swap(__u32* at, __u32 old, __u32 new) {
  return __sync_val_compare_and_swap(at, old, new);
}
#endif

/* --- Helpers ------------------------------------------------------------------------------------
 */

/* CLOCK_MONOTONIC; the coarse one costs less (5.11). */
static __always_inline __u64 clock(void) {
#ifdef FL_OLD_KERNEL
  return bpf_ktime_get_ns();
#else
  return bpf_ktime_get_coarse_ns();
#endif
}

/* What a refused system call fails with (5.18); before, it is EPERM. */
static __always_inline void fail_with(int error) {
#ifndef FL_OLD_KERNEL
  bpf_set_retval(-error);
#endif
}

#endif
