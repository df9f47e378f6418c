/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Connections: found, made, moved through their states, ended. */
#ifndef FAIRLEAD_BPF_FLOWS_H
#define FAIRLEAD_BPF_FLOWS_H

#include "schedule.h"
#include "states.h"

/* A client port is sought so many times where the client's own is taken. */
#define FL_MAX_PORT_TRIES 32
#define FL_EEXIST 17

/* The tuple of the packet that goes the other way. */
static __always_inline void turn_around(struct fl_tuple* to, const struct fl_tuple* from,
                                        __u8 point) {
  to->saddr = from->daddr;
  to->daddr = from->saddr;
  to->sport = from->dport;
  to->dport = from->sport;
  to->protocol = from->protocol;
  to->point = point;
  to->pad = 0;
}

/* Keys of a connection's other flows, from its FL_FORWARD one. */
static __always_inline void key_of_reply(struct fl_tuple* to, const struct fl_tuple* forward,
                                         const struct fl_flow* flow) {
  to->saddr = flow->addr;
  to->daddr = forward->saddr;
  to->sport = flow->port;
  to->dport = flow->client_port;
  to->protocol = forward->protocol;
  to->point = FL_EGRESS;
  to->pad = 0;
}
static __always_inline void key_of_hide(struct fl_tuple* to, const struct fl_tuple* forward,
                                        const struct fl_flow* flow) {
  to->saddr = forward->saddr;
  to->daddr = flow->addr;
  to->sport = flow->client_port;
  to->dport = flow->port;
  to->protocol = forward->protocol;
  to->point = FL_EGRESS;
  to->pad = 0;
}
/* Of FL_FORWARD, from FL_REPLY. */
static __always_inline void key_of_forward(struct fl_tuple* to, const struct fl_tuple* reply,
                                           const struct fl_flow* flow) {
  to->saddr = reply->daddr;
  to->daddr = flow->addr;
  to->sport = flow->client_port;
  to->dport = flow->port;
  to->protocol = reply->protocol;
  to->point = FL_INGRESS;
  to->pad = 0;
}
/* Of FL_UNHIDE, from FL_HIDE. */
static __always_inline void key_of_unhide(struct fl_tuple* to, const struct fl_tuple* hide,
                                          const struct fl_addr* addr, __be16 port) {
  to->saddr = hide->daddr;
  to->daddr = *addr;
  to->sport = hide->dport;
  to->dport = port;
  to->protocol = hide->protocol;
  to->point = FL_INGRESS;
  to->pad = 0;
}

static __always_inline void stamp(struct fl_flow* flow, const struct packet* p, __u32 now) {
  if (flow->seen != now) {
    flow->seen = now;
  }
  __sync_fetch_and_add(&flow->packets, 1);
  __sync_fetch_and_add(&flow->bytes, p->bytes);
}

/* --- Counting ------------------------------------------------------------------------------------
 */

static __always_inline void count_connection(struct fl_rs_counts* counts, __u32 inactive,
                                             __s32 change) {
  if (inactive) {
    __sync_fetch_and_add(&counts->inactive, change);
  } else {
    __sync_fetch_and_add(&counts->active, change);
  }
}

/* The upper threshold shuts a server out until it has come below the lower one (or 3/4 of the
 * upper, where there is none). */
static __always_inline void mind_thresholds(struct fl_rs* server, struct fl_rs_counts* counts) {
  __u64 all = (__u64)counts->active + counts->inactive;
  if (server->upper == 0) {
    if (counts->overloaded) {
      counts->overloaded = 0;
    }
  } else if (all >= server->upper) {
    counts->overloaded = 1;
  } else if (counts->overloaded &&
             (server->lower ? all < server->lower : all * 4 < (__u64)server->upper * 3)) {
    counts->overloaded = 0;
  }
}

/* --- States --------------------------------------------------------------------------------------
 */

/* Exactly one CPU makes each transition, and with it the change of the counters. */
static __always_inline void count_half_open(__s32 change) {
  __u32 first = 0;
  struct fl_pressure* p = bpf_map_lookup_elem(&pressure, &first);
  if (p) {
    __sync_fetch_and_add(&p->half_open, change);
  }
}

