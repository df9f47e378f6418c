/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From a packet to its tuple: Ethernet or no link layer, IPv4, IPv6 with extension headers,
 * fragments. */
#ifndef FAIRLEAD_BPF_PACKET_H
#define FAIRLEAD_BPF_PACKET_H

#include "maps.h"

#define FL_IP_FRAGMENT_OFFSET 0x1fff
#define FL_IP_MORE_FRAGMENTS 0x2000
#define FL_MAX_EXTENSION_HEADERS 6
#define FL_MAX_AT_HAND 255 /* an offset that the verifier believes */

#define FL_TCP_FIN 0x01
#define FL_TCP_SYN 0x02
#define FL_TCP_RST 0x04
#define FL_TCP_ACK 0x10

/* linux/icmp.h would bring in the C library. */
struct icmp_header {
  __u8 type;
  __u8 code;
  __sum16 checksum;
  __be32 rest;
};
#define ICMP_DEST_UNREACH 3
#define ICMP_SOURCE_QUENCH 4
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMP_ECHO 8
#define ICMP_ECHOREPLY 0
#define ICMP_HOST_UNREACH 1
#define ICMP_PORT_UNREACH 3
#define ICMP_FRAG_NEEDED 4
#define ICMPV6_DEST_UNREACH 1
#define ICMPV6_PKT_TOOBIG 2
#define ICMPV6_TIME_EXCEED 3
#define ICMPV6_PARAMPROB 4
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129
#define ICMPV6_ADDR_UNREACH 3
#define ICMPV6_PORT_UNREACH 4

enum fragment { WHOLE, FIRST_FRAGMENT, LATER_FRAGMENT };

enum then { NOTHING, REFUSE, RESET, ECHO, LOOK_INTO_TUNNEL, SEND_AS_IS, GO_FORWARD, GO_BACK };

/* From an IP header to that of its tunnel. */
struct inherited {
  __u8 class;
  __u8 hop_limit; /* after this hop */
  __u8 dont_fragment;
};

struct packet {
  struct fl_tuple tuple;
  __u32 l3; /* offsets from the start of the data */
  __u32 l4;
  __u32 bytes; /* of the IP packet */
  __u32 fragment_id;
  __sum16 ip_check; /* IPv4 */
  __u8 fragment;
  __u8 v6;
  __u8 is_icmp;
  __u8 is_unknown; /* no connection of ours, nor the start of one */
  __u8 event;      /* TCP: flags; SCTP: type of the first chunk */
  /* What is still to be done with it, once the calls that found it out have returned: the stack
   * that nested calls share is small. */
  __u8 then;
  struct {
    __u32 rs;
    __u32 in_tunnel;
    struct fl_addr addr;
    __u32 interface;
    struct bpf_redir_neigh next;
    struct inherited inherited;
    /* The fast path. */
    __u8 is_hidden;
    __u8 is_peer;
    __u8 is_first; /* request on the fast path */
    __u8 macs[2 * ETH_ALEN];
  } as_is; /* who is to get the packet, and the way there */
};

/* Where tc programs keep the packet, since the stack is small. They do not interrupt each other on
 * one CPU; the socket programs, which can be interrupted, have none of this. */
struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct packet);
} scratch SEC(".maps");

/* The verdict comes of what is done then. */
static __always_inline int finally(struct packet* p, enum then then) {
  p->then = then;
  return PASS;
}

static __always_inline struct packet* the_packet(void) {
  __u32 first = 0;
  return bpf_map_lookup_elem(&scratch, &first);
}

static __always_inline struct packet* new_packet(__u32 l3, __u8 point) {
  struct packet* p = the_packet();
  if (p) {
    __builtin_memset(p, 0, offsetof(struct packet, as_is));
    p->l3 = l3;
    p->tuple.point = point;
  }
  return p;
}

enum parsed { PARSED, NOT_OURS, CUT_SHORT };

/* Where so many bytes of the packet are, if they are at hand; else they take a call to load. */
static __always_inline void* at_hand(struct __sk_buff* skb, __u32 offset, __u32 size) {
  void* data = (void*)(long)skb->data;
  void* end = (void*)(long)skb->data_end;
  if (offset > FL_MAX_AT_HAND || data + offset + size > end) {
    return NULL;
  }
  return data + offset;
}

static __always_inline enum parsed take_ip4(struct packet* p, const struct iphdr* ip) {
  __u16 offset;
  if (ip->ihl < 5) {
    return CUT_SHORT;
  }
  p->l4 = p->l3 + ip->ihl * 4;
  p->bytes = bpf_ntohs(ip->tot_len);
  p->ip_check = ip->check;
  set_v4(&p->tuple.saddr, ip->saddr);
  set_v4(&p->tuple.daddr, ip->daddr);
  p->tuple.protocol = ip->protocol;
  offset = bpf_ntohs(ip->frag_off);
  if (offset & FL_IP_FRAGMENT_OFFSET) {
    p->fragment = LATER_FRAGMENT;
  } else if (offset & FL_IP_MORE_FRAGMENTS) {
    p->fragment = FIRST_FRAGMENT;
  }
  p->fragment_id = ip->id;
  return PARSED;
}

/* The network header: addresses, protocol, where the transport header begins. */
static __always_inline enum parsed parse_ip4(struct __sk_buff* skb, struct packet* p) {
  const struct iphdr* there = at_hand(skb, p->l3, sizeof(*there));
  struct iphdr ip;
  if (there) {
    return take_ip4(p, there);
  }
  return bpf_skb_load_bytes(skb, p->l3, &ip, sizeof(ip)) ? CUT_SHORT : take_ip4(p, &ip);
}

