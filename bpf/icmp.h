/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP: pings to service addresses, and errors about connections. An error quotes the packet that
 * caused it; turned around, the quoted tuple is the key of the flow that packets in the error's own
 * direction have at this point. What that flow writes into such packets is written into the error:
 * into the quoted packet always, into the outer header where it names the same end.
 */
#ifndef FAIRLEAD_BPF_ICMP_H
#define FAIRLEAD_BPF_ICMP_H

#include "forward.h"
#include "rewrite.h"

static __always_inline int is_error(const struct packet* p, __u8 type) {
  if (p->v6) {
    return type >= ICMPV6_DEST_UNREACH && type <= ICMPV6_PARAMPROB;
  }
  return type == ICMP_DEST_UNREACH || type == ICMP_SOURCE_QUENCH || type == ICMP_TIME_EXCEEDED ||
         type == ICMP_PARAMETERPROB;
}

static __always_inline int is_ping(const struct packet* p, __u8 type) {
  return type == (p->v6 ? ICMPV6_ECHO_REQUEST : ICMP_ECHO);
}

/* The quoted packet. Its transport header may end after the ports. */
static __always_inline int parse_quoted(struct __sk_buff* skb, const struct packet* outer,
                                        struct packet* quoted) {
  struct fl_ports ports;
  quoted->l3 = outer->l4 + 8;
  if ((outer->v6 ? parse_ip6(skb, quoted) : parse_ip4(skb, quoted)) != PARSED) {
    return 0;
  }
  if (quoted->fragment == LATER_FRAGMENT ||
      (quoted->tuple.protocol != IPPROTO_TCP && quoted->tuple.protocol != IPPROTO_UDP &&
       quoted->tuple.protocol != IPPROTO_SCTP) ||
      bpf_skb_load_bytes(skb, quoted->l4, &ports, sizeof(ports))) {
    return 0;
  }
  quoted->tuple.sport = ports.sport;
  quoted->tuple.dport = ports.dport;
  return 1;
}

/* Replaces `size` bytes at `offset`, which the ICMP checksum covers. */
static __always_inline void replace(struct __sk_buff* skb, __u32 checksum, __u32 offset,
                                    const void* from, const void* to, __u32 size) {
  __be32 old[4] = {}, new[4] = {};
  __builtin_memcpy(old, from, size);
  __builtin_memcpy(new, to, size);
  bpf_l4_csum_replace(skb, checksum, 0, (__u64)bpf_csum_diff(old, sizeof(old), new, sizeof(new), 0),
                      0);
  bpf_skb_store_bytes(skb, offset, to, size, 0);
}

/* One end of the quoted packet. */
static __always_inline void replace_end(struct __sk_buff* skb, __u32 icmp_checksum,
                                        const struct packet* q, const struct end* at,
                                        const struct fl_addr* from, __be16 from_port,
                                        const struct fl_addr* to, __be16 to_port) {
  if (q->v6) {
    replace(skb, icmp_checksum, at->addr_offset, from, to, sizeof(*to));
  } else {
    __u16 check, fresh;
    __u32 check_at = q->l3 + offsetof(struct iphdr, check);
    if (bpf_skb_load_bytes(skb, check_at, &check, sizeof(check))) {
      return;
    }
    bpf_l3_csum_replace(skb, check_at, from->words[3], to->words[3], 4);
    if (bpf_skb_load_bytes(skb, check_at, &fresh, sizeof(fresh))) {
      return;
    }
    bpf_l4_csum_replace(skb, icmp_checksum, check, fresh, 2);
    replace(skb, icmp_checksum, at->addr_offset, &from->words[3], &to->words[3], 4);
  }
  if (from_port != to_port) {
    bpf_l4_csum_replace(skb, icmp_checksum, from_port, to_port, 2);
    bpf_skb_store_bytes(skb, at->port_offset, &to_port, 2, 0);
  }
}

static __always_inline void replace_outer(struct __sk_buff* skb, const struct packet* p,
                                          __u32 icmp_checksum, __u32 offset,
                                          const struct fl_addr* from, const struct fl_addr* to) {
  if (p->v6) {
    struct fl_addr old = *from;
    struct fl_addr new = *to;
    bpf_l4_csum_replace(skb, icmp_checksum, 0,
                        (__u64)bpf_csum_diff(old.words, sizeof(old), new.words, sizeof(new), 0),
                        BPF_F_PSEUDO_HDR);
    bpf_skb_store_bytes(skb, offset, to, sizeof(*to), 0);
  } else {
    bpf_l3_csum_replace(skb, p->l3 + offsetof(struct iphdr, check), from->words[3], to->words[3],
                        4);
    bpf_skb_store_bytes(skb, offset, &to->words[3], 4, 0);
  }
}

