/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Servers that get the client's packet as it is, and answer the client themselves: direct routing
 * (the next hop is the server, which has the virtual address too) and tunnels (the server takes the
 * packet out of another one that is addressed to it). Such a connection is one flow, FL_FORWARD.
 *
 * The stack would send the packet after its own destination, so it goes straight to the device that
 * leads to the server. What the stack would have done on that way is done here: hop limit, too-big.
 */
#ifndef FAIRLEAD_BPF_FORWARD_H
#define FAIRLEAD_BPF_FORWARD_H

#include "flows.h"
#include "refuse.h"

#define FL_AF_INET 2
#define FL_AF_INET6 10
#define FL_IP_DONT_FRAGMENT 0x4000
#define FL_GUE_BYTES 12 /* UDP and GUE headers */
#define FL_GRE_BYTES 4
#define FL_LEAST_MTU4 68
#define FL_LEAST_MTU6 1280
#define FOUND_WAY 100 /* no verdict */

/* What is in front of the packet in a tunnel, but for its IP header. */
struct gue_header {
  __be16 sport, dport, length;
  __sum16 checksum; /* 0: none; the packet inside has its own */
  __u8 version_and_length;
  __u8 protocol;
  __be16 flags;
};
struct gre_header {
  __be16 flags;
  __be16 protocol;
};

static __always_inline __u32 tunnel_bytes(const struct fl_rs* server) {
  __u32 bytes = is_v4(&server->addr) ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
  switch (server->tunnel) {
    case FL_GUE:
      return bytes + FL_GUE_BYTES;
    case FL_GRE:
      return bytes + FL_GRE_BYTES;
    default:
      return bytes;
  }
}

/* Length of the longest packet that goes out: that of a segment, where a device or the last hop
 * cuts up what the stack handles as one. */
static __always_inline __u32 longest(struct __sk_buff* skb, const struct packet* p) {
  __u32 header = p->l4 - p->l3;
  __u8 words;
  if (skb->gso_size == 0) {
    return p->bytes;
  }
  if (p->tuple.protocol != IPPROTO_TCP) {
    return header + 8 + skb->gso_size;
  }
  if (bpf_skb_load_bytes(skb, p->l4 + 12, &words, sizeof(words))) {
    return p->bytes;
  }
  return header + (words >> 4) * 4 + skb->gso_size;
}

/* Takes one off the packet's hop limit, and notes what an outer header inherits. 0: the packet has
 * made its last hop. */
GLOBAL_MEM int take_hop(struct __sk_buff* skb, struct packet* p) {
  struct inherited* from;
  if (!p) {
    return 0;
  }
  from = &p->as_is.inherited;
  if (p->v6) {
    __u8 start[8];
    if (bpf_skb_load_bytes(skb, p->l3, start, sizeof(start)) || start[7] <= 1) {
      return 0;
    }
    from->class = (__u8)(start[0] << 4 | start[1] >> 4);
    from->hop_limit = start[7] - 1;
    from->dont_fragment = 0;
    bpf_skb_store_bytes(skb, p->l3 + 7, &from->hop_limit, 1, 0);
  } else {
    struct iphdr ip;
    __be16 now[2]; /* hop limit and protocol, checksum */
    if (bpf_skb_load_bytes(skb, p->l3, &ip, sizeof(ip)) || ip.ttl <= 1) {
      return 0;
    }
    from->class = ip.tos;
    from->hop_limit = ip.ttl - 1;
    from->dont_fragment = (bpf_ntohs(ip.frag_off) & FL_IP_DONT_FRAGMENT) != 0;
    now[0] = bpf_htons((__u16)(from->hop_limit << 8 | ip.protocol));
    now[1] = changed_sum(ip.check, bpf_htons((__u16)(ip.ttl << 8 | ip.protocol)), now[0]);
    p->ip_check = now[1];
    bpf_skb_store_bytes(skb, p->l3 + offsetof(struct iphdr, ttl), now, sizeof(now), 0);
  }
  if ((from->class & 3) == 3) {
    /* Congestion on the way to us is the packet's news, not the tunnel's (RFC 6040). */
    from->class = (from->class & ~3) | 2;
  }
  return 1;
}

