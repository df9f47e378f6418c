/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What no packet comes for any more: the daemon finds it (src/dataplane/ebpf/sweep.h), and it ends
 * here, so that there is one way to end a connection, and a thousand cost one call. */
#ifndef FAIRLEAD_BPF_SWEEP_H
#define FAIRLEAD_BPF_SWEEP_H

#include "flows.h"

/* A REPLY that no connection owns. 1: it has ended. */
static __noinline int end_expectation(struct fl_tuple* key, struct fl_flow* flow, __u32 now) {
  struct fl_config* c = settings();
  struct fl_rs* server = rs_at(flow->rs);
  struct fl_rs_counts* counts = rs_counts_at(flow->rs);
  struct fl_vs_counts* totals;
  if (!c || (__s32)(now - flow->seen) <= (__s32)c->udp_timeout) {
    return 0;
  }
  totals = server && server->generation == flow->generation ? vs_counts_at(server->vs) : NULL;
  if (totals && counts) {
    book_out(counts, totals, flow);
  }
  return bpf_map_delete_elem(&flows, key) == 0;
}

/* A step of a loop: GLOBAL, so that the verifier looks at it once. */
GLOBAL int end_if_over(__u32 index) {
  __u32 first = 0;
  struct fl_ending* list = bpf_map_lookup_elem(&ending, &first);
  struct fl_tuple* key;
  struct fl_flow* flow;
  if (!list || index >= FL_ENDING_MOST || index >= list->count) {
    return STOP;
  }
  key = &list->keys[index];
  flow = bpf_map_lookup_elem(&flows, key);
  list->has_ended[index] = 0;
  if (!flow) {
    return GO_ON;
  }
  if (flow->kind == FL_REPLY) {
    list->has_ended[index] = end_expectation(key, flow, list->now);
  } else if (!server_of(flow) || is_expired(key, flow, list->now)) {
    list->has_ended[index] = end_flows(key);
  }
  return GO_ON;
}

static __always_inline void end_listed(void) {
  __u32 i;
  for (i = 0; i < FL_ENDING_MOST && end_if_over(i) == GO_ON; ++i) {
  }
}

#endif
