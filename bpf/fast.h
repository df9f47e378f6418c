/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The fast path: packets of a connection that has been answered go straight to the device that
 * leads to their destination. What the stack would have done on the way is not done, others' rules
 * and connection tracking included; so it is off unless asked for, and the first packets of every
 * connection take the stack in both directions. Whatever is out of the ordinary (no route or
 * neighbour known yet, too long, the last hop, a device without our programs) takes the stack, too.
 */
#ifndef FAIRLEAD_BPF_FAST_H
#define FAIRLEAD_BPF_FAST_H

#include "forward.h"

/* Fixed when the programs are loaded: the verifier takes out what is off. */
const volatile __u32 fl_fast_path SEC(".rodata.options") = 0;

/* What the stack has said of a way is believed for so long. Asking for each packet makes a round
 * trip 2 percent longer. */
#define FL_WAY_TICKS 8
#define FL_WAYS 256

struct way {
  struct fl_addr saddr, daddr; /* a rule may look at both */
  __u32 from;                  /* device that the packet came by */
  __u32 asked;                 /* ticks */
  __u32 length;                /* of the longest IP packet that may go this way */
  __u32 interface;
  __u32 is_peer;
  struct bpf_redir_neigh next;
  __u8 macs[2 * ETH_ALEN];
};

/* Of each hash of the addresses, the last one. */
struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, FL_WAYS);
  __type(key, __u32);
  __type(value, struct way);
} ways SEC(".maps");

/* Asks the stack. 0: there is no way for now. */
static __noinline int ask_way(struct __sk_buff* skb, struct way* way, __u32 length, __u32 now) {
  struct packet* p = the_packet();
  struct bpf_fib_lookup route;
  struct fl_device* device;
  __u32 interface;
  if (!p || ask_route(skb, &route, &p->tuple.saddr, &p->tuple.daddr, length) !=
                BPF_FIB_LKUP_RET_SUCCESS) {
    return 0;
  }
  interface = route.ifindex;
  device = bpf_map_lookup_elem(&devices, &interface);
  if (!device) {
    return 0;
  }
  way->saddr = p->tuple.saddr;
  way->daddr = p->tuple.daddr;
  way->from = skb->ifindex;
  way->asked = now;
  way->length = route.mtu_result; /* before Linux 5.12: the length that was asked for */
  way->interface = interface;
  way->is_peer = (device->flags & FL_DEVICE_PEER) != 0;
  note_way(p, &route);
  way->next = p->as_is.next;
  __builtin_memcpy(way->macs, route.dmac, ETH_ALEN);
  __builtin_memcpy(way->macs + ETH_ALEN, route.smac, ETH_ALEN);
  return 1;
}

/* Looks for the way to the packet's destination, and takes its hop. 0: there is none for now, and
 * nothing has been changed. */
GLOBAL int find_fast_way(struct __sk_buff* skb) {
  struct packet* p = the_packet();
  struct way* way;
  __u32 slot, length, now = ticks_now();
  if (!p || p->l3 != ETH_HLEN || p->fragment != WHOLE || skb->vlan_present) {
    return 0;
  }
  length = longest(skb, p);
  slot = (fold(&p->tuple.saddr) * 3 + fold(&p->tuple.daddr)) * 0x61c88647U >> 24;
  way = bpf_map_lookup_elem(&ways, &slot);
  if (!way) {
    return 0;
  }
  if (now - way->asked >= FL_WAY_TICKS || length > way->length || way->from != skb->ifindex ||
      !same_addr(&way->daddr, &p->tuple.daddr) || !same_addr(&way->saddr, &p->tuple.saddr)) {
    if (!ask_way(skb, way, length, now)) {
      return 0;
    }
  }
  if (!take_hop(skb, p)) {
    return 0;
  }
  p->as_is.interface = way->interface;
  p->as_is.is_peer = (__u8)way->is_peer;
  p->as_is.next = way->next;
  __builtin_memcpy(p->as_is.macs, way->macs, sizeof(way->macs));
  return 1;
}

/* Past the device and into what is at its other end, or out of the device. Only in the latter case
 * fl_out sees the packet. */
