/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Writing another address and port into a packet, with all checksums that cover them. */
#ifndef FAIRLEAD_BPF_REWRITE_H
#define FAIRLEAD_BPF_REWRITE_H

#include "packet.h"

/* --- SCTP's checksum ---------------------------------------------------------------------------
 */

/*
 * CRC32c is linear: if the first word of a packet of n bytes changes by XOR of `delta`, its CRC
 * changes by delta * x^(8n) modulo the polynomial, whatever the rest of the packet is. So a port is
 * changed without reading the packet. Bit-reflected, as the CRC itself: 1 << 31 is x^0.
 */
#define FL_CRC32C_POLYNOMIAL 0x82f63b78U
#define FL_CRC_POWERS 20 /* bits of 8n for a packet of 64 KiB */

/* x^(2^k) */
static const __u32 crc_powers[FL_CRC_POWERS] = {
    0x40000000U, 0x20000000U, 0x08000000U, 0x00800000U, 0x00008000U, 0x82f63b78U, 0x6ea2d55cU,
    0x18b8ea18U, 0x510ac59aU, 0xb82be955U, 0xb8fdb1e7U, 0x88e56f72U, 0x74c360a4U, 0xe4172b16U,
    0x0d65762aU, 0x35d73a62U, 0x28461564U, 0xbf455269U, 0xe2ea32dcU, 0xfe7740e6U,
};

GLOBAL __u32 crc_multiply(__u32 a, __u32 b) {
  __u32 product = 0;
  int i;
  for (i = 31; i >= 0; --i) {
    product ^= (a >> i & 1) ? b : 0;
    b = (b >> 1) ^ ((b & 1) ? FL_CRC32C_POLYNOMIAL : 0);
  }
  return product;
}

static __always_inline __u32 crc_change(__u32 delta, __u32 length) {
  __u32 bits = length * 8;
  int i;
  for (i = 0; i < FL_CRC_POWERS; ++i) {
    if (bits >> i & 1) {
      delta = crc_multiply(crc_powers[i], delta);
    }
  }
  return delta;
}

/* --- Addresses and ports -----------------------------------------------------------------------
 */

/* One end of a packet: where it stands. */
struct end {
  __u32 addr_offset;
  __u32 port_offset;
};

static __always_inline void ends(const struct packet* p, struct end* source,
                                 struct end* destination) {
  if (p->v6) {
    source->addr_offset = p->l3 + offsetof(struct ipv6hdr, saddr);
    destination->addr_offset = p->l3 + offsetof(struct ipv6hdr, daddr);
  } else {
    source->addr_offset = p->l3 + offsetof(struct iphdr, saddr);
    destination->addr_offset = p->l3 + offsetof(struct iphdr, daddr);
  }
  source->port_offset = p->l4;
  destination->port_offset = p->l4 + 2;
}

/* Offset of the transport checksum; 0: none that addresses enter, or not in this fragment. */
static __always_inline __u32 checksum_offset(const struct packet* p) {
  if (p->fragment == LATER_FRAGMENT) {
    return 0;
  }
  switch (p->tuple.protocol) {
    case IPPROTO_TCP:
      return p->l4 + 16;
    case IPPROTO_UDP:
      return p->l4 + 6;
    default:
      return 0;
  }
}

static __always_inline void write_addr(struct __sk_buff* skb, const struct packet* p, __u32 offset,
                                       const struct fl_addr* from, const struct fl_addr* to) {
  __u32 checksum = checksum_offset(p);
  /* A checksum of 0 means none in UDP, and stays so. */
  __u64 flags = BPF_F_PSEUDO_HDR | (p->tuple.protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0);
  if (same_addr(from, to)) {
    return;
  }
  if (p->v6) {
    if (checksum) {
      struct fl_addr old = *from;
      struct fl_addr new = *to;
      __s64 change = bpf_csum_diff(old.words, sizeof(old), new.words, sizeof(new), 0);
      bpf_l4_csum_replace(skb, checksum, 0, (__u64)change, flags);
    }
    bpf_skb_store_bytes(skb, offset, to, sizeof(*to), 0);
  } else {
    if (checksum) {
      bpf_l4_csum_replace(skb, checksum, from->words[3], to->words[3], flags | 4);
    }
    bpf_l3_csum_replace(skb, p->l3 + offsetof(struct iphdr, check), from->words[3], to->words[3],
                        4);
    bpf_skb_store_bytes(skb, offset, &to->words[3], 4, 0);
  }
}

