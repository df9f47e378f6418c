/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Answers that the node gives in place of a server: port unreachable, reset, echo. The packet
 * itself becomes the answer and goes back out of the device it came from. */
#ifndef FAIRLEAD_BPF_REFUSE_H
#define FAIRLEAD_BPF_REFUSE_H

#include "rewrite.h"

#define FL_TTL 64
#define FL_FRAGMENT_HEADER 8 /* of IPv6 */

static __always_inline void swap_link_addresses(struct __sk_buff* skb, __u32 l3) {
  __u8 macs[2 * ETH_ALEN], swapped[2 * ETH_ALEN];
  if (l3 != ETH_HLEN || bpf_skb_load_bytes(skb, 0, macs, sizeof(macs))) {
    return;
  }
  __builtin_memcpy(swapped, macs + ETH_ALEN, ETH_ALEN);
  __builtin_memcpy(swapped + ETH_ALEN, macs, ETH_ALEN);
  bpf_skb_store_bytes(skb, 0, swapped, sizeof(swapped), 0);
}

static __always_inline __u16 fold_checksum(__u64 sum) {
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return (__u16)~sum;
}

/* How much of the refused packet is quoted: its IP header and so much behind it. The kernel wants a
 * packet whose checksum is still to be filled in (from a local veth) to keep that field. */
#define FL_QUOTED 20

/* The packet becomes one of `head` and `quoted` bytes behind l3. What is quoted is at l3, or as far
 * behind it as `head` at least. */
static __always_inline long make_room(struct __sk_buff* skb, __u32 l3, __u32 at, __u32 head,
                                      __u32 quoted) {
  if (at != l3) {
    return bpf_skb_change_tail(skb, l3 + head + quoted, 0);
  }
  if (bpf_skb_change_tail(skb, l3 + quoted, 0)) {
    return -1;
  }
  return bpf_skb_adjust_room(skb, (__s32)head, BPF_ADJ_ROOM_MAC, 0);
}

/*
 * Makes of a packet an ICMP error that quotes the packet at `at`, to the sender of that: network
 * header + 8 + what is quoted, at l3. `what` is type << 8 | code, `rest` the second word. 0: done.
 */
GLOBAL int write_error4(struct __sk_buff* skb, __u32 l3, __u32 at, __u32 what, __u32 rest) {
  struct {
    struct iphdr ip;
    struct icmp_header icmp;
    struct {
      struct iphdr ip;
      __u8 behind[FL_QUOTED];
    } quoted;
  } error;
  const __u32 head = offsetof(typeof(error), quoted);
  __u32 length = sizeof(error.quoted);
  __builtin_memset(&error, 0, sizeof(error));
  if (bpf_skb_load_bytes(skb, at, &error.quoted, sizeof(error.quoted))) {
    length = sizeof(struct iphdr) + 8; /* a short datagram */
    if (bpf_skb_load_bytes(skb, at, &error.quoted, sizeof(struct iphdr) + 8)) {
      return -1;
    }
  }
  if (make_room(skb, l3, at, head, length)) {
    return -1;
  }
  error.ip.version = 4;
  error.ip.ihl = 5;
  error.ip.ttl = FL_TTL;
  error.ip.protocol = IPPROTO_ICMP;
  error.ip.tot_len = bpf_htons((__u16)(head + length));
  error.ip.saddr = error.quoted.ip.daddr;
  error.ip.daddr = error.quoted.ip.saddr;
  error.ip.check = fold_checksum(bpf_csum_diff(0, 0, (__be32*)&error.ip, sizeof(error.ip), 0));
  error.icmp.type = (__u8)(what >> 8);
  error.icmp.code = (__u8)what;
  error.icmp.rest = bpf_htonl(rest);
  /* What is behind `length` is zero and changes no sum. */
  error.icmp.checksum = fold_checksum(
      bpf_csum_diff(0, 0, (__be32*)&error.icmp, sizeof(error.icmp) + sizeof(error.quoted), 0));
  return (int)bpf_skb_store_bytes(skb, l3, &error, head + length, 0);
}

