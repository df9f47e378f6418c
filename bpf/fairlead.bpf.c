// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Fairlead's data plane in the kernel: IPVS semantics at the edges of the node. On every device
 * that matters, `fl_in` sees what comes in and `fl_out` what goes out:
 *
 *   client --> [fl_in: destination := server] --> stack --> [fl_out: source := node] --> server
 *   client <-- [fl_out: source := virtual] <-- stack <-- [fl_in: destination := client] <-- server
 *
 * (the node's address only where the client is hidden). The stack between, with everybody's
 * routing, policy and connection tracking, sees client and server.
 */

#include "fast.h"
#include "flows.h"
#include "forward.h"
#include "hide.h"
#include "icmp.h"
#include "packet.h"
#include "refuse.h"
#include "rewrite.h"
#include "sockets.h"
#include "sweep.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* In a packet's tc_index, between fl_in and fl_out: nothing is left to do on the way out. */
#define FL_DONE 0xfa1e

/* --- In ------------------------------------------------------------------------------------------
 */

/* The client's packet, on to its server. */
GLOBAL_MEM int send_forward(struct __sk_buff* skb, struct packet* p, struct fl_flow* flow,
                            __u32 now) {
  struct fl_addr addr;
  __be16 port, client_port;
  if (!p || !flow) {
    return TC_ACT_SHOT;
  }
  if (flow->flags & FL_FLOW_NO_OUTPUT) {
    stamp(flow, p, now);
    return leave_as_is(p, flow);
  }
  addr = flow->addr;
  port = flow->port;
  client_port = flow->client_port;
  stamp(flow, p, now);
  write_destination(skb, p, &addr, port);
  if (client_port != p->tuple.sport) {
    struct fl_addr client = p->tuple.saddr;
    write_source(skb, p, &client, client_port);
  }
  if (!(flow->flags & FL_FLOW_HIDDEN)) {
    skb->tc_index = FL_DONE;
  }
  if (fl_fast_path && flow->way != FL_WAY_STACK) {
    p->as_is.is_first = flow->way == FL_WAY_ANSWERED;
    p->as_is.is_hidden = flow->flags & FL_FLOW_HIDDEN;
    return finally(p, GO_FORWARD);
  }
  return PASS;
}

/* The claimed address's answer to what no virtual server takes. */
static __always_inline int refuse_if_ours(struct packet* p) {
  return is_claimed(&p->tuple.daddr) ? finally(p, REFUSE) : PASS;
}

static __always_inline void mark_key(struct fl_addr* to, const struct packet* p, __u32 mark) {
  set_v4(to, bpf_htonl(mark));
  if (p->v6) {
    to->words[2] = 0;
  }
}

/* Perhaps it is for a virtual server by its mark, whatever its address. */
static __always_inline int has_mark(struct __sk_buff* skb, const struct packet* p) {
  struct fl_addr mark;
  if (!skb->mark) {
    return 0;
  }
  mark_key(&mark, p, skb->mark);
  return in_filter(FL_INGRESS, &mark);
}

/* `replaces`: there is one on this tuple, which ends. As with the kernel it counts until the server
 * of the new one is chosen. */
GLOBAL int new_connection(struct __sk_buff* skb, __u32 replaces) {
  struct packet* p = the_packet();
  struct fl_vs_key key;
  struct choice choice;
  struct fl_vs* server;
  struct fl_rs* real;
  struct fl_rs_counts* counts;
  struct fl_vs_counts* totals;
  struct fl_flow flow;
  __u32* number;
  __u32 class, set, class_flags, now = ticks_now();
  int error, in_half;

  if (!p) {
    return TC_ACT_SHOT;
  }
  __builtin_memset(&key, 0, sizeof(key));
  number = NULL;
  if (skb->mark) {
    mark_key(&key.addr, p, skb->mark);
    key.protocol = FL_VS_MARK;
    number = bpf_map_lookup_elem(&numbers, &key);
  }
  if (!number) {
    key.addr = p->tuple.daddr;
    key.port = p->tuple.dport;
    key.protocol = p->tuple.protocol;
    number = bpf_map_lookup_elem(&numbers, &key);
  }
  p->is_unknown = !number || !is_start(p);
  if (!number) {
    if (replaces) {
      end_connection();
    }
    return refuse_if_ours(p);
  }
  choice.vs = *number;
  server = vs_at(choice.vs);
  totals = vs_counts_at(choice.vs);
  if (!server || !totals) {
    return PASS;
  }
  if (!is_start(p)) {
    /* On an address of the node's own, its stack answers; else we do. */
    key.addr = p->tuple.daddr;
    key.port = 0;
    key.protocol = 0;
    if (!bpf_map_lookup_elem(&numbers, &key)) {
      return PASS;
    }
    if (p->tuple.protocol == IPPROTO_TCP) {
      return finally(p, RESET);
    }
    count(FL_EVENT_STRAY);
    return TC_ACT_SHOT;
  }

  class = class_of(skb, &p->tuple.saddr);
  if (class >= FL_CLASSES) {
    return PASS;
  }
  set = server->class_set[class];
  class_flags = server->class_flags[class];
  if (set >= FL_CLASSES) {
    return PASS;
  }
  choice.who = PACKET;
  choice.set = set;
  choice.block = *(volatile __u64*)&server->set[set];
  choice.port = bpf_ntohs(p->tuple.sport);
  choice.target = fold(&p->tuple.daddr);
  __builtin_memset(&flow, 0, sizeof(flow));
  flow.rs = choose(&choice, &p->tuple.saddr);
  if (replaces) {
    end_connection();
  }
  real = rs_at(flow.rs);
  counts = rs_counts_at(flow.rs);
  if (flow.rs == 0 || !real || !counts) {
    __sync_fetch_and_add(&totals->refused, 1);
    if (class_flags & FL_CLASS_DROP) {
      count(FL_EVENT_DROPPED);
      return TC_ACT_SHOT;
    }
    return finally(p, REFUSE);
  }

  flow.generation = real->generation;
  flow.addr = real->addr;
  flow.port = real->port ? real->port : p->tuple.dport;
  flow.client_port = p->tuple.sport;
  flow.kind = FL_FORWARD;
  flow.seen = now;
  flow.born = now;
  if (real->forwarding == FL_DIRECT || real->forwarding == FL_TUNNEL) {
    flow.flags |= FL_FLOW_NO_OUTPUT | (real->forwarding == FL_TUNNEL ? FL_FLOW_TUNNEL : 0);
    flow.port = p->tuple.dport;
  } else if (class_flags & FL_CLASS_MASQUERADE || real->forwarding == FL_FULLNAT ||
             same_addr(&flow.addr, &p->tuple.saddr)) {
    flow.flags |= FL_FLOW_HIDDEN;
  }
  if (server->persistence) {
    flow.flags |= FL_FLOW_TEMPLATE;
  }
  /* The fragments of a datagram stay together, which takes a connection. */
  if (server->flags & FL_VS_ONE_PACKET && p->tuple.protocol == IPPROTO_UDP &&
      p->fragment == WHOLE) {
    flow.flags |= FL_FLOW_ONE_PACKET;
    if (!(flow.flags & FL_FLOW_NO_OUTPUT)) {
      error = expect_answer(&flow);
      if (error) {
        count(error == -FL_EEXIST ? FL_EVENT_NO_PORT : FL_EVENT_TABLE_FULL);
        return TC_ACT_SHOT;
      }
    }
    __sync_fetch_and_add(&counts->connections, 1);
    __sync_fetch_and_add(&counts->in_packets, 1);
    __sync_fetch_and_add(&counts->in_bytes, p->bytes);
    __sync_fetch_and_add(&totals->connections, 1);
    __sync_fetch_and_add(&totals->in_packets, 1);
    __sync_fetch_and_add(&totals->in_bytes, p->bytes);
    return send_forward(skb, p, &flow, now);
  }
  flow.state = next_state(p->tuple.protocol, FROM_CLIENT, 0, p->event);
  if (!is_active(p->tuple.protocol, flow.state)) {
    flow.flags |= FL_FLOW_INACTIVE;
  }
  flow.packets = 1;
  flow.bytes = p->bytes;
  in_half = p->tuple.protocol == IPPROTO_TCP && is_pressed();
  if (in_half) {
    note_use_of_half(now);
  }
  error = insert_connection(&flow, in_half);
  if (error == -FL_EEXIST) {
    /* The same first packet on another CPU, or every client port is taken. */
    struct fl_flow* other = flow_in(in_half, &p->tuple);
    if (other) {
      return send_forward(skb, p, other, now);
    }
    count(FL_EVENT_NO_PORT);
    return TC_ACT_SHOT;
  }
  if (error) {
    count(FL_EVENT_TABLE_FULL);
    return TC_ACT_SHOT;
  }
  if (!in_half) {
    count_connection(counts, flow.flags & FL_FLOW_INACTIVE, 1);
    if (is_half_open(p->tuple.protocol, flow.state)) {
      count_half_open(1);
    }
  }
  if (real->upper) {
    mind_thresholds(real, counts);
  }
  __sync_fetch_and_add(&counts->connections, 1);
  __sync_fetch_and_add(&totals->connections, 1);
  count(FL_EVENT_NEW);
  return send_forward(skb, p, &flow, now); /* the one in the table has been told of this packet */
}

/* A flow that must not be used any more: its server is gone, it has expired, or a new connection
 * begins on its tuple. */
enum fate { GOES_ON, OVER, REPLACED };
static __noinline int fate_of(struct packet* p, struct fl_flow* flow, __u32 now) {
  struct fl_rs* server = server_of(flow);
  int is_closed;
  if (!server) {
    count(FL_EVENT_SERVER_GONE);
    return OVER;
  }
  if ((__s32)(now - flow->seen) > (__s32)FL_TICKS_PER_SECOND && is_expired(&p->tuple, flow, now)) {
    return OVER;
  }
  if (p->tuple.protocol == IPPROTO_UDP || !is_start(p)) {
    return GOES_ON;
  }
  is_closed = p->tuple.protocol == IPPROTO_TCP
                  ? flow->state == FL_TCP_TIME_WAIT || flow->state == FL_TCP_CLOSE
                  : flow->state == FL_SCTP_CLOSED;
  /* A closed connection that was made through persistence is taken up again; one whose server takes
   * no new ones is not, in whatever state. */
  if ((is_closed && !(flow->flags & FL_FLOW_TEMPLATE)) || server->weight == 0 ||
      server->state != FL_RS_UP) {
    count(FL_EVENT_REUSED);
    return REPLACED;
  }
  return GOES_ON;
}

/* A SYN can lead to SYN_RECV, from where an ACK of the server leads on. */
static __noinline int mind_next_ack(struct fl_tuple* forward, struct fl_flow* flow) {
  struct fl_tuple key;
  struct fl_flow* reply;
  key_of_reply(&key, forward, flow);
  reply = bpf_map_lookup_elem(&flows, &key);
  if (reply) {
    reply->flags |= FL_FLOW_ACK_COUNTS;
  }
  return 0;
}

/* On the fast path, a server's packet becomes its reply where it comes in. */
static __always_inline int maybe_reply(struct __sk_buff* skb, struct packet* p) {
  if (!in_filter(FL_EGRESS, &p->tuple.saddr) || p->fragment != WHOLE ||
      parse_ports(skb, p) != PARSED || p->is_icmp) {
    return PASS;
  }
  return finally(p, GO_BACK);
}

static __always_inline int in(struct __sk_buff* skb, struct packet* p) {
  struct fl_flow* flow;
  enum parsed parsed;
  __u32 now;
  int fate, in_half = 0;
  parsed = parse_addresses(skb, p);
  if (parsed != PARSED) {
    return PASS; /* the stack judges what is malformed */
  }
  if (!in_filter(FL_INGRESS, &p->tuple.daddr) && !has_mark(skb, p)) {
    return fl_fast_path ? maybe_reply(skb, p) : PASS;
  }
  parsed = parse_ports(skb, p);
  if (parsed == NOT_OURS) {
    return PASS;
  }
  if (parsed == CUT_SHORT) {
    count(p->fragment == LATER_FRAGMENT ? FL_EVENT_FRAGMENT : FL_EVENT_MALFORMED);
    return PASS;
  }
  if (p->is_icmp) {
    return p->fragment == WHOLE ? handle_icmp(skb, p, FL_INGRESS) : handle_icmp_fragment(skb);
  }
  flow = bpf_map_lookup_elem(&flows, &p->tuple);
  now = ticks_now();
  if (!flow && p->tuple.protocol == IPPROTO_TCP && is_half_in_use(now)) {
    flow = bpf_map_lookup_elem(&half, &p->tuple);
    in_half = flow && flow->kind == FL_FORWARD;
    if (in_half && (p->event & (FL_TCP_ACK | FL_TCP_SYN | FL_TCP_RST)) == FL_TCP_ACK) {
      flow = promote_connection() ? NULL : bpf_map_lookup_elem(&flows, &p->tuple);
      in_half = 0;
    }
  }
  if (!flow) {
    return new_connection(skb, 0);
  }
  if (flow->kind == FL_UNHIDE) {
    struct fl_addr addr = flow->addr;
    __be16 port = flow->port;
    stamp(flow, p, now);
    write_destination(skb, p, &addr, port);
    return fl_fast_path ? finally(p, GO_BACK) : PASS;
  }
  fate = fate_of(p, flow, now);
  if (in_half) {
    if (fate == GOES_ON) {
      note_use_of_half(now);
      return send_forward(skb, p, flow, now);
    }
    drop_half_open();
    return new_connection(skb, 0);
  }
  if (fate == OVER) {
    end_connection();
  }
  if (fate != GOES_ON) {
    return new_connection(skb, fate == REPLACED);
  }
  move_state(flow, p->tuple.protocol,
             flow->flags & FL_FLOW_NO_OUTPUT ? FROM_CLIENT_ONLY : FROM_CLIENT, p->event);
  if (p->tuple.protocol == IPPROTO_TCP && p->event & FL_TCP_SYN &&
      !(flow->flags & FL_FLOW_NO_OUTPUT)) {
    mind_next_ack(&p->tuple, flow);
  }
  return send_forward(skb, p, flow, now);
}

static __always_inline int in_and_on(struct __sk_buff* skb, __u32 l3) {
  struct packet* p = new_packet(l3, FL_INGRESS);
  int verdict;
  if (skb->tc_index) {
    skb->tc_index = 0; /* somebody else's */
  }
  if (!p) {
    return PASS;
  }
  verdict = in(skb, p);
  if (p->is_unknown) {
    bpf_tail_call(skb, &before, l3 ? FL_BEFORE_IN : FL_BEFORE_IN_L3);
  }
  switch (p->then) {
    case REFUSE:
      return refuse(skb, p);
    case RESET:
      return reset(skb, p);
    case ECHO:
      return echo(skb, p);
    case LOOK_INTO_TUNNEL:
      return look_into_tunnel(skb);
    case SEND_AS_IS:
      return send_as_is(skb, p);
    case GO_FORWARD:
      return go_forward(skb);
    case GO_BACK:
      return go_back(skb);
    default:
      return verdict;
  }
}

/* --- Out -----------------------------------------------------------------------------------------
 */

static __always_inline int out(struct __sk_buff* skb, __u32 l3) {
  struct packet* p;
  struct fl_flow* flow;
  struct fl_addr addr;
  __be16 port;
  enum parsed parsed;
  __u32 now;
  if (skb->tc_index == FL_DONE) {
    skb->tc_index = 0;
    return PASS;
  }
  p = new_packet(l3, FL_EGRESS);
  if (!p) {
    return PASS;
  }
  if (parse_addresses(skb, p) != PARSED) {
    return PASS;
  }
  if (p->v6 ? p->tuple.protocol == IPPROTO_ICMPV6 : p->tuple.protocol == IPPROTO_ICMP) {
    return p->fragment == WHOLE ? handle_icmp(skb, p, FL_EGRESS) : PASS;
  }
  if (!in_filter(FL_EGRESS, &p->tuple.saddr) && !in_filter(FL_EGRESS, &p->tuple.daddr)) {
    return PASS;
  }
  parsed = parse_ports(skb, p);
  if (parsed != PARSED) {
    if (parsed == CUT_SHORT && p->fragment == LATER_FRAGMENT) {
      count(FL_EVENT_FRAGMENT);
    }
    return PASS;
  }
  flow = bpf_map_lookup_elem(&flows, &p->tuple);
  now = ticks_now();
  if (!flow && p->tuple.protocol == IPPROTO_TCP && p->event & (FL_TCP_SYN | FL_TCP_RST) &&
      is_half_in_use(now)) {
    flow = bpf_map_lookup_elem(&half, &p->tuple);
  }
  if (!flow) {
    bpf_tail_call(skb, &before, l3 ? FL_BEFORE_OUT : FL_BEFORE_OUT_L3);
    return PASS;
  }
  if (flow->kind == FL_HIDE && flow->port == 0) {
    if (claim_port(skb->ifindex)) {
      count(FL_EVENT_NO_PORT);
      return TC_ACT_SHOT;
    }
  }
  if (flow->kind == FL_REPLY) {
    if (changes_state(p, flow)) {
      note_reply(&p->tuple, flow, p->event);
    }
    write_reply(skb, p, flow, now);
    return PASS;
  }
  addr = flow->addr;
  port = flow->port;
  stamp(flow, p, now);
  write_source(skb, p, &addr, port);
  return PASS;
}

/* --- Programs ------------------------------------------------------------------------------------
 */

SEC("tc")
int fl_in(struct __sk_buff* skb) { return in_and_on(skb, ETH_HLEN); }

SEC("tc")
int fl_out(struct __sk_buff* skb) { return out(skb, ETH_HLEN); }

/* For devices without a link layer. */
SEC("tc")
int fl_in_l3(struct __sk_buff* skb) { return in_and_on(skb, 0); }

SEC("tc")
int fl_out_l3(struct __sk_buff* skb) { return out(skb, 0); }

/* On no device: the daemon runs it by the kernel's test call, which every kernel has. */
SEC("tc")
int fl_end(struct __sk_buff* skb) {
  (void)skb;
  end_listed();
  return 0;
}