/* The IP header of a tunnel, and what follows it, in front of the packet. 0: done. */
GLOBAL_MEM int encapsulate(struct __sk_buff* skb, struct packet* p) {
  struct inherited* from;
  struct fl_rs* server;
  struct fl_device* device;
  __u32 interface;
  struct fl_addr source, destination;
  __u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;
  __u32 head, total, behind;
  __u8 inner, protocol, tunnel;
  __be16 port;
  int outer_v6;
  if (!p) {
    return -1;
  }
  interface = p->as_is.interface;
  from = &p->as_is.inherited;
  server = rs_at(p->as_is.rs);
  device = bpf_map_lookup_elem(&devices, &interface);
  if (!device) {
    /* The way leads out of a bond or a bridge, which has none of our programs. */
    interface = skb->ifindex;
    device = bpf_map_lookup_elem(&devices, &interface);
  }
  if (!server || !device) {
    return -1;
  }
  destination = server->addr;
  tunnel = server->tunnel;
  port = server->tunnel_port;
  outer_v6 = !is_v4(&destination);
  source = outer_v6 ? device->hide6 : device->hide4;
  if ((source.words[0] | source.words[1] | source.words[2] | source.words[3]) == 0) {
    return -1;
  }
  inner = p->v6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
  total = tunnel_bytes(server);
  head = outer_v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
  behind = p->bytes + total - head; /* the outer header */
  flags |= outer_v6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
  protocol = inner;
  if (tunnel == FL_GUE) {
    flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
    protocol = IPPROTO_UDP;
  } else if (tunnel == FL_GRE) {
    flags |= BPF_F_ADJ_ROOM_ENCAP_L4_GRE;
    protocol = IPPROTO_GRE;
  }
  if (bpf_skb_adjust_room(skb, (__s32)total, BPF_ADJ_ROOM_MAC, flags)) {
    return -1;
  }
  if (outer_v6) {
    struct ipv6hdr ip;
    __builtin_memset(&ip, 0, sizeof(ip));
    ip.version = 6;
    ip.priority = from->class >> 4;
    ip.flow_lbl[0] = (__u8)(from->class << 4);
    ip.payload_len = bpf_htons((__u16)behind);
    ip.nexthdr = protocol;
    ip.hop_limit = from->hop_limit;
    __builtin_memcpy(&ip.saddr, &source, sizeof(source));
    __builtin_memcpy(&ip.daddr, &destination, sizeof(destination));
    if (bpf_skb_store_bytes(skb, p->l3, &ip, sizeof(ip), 0)) {
      return -1;
    }
  } else {
    struct iphdr ip;
    __builtin_memset(&ip, 0, sizeof(ip));
    ip.version = 4;
    ip.ihl = 5;
    ip.tos = from->class;
    ip.tot_len = bpf_htons((__u16)(behind + sizeof(ip)));
    if (from->dont_fragment) {
      ip.frag_off = bpf_htons(FL_IP_DONT_FRAGMENT);
    } else {
      ip.id = (__be16)bpf_get_prandom_u32();
    }
    ip.ttl = from->hop_limit;
    ip.protocol = protocol;
    ip.saddr = source.words[3];
    ip.daddr = destination.words[3];
    ip.check = fold_checksum(bpf_csum_diff(0, 0, (__be32*)&ip, sizeof(ip), 0));
    if (bpf_skb_store_bytes(skb, p->l3, &ip, sizeof(ip), 0)) {
      return -1;
    }
  }
  if (tunnel == FL_GUE) {
    struct gue_header gue;
    __builtin_memset(&gue, 0, sizeof(gue));
    /* From the packet's flow, so that the server's queues share the load. */
    gue.sport = bpf_htons((__u16)(0xc000 | (bpf_get_hash_recalc(skb) & 0x3fff)));
    gue.dport = port;
    gue.length = bpf_htons((__u16)behind);
    gue.protocol = inner;
    return (int)bpf_skb_store_bytes(skb, p->l3 + head, &gue, sizeof(gue), 0);
  }
  if (tunnel == FL_GRE) {
    struct gre_header gre = {0, bpf_htons(p->v6 ? ETH_P_IPV6 : ETH_P_IP)};
    return (int)bpf_skb_store_bytes(skb, p->l3 + head, &gre, sizeof(gre), 0);
  }
  return 0;
}

static __always_inline int leave_as_is(struct packet* p, const struct fl_flow* flow) {
  p->as_is.rs = flow->rs;
  p->as_is.in_tunnel = flow->flags & FL_FLOW_TUNNEL;
  p->as_is.addr = flow->addr;
  return finally(p, SEND_AS_IS);
}

