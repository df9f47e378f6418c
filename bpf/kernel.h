/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The kernel's headers, in the one order in which they compile. */
#ifndef FAIRLEAD_BPF_KERNEL_H
#define FAIRLEAD_BPF_KERNEL_H

/* clang-format off */
#include <stddef.h>
#include <linux/types.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
/* clang-format on */

/* A function that the verifier looks at once, by itself, whoever calls it. Its pointers may be NULL
 * for all the verifier knows; and before Linux 6.2 what they point to is no key and no value of a
 * map, which is why such functions take the packet from its map (`the_packet`). */
#define GLOBAL __attribute__((noinline))

/* Verdict: others' programs go on behind us. */
#define PASS TC_ACT_UNSPEC

#endif
