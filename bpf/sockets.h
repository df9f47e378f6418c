/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The socket path: a process of the node that connects to a virtual server is led to a real one
 * before there is a packet, so that source address and route are those of a plain connection. The
 * process goes on seeing the address it asked for.
 */
#ifndef FAIRLEAD_BPF_SOCKETS_H
#define FAIRLEAD_BPF_SOCKETS_H

#include "flows.h"

#define FL_ECONNREFUSED 111

#define ALLOW 1
#define DENY 0

/* What a socket asks for, or what it is shown. */
struct target {
  struct fl_addr addr;
  __be16 port;
};

static __always_inline int is_translated(struct bpf_sock_addr* ctx) {
  struct fl_config* c = settings();
  if (!c || c->sockets == FL_SOCKETS_OFF) {
    return 0;
  }
  return c->sockets == FL_SOCKETS_ALL || bpf_get_netns_cookie(ctx) == c->netns_cookie;
}

static __always_inline void socket_key(struct fl_socket_key* key, struct bpf_sock_addr* ctx,
                                       const struct target* t, __u8 asked) {
  __builtin_memset(key, 0, sizeof(*key));
  key->cookie = bpf_get_socket_cookie(ctx);
  key->addr = t->addr;
  key->port = t->port;
  key->asked = asked;
  key->protocol = (__u8)ctx->protocol;
}

/* What the socket sees as the sender of what comes from `t`: the last that it asked for, where
 * several lead there. */
static __always_inline void note_peer(struct fl_socket_key* got, struct bpf_sock_addr* ctx,
                                      const struct target* t, const struct fl_socket_peer* peer) {
  const struct fl_socket_peer* noted;
  socket_key(got, ctx, t, 0);
  noted = bpf_map_lookup_elem(&socket_peers, got);
  if (!noted || !same_addr(&noted->addr, &peer->addr) || noted->port != peer->port ||
      noted->rs != peer->rs || noted->generation != peer->generation) {
    bpf_map_update_elem(&socket_peers, got, peer, BPF_ANY);
  }
}

/* 1: `t` is a real server now. 0: none of our business. Negative: there is no server. */
static __noinline int translate_target(struct bpf_sock_addr* ctx, struct target* t,
                                       __u32 connects) {
  struct fl_vs_key key;
  struct fl_socket_key asked, got;
  struct fl_socket_peer *known, peer;
  struct choice choice;
  struct fl_vs* server;
  struct fl_vs_counts* totals;
  struct fl_rs_counts* counts;
  struct fl_rs* real;
  struct fl_addr nobody;
  __u32* number;
  __u32 set, chosen;

  if (!in_filter(FL_INGRESS, &t->addr)) {
    return 0;
  }
  __builtin_memset(&key, 0, sizeof(key));
  key.addr = t->addr;
  key.port = t->port;
  key.protocol = (__u8)ctx->protocol;
  number = bpf_map_lookup_elem(&numbers, &key);
  if (!number) {
    key.port = 0;
    key.protocol = 0;
    return bpf_map_lookup_elem(&numbers, &key) ? -1 : 0;
  }
  choice.vs = *number;
  __builtin_memset(&peer, 0, sizeof(peer));
  peer.addr = t->addr;
  peer.port = t->port;
  socket_key(&asked, ctx, t, 1);
  if (!connects) {
    /* An unconnected socket stays with the server it got first. */
    known = bpf_map_lookup_elem(&socket_peers, &asked);
    if (known) {
      real = rs_at(known->rs);
      if (real && real->generation == known->generation && real->state != FL_RS_GONE &&
          real->state != FL_RS_FREE) {
        t->addr = known->addr;
        t->port = known->port;
        peer.rs = known->rs;
        peer.generation = known->generation;
        note_peer(&got, ctx, t, &peer);
        return 1;
      }
    }
  }
  server = vs_at(choice.vs);
  totals = vs_counts_at(choice.vs);
  if (!server || !totals) {
    return 0;
  }
  set = server->class_set[FL_CLASS_NODE];
  if (set >= FL_CLASSES) {
    return 0;
  }
  choice.who = SOCKET;
  choice.set = set;
  choice.block = *(volatile __u64*)&server->set[set];
  choice.port = 0;
  choice.target = fold(&t->addr);
  /* The source address is not chosen yet: all of the node's sockets are one client. */
  set_v4(&nobody, 0);
  chosen = choose(&choice, &nobody);
  real = rs_at(chosen);
  counts = rs_counts_at(chosen);
  /* A tunnel leads to servers of the other family; a socket does not. */
  if (chosen == 0 || !real || !counts || is_v4(&real->addr) != is_v4(&t->addr)) {
    __sync_fetch_and_add(&totals->refused, 1);
    return -1;
  }
  peer.rs = chosen;
  peer.generation = real->generation;
  /* Where packets would go out unchanged, only the address changes. */
  if (real->port && real->forwarding != FL_DIRECT && real->forwarding != FL_TUNNEL) {
    t->port = real->port;
  }
  t->addr = real->addr;
  note_peer(&got, ctx, t, &peer);
  if (!connects) {
    peer.addr = t->addr;
    peer.port = t->port;
    bpf_map_update_elem(&socket_peers, &asked, &peer, BPF_ANY);
  }
  __sync_fetch_and_add(&counts->connections, 1);
  __sync_fetch_and_add(&totals->connections, 1);
  return 1;
}