/* An error that is about no flow's packet may be about a tunnel's, which the node has sent. */
static __always_inline int maybe_in_tunnel(struct packet* p, __u32 point) {
  return point == FL_INGRESS ? finally(p, LOOK_INTO_TUNNEL) : PASS;
}

/* A ping in fragments to an address of ours. Nothing needs to be put together: each is answered by
 * itself, a later one if it follows a ping's first. */
GLOBAL int handle_icmp_fragment(struct __sk_buff* skb) {
  struct packet* p = the_packet();
  struct fl_ports none = {};
  struct fl_fragment_key key;
  __u8 type;
  if (!p || !is_claimed(&p->tuple.daddr)) {
    return PASS;
  }
  key_of_fragments(&key, p);
  if (p->fragment == LATER_FRAGMENT) {
    return bpf_map_lookup_elem(&fragments, &key) ? finally(p, ECHO) : PASS;
  }
  if (bpf_skb_load_bytes(skb, p->l4, &type, sizeof(type)) || !is_ping(p, type)) {
    return PASS;
  }
  bpf_map_update_elem(&fragments, &key, &none, BPF_ANY);
  return finally(p, ECHO);
}

/* Translates an error about one of our connections; a ping to an address of ours is answered;
 * anything else passes as it is. An error about what a server answered past us goes the way of the
 * client's packets: only the server can mend it. */
GLOBAL_MEM int handle_icmp(struct __sk_buff* skb, struct packet* p, __u32 point) {
  struct packet quoted;
  struct fl_tuple key;
  struct fl_flow* found;
  struct fl_flow flow;
  struct end source, destination, outer_source, outer_destination;
  __u32 checksum;
  __u8 type;
  if (!p) {
    return PASS;
  }
  checksum = p->l4 + 2;
  if (bpf_skb_load_bytes(skb, p->l4, &type, sizeof(type))) {
    return PASS;
  }
  if (is_ping(p, type)) {
    return point == FL_INGRESS && is_claimed(&p->tuple.daddr) ? finally(p, ECHO) : PASS;
  }
  if (!is_error(p, type)) {
    return PASS;
  }
  __builtin_memset(&quoted, 0, sizeof(quoted));
  if (!parse_quoted(skb, p, &quoted)) {
    return maybe_in_tunnel(p, point);
  }
  turn_around(&key, &quoted.tuple, point);
  found = bpf_map_lookup_elem(&flows, &key);
  if (!found) {
    return maybe_in_tunnel(p, point);
  }
  if (found->flags & FL_FLOW_NO_OUTPUT) {
    return point == FL_INGRESS ? leave_as_is(p, found) : PASS;
  }
  flow = *found;
  if (flow.kind == FL_HIDE && flow.port == 0) {
    return PASS;
  }
  ends(&quoted, &source, &destination);
  ends(p, &outer_source, &outer_destination);
  if (flow.kind == FL_FORWARD || flow.kind == FL_UNHIDE) {
    /* Such packets get another destination: what was quoted came from there. */
    replace_end(skb, checksum, &quoted, &source, &quoted.tuple.saddr, quoted.tuple.sport,
                &flow.addr, flow.port);
    replace_outer(skb, p, checksum, outer_destination.addr_offset, &p->tuple.daddr, &flow.addr);
  } else {
    replace_end(skb, checksum, &quoted, &destination, &quoted.tuple.daddr, quoted.tuple.dport,
                &flow.addr, flow.port);
    if (flow.kind == FL_REPLY || same_addr(&p->tuple.saddr, &quoted.tuple.daddr)) {
      replace_outer(skb, p, checksum, outer_source.addr_offset, &p->tuple.saddr, &flow.addr);
    }
  }
  return PASS;
}

/* --- Errors about a tunnel's packet --------------------------------------------------------------
 *
 * A router between the node and the server speaks to the node, which sent the tunnel's packet. But
 * what is too big only the client can send smaller, and only the client wants to know that there is
 * no way. So the error goes on to the client at once, about the packet that was in the tunnel, as
 * from the virtual server; kernel IPVS does the same. Nothing is remembered here: who sends too
 * much again meets the router again.
 */

/* Makes `p` the quoted packet that begins at `at`. 0: there is none. */
static __always_inline int step_into(struct __sk_buff* skb, struct packet* p, __u32 at, int v6) {
  p->l3 = at;
  p->v6 = 0;
  p->fragment = WHOLE;
  return (v6 ? parse_ip6(skb, p) : parse_ip4(skb, p)) == PARSED && p->fragment != LATER_FRAGMENT;
}

/* If the packet, an error, quotes a packet of one of our tunnels, makes it the one inside and
 * returns how many bytes the tunnel adds; else 0. */
