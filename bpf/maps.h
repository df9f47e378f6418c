/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps. Sizes here are least ones; the daemon sets the real ones before it loads. */
#ifndef FAIRLEAD_BPF_MAPS_H
#define FAIRLEAD_BPF_MAPS_H

#include "abi.h"
#include "age.h"
#include "kernel.h"

#define FL_ARRAY(name, value_type, entries) \
  struct {                                  \
    __uint(type, BPF_MAP_TYPE_ARRAY);       \
    __uint(map_flags, BPF_F_MMAPABLE);      \
    __uint(max_entries, entries);           \
    __type(key, __u32);                     \
    __type(value, value_type);              \
  } name SEC(".maps")

#define FL_HASH(name, map_type, flags, key_type, value_type, entries) \
  struct {                                                            \
    __uint(type, map_type);                                           \
    __uint(map_flags, flags);                                         \
    __uint(max_entries, entries);                                     \
    __type(key, key_type);                                            \
    __type(value, value_type);                                        \
  } name SEC(".maps")

FL_ARRAY(vs, struct fl_vs, 64);
FL_ARRAY(vs_counts, struct fl_vs_counts, 64);
FL_ARRAY(rs, struct fl_rs, 64);
FL_ARRAY(rs_counts, struct fl_rs_counts, 64);
FL_ARRAY(slots, struct fl_slot, 4096);
FL_ARRAY(filter, struct fl_filter, 1);
FL_ARRAY(pressure, struct fl_pressure, 1);
FL_ARRAY(config, struct fl_config, 1);
FL_ARRAY(ending, struct fl_ending, 1);

FL_HASH(numbers, BPF_MAP_TYPE_HASH, 0, struct fl_vs_key, __u32, 64);
FL_HASH(flows, BPF_MAP_TYPE_HASH, 0, struct fl_tuple, struct fl_flow, 64);
FL_HASH(half, BPF_MAP_TYPE_LRU_HASH, 0, struct fl_tuple, struct fl_flow, 64);
FL_HASH(clients, BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC, struct fl_client_key, struct fl_client, 64);
FL_HASH(fragments, BPF_MAP_TYPE_LRU_HASH, 0, struct fl_fragment_key, struct fl_ports, 64);
FL_HASH(socket_peers, BPF_MAP_TYPE_LRU_HASH, 0, struct fl_socket_key, struct fl_socket_peer, 64);
FL_HASH(devices, BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC, __u32, struct fl_device, 64);
FL_HASH(classes, BPF_MAP_TYPE_LPM_TRIE, BPF_F_NO_PREALLOC, struct fl_prefix, __u32, 64);

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, FL_EVENTS);
  __type(key, __u32);
  __type(value, __u64);
} events SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, FL_BEFORES);
  __uint(key_size, sizeof(__u32));
  __uint(value_size, sizeof(__u32));
} before SEC(".maps");

static __always_inline void count(__u32 event) {
  __u64* counter = bpf_map_lookup_elem(&events, &event);
  if (counter) {
    *counter += 1;
  }
}

static __always_inline struct fl_vs* vs_at(__u32 number) {
  return bpf_map_lookup_elem(&vs, &number);
}
static __always_inline struct fl_vs_counts* vs_counts_at(__u32 number) {
  return bpf_map_lookup_elem(&vs_counts, &number);
}
static __always_inline struct fl_rs* rs_at(__u32 number) {
  return bpf_map_lookup_elem(&rs, &number);
}
static __always_inline struct fl_rs_counts* rs_counts_at(__u32 number) {
  return bpf_map_lookup_elem(&rs_counts, &number);
}
static __always_inline struct fl_config* settings(void) {
  __u32 first = 0;
  return bpf_map_lookup_elem(&config, &first);
}

static __always_inline __u32 ticks_now(void) { return (__u32)(clock() >> FL_TICK_SHIFT); }

/* --- Addresses ---------------------------------------------------------------------------------
 */

#define FL_V4_MARK bpf_htonl(0xffff)

static __always_inline void set_v4(struct fl_addr* addr, __be32 v4) {
  addr->words[0] = 0;
  addr->words[1] = 0;
  addr->words[2] = FL_V4_MARK;
  addr->words[3] = v4;
}
static __always_inline int is_v4(const struct fl_addr* addr) {
  return addr->words[0] == 0 && addr->words[1] == 0 && addr->words[2] == FL_V4_MARK;
}
static __always_inline int same_addr(const struct fl_addr* a, const struct fl_addr* b) {
  return a->words[0] == b->words[0] && a->words[1] == b->words[1] && a->words[2] == b->words[2] &&
         a->words[3] == b->words[3];
}

static __always_inline int in_filter(__u32 point, const struct fl_addr* addr) {
  __u32 first = 0;
  struct fl_filter* sets = bpf_map_lookup_elem(&filter, &first);
  __u32 bit = FL_FILTER_BIT(addr->words[0], addr->words[1], addr->words[2], addr->words[3]);
  return sets && (sets->bits[point & 1][(bit >> 6) & 1023] >> (bit & 63)) & 1;
}

/* An address that belongs to services, and not to the node. */
static __always_inline int is_claimed(const struct fl_addr* addr) {
  struct fl_vs_key key;
  __builtin_memset(&key, 0, sizeof(key));
  key.addr = *addr;
  return bpf_map_lookup_elem(&numbers, &key) != NULL;
}

#endif