/* From the device that the packet came by. `from` may be NULL: then rules for sources do not count.
 */
static __always_inline long ask_route(struct __sk_buff* skb, struct bpf_fib_lookup* route,
                                      const struct fl_addr* from, const struct fl_addr* to,
                                      __u32 length) {
  __builtin_memset(route, 0, sizeof(*route));
  route->ifindex = skb->ifindex;
  route->tot_len = (__u16)length;
  if (is_v4(to)) {
    route->family = FL_AF_INET;
    route->ipv4_src = from ? from->words[3] : 0;
    route->ipv4_dst = to->words[3];
  } else {
    route->family = FL_AF_INET6;
    if (from) {
      __builtin_memcpy(route->ipv6_src, from, sizeof(route->ipv6_src));
    }
    __builtin_memcpy(route->ipv6_dst, to, sizeof(route->ipv6_dst));
  }
  return bpf_fib_lookup(skb, route, sizeof(*route), 0);
}

static __always_inline void note_way(struct packet* p, const struct bpf_fib_lookup* route) {
  p->as_is.interface = route->ifindex;
  p->as_is.next.nh_family = route->family;
  if (route->family == FL_AF_INET) {
    p->as_is.next.ipv4_nh = route->ipv4_dst;
  } else {
    __builtin_memcpy(p->as_is.next.ipv6_nh, route->ipv6_dst, sizeof(route->ipv6_dst));
  }
}

/* Where to send the packet: FOUND_WAY with the device and next hop noted, or a verdict. */
GLOBAL_MEM int find_way(struct __sk_buff* skb, struct packet* p) {
  struct bpf_fib_lookup route;
  struct fl_rs* server;
  __u32 extra, length;
  long found;
  if (!p) {
    return TC_ACT_SHOT;
  }
  server = rs_at(p->as_is.rs);
  if (!server) {
    return TC_ACT_SHOT;
  }
  extra = p->as_is.in_tunnel ? tunnel_bytes(server) : 0;
  length = longest(skb, p) + extra;
  found = ask_route(skb, &route, NULL, &p->as_is.addr, length);
  if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
    __u32 least = p->v6 ? FL_LEAST_MTU6 : FL_LEAST_MTU4;
    /* Before 5.12 the lookup does not tell what fits, and leaves the length that it was given. */
    if (p->is_icmp || p->fragment == LATER_FRAGMENT || route.mtu_result < least + extra ||
        route.mtu_result >= length) {
      count(FL_EVENT_NO_ROUTE);
      return TC_ACT_SHOT;
    }
    return too_big(skb, p, route.mtu_result - extra);
  }
  if (found == BPF_FIB_LKUP_RET_NOT_FWDED && server->is_local) {
    return PASS; /* the server is the node itself: its stack has the virtual address */
  }
  if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH) {
    count(FL_EVENT_NO_ROUTE);
    return TC_ACT_SHOT;
  }
  note_way(p, &route);
  return FOUND_WAY;
}

/* Out of the device and to the next hop that were noted. */
static __always_inline int leave(struct __sk_buff* skb, const struct packet* p, __u32 l3) {
  struct bpf_redir_neigh next = p->as_is.next;
  if (l3 == 0 && bpf_skb_change_head(skb, ETH_HLEN, 0)) {
    return TC_ACT_SHOT;
  }
  if (skb->vlan_present && bpf_skb_vlan_pop(skb)) {
    return TC_ACT_SHOT; /* the tag is that of the device it came by */
  }
  return (int)bpf_redirect_neigh(p->as_is.interface, &next, sizeof(next), 0);
}

/* Sends the packet, unchanged or in a tunnel, to the server of its connection. */
static __always_inline int send_as_is(struct __sk_buff* skb, struct packet* p) {
  int verdict = find_way(skb, p);
  if (verdict != FOUND_WAY) {
    return verdict;
  }
  if (!take_hop(skb, p)) {
    return p->is_icmp ? TC_ACT_SHOT : time_exceeded(skb, p);
  }
  if (p->as_is.in_tunnel && encapsulate(skb, p)) {
    count(FL_EVENT_NO_ROUTE);
    return TC_ACT_SHOT;
  }
  return leave(skb, p, p->l3);
}

#endif