GLOBAL int step_into_tunnel(struct __sk_buff* skb) {
  struct packet* p = the_packet();
  struct fl_addr server;
  struct gue_header gue;
  struct gre_header gre;
  struct fl_ports ports;
  struct fl_flow* flow;
  __u32 outer, at;
  __u8 inner;
  if (!p || !step_into(skb, p, p->l4 + sizeof(struct icmp_header), p->v6)) {
    return 0;
  }
  server = p->tuple.daddr;
  outer = p->l3;
  at = p->l4;
  inner = p->tuple.protocol;
  if (inner == IPPROTO_UDP) {
    if (bpf_skb_load_bytes(skb, at, &gue, sizeof(gue)) || gue.version_and_length) {
      return 0;
    }
    inner = gue.protocol;
    at += sizeof(gue);
  } else if (inner == IPPROTO_GRE) {
    if (bpf_skb_load_bytes(skb, at, &gre, sizeof(gre)) || gre.flags) {
      return 0;
    }
    inner = gre.protocol == bpf_htons(ETH_P_IPV6) ? IPPROTO_IPV6 : IPPROTO_IPIP;
    at += sizeof(gre);
  }
  if ((inner != IPPROTO_IPIP && inner != IPPROTO_IPV6) ||
      !step_into(skb, p, at, inner == IPPROTO_IPV6) ||
      bpf_skb_load_bytes(skb, p->l4, &ports, sizeof(ports))) {
    return 0;
  }
  p->tuple.sport = ports.sport;
  p->tuple.dport = ports.dport;
  flow = bpf_map_lookup_elem(&flows, &p->tuple);
  if (!flow || !(flow->flags & FL_FLOW_TUNNEL) || !same_addr(&flow->addr, &server)) {
    return 0;
  }
  return (int)(at - outer);
}

GLOBAL int look_into_tunnel(struct __sk_buff* skb) {
  struct packet* p = the_packet();
  struct bpf_fib_lookup route;
  struct icmp_header error;
  struct fl_addr client;
  __u32 l3, extra, what4, what6, rest = 0;
  int v6, is_too_big;
  long found;
  if (!p || bpf_skb_load_bytes(skb, p->l4, &error, sizeof(error))) {
    return PASS;
  }
  v6 = p->v6;
  is_too_big = v6 ? error.type == ICMPV6_PKT_TOOBIG
                  : error.type == ICMP_DEST_UNREACH && error.code == ICMP_FRAG_NEEDED;
  if (!is_too_big && error.type != (v6 ? ICMPV6_DEST_UNREACH : ICMP_DEST_UNREACH) &&
      error.type != (v6 ? ICMPV6_TIME_EXCEED : ICMP_TIME_EXCEEDED)) {
    return PASS;
  }
  l3 = p->l3;
  extra = (__u32)step_into_tunnel(skb);
  if (extra == 0) {
    return PASS;
  }
  if (is_too_big) {
    __u32 mtu = bpf_ntohl(error.rest) & (v6 ? 0xffffffffU : 0xffffU);
    what4 = FL_ICMP(ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED);
    what6 = FL_ICMP(ICMPV6_PKT_TOOBIG, 0);
    if (mtu < extra + (p->v6 ? FL_LEAST_MTU6 : FL_LEAST_MTU4)) {
      count(FL_EVENT_NO_ROUTE);
      return TC_ACT_SHOT;
    }
    rest = mtu - extra;
    count(FL_EVENT_TOO_BIG);
  } else if (p->v6 == v6) {
    what4 = what6 = FL_ICMP(error.type, error.code);
  } else {
    what4 = FL_ICMP(ICMP_DEST_UNREACH, ICMP_HOST_UNREACH);
    what6 = FL_ICMP(ICMPV6_DEST_UNREACH, ICMPV6_ADDR_UNREACH);
  }
  client = p->tuple.saddr;
  found = ask_route(skb, &route, NULL, &client, FL_LEAST_MTU4);
  if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH) {
    count(FL_EVENT_NO_ROUTE);
    return TC_ACT_SHOT;
  }
  note_way(p, &route);
  if (p->v6 != v6) {
    /* Room for the other family's header, in front of what is quoted. */
    __u32 change = sizeof(struct ipv6hdr) - sizeof(struct iphdr);
    if (bpf_skb_change_proto(skb, bpf_htons(p->v6 ? ETH_P_IPV6 : ETH_P_IP), 0)) {
      return TC_ACT_SHOT;
    }
    p->l3 = p->v6 ? p->l3 + change : p->l3 - change;
    p->l4 = p->v6 ? p->l4 + change : p->l4 - change;
  }
  return write_error(skb, p, l3, what4, what6, rest) ? TC_ACT_SHOT : leave(skb, p, l3);
}

#endif
