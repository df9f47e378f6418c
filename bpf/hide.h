/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Hiding a client behind an address of the node (masquerade, hairpin): at the server's side. */
#ifndef FAIRLEAD_BPF_HIDE_H
#define FAIRLEAD_BPF_HIDE_H

#include "flows.h"

/* The ports that hidden clients get, as one row of numbers: both ranges one after the other. */
static __always_inline __u32 port_count(const struct fl_config* c) {
  return (c->port_last[0] - c->port_first[0] + 1) + (c->port_last[1] - c->port_first[1] + 1);
}
static __noinline __u32 port_at(const struct fl_config* c, __u32 index) {
  __u32 first = c->port_last[0] - c->port_first[0] + 1;
  return index < first ? c->port_first[0] + index : c->port_first[1] + (index - first);
}
static __always_inline int port_is_ours(const struct fl_config* c, __u32 port) {
  return (port >= c->port_first[0] && port <= c->port_last[0]) ||
         (port >= c->port_first[1] && port <= c->port_last[1]);
}

/*
 * Finds the address and a port for a hidden client, on its first packet. That an insert of
 * FL_UNHIDE succeeds is the claim: no two flows share a tuple. The client's own port is tried
 * first, then a walk from a hashed start.
 */
GLOBAL int claim_port(__u32 interface) {
  struct packet* p = the_packet();
  struct fl_tuple* key;
  struct fl_flow* hide;
  struct fl_device* device = bpf_map_lookup_elem(&devices, &interface);
  struct fl_config* c = settings();
  struct fl_tuple unhide;
  struct fl_flow copy;
  struct fl_addr addr;
  __u32 total, at, i;
  int error = -1, in_half = 0;
  if (!p) {
    return error;
  }
  key = &p->tuple;
  hide = bpf_map_lookup_elem(&flows, key);
  if (!hide) {
    hide = bpf_map_lookup_elem(&half, key);
    in_half = 1;
  }
  if (!hide || !device || !c) {
    return error;
  }
  addr = is_v4(&key->saddr) ? device->hide4 : device->hide6;
  if ((addr.words[0] | addr.words[1] | addr.words[2] | addr.words[3]) == 0) {
    return error;
  }
  copy = *hide;
  copy.kind = FL_UNHIDE;
  copy.addr = key->saddr;
  copy.port = key->sport;
  copy.packets = 0;
  copy.bytes = 0;
  key_of_unhide(&unhide, key, &addr, key->sport);
  if (port_is_ours(c, bpf_ntohs(key->sport))) {
    error = claim_flow(in_half, &unhide, &copy);
  }
  total = port_count(c);
  if (total == 0) {
    return -1;
  }
  at = (key->saddr.words[3] ^ key->sport * 0x9E3779B1U ^ c->port_seed) * 0x61C88647U;
  for (i = 0; error && i < FL_MAX_PORT_TRIES; ++i) {
    /* Far apart, for ports next to a taken one are often taken, too. */
    at += 7919;
    unhide.dport = bpf_htons(port_at(c, at % total));
    error = claim_flow(in_half, &unhide, &copy);
  }
  if (!error) {
    hide->addr = addr;
    hide->port = unhide.dport;
  }
  return error;
}

#endif