static __always_inline __u8 take_ip6(struct packet* p, const struct ipv6hdr* ip) {
  p->v6 = 1;
  p->bytes = sizeof(*ip) + bpf_ntohs(ip->payload_len);
  __builtin_memcpy(&p->tuple.saddr, &ip->saddr, sizeof(p->tuple.saddr));
  __builtin_memcpy(&p->tuple.daddr, &ip->daddr, sizeof(p->tuple.daddr));
  p->l4 = p->l3 + sizeof(*ip);
  return ip->nexthdr;
}

static __always_inline enum parsed parse_ip6(struct __sk_buff* skb, struct packet* p) {
  const struct ipv6hdr* there = at_hand(skb, p->l3, sizeof(*there));
  struct ipv6hdr ip;
  struct {
    __u8 next, length;
    __be16 offset;
    __be32 id;
  } extension;
  __u8 next;
  int i;
  if (there) {
    next = take_ip6(p, there);
  } else if (!bpf_skb_load_bytes(skb, p->l3, &ip, sizeof(ip))) {
    next = take_ip6(p, &ip);
  } else {
    return CUT_SHORT;
  }
  for (i = 0; i < FL_MAX_EXTENSION_HEADERS; ++i) {
    if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
        next != IPPROTO_FRAGMENT) {
      break;
    }
    if (bpf_skb_load_bytes(skb, p->l4, &extension, sizeof(extension))) {
      return CUT_SHORT;
    }
    if (next == IPPROTO_FRAGMENT) {
      __u16 offset = bpf_ntohs(extension.offset);
      if (offset & 0xfff8) {
        p->fragment = LATER_FRAGMENT;
      } else if (offset & 1) {
        p->fragment = FIRST_FRAGMENT;
      }
      p->fragment_id = extension.id;
      p->l4 += 8;
    } else {
      p->l4 += 8 + extension.length * 8;
    }
    next = extension.next;
    if (p->fragment == LATER_FRAGMENT) {
      break;
    }
  }
  p->tuple.protocol = next;
  return PARSED;
}

static __always_inline enum parsed parse_addresses(struct __sk_buff* skb, struct packet* p) {
  if (skb->protocol == bpf_htons(ETH_P_IP)) {
    return parse_ip4(skb, p);
  }
  if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
    return parse_ip6(skb, p);
  }
  return NOT_OURS;
}

/* The start of a transport header, as far as we look at it. */
struct l4_start {
  __be16 sport, dport;
  __u8 more[16];
};

/* Of a whole packet of TCP, where it is at hand. */
static __always_inline int take_tcp(struct __sk_buff* skb, struct packet* p) {
  const struct tcphdr* tcp = at_hand(skb, p->l4, sizeof(*tcp));
  if (!tcp) {
    return 0;
  }
  p->tuple.sport = tcp->source;
  p->tuple.dport = tcp->dest;
  p->event = ((const __u8*)tcp)[13];
  return 1;
}

static __always_inline void key_of_fragments(struct fl_fragment_key* to, const struct packet* p) {
  __builtin_memset(to, 0, sizeof(*to));
  to->saddr = p->tuple.saddr;
  to->daddr = p->tuple.daddr;
  to->id = p->fragment_id;
  to->protocol = p->tuple.protocol;
}

/* Ports and what tells the connection's state. A later fragment gets the ports of its first one. */
static __always_inline enum parsed parse_ports(struct __sk_buff* skb, struct packet* p) {
  struct fl_fragment_key key;
  struct fl_ports* known;
  struct l4_start start = {};
  __u8 protocol = p->tuple.protocol;
  if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP && protocol != IPPROTO_SCTP) {
    p->is_icmp = p->v6 ? protocol == IPPROTO_ICMPV6 : protocol == IPPROTO_ICMP;
    return p->is_icmp ? PARSED : NOT_OURS;
  }
  if (protocol == IPPROTO_TCP && p->fragment == WHOLE && take_tcp(skb, p)) {
    return PARSED;
  }
  if (p->fragment != WHOLE) {
    key_of_fragments(&key, p);
    if (p->fragment == LATER_FRAGMENT) {
      known = bpf_map_lookup_elem(&fragments, &key);
      if (!known) {
        return CUT_SHORT;
      }
      p->tuple.sport = known->sport;
      p->tuple.dport = known->dport;
      return PARSED;
    }
  }
  if (protocol == IPPROTO_UDP) {
    if (bpf_skb_load_bytes(skb, p->l4, &start, 8)) {
      return CUT_SHORT;
    }
  } else if (protocol == IPPROTO_TCP) {
    if (bpf_skb_load_bytes(skb, p->l4, &start, 20)) {
      return CUT_SHORT;
    }
    p->event = start.more[9];
  } else {
    /* With the first chunk's header. */
    if (bpf_skb_load_bytes(skb, p->l4, &start, 16)) {
      return CUT_SHORT;
    }
    p->event = start.more[8];
  }
  p->tuple.sport = start.sport;
  p->tuple.dport = start.dport;
  if (p->fragment == FIRST_FRAGMENT) {
    struct fl_ports ports = {start.sport, start.dport};
    bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY);
  }
  return PARSED;
}

#endif