/* So many connections are half open that new ones may not have a place in `flows` yet. */
static __always_inline int is_pressed(void) {
  __u32 first = 0;
  struct fl_pressure* p = bpf_map_lookup_elem(&pressure, &first);
  struct fl_config* c = settings();
  return p && c && c->half_open_limit && (__s32)p->half_open > (__s32)c->half_open_limit;
}

/* What has been silent in `half` for so long is over. */
#define FL_HALF_TICKS (300 * FL_TICKS_PER_SECOND)

static __always_inline void note_use_of_half(__u32 now) {
  __u32 first = 0;
  struct fl_pressure* p = bpf_map_lookup_elem(&pressure, &first);
  if (p && p->half_used != now) {
    p->half_used = now;
  }
}

/* Looking into `half` is worth while: mostly there has not been a flood, and what is not ours would
 * pay for it. */
static __always_inline int is_half_in_use(__u32 now) {
  __u32 first = 0;
  struct fl_pressure* p = bpf_map_lookup_elem(&pressure, &first);
  /* Another CPU may have used it a moment later than now. */
  return p && p->half_used && now + FL_TICKS_PER_SECOND - p->half_used < FL_HALF_TICKS;
}

static __always_inline int is_half_open(__u8 protocol, __u32 state) {
  return protocol == IPPROTO_TCP && state == FL_TCP_SYN_RECV;
}

static __always_inline void move_state(struct fl_flow* flow, __u8 protocol, __u32 direction,
                                       __u8 event) {
  __u32 old = flow->state;
  __u32 new = next_state(protocol, direction, old, event);
  struct fl_rs_counts* counts;
  int was, is;
  if (new == old || compare_and_swap(&flow->state, old, new) != old) {
    return;
  }
  if (is_half_open(protocol, old) != is_half_open(protocol, new)) {
    count_half_open(is_half_open(protocol, new) ? 1 : -1);
  }
  was = is_active(protocol, old);
  is = is_active(protocol, new);
  if (was != is) {
    counts = rs_counts_at(flow->rs);
    if (counts) {
      count_connection(counts, !was, -1);
      count_connection(counts, !is, 1);
    }
    if (is) {
      flow->flags &= ~FL_FLOW_INACTIVE;
    } else {
      flow->flags |= FL_FLOW_INACTIVE;
    }
  }
}

/* May the reply change the connection's state? Most cannot, and need not look for it. */
static __always_inline int changes_state(const struct packet* p, const struct fl_flow* reply) {
  return p->tuple.protocol == IPPROTO_SCTP ||
         (p->tuple.protocol == IPPROTO_TCP &&
          (reply->flags & FL_FLOW_ACK_COUNTS || p->event & (FL_TCP_SYN | FL_TCP_FIN | FL_TCP_RST)));
}

/* Replies that change the state of the connection, which lives in its other flow. */
static __noinline int note_reply(struct fl_tuple* reply, struct fl_flow* flow, __u32 event) {
  struct fl_tuple key;
  struct fl_flow* forward;
  key_of_forward(&key, reply, flow);
  forward = bpf_map_lookup_elem(&flows, &key);
  if (forward) {
    move_state(forward, reply->protocol, FROM_SERVER, event);
  }
  if (reply->protocol == IPPROTO_TCP && tcp_event(event) == TCP_EVENT_ACK) {
    flow->flags &= ~FL_FLOW_ACK_COUNTS;
  }
  return 0;
}

/* A server that still is the one the flow was made for, and not removed. */
static __always_inline struct fl_rs* server_of(const struct fl_flow* flow) {
  struct fl_rs* server = rs_at(flow->rs);
  return server && server->generation == flow->generation && server->state != FL_RS_GONE &&
                 server->state != FL_RS_FREE
             ? server
             : NULL;
}

/* Silent for longer than its state allows, in both directions. */
GLOBAL_MEM int is_expired(struct fl_tuple* key, struct fl_flow* flow, __u32 now) {
  struct fl_tuple reply_key;
  struct fl_flow* reply;
  __u32 timeout;
  if (!key || !flow) {
    return 0;
  }
  timeout = timeout_of(key->protocol, flow->state);
  /* Signed: another CPU may have seen it a moment later than now. */
  if ((__s32)(now - flow->seen) <= (__s32)timeout) {
    return 0;
  }
  if (flow->flags & FL_FLOW_NO_OUTPUT) {
    return 1;
  }
  key_of_reply(&reply_key, key, flow);
  reply = bpf_map_lookup_elem(&flows, &reply_key);
  return !reply || (__s32)(now - reply->seen) > (__s32)timeout;
}

