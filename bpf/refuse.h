/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Answers that the node gives in place of a server: port unreachable, reset, echo. The packet
 * itself becomes the answer and goes back out of the device it came from. */
#ifndef FAIRLEAD_BPF_REFUSE_H
#define FAIRLEAD_BPF_REFUSE_H

#include "rewrite.h"

#define FL_TTL 64

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

/* ICMP: network header + 8 + the quoted packet. `what` is type << 8 | code, `rest` the second word.
 */
GLOBAL int answer_error4(struct __sk_buff* skb, __u32 l3, __u32 l4, __u32 what, __u32 rest) {
  struct {
    struct iphdr ip;
    struct icmp_header icmp;
  } answer;
  struct iphdr old;
  __u8 quoted[sizeof(struct iphdr) + FL_QUOTED];
  __u32 length = sizeof(quoted);
  if (l4 - l3 != sizeof(struct iphdr)) {
    return TC_ACT_SHOT; /* with IP options: not worth the trouble */
  }
  if (bpf_skb_load_bytes(skb, l3, &old, sizeof(old))) {
    return TC_ACT_SHOT;
  }
  __builtin_memset(quoted, 0, sizeof(quoted));
  if (bpf_skb_load_bytes(skb, l3, quoted, sizeof(quoted))) {
    length = sizeof(struct iphdr) + 8; /* a short datagram */
    if (bpf_skb_load_bytes(skb, l3, quoted, sizeof(struct iphdr) + 8)) {
      return TC_ACT_SHOT;
    }
  }
  if (bpf_skb_change_tail(skb, l3 + length, 0) ||
      bpf_skb_adjust_room(skb, sizeof(answer), BPF_ADJ_ROOM_MAC, 0)) {
    return TC_ACT_SHOT;
  }
  __builtin_memset(&answer, 0, sizeof(answer));
  answer.ip.version = 4;
  answer.ip.ihl = 5;
  answer.ip.ttl = FL_TTL;
  answer.ip.protocol = IPPROTO_ICMP;
  answer.ip.tot_len = bpf_htons(sizeof(answer) + length);
  answer.ip.saddr = old.daddr;
  answer.ip.daddr = old.saddr;
  answer.ip.check = fold_checksum(bpf_csum_diff(0, 0, (__be32*)&answer.ip, sizeof(answer.ip), 0));
  answer.icmp.type = (__u8)(what >> 8);
  answer.icmp.code = (__u8)what;
  answer.icmp.rest = bpf_htonl(rest);
  /* Bytes of `quoted` behind `length` are zero and change no sum. */
  answer.icmp.checksum = fold_checksum(
      bpf_csum_diff(0, 0, (__be32*)quoted, sizeof(quoted),
                    bpf_csum_diff(0, 0, (__be32*)&answer.icmp, sizeof(answer.icmp), 0)));
  if (bpf_skb_store_bytes(skb, l3, &answer, sizeof(answer), 0)) {
    return TC_ACT_SHOT;
  }
  swap_link_addresses(skb, l3);
  return bpf_redirect(skb->ifindex, 0);
}

GLOBAL int answer_error6(struct __sk_buff* skb, __u32 l3, __u32 what, __u32 rest) {
  struct {
    struct ipv6hdr ip;
    struct icmp_header icmp;
  } answer;
  struct ipv6hdr old;
  __u8 quoted[sizeof(struct ipv6hdr) + FL_QUOTED];
  __u32 length = sizeof(quoted);
  __u64 sum;
  __be32 pseudo[2];
  if (bpf_skb_load_bytes(skb, l3, &old, sizeof(old))) {
    return TC_ACT_SHOT;
  }
  __builtin_memset(quoted, 0, sizeof(quoted));
  if (bpf_skb_load_bytes(skb, l3, quoted, sizeof(quoted))) {
    length = sizeof(struct ipv6hdr) + 8;
    if (bpf_skb_load_bytes(skb, l3, quoted, sizeof(struct ipv6hdr) + 8)) {
      return TC_ACT_SHOT;
    }
  }
  if (bpf_skb_change_tail(skb, l3 + length, 0) ||
      bpf_skb_adjust_room(skb, sizeof(answer), BPF_ADJ_ROOM_MAC, 0)) {
    return TC_ACT_SHOT;
  }
  __builtin_memset(&answer, 0, sizeof(answer));
  answer.ip.version = 6;
  answer.ip.hop_limit = FL_TTL;
  answer.ip.nexthdr = IPPROTO_ICMPV6;
  answer.ip.payload_len = bpf_htons(sizeof(answer.icmp) + length);
  answer.ip.saddr = old.daddr;
  answer.ip.daddr = old.saddr;
  answer.icmp.type = (__u8)(what >> 8);
  answer.icmp.code = (__u8)what;
  answer.icmp.rest = bpf_htonl(rest);
  pseudo[0] = bpf_htonl(sizeof(answer.icmp) + length);
  pseudo[1] = bpf_htonl(IPPROTO_ICMPV6);
  sum = bpf_csum_diff(0, 0, (__be32*)&answer.ip.saddr, 32, 0);
  sum = bpf_csum_diff(0, 0, pseudo, sizeof(pseudo), sum);
  sum = bpf_csum_diff(0, 0, (__be32*)&answer.icmp, sizeof(answer.icmp), sum);
  sum = bpf_csum_diff(0, 0, (__be32*)quoted, sizeof(quoted), sum);
  answer.icmp.checksum = fold_checksum(sum);
  if (bpf_skb_store_bytes(skb, l3, &answer, sizeof(answer), 0)) {
    return TC_ACT_SHOT;
  }
  swap_link_addresses(skb, l3);
  return bpf_redirect(skb->ifindex, 0);
}

static __always_inline int answer_error(struct __sk_buff* skb, const struct packet* p, __u32 what4,
                                        __u32 what6, __u32 rest) {
  return p->v6 ? answer_error6(skb, p->l3, what6, rest)
               : answer_error4(skb, p->l3, p->l4, what4, rest);
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
GLOBAL int reset(struct __sk_buff* skb, struct packet* p) {
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
  swap_link_addresses(skb, p->l3);
  return bpf_redirect(skb->ifindex, 0);
}

#endif
