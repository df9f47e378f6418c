/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which real server gets a new connection: the schedulers of kernel IPVS. User space lays out the
 * block of slots for each (src/dataplane/ebpf/scheduling.h) so that a pick here is an index, or one
 * walk in the kernel's order.
 */
#ifndef FAIRLEAD_BPF_SCHEDULE_H
#define FAIRLEAD_BPF_SCHEDULE_H

#include "packet.h"

/* So many slots of servers at their threshold a turn skips before it gives up, all that a wrr
 * sequence has; so many other servers a hash with fallback tries, all. But each turn of a loop
 * costs an old kernel's verifier time. */
#ifdef FL_OLD_KERNEL
#define FL_MAX_SKIPS 512
#define FL_MAX_FALLBACKS 512
#else
#define FL_MAX_SKIPS 4096
#define FL_MAX_FALLBACKS FL_MH_SIZE
#endif

/* What is asked of the scheduler. */
struct choice {
  __u32 vs;
  __u32 set;
  __u64 block;
  __u32 client; /* folded source address, in the CPU's order */
  __u32 port;   /* client's port in the CPU's order, or 0 where it does not count */
  __u32 target; /* folded destination address */
  __u32 who;    /* enum who */
};
enum who { PACKET, SOCKET };

static __always_inline struct fl_slot* slot_at(__u64 block, __u32 index) {
  __u32 at = FL_BLOCK_BASE(block) + 1 + index;
  return bpf_map_lookup_elem(&slots, &at);
}

/* May the server take a new connection? A slot of a block that was replaced a moment ago can name a
 * server of somebody else's by now. */
static __always_inline int is_usable(__u32 number, __u32 vs) {
  struct fl_rs* server = rs_at(number);
  struct fl_rs_counts* counts = rs_counts_at(number);
  return server && counts && server->vs == vs && server->state == FL_RS_UP && !counts->overloaded;
}

static __always_inline __u32 fold(const struct fl_addr* addr) {
  if (is_v4(addr)) {
    return bpf_ntohl(addr->words[3]);
  }
  return bpf_ntohl(addr->words[0] ^ addr->words[1] ^ addr->words[2] ^ addr->words[3]);
}

/* A walk over a block. */
struct walk {
  struct choice choice;
  __u32 scheduler;
  __u32 count;
  __u32 loop;   /* turns: where the sequence repeats from */
  __u32 bucket; /* hashes: where the first try was */
  __u32 chosen;
  __u32 pad;
  __u64 load, weight; /* of the chosen one */
};
#define STOP 1
#define GO_ON 0

/*
 * STEP long NAME(index, walk) is a step, WALKED(NAME) stands behind it, WALK(times, NAME, walk)
 * takes so many steps or until one says STOP. The verifier looks at a step once: as that of
 * bpf_loop (5.17), before as a GLOBAL function. Such a function took no memory then, so that the
 * walk is kept in a map meanwhile: one for packets, which do not interrupt each other on one CPU
 * but do interrupt sockets, and one for sockets. These interrupt each other where a kernel of 5.11
 * to 5.16 has CONFIG_PREEMPT: then one that was disturbed finds no server, and is refused.
 */
#ifdef FL_OLD_KERNEL
struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 2);
  __type(key, __u32);
  __type(value, struct walk);
} walks SEC(".maps");

#define STEP static __always_inline
#define WALKED(step)                                       \
  GLOBAL int step##_of(__u32 index, __u32 who) {           \
    struct walk* kept = bpf_map_lookup_elem(&walks, &who); \
    return kept ? (int)step(index, kept) : STOP;           \
  }