/* Of a connection that ends: what a flow has carried. */
static __always_inline void book_in(struct fl_rs_counts* counts, struct fl_vs_counts* totals,
                                    const struct fl_flow* flow) {
  __sync_fetch_and_add(&counts->in_packets, flow->packets);
  __sync_fetch_and_add(&counts->in_bytes, flow->bytes);
  __sync_fetch_and_add(&totals->in_packets, flow->packets);
  __sync_fetch_and_add(&totals->in_bytes, flow->bytes);
}
static __always_inline void book_out(struct fl_rs_counts* counts, struct fl_vs_counts* totals,
                                     const struct fl_flow* flow) {
  __sync_fetch_and_add(&counts->out_packets, flow->packets);
  __sync_fetch_and_add(&counts->out_bytes, flow->bytes);
  __sync_fetch_and_add(&totals->out_packets, flow->packets);
  __sync_fetch_and_add(&totals->out_bytes, flow->bytes);
}

static __always_inline struct fl_flow* flow_in(int in_half, struct fl_tuple* key) {
  return in_half ? bpf_map_lookup_elem(&half, key) : bpf_map_lookup_elem(&flows, key);
}

static __always_inline void drop_flow(int in_half, struct fl_tuple* key) {
  if (in_half) {
    bpf_map_delete_elem(&half, key);
  } else {
    bpf_map_delete_elem(&flows, key);
  }
}

/* What hides the client of a connection that ends. `hide` is memory of the caller's: the stack is
 * small. */
static __always_inline void drop_hiding(int in_half, const struct fl_tuple* forward,
                                        const struct fl_flow* flow, struct fl_tuple* hide) {
  struct fl_tuple unhide;
  struct fl_flow* found;
  if (!(flow->flags & FL_FLOW_HIDDEN)) {
    return;
  }
  key_of_hide(hide, forward, flow);
  found = flow_in(in_half, hide);
  if (found) {
    key_of_unhide(&unhide, hide, &found->addr, found->port);
    drop_flow(in_half, &unhide);
    drop_flow(in_half, hide);
  }
}

/* Takes a connection out, with all its flows, and its place in the counters. 1: done; 0: somebody
 * else was faster. */
static __noinline int end_flows(struct fl_tuple* key) {
  struct fl_flow* found = bpf_map_lookup_elem(&flows, key);
  struct fl_flow flow;
  struct fl_tuple other;
  struct fl_rs* server;
  struct fl_rs_counts* counts;
  struct fl_vs_counts* totals = NULL;
  if (!found) {
    return 0;
  }
  flow = *found;
  if (bpf_map_delete_elem(&flows, key)) {
    return 0;
  }
  if (is_half_open(key->protocol, flow.state)) {
    count_half_open(-1);
  }
  server = rs_at(flow.rs);
  counts = rs_counts_at(flow.rs);
  if (server && server->generation == flow.generation) {
    totals = vs_counts_at(server->vs);
  }
  if (totals && counts) {
    count_connection(counts, flow.flags & FL_FLOW_INACTIVE, -1);
    mind_thresholds(server, counts);
    book_in(counts, totals, &flow);
  }
  if (flow.flags & FL_FLOW_NO_OUTPUT) {
    return 1;
  }
  key_of_reply(&other, key, &flow);
  found = bpf_map_lookup_elem(&flows, &other);
  if (found) {
    if (totals && counts) {
      book_out(counts, totals, found);
    }
    bpf_map_delete_elem(&flows, &other);
  }
  drop_hiding(0, key, &flow, &other);
  return 1;
}

/* The packet's connection. */
GLOBAL int end_connection(void) {
  struct packet* p = the_packet();
  return p ? end_flows(&p->tuple) : 0;
}

/* --- New connections -----------------------------------------------------------------------------
 */