/* 1: `t` is now what the socket asked for. */
static __noinline int restore_target(struct bpf_sock_addr* ctx, struct target* t) {
  struct fl_socket_key got;
  struct fl_socket_peer* peer;
  if (!in_filter(FL_EGRESS, &t->addr)) {
    return 0;
  }
  socket_key(&got, ctx, t, 0);
  peer = bpf_map_lookup_elem(&socket_peers, &got);
  if (!peer) {
    return 0;
  }
  t->addr = peer->addr;
  t->port = peer->port;
  return 1;
}

static __always_inline void read4(struct bpf_sock_addr* ctx, struct target* t) {
  set_v4(&t->addr, ctx->user_ip4);
  t->port = (__be16)ctx->user_port;
}
static __always_inline void write4(struct bpf_sock_addr* ctx, const struct target* t) {
  ctx->user_ip4 = t->addr.words[3];
  ctx->user_port = t->port;
}
static __always_inline void read6(struct bpf_sock_addr* ctx, struct target* t) {
  t->addr.words[0] = ctx->user_ip6[0];
  t->addr.words[1] = ctx->user_ip6[1];
  t->addr.words[2] = ctx->user_ip6[2];
  t->addr.words[3] = ctx->user_ip6[3];
  t->port = (__be16)ctx->user_port;
}
static __always_inline void write6(struct bpf_sock_addr* ctx, const struct target* t) {
  ctx->user_ip6[0] = t->addr.words[0];
  ctx->user_ip6[1] = t->addr.words[1];
  ctx->user_ip6[2] = t->addr.words[2];
  ctx->user_ip6[3] = t->addr.words[3];
  ctx->user_port = t->port;
}

#define FL_TO_SERVER(name, section, family, connects) \
  SEC(section)                                        \
  int name(struct bpf_sock_addr* ctx) {               \
    struct target t;                                  \
    int found;                                        \
    if (!is_translated(ctx)) {                        \
      return ALLOW;                                   \
    }                                                 \
    read##family(ctx, &t);                            \
    found = translate_target(ctx, &t, connects);      \
    if (found < 0) {                                  \
      fail_with(FL_ECONNREFUSED);                     \
      return DENY;                                    \
    }                                                 \
    if (found) {                                      \
      write##family(ctx, &t);                         \
    }                                                 \
    return ALLOW;                                     \
  }

#define FL_FROM_SERVER(name, section, family) \
  SEC(section)                                \
  int name(struct bpf_sock_addr* ctx) {       \
    struct target t;                          \
    if (!is_translated(ctx)) {                \
      return ALLOW;                           \
    }                                         \
    read##family(ctx, &t);                    \
    if (restore_target(ctx, &t)) {            \
      write##family(ctx, &t);                 \
    }                                         \
    return ALLOW;                             \
  }

FL_TO_SERVER(fl_connect4, "cgroup/connect4", 4, 1)
FL_TO_SERVER(fl_connect6, "cgroup/connect6", 6, 1)
FL_TO_SERVER(fl_sendmsg4, "cgroup/sendmsg4", 4, 0)
FL_TO_SERVER(fl_sendmsg6, "cgroup/sendmsg6", 6, 0)
FL_FROM_SERVER(fl_recvmsg4, "cgroup/recvmsg4", 4)
FL_FROM_SERVER(fl_recvmsg6, "cgroup/recvmsg6", 6)
FL_FROM_SERVER(fl_getpeername4, "cgroup/getpeername4", 4)
FL_FROM_SERVER(fl_getpeername6, "cgroup/getpeername6", 6)

#endif