GLOBAL int write_error6(struct __sk_buff* skb, __u32 l3, __u32 at, __u32 what, __u32 rest) {
  struct {
    struct ipv6hdr ip;
    struct icmp_header icmp;
    struct {
      struct ipv6hdr ip;
      __u8 behind[FL_QUOTED];
    } quoted;
  } error;
  const __u32 head = offsetof(typeof(error), quoted);
  __u32 length = sizeof(error.quoted);
  __u64 sum;
  __be32 pseudo[2];
  __builtin_memset(&error, 0, sizeof(error));
  if (bpf_skb_load_bytes(skb, at, &error.quoted, sizeof(error.quoted))) {
    length = sizeof(struct ipv6hdr) + 8;
    if (bpf_skb_load_bytes(skb, at, &error.quoted, sizeof(struct ipv6hdr) + 8)) {
      return -1;
    }
  }
  if (make_room(skb, l3, at, head, length)) {
    return -1;
  }
  error.ip.version = 6;
  error.ip.hop_limit = FL_TTL;
  error.ip.nexthdr = IPPROTO_ICMPV6;
  error.ip.payload_len = bpf_htons((__u16)(sizeof(error.icmp) + length));
  error.ip.saddr = error.quoted.ip.daddr;
  error.ip.daddr = error.quoted.ip.saddr;
  error.icmp.type = (__u8)(what >> 8);
  error.icmp.code = (__u8)what;
  error.icmp.rest = bpf_htonl(rest);
  pseudo[0] = bpf_htonl(sizeof(error.icmp) + length);
  pseudo[1] = bpf_htonl(IPPROTO_ICMPV6);
  sum = bpf_csum_diff(0, 0, (__be32*)&error.ip.saddr, 32, 0);
  sum = bpf_csum_diff(0, 0, pseudo, sizeof(pseudo), sum);
  sum = bpf_csum_diff(0, 0, (__be32*)&error.icmp, sizeof(error.icmp) + sizeof(error.quoted), sum);
  error.icmp.checksum = fold_checksum(sum);
  return (int)bpf_skb_store_bytes(skb, l3, &error, head + length, 0);
}

/* `p` is the packet to quote, and to be answered at l3. */
static __always_inline int write_error(struct __sk_buff* skb, const struct packet* p, __u32 l3,
                                       __u32 what4, __u32 what6, __u32 rest) {
  if (p->v6) {
    return write_error6(skb, l3, p->l3, what6, rest);
  }
  if (p->l4 - p->l3 != sizeof(struct iphdr)) {
    return -1; /* with IP options: not worth the trouble */
  }
  return write_error4(skb, l3, p->l3, what4, rest);
}

static __always_inline int send_back(struct __sk_buff* skb, __u32 l3) {
  swap_link_addresses(skb, l3);
  return (int)bpf_redirect(skb->ifindex, 0);
}

static __always_inline int answer_error(struct __sk_buff* skb, const struct packet* p, __u32 what4,
                                        __u32 what6, __u32 rest) {
  return write_error(skb, p, p->l3, what4, what6, rest) ? TC_ACT_SHOT : send_back(skb, p->l3);
}

#define FL_ICMP(type, code) ((type) << 8 | (code))

static __always_inline int refuse(struct __sk_buff* skb, const struct packet* p) {
  count(FL_EVENT_REFUSED);
  return answer_error(skb, p, FL_ICMP(ICMP_DEST_UNREACH, ICMP_PORT_UNREACH),
                      FL_ICMP(ICMPV6_DEST_UNREACH, ICMPV6_PORT_UNREACH), 0);
}
static __always_inline int too_big(struct __sk_buff* skb, const struct packet* p, __u32 mtu) {
  count(FL_EVENT_TOO_BIG);
  return answer_error(skb, p, FL_ICMP(ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED),
                      FL_ICMP(ICMPV6_PKT_TOOBIG, 0), mtu);
}
static __always_inline int time_exceeded(struct __sk_buff* skb, const struct packet* p) {
  return answer_error(skb, p, FL_ICMP(ICMP_TIME_EXCEEDED, 0), FL_ICMP(ICMPV6_TIME_EXCEED, 0), 0);
}