static __always_inline int go(struct __sk_buff* skb, struct packet* p) {
  struct bpf_redir_neigh next;
  if (p->as_is.is_peer) {
    bpf_skb_store_bytes(skb, 0, p->as_is.macs, sizeof(p->as_is.macs), 0);
    return (int)bpf_redirect_peer(p->as_is.interface, 0);
  }
  next = p->as_is.next;
  return (int)bpf_redirect_neigh(p->as_is.interface, &next, sizeof(next), 0);
}

/* Key of the flow that the packet would meet in fl_out. */
static __always_inline void key_on_the_way_out(struct fl_tuple* key, const struct packet* p) {
  *key = p->tuple;
  key->point = FL_EGRESS;
}

/* The connection's first request on the fast path: replies may take it, too. */
static __noinline int open_fast_way(void) {
  struct packet* p = the_packet();
  struct fl_tuple reply_key, forward_key;
  struct fl_flow *reply, *forward;
  if (!p) {
    return 0;
  }
  turn_around(&reply_key, &p->tuple, FL_EGRESS);
  reply = bpf_map_lookup_elem(&flows, &reply_key);
  if (!reply) {
    return 0;
  }
  key_of_forward(&forward_key, &reply_key, reply);
  forward = bpf_map_lookup_elem(&flows, &forward_key);
  if (forward) {
    reply->way = FL_WAY_FAST;
    forward->way = FL_WAY_FAST;
  }
  return 0;
}

/* The client's packet, whose destination is the server already. */
GLOBAL int go_forward(struct __sk_buff* skb) {
  struct packet* p = the_packet();
  struct fl_flow* hide = NULL;
  struct fl_tuple key;
  if (!p) {
    return PASS;
  }
  if (p->as_is.is_hidden) {
    key_on_the_way_out(&key, p);
    hide = bpf_map_lookup_elem(&flows, &key);
    if (!hide || hide->port == 0) {
      return PASS;
    }
  }
  if (!find_fast_way(skb)) {
    return PASS;
  }
  if (p->as_is.is_first) {
    open_fast_way();
  }
  if (hide && p->as_is.is_peer) {
    struct fl_addr addr = hide->addr;
    __be16 port = hide->port;
    stamp(hide, p, ticks_now());
    write_source(skb, p, &addr, port);
  }
  return go(skb, p);
}

/* What a server's packet gets on its way out to the client. */
static __always_inline void write_reply(struct __sk_buff* skb, struct packet* p,
                                        struct fl_flow* flow, __u32 now) {
  struct fl_addr addr = flow->addr;
  __be16 port = flow->port;
  __be16 client_port = flow->client_port;
  struct fl_addr client = p->tuple.daddr;
  stamp(flow, p, now);
  if (client_port != p->tuple.dport) {
    write_destination(skb, p, &client, client_port);
  }
  write_source(skb, p, &addr, port);
}

/* The server's packet, whose destination is the client already. */
GLOBAL int go_back(struct __sk_buff* skb) {
  struct packet* p = the_packet();
  struct fl_tuple key;
  struct fl_flow* flow;
  if (!p) {
    return PASS;
  }
  key_on_the_way_out(&key, p);
  flow = bpf_map_lookup_elem(&flows, &key);
  if (!flow || flow->kind != FL_REPLY) {
    return PASS;
  }
  if (flow->way == FL_WAY_STACK) {
    struct fl_tuple forward_key;
    struct fl_flow* forward;
    key_of_forward(&forward_key, &key, flow);
    forward = bpf_map_lookup_elem(&flows, &forward_key);
    if (forward) {
      forward->way = FL_WAY_ANSWERED;
      flow->way = FL_WAY_ANSWERED;
    }
  }
  if (flow->way != FL_WAY_FAST || (key.protocol == IPPROTO_TCP && p->event & FL_TCP_SYN)) {
    return PASS;
  }
  if (!find_fast_way(skb)) {
    return PASS;
  }
  if (changes_state(p, flow)) {
    note_reply(&key, flow, p->event);
  }
  write_reply(skb, p, flow, ticks_now());
  return go(skb, p);
}

#endif