static __always_inline void write_port(struct __sk_buff* skb, const struct packet* p, __u32 offset,
                                       __be16 from, __be16 to) {
  __u32 checksum = checksum_offset(p);
  if (from == to || p->fragment == LATER_FRAGMENT) {
    return;
  }
  if (p->tuple.protocol == IPPROTO_SCTP) {
    /* The ports are the packet's first word: source in the low half as read little-endian. */
    __u32 change = (__u32)(from ^ to) << (offset == p->l4 ? 0 : 16);
    __u32 crc;
    change = crc_change(change, p->bytes - (p->l4 - p->l3));
    if (!bpf_skb_load_bytes(skb, p->l4 + 8, &crc, 4)) {
      crc ^= change;
      bpf_skb_store_bytes(skb, p->l4 + 8, &crc, 4, 0);
    }
  } else if (checksum) {
    bpf_l4_csum_replace(skb, checksum, from, to,
                        2 | (p->tuple.protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0));
  }
  bpf_skb_store_bytes(skb, offset, &to, 2, 0);
}

/* Nothing between the headers, and the ports where the addresses end: nearly every packet. */
static __always_inline int is_plain(const struct packet* p) {
  return p->fragment == WHOLE &&
         p->l4 - p->l3 == (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) &&
         (p->tuple.protocol == IPPROTO_TCP || p->tuple.protocol == IPPROTO_UDP);
}

/* RFC 1624. */
static __always_inline __sum16 changed_sum(__sum16 sum, __be32 from, __be32 to) {
  __u32 new = (__u16)~sum;
  new += (__u16)~from + (__u16)(~from >> 16) + (__u16)to + (__u16)(to >> 16);
  new = (new & 0xffff) + (new >> 16);
  new = (new & 0xffff) + (new >> 16);
  return (__sum16) ~new;
}

/* Addresses and ports of a plain packet, from its tuple, in one go. */
static __always_inline void store_plain(struct __sk_buff* skb, struct packet* p) {
  if (p->v6) {
    bpf_skb_store_bytes(skb, p->l3 + offsetof(struct ipv6hdr, saddr), &p->tuple,
                        offsetof(struct fl_tuple, protocol), 0);
  } else {
    __be16 now[7];
    now[0] = p->ip_check;
    now[1] = (__be16)p->tuple.saddr.words[3];
    now[2] = (__be16)(p->tuple.saddr.words[3] >> 16);
    now[3] = (__be16)p->tuple.daddr.words[3];
    now[4] = (__be16)(p->tuple.daddr.words[3] >> 16);
    now[5] = p->tuple.sport;
    now[6] = p->tuple.dport;
    bpf_skb_store_bytes(skb, p->l3 + offsetof(struct iphdr, check), now, sizeof(now), 0);
  }
}

/* Writes an end of the packet, and notes it in the tuple, which goes on saying what the packet
 * says. */
static __always_inline void write_end(struct __sk_buff* skb, struct packet* p,
                                      struct fl_addr* in_tuple, __be16* port_in_tuple,
                                      const struct end* at, const struct fl_addr* addr,
                                      __be16 port) {
  if (is_plain(p)) {
    __u32 checksum = checksum_offset(p);
    __u64 flags = p->tuple.protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
    if (!same_addr(in_tuple, addr)) {
      if (p->v6) {
        struct fl_addr old = *in_tuple;
        struct fl_addr new = *addr;
        __s64 change = bpf_csum_diff(old.words, sizeof(old), new.words, sizeof(new), 0);
        bpf_l4_csum_replace(skb, checksum, 0, (__u64)change, flags | BPF_F_PSEUDO_HDR);
      } else {
        bpf_l4_csum_replace(skb, checksum, in_tuple->words[3], addr->words[3],
                            flags | BPF_F_PSEUDO_HDR | 4);
        p->ip_check = changed_sum(p->ip_check, in_tuple->words[3], addr->words[3]);
      }
    }
    if (*port_in_tuple != port) {
      bpf_l4_csum_replace(skb, checksum, *port_in_tuple, port, flags | 2);
    }
    *in_tuple = *addr;
    *port_in_tuple = port;
    store_plain(skb, p);
    return;
  }
  write_addr(skb, p, at->addr_offset, in_tuple, addr);
  write_port(skb, p, at->port_offset, *port_in_tuple, port);
  *in_tuple = *addr;
  *port_in_tuple = port;
}

static __always_inline void write_source(struct __sk_buff* skb, struct packet* p,
                                         const struct fl_addr* addr, __be16 port) {
  struct end source, destination;
  ends(p, &source, &destination);
  write_end(skb, p, &p->tuple.saddr, &p->tuple.sport, &source, addr, port);
}

static __always_inline void write_destination(struct __sk_buff* skb, struct packet* p,
                                              const struct fl_addr* addr, __be16 port) {
  struct end source, destination;
  ends(p, &source, &destination);
  write_end(skb, p, &p->tuple.daddr, &p->tuple.dport, &destination, addr, port);
}

#endif