/* A TCP segment of no connection: reset, as the stack of the address's owner would do. */
GLOBAL_MEM int reset(struct __sk_buff* skb, struct packet* p) {
  struct tcphdr tcp, old;
  __u32 payload;
  __u64 sum;
  __be32 pseudo[2];
  struct fl_addr saddr, daddr;
  if (!p) {
    return TC_ACT_SHOT;
  }
  saddr = p->tuple.daddr;
  daddr = p->tuple.saddr;
  count(FL_EVENT_STRAY);
  if (p->event & FL_TCP_RST || bpf_skb_load_bytes(skb, p->l4, &old, sizeof(old)) ||
      (!p->v6 && p->l4 - p->l3 != sizeof(struct iphdr)) ||
      (p->v6 && p->l4 - p->l3 != sizeof(struct ipv6hdr))) {
    return TC_ACT_SHOT;
  }
  payload = p->bytes - (p->l4 - p->l3) - old.doff * 4;
  __builtin_memset(&tcp, 0, sizeof(tcp));
  tcp.source = old.dest;
  tcp.dest = old.source;
  tcp.doff = 5;
  tcp.rst = 1;
  if (old.ack) {
    tcp.seq = old.ack_seq;
  } else {
    tcp.ack = 1;
    tcp.ack_seq = bpf_htonl(bpf_ntohl(old.seq) + payload + old.syn + old.fin);
  }
  pseudo[0] = bpf_htonl(sizeof(tcp));
  pseudo[1] = bpf_htonl(IPPROTO_TCP);
  /* The mark of IPv4 is no part of the pseudo header. */
  if (p->v6) {
    sum = bpf_csum_diff(0, 0, saddr.words, sizeof(saddr), 0);
    sum = bpf_csum_diff(0, 0, daddr.words, sizeof(daddr), sum);
  } else {
    sum = bpf_csum_diff(0, 0, &saddr.words[3], 4, 0);
    sum = bpf_csum_diff(0, 0, &daddr.words[3], 4, sum);
  }
  sum = bpf_csum_diff(0, 0, pseudo, sizeof(pseudo), sum);
  tcp.check = fold_checksum(bpf_csum_diff(0, 0, (__be32*)&tcp, sizeof(tcp), sum));
  if (bpf_skb_change_tail(skb, p->l4 + sizeof(tcp), 0)) {
    return TC_ACT_SHOT;
  }
  if (p->v6) {
    struct ipv6hdr ip;
    if (bpf_skb_load_bytes(skb, p->l3, &ip, sizeof(ip))) {
      return TC_ACT_SHOT;
    }
    ip.payload_len = bpf_htons(sizeof(tcp));
    ip.hop_limit = FL_TTL;
    __builtin_memcpy(&ip.saddr, &saddr, sizeof(saddr));
    __builtin_memcpy(&ip.daddr, &daddr, sizeof(daddr));
    bpf_skb_store_bytes(skb, p->l3, &ip, sizeof(ip), 0);
  } else {
    struct iphdr ip;
    if (bpf_skb_load_bytes(skb, p->l3, &ip, sizeof(ip))) {
      return TC_ACT_SHOT;
    }
    ip.tot_len = bpf_htons(sizeof(ip) + sizeof(tcp));
    ip.ttl = FL_TTL;
    ip.frag_off = 0;
    ip.check = 0;
    ip.saddr = saddr.words[3];
    ip.daddr = daddr.words[3];
    ip.check = fold_checksum(bpf_csum_diff(0, 0, (__be32*)&ip, sizeof(ip), 0));
    bpf_skb_store_bytes(skb, p->l3, &ip, sizeof(ip), 0);
  }
  bpf_skb_store_bytes(skb, p->l4, &tcp, sizeof(tcp), 0);
  return send_back(skb, p->l3);
}

/* A ping: answered, as a node answers that has the address. A fragment's answer is a fragment. */
GLOBAL_MEM int echo(struct __sk_buff* skb, struct packet* p) {
  __be16 from, to;
  if (!p) {
    return TC_ACT_SHOT;
  }
  if (p->v6) {
    struct ipv6hdr ip;
    if (p->l4 - p->l3 != sizeof(ip) + (p->fragment == WHOLE ? 0 : FL_FRAGMENT_HEADER) ||
        bpf_skb_load_bytes(skb, p->l3, &ip, sizeof(ip))) {
      return TC_ACT_SHOT;
    }
    ip.hop_limit = FL_TTL;
    __builtin_memcpy(&ip.saddr, &p->tuple.daddr, sizeof(ip.saddr));
    __builtin_memcpy(&ip.daddr, &p->tuple.saddr, sizeof(ip.daddr));
    bpf_skb_store_bytes(skb, p->l3, &ip, sizeof(ip), 0);
    from = bpf_htons(ICMPV6_ECHO_REQUEST << 8);
    to = bpf_htons(ICMPV6_ECHO_REPLY << 8);
  } else {
    struct iphdr ip;
    if (p->l4 - p->l3 != sizeof(ip) || bpf_skb_load_bytes(skb, p->l3, &ip, sizeof(ip))) {
      return TC_ACT_SHOT;
    }
    ip.ttl = FL_TTL;
    ip.saddr = p->tuple.daddr.words[3];
    ip.daddr = p->tuple.saddr.words[3];
    ip.check = 0;
    ip.check = fold_checksum(bpf_csum_diff(0, 0, (__be32*)&ip, sizeof(ip), 0));
    bpf_skb_store_bytes(skb, p->l3, &ip, sizeof(ip), 0);
    from = bpf_htons(ICMP_ECHO << 8);
    to = bpf_htons(ICMP_ECHOREPLY << 8);
  }
  if (p->fragment != LATER_FRAGMENT) {
    bpf_l4_csum_replace(skb, p->l4 + offsetof(struct icmp_header, checksum), from, to, 2);
    bpf_skb_store_bytes(skb, p->l4, &to, 1, 0); /* the type, which comes first */
  }
  return send_back(skb, p->l3);
}

#endif