static __always_inline __u32 class_of(struct __sk_buff* skb, const struct fl_addr* client) {
  __u32 interface = skb->ifindex;
  struct fl_device* device = bpf_map_lookup_elem(&devices, &interface);
  struct fl_prefix prefix;
  __u32* known;
  if (device && device->flags & FL_DEVICE_PODS) {
    return FL_CLASS_POD;
  }
  prefix.length = 128;
  prefix.addr = *client;
  known = bpf_map_lookup_elem(&classes, &prefix);
  return known && *known < FL_CLASSES ? *known : FL_CLASS_EXTERNAL;
}

static __always_inline void mask_addr(struct fl_addr* to, const struct fl_addr* from, __u32 bits) {
  int i;
  for (i = 0; i < 4; ++i) {
    __u32 here = bits > 32U * i ? bits - 32U * i : 0;
    __u32 mask = here >= 32 ? 0xffffffffU : here == 0 ? 0 : ~(0xffffffffU >> here);
    to->words[i] = from->words[i] & bpf_htonl(mask);
  }
}

/* The server that a client is bound to, if that one still takes connections. Marks the use. */
static __noinline __u32 bound_server(struct fl_client_key* key, __u32 now) {
  struct fl_client* client = bpf_map_lookup_elem(&clients, key);
  struct fl_rs* server;
  if (!client || (__s32)(now - client->seen) > (__s32)client->timeout) {
    return 0;
  }
  server = rs_at(client->rs);
  if (!server || server->generation != client->generation || server->vs != key->vs ||
      server->state != FL_RS_UP || server->weight == 0) {
    return 0;
  }
  client->seen = now;
  return client->rs;
}

static __noinline int bind_client(struct fl_client_key* key, __u32 number, __u32 seconds) {
  struct fl_client* old = bpf_map_lookup_elem(&clients, key);
  struct fl_rs* server = rs_at(number);
  struct fl_rs_counts* counts;
  struct fl_client client;
  if (!server) {
    return 0;
  }
  if (old) {
    struct fl_rs* before = rs_at(old->rs);
    counts = rs_counts_at(old->rs);
    if (before && counts && before->generation == old->generation) {
      __sync_fetch_and_add(&counts->persistent, -1);
    }
  }
  client.rs = number;
  client.generation = server->generation;
  client.seen = ticks_now();
  client.timeout = seconds * FL_TICKS_PER_SECOND;
  counts = rs_counts_at(number);
  if (counts && !bpf_map_update_elem(&clients, key, &client, BPF_ANY)) {
    __sync_fetch_and_add(&counts->persistent, 1);
  }
  return 0;
}

/* Through persistence, else by the scheduler. 0: no server. */
GLOBAL_MEM __u32 choose(struct choice* choice, struct fl_addr* client) {
  struct fl_client_key key;
  struct fl_vs* server;
  __u32 number;
  if (!choice || !client) {
    return 0;
  }
  server = vs_at(choice->vs);
  if (!server) {
    return 0;
  }
  choice->client = fold(client);
  if (!(server->flags & FL_VS_HASH_PORT)) {
    choice->port = 0;
  }
  if (!server->persistence) {
    return schedule(choice);
  }
  mask_addr(&key.addr, client, server->persistence_prefix);
  key.vs = choice->vs;
  number = bound_server(&key, ticks_now());
  if (number == 0) {
    number = schedule(choice);
    if (number) {
      bind_client(&key, number, server->persistence);
    }
  }
  return number;
}

/* --- Two tables: `flows`, and `half` for connections that may be a flood
 * -------------------------- */

/* Inserts what must be one of its kind in both tables. */
static __always_inline long claim_flow(int in_half, struct fl_tuple* key, struct fl_flow* flow) {
  long error;
  if (!in_half) {
    error = bpf_map_update_elem(&flows, key, flow, BPF_NOEXIST);
    if (!error && is_pressed() && bpf_map_lookup_elem(&half, key)) {
      bpf_map_delete_elem(&flows, key);
      return -FL_EEXIST;
    }
    return error;
  }
  error = bpf_map_update_elem(&half, key, flow, BPF_NOEXIST);
  if (!error && bpf_map_lookup_elem(&flows, key)) {
    bpf_map_delete_elem(&half, key);
    return -FL_EEXIST;
  }
  return error;
}