#define WALK(times, step, w)                                   \
  do {                                                         \
    __u32 i, end = (times), who = (w)->choice.who;             \
    struct walk* kept = bpf_map_lookup_elem(&walks, &who);     \
    if (kept) {                                                \
      *kept = *(w);                                            \
      for (i = 0; i < end && step##_of(i, who) == GO_ON; ++i); \
      *(w) = *kept;                                            \
    }                                                          \
  } while (0)
#else
#define STEP static
#define WALKED(step)
#define WALK(times, step, w) bpf_loop(times, step, w, 0)
#endif

/* --- Turns -------------------------------------------------------------------------------------
 */

STEP long next_turn(__u32 index, void* context) {
  struct walk* w = context;
  struct fl_vs_counts* counts = vs_counts_at(w->choice.vs);
  __u32 set = w->choice.set;
  struct fl_slot* slot;
  __u32 cursor;
  if (!counts || set >= FL_CLASSES || index >= w->count || w->loop >= w->count) {
    return STOP;
  }
  cursor = fetch_and_add(&counts->cursor[set], 1);
  if (cursor >= w->count) {
    cursor = w->loop + (cursor - w->loop) % (w->count - w->loop);
  }
  slot = slot_at(w->choice.block, cursor);
  if (slot && is_usable(slot->rs, w->choice.vs)) {
    w->chosen = slot->rs;
    return STOP;
  }
  return GO_ON;
}
WALKED(next_turn)

/* --- The least loaded ----------------------------------------------------------------------------
 */

/*
 * A server replaces the best so far only if it is better, so that ties fall to the first. Loads are
 * compared as load / weight by cross multiplication; lc compares with weight 1.
 */
STEP long next_least(__u32 index, void* context) {
  struct walk* w = context;
  struct fl_slot* slot;
  struct fl_rs_counts* counts;
  __u64 load, weight;
  if (index >= w->count) {
    return STOP;
  }
  slot = slot_at(w->choice.block, index);
  if (!slot || slot->weight == 0 || !is_usable(slot->rs, w->choice.vs)) {
    return GO_ON;
  }
  counts = rs_counts_at(slot->rs);
  if (!counts) {
    return GO_ON;
  }
  weight = slot->weight;
  if (w->scheduler == FL_NQ && counts->active == 0) {
    w->chosen = slot->rs;
    return STOP;
  }
  if (w->scheduler == FL_SED || w->scheduler == FL_NQ) {
    load = (__u64)counts->active + 1;
  } else {
    load = ((__u64)counts->active << 8) + counts->inactive;
    if (w->scheduler == FL_LC) {
      weight = 1;
    }
  }
  if (w->chosen == 0 || w->load * weight > load * w->weight) {
    w->chosen = slot->rs;
    w->load = load;
    w->weight = weight;
  }
  return GO_ON;
}
WALKED(next_least)

/* fo, ovf: the heaviest, of those with room (at most `weight` active connections) for ovf. */
STEP long next_heaviest(__u32 index, void* context) {
  struct walk* w = context;
  struct fl_slot* slot;
  struct fl_rs_counts* counts;
  if (index >= w->count) {
    return STOP;
  }
  slot = slot_at(w->choice.block, index);
  if (!slot || slot->weight <= w->weight || !is_usable(slot->rs, w->choice.vs)) {
    return GO_ON;
  }
  counts = rs_counts_at(slot->rs);
  if (counts && (w->scheduler != FL_OVF || counts->active <= slot->weight)) {
    w->chosen = slot->rs;
    w->weight = slot->weight;
  }
  return GO_ON;
}
WALKED(next_heaviest)

/* --- Hashes --------------------------------------------------------------------------------------
 */

static __always_inline __u32 hash32(__u32 value) { return (value * 0x61C88647U) >> 24; }

static __always_inline __u64 rotate(__u64 value, int bits) {
  return value << bits | value >> (64 - bits);
}

/* SipHash-1-3 of one 4-byte word, the low half: what the kernel's hsiphash is on 64-bit machines.
 */
static __always_inline __u32 maglev_hash(__u32 word) {
  __u64 key = 2654435761ULL;
  __u64 v0 = 0x736f6d6570736575ULL ^ key;
  __u64 v1 = 0x646f72616e646f6dULL ^ key;
  __u64 v2 = 0x6c7967656e657261ULL ^ key;
  __u64 v3 = 0x7465646279746573ULL ^ key;
  __u64 block = (4ULL << 56) | word;
  int i;
  v3 ^= block;
  for (i = 0; i < 4; ++i) {
    if (i == 1) {
      v0 ^= block;
      v2 ^= 0xff;
    }
    v0 += v1;
    v1 = rotate(v1, 13) ^ v0;
    v0 = rotate(v0, 32);
    v2 += v3;
    v3 = rotate(v3, 16) ^ v2;
    v0 += v3;
    v3 = rotate(v3, 21) ^ v0;
    v2 += v1;
    v1 = rotate(v1, 17) ^ v2;
    v2 = rotate(v2, 32);
  }
  return (__u32)(v0 ^ v1 ^ v2 ^ v3);
}

static __always_inline __u32 bucket_of(const struct choice* choice, __u32 scheduler, __u32 offset) {
  switch (scheduler) {
    case FL_SH:
      return (offset + hash32(choice->port + choice->client)) & (FL_SH_SIZE - 1);
    case FL_DH:
      return hash32(choice->target) & (FL_SH_SIZE - 1);
    default:
      return maglev_hash(offset + choice->port + choice->client) % FL_MH_SIZE;
  }
}

static __always_inline __u32 table_size(__u32 scheduler) {
  return scheduler == FL_MH ? FL_MH_SIZE : FL_SH_SIZE;
}

/* The first try, and with fallback those after it. */
STEP long next_bucket(__u32 index, void* context) {
  struct walk* w = context;
  struct fl_slot* slot;
  __u32 bucket;
  if (w->count < table_size(w->scheduler)) {
    return STOP;
  }
  if (index == 0) {
    bucket = w->bucket = bucket_of(&w->choice, w->scheduler, 0);
  } else {
    bucket =
        bucket_of(&w->choice, w->scheduler, (index - 1 + w->bucket) % table_size(w->scheduler));
  }
  slot = slot_at(w->choice.block, bucket);
  if (slot && slot->weight && is_usable(slot->rs, w->choice.vs)) {
    w->chosen = slot->rs;
    return STOP;
  }
  return GO_ON;
}
WALKED(next_bucket)

/* --- Any -----------------------------------------------------------------------------------------
 */

/*
 * A zero that the verifier does not know. Before Linux 6.7 it looks at a step of bpf_loop just
 * once, with what the stack holds at the call, and removes branches that are not taken then: what
 * steps change must begin as anything for all it knows.
 */
static __always_inline __u32 hidden_zero(const struct choice* choice) {
  const volatile __u32* unknown = &choice->client;
  return *unknown - *unknown;
}

/* Number of the chosen real server; 0: none takes new connections. */
STEP __u32 pick(const struct choice* choice) {
  struct fl_vs* server;
  struct fl_slot* header;
  struct walk w;
  __u32 header_at;
  header_at = FL_BLOCK_BASE(choice->block);
  server = vs_at(choice->vs);
  header = bpf_map_lookup_elem(&slots, &header_at);
  if (!server || !header || choice->block == 0) {
    return 0;
  }
  __builtin_memset(&w, 0, sizeof(w));
  w.choice = *choice;
  w.scheduler = server->scheduler;
  w.count = FL_BLOCK_COUNT(choice->block);
  w.loop = w.scheduler == FL_WRR ? header->rs : 0;
  w.bucket = w.chosen = hidden_zero(choice);
  w.load = w.weight = hidden_zero(choice);
  switch (w.scheduler) {
    case FL_RR:
    case FL_WRR:
      WALK(FL_MAX_SKIPS, next_turn, &w);
      break;
    case FL_LC:
    case FL_WLC:
    case FL_SED:
    case FL_NQ:
      WALK(FL_MAX_SCAN, next_least, &w);
      break;
    case FL_FO:
    case FL_OVF:
      WALK(FL_MAX_SCAN, next_heaviest, &w);
      break;
    default:
      WALK(server->flags & FL_VS_FALLBACK && w.scheduler != FL_DH ? 1 + FL_MAX_FALLBACKS : 1,
           next_bucket, &w);
      break;
  }
  return w.chosen;
}

#ifdef FL_OLD_KERNEL
GLOBAL __u32 pick_of(__u32 who) {
  struct walk* kept = bpf_map_lookup_elem(&walks, &who);
  struct choice choice;
  if (!kept) {
    return 0;
  }
  choice = kept->choice;
  return pick(&choice);
}
static __always_inline __u32 schedule(const struct choice* choice) {
  struct walk* kept;
  __u32 number, who = choice->who;
  kept = bpf_map_lookup_elem(&walks, &who);
  if (!kept) {
    return 0;
  }
  kept->choice = *choice;
  number = pick_of(who);
  return is_usable(number, choice->vs) ? number : 0; /* not if the walk was disturbed */
}
#else
GLOBAL __u32 schedule(struct choice* choice) { return choice ? pick(choice) : 0; }
#endif

#endif
