/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* In place of libbpf's header of this name, when the programs are compiled for the fuzzer: helpers
 * are functions of shim/kernel.cc, and a map is its own description. */
#ifndef FAIRLEAD_FUZZ_BPF_HELPERS_H
#define FAIRLEAD_FUZZ_BPF_HELPERS_H

#include <linux/bpf.h>

#define SEC(name) __attribute__((used))
#define __uint(name, number) int(*name)[number]
#define __type(name, what) typeof(what)* name
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#undef __noinline
#define __noinline __attribute__((noinline))

void* bpf_map_lookup_elem(void* map, const void* key);
long bpf_map_update_elem(void* map, const void* key, const void* value, __u64 flags);
long bpf_map_delete_elem(void* map, const void* key);
long bpf_tail_call(void* context, void* programs, __u32 index);
long bpf_loop(__u32 turns, void* step, void* context, __u64 flags);
__u32 bpf_get_prandom_u32(void);
__u64 bpf_ktime_get_coarse_ns(void);

long bpf_skb_load_bytes(const void* skb, __u32 offset, void* to, __u32 size);
long bpf_skb_store_bytes(struct __sk_buff* skb, __u32 offset, const void* from, __u32 size,
                         __u64 flags);
long bpf_l3_csum_replace(struct __sk_buff* skb, __u32 offset, __u64 from, __u64 to, __u64 size);
long bpf_l4_csum_replace(struct __sk_buff* skb, __u32 offset, __u64 from, __u64 to, __u64 flags);
__s64 bpf_csum_diff(__be32* from, __u32 from_size, __be32* to, __u32 to_size, __wsum seed);
long bpf_skb_change_tail(struct __sk_buff* skb, __u32 size, __u64 flags);
long bpf_skb_change_head(struct __sk_buff* skb, __u32 room, __u64 flags);
long bpf_skb_adjust_room(struct __sk_buff* skb, __s32 change, __u32 mode, __u64 flags);
long bpf_skb_change_proto(struct __sk_buff* skb, __be16 protocol, __u64 flags);
long bpf_skb_vlan_pop(struct __sk_buff* skb);
__u32 bpf_get_hash_recalc(struct __sk_buff* skb);
long bpf_fib_lookup(void* context, struct bpf_fib_lookup* route, int size, __u32 flags);
long bpf_redirect(__u32 interface, __u64 flags);
long bpf_redirect_peer(__u32 interface, __u64 flags);
long bpf_redirect_neigh(__u32 interface, struct bpf_redir_neigh* next, int size, __u64 flags);

__u64 bpf_get_netns_cookie(void* context);
__u64 bpf_get_socket_cookie(void* context);
int bpf_set_retval(int value);

#endif