/*
 * Inserts the flows of the packet's connection. -EEXIST: another CPU was faster with the same one,
 * or no client port was to be had; other errors: the table is full.
 */
GLOBAL_MEM int insert_connection(struct fl_flow* flow, __u32 in_half) {
  struct packet* p = the_packet();
  struct fl_tuple* forward;
  struct fl_tuple other;
  struct fl_flow copy;
  int error, i, has_taken_over = 0;
  if (!p || !flow) {
    return -1;
  }
  forward = &p->tuple;
  if (flow->flags & FL_FLOW_NO_OUTPUT) {
    copy = *flow;
    return (int)claim_flow(in_half, forward, &copy);
  }
  __builtin_memset(&copy, 0, sizeof(copy));
  copy.rs = flow->rs;
  copy.generation = flow->generation;
  copy.seen = flow->seen;
  copy.born = flow->born;

  copy.kind = FL_REPLY;
  copy.flags = flow->flags | (forward->protocol == IPPROTO_TCP ? FL_FLOW_ACK_COUNTS : 0);
  copy.addr = forward->daddr;
  copy.port = forward->dport;
  copy.client_port = forward->sport;
  key_of_reply(&other, forward, flow);
  error = claim_flow(in_half, &other, &copy);
  for (i = 0; error == -FL_EEXIST && i < FL_MAX_PORT_TRIES; ++i) {
    struct fl_flow* taken = flow_in(in_half, &other);
    if (taken && taken->flags & FL_FLOW_ONE_PACKET && same_addr(&taken->addr, &forward->daddr) &&
        taken->port == forward->dport) {
      /* What its answer needed, before this virtual server had connections. */
      error = bpf_map_update_elem(&flows, &other, &copy, BPF_ANY);
      break;
    }
    if (taken && same_addr(&taken->addr, &forward->daddr) && taken->port == forward->dport &&
        taken->client_port == forward->sport) {
      if (!in_half || flow_in(in_half, forward)) {
        return error;
      }
      /* That of a connection whose FL_FORWARD fell out of the table. */
      has_taken_over = 1;
      error = bpf_map_update_elem(&half, &other, &copy, BPF_ANY);
      break;
    }
    /* The same client port leads to this server by another virtual server. */
    other.dport = bpf_htons(1024 + bpf_get_prandom_u32() % 28976);
    flow->client_port = other.dport;
    error = claim_flow(in_half, &other, &copy);
  }
  if (error) {
    return error;
  }
  if (flow->flags & FL_FLOW_HIDDEN) {
    struct fl_tuple hide;
    copy.kind = FL_HIDE;
    copy.flags = flow->flags;
    copy.port = 0;
    copy.client_port = 0;
    key_of_hide(&hide, forward, flow);
    error = in_half ? bpf_map_update_elem(&half, &hide, &copy, BPF_ANY)
                    : bpf_map_update_elem(&flows, &hide, &copy, BPF_ANY);
  }
  if (!error) {
    copy = *flow;
    error = in_half ? bpf_map_update_elem(&half, forward, &copy, BPF_NOEXIST)
                    : bpf_map_update_elem(&flows, forward, &copy, BPF_NOEXIST);
  }
  if (error && !(has_taken_over && error == -FL_EEXIST)) { /* another CPU has taken it over, too */
    drop_flow(in_half, &other);
    if (flow->flags & FL_FLOW_HIDDEN) {
      key_of_hide(&other, forward, flow);
      drop_flow(in_half, &other);
    }
  }
  return error;
}

