/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP errors about connections. An error quotes the packet that caused it; turned around, the
 * quoted tuple is the key of the flow that packets in the error's own direction have at this point.
 * What that flow writes into such packets is written into the error: into the quoted packet always,
 * into the outer header where it names the same end.
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

/* Translates an error about one of our connections; anything else passes as it is. An error about
 * what a server answered past us goes the way of the client's packets: only the server can mend it.
 */
GLOBAL int translate_error(struct __sk_buff* skb, struct packet* p, __u32 point) {
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
  if (bpf_skb_load_bytes(skb, p->l4, &type, sizeof(type)) || !is_error(p, type)) {
    return PASS;
  }
  __builtin_memset(&quoted, 0, sizeof(quoted));
  if (!parse_quoted(skb, p, &quoted)) {
    return PASS;
  }
  turn_around(&key, &quoted.tuple, point);
  found = bpf_map_lookup_elem(&flows, &key);
  if (!found) {
    return PASS;
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

#endif