/* One-packet scheduling: what the answer to the packet needs. 0, or an error as above. */
GLOBAL_MEM int expect_answer(struct fl_flow* flow) {
  struct packet* p = the_packet();
  struct fl_tuple other;
  struct fl_flow copy;
  struct fl_flow* known;
  int error;
  if (!p || !flow) {
    return -1;
  }
  __builtin_memset(&copy, 0, sizeof(copy));
  copy.kind = FL_REPLY;
  copy.flags = flow->flags;
  copy.rs = flow->rs;
  copy.generation = flow->generation;
  copy.seen = flow->seen;
  copy.born = flow->born;
  copy.addr = p->tuple.daddr;
  copy.port = p->tuple.dport;
  copy.client_port = p->tuple.sport;
  key_of_reply(&other, &p->tuple, flow);
  known = bpf_map_lookup_elem(&flows, &other);
  if (known && !(known->flags & FL_FLOW_ONE_PACKET && same_addr(&known->addr, &copy.addr) &&
                 known->port == copy.port)) {
    return -FL_EEXIST; /* this client port has answers of that server for another virtual server */
  }
  if (known && known->generation == copy.generation && known->rs == copy.rs) {
    known->seen = copy.seen;
  } else {
    error = (int)bpf_map_update_elem(&flows, &other, &copy, BPF_ANY);
    if (error) {
      return error;
    }
  }
  if (!(flow->flags & FL_FLOW_HIDDEN)) {
    return 0;
  }
  key_of_hide(&other, &p->tuple, flow);
  if (bpf_map_lookup_elem(&flows, &other)) {
    return 0; /* with the port it has claimed */
  }
  copy.kind = FL_HIDE;
  copy.port = 0;
  copy.client_port = 0;
  error = (int)bpf_map_update_elem(&flows, &other, &copy, BPF_NOEXIST);
  return error == -FL_EEXIST ? 0 : error;
}

/* Takes the packet's connection out of `half`, where it counts nowhere. */
GLOBAL int drop_half_open(void) {
  struct packet* p = the_packet();
  struct fl_flow* found;
  struct fl_flow flow;
  struct fl_tuple other;
  if (!p) {
    return 0;
  }
  found = bpf_map_lookup_elem(&half, &p->tuple);
  if (!found) {
    return 0; /* fell out of the table meanwhile */
  }
  flow = *found;
  bpf_map_delete_elem(&half, &p->tuple);
  if (flow.flags & FL_FLOW_NO_OUTPUT) {
    return 0;
  }
  key_of_reply(&other, &p->tuple, &flow);
  bpf_map_delete_elem(&half, &other);
  drop_hiding(1, &p->tuple, &flow, &other);
  return 0;
}

static __always_inline int promote_flow(struct fl_tuple* key) {
  struct fl_flow* found = bpf_map_lookup_elem(&half, key);
  struct fl_flow flow;
  if (!found) {
    return -1; /* fell out of the table meanwhile */
  }
  flow = *found;
  if (bpf_map_update_elem(&flows, key, &flow, BPF_NOEXIST)) {
    return -1;
  }
  bpf_map_delete_elem(&half, key);
  return 0;
}

/* The client has answered: the packet's connection gets its place in `flows`, and is counted. 0:
 * done. */
GLOBAL int promote_connection(void) {
  struct packet* p = the_packet();
  struct fl_tuple* forward;
  struct fl_flow* found;
  struct fl_flow flow;
  struct fl_tuple other;
  struct fl_rs* server;
  struct fl_rs_counts* counts;
  if (!p) {
    return -1;
  }
  forward = &p->tuple;
  found = bpf_map_lookup_elem(&half, forward);
  if (!found) {
    return -1;
  }
  flow = *found;
  server = server_of(&flow);
  if (!server) {
    return -1; /* or it would count on whoever has the number now */
  }
  if (flow.flags & FL_FLOW_HIDDEN) {
    struct fl_tuple unhide;
    key_of_hide(&other, forward, &flow);
    found = bpf_map_lookup_elem(&half, &other);
    if (!found || found->port == 0) {
      return -1;
    }
    key_of_unhide(&unhide, &other, &found->addr, found->port);
    if (promote_flow(&unhide) || promote_flow(&other)) {
      return -1; /* what was inserted has no owner and is swept */
    }
  }
  if (!(flow.flags & FL_FLOW_NO_OUTPUT)) {
    key_of_reply(&other, forward, &flow);
    if (promote_flow(&other)) {
      return -1;
    }
  }
  if (promote_flow(forward)) {
    return -1;
  }
  counts = rs_counts_at(flow.rs);
  if (counts) {
    count_connection(counts, flow.flags & FL_FLOW_INACTIVE, 1);
    mind_thresholds(server, counts);
  }
  if (is_half_open(forward->protocol, flow.state)) {
    count_half_open(1);
  }
  return 0;
}

#endif
