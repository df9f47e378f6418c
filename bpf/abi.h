/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the BPF programs and the daemon share: the layout of every map. Both sides include this one
 * file. Maps outlive the process, and the next one may be of another version, newer or older: a
 * change of any struct here is a new FL_LAYOUT. What maps of another layout hold is taken over
 * field by field, by name (src/bpf/migration.h): 0 must do for a new field, one that changes its
 * meaning gets another name, and the numbers of an enum stay.
 *
 * Addresses are 16 bytes for both families, IPv4 as ::ffff:a.b.c.d, in network byte order. Ports
 * are in network byte order, all other numbers in the CPU's.
 */
#ifndef FAIRLEAD_BPF_ABI_H
#define FAIRLEAD_BPF_ABI_H

/* C, with the names of BPF programs: what clang-tidy asks of C++ is not for this file. */
/* NOLINTBEGIN */
#include <linux/types.h>

#define FL_LAYOUT 2

#ifdef __cplusplus
#define FL_SIZE(type, bytes) static_assert(sizeof(struct type) == (bytes))
#else
#define FL_SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), #type)
#endif

struct fl_addr {
  __u32 words[4];
};
FL_SIZE(fl_addr, 16);

/* --- Virtual servers ------------------------------------------------------------------------- */

/* Map `numbers` (hash): which virtual server a packet is for. Port 0 with protocol 0 names an
 * address that belongs to services: what is for it and for no virtual server is refused. A
 * firewall mark has protocol FL_VS_MARK, port 0, and stands in an address as its last word: 0.0.0.7
 * for mark 7 and IPv4, ::7 for IPv6. */
struct fl_vs_key {
  struct fl_addr addr;
  __be16 port;
  __u8 protocol;
  __u8 pad;
};
FL_SIZE(fl_vs_key, 20);
#define FL_VS_MARK 255
#define FL_VS_REFUSE 0xffffffffU /* the value of an address entry */

/* Who sends. In the order of plan::ClientClass. */
enum fl_class { FL_CLASS_EXTERNAL, FL_CLASS_POD, FL_CLASS_NODE, FL_CLASSES };
enum fl_class_flags {
  FL_CLASS_MASQUERADE = 1, /* the server sees an address of the node's */
  FL_CLASS_DROP = 2,       /* an empty set drops; else it refuses */
};

enum fl_scheduler {
  FL_RR,
  FL_WRR,
  FL_LC,
  FL_WLC,
  FL_SED,
  FL_NQ,
  FL_FO,
  FL_OVF,
  FL_SH,
  FL_DH,
  FL_MH,
};
enum fl_vs_flags {
  FL_VS_USED = 1,
  FL_VS_FALLBACK = 2,   /* sh, mh: another server if the hashed one takes no new connections */
  FL_VS_HASH_PORT = 4,  /* sh, mh: the client's port counts */
  FL_VS_ONE_PACKET = 8, /* each datagram is scheduled by itself */
};

/*
 * A block of slots: slots[base] is its header, slots[base + 1 ...] are `count` entries. What they
 * hold depends on the scheduler (scheduling.h). A block never changes while it is published; a
 * change writes another block and replaces the descriptor by one 8-byte store. The old block may be
 * reused a second later, and who reads it even then is caught by fl_rs.vs.
 */
struct fl_slot {
  __u32 rs;     /* number of a real server; in a header: index where the sequence repeats from */
  __u32 weight; /* lc family, fo, hashes: weight; wrr: the level (`cw`) that picked it, and in a
                   header the level before the first pick */
};
FL_SIZE(fl_slot, 8);
/* descriptor = base << 32 | count << 8 | generation; 0: no servers */
#ifdef __cplusplus
#define FL_CAST(type, value) static_cast<type>(value)
#else
#define FL_CAST(type, value) ((type)(value))
#endif
#define FL_BLOCK(base, count, generation) \
  (FL_CAST(__u64, base) << 32 | FL_CAST(__u64, count) << 8 | (FL_CAST(__u64, generation) & 0xffU))
#define FL_BLOCK_BASE(descriptor) FL_CAST(__u32, (descriptor) >> 32)
#define FL_BLOCK_COUNT(descriptor) (FL_CAST(__u32, (descriptor) >> 8) & 0xffffffU)
#define FL_MAX_SCAN 1024 /* servers that the lc family compares exactly */
#define FL_SH_SIZE 256
#define FL_MH_SIZE 4093

/* Map `vs` (array, mmapped by the daemon): by number. */
struct fl_vs {
  __u64 set[FL_CLASSES];      /* descriptors of up to three different sets */
  __u8 class_set[FL_CLASSES]; /* which of `set` (and of fl_vs_counts.cursor) serves the class */
  __u8 class_flags[FL_CLASSES];
  __u8 scheduler;
  __u8 flags;
  __u32 persistence;       /* seconds, 0: none */
  __u8 persistence_prefix; /* bits of the client's 16-byte address that count */
  __u8 protocol;
  __be16 port; /* its key, for whoever starts from the number */
  struct fl_addr addr;
  __u32 kind; /* plan::AddressKind */
  __u32 pad;
};
FL_SIZE(fl_vs, 64);

/* Map `vs_counts` (array, mmapped): what changes while packets flow. Packets and bytes are those of
 * connections that have ended; the living carry their own (fl_flow). */
struct fl_vs_counts {
  __u32 cursor[FL_CLASSES]; /* picks made from the set since its block was published */
  __u32 pad;
  __u64 connections;
  __u64 in_packets, in_bytes, out_packets, out_bytes;
  __u64 refused;
};
FL_SIZE(fl_vs_counts, 64);

/* --- Real servers ----------------------------------------------------------------------------- */

enum fl_forwarding { FL_MASQUERADE, FL_DIRECT, FL_TUNNEL, FL_FULLNAT };
enum fl_tunnel { FL_IPIP, FL_GUE, FL_GRE };
enum fl_rs_state {
  FL_RS_FREE,
  FL_RS_UP,       /* weight > 0 and in the blocks, or weight 0 */
  FL_RS_DRAINING, /* in no block; its connections go on */
  FL_RS_GONE,     /* its connections are to end */
};

/* Map `rs` (array, mmapped): by number. Number 0 is never used. A real server belongs to one
 * virtual server, as in kernel IPVS; its counters are its own. */
struct fl_rs {
  struct fl_addr addr;
  __be16 port;
  __u8 forwarding;
  __u8 state;
  __u32 weight;
  __u32 generation; /* counts the uses of this number; a flow of another generation is dead */
  __u32 vs;
  __u32 upper; /* thresholds of connections, 0: none */
  __u32 lower;
  __u8 tunnel;
  __u8 is_local; /* on this node */
  __be16 tunnel_port;
  __u32 last_weight; /* mh: the latest weight above 0 */
  __u32 position;    /* in the scheduler's walk, from 0; kept here to survive a restart */
  __u32 pad;
  __u64 drain_until; /* CLOCK_MONOTONIC ns; while draining */
};
FL_SIZE(fl_rs, 64);

/* Map `rs_counts` (array, mmapped). Packets and bytes as in fl_vs_counts. */
struct fl_rs_counts {
  __u32 active;
  __u32 inactive;
  __u32 persistent; /* clients that are bound to it */
  __u32 overloaded; /* the upper threshold was reached, the lower not yet */
  __u64 connections;
  __u64 in_packets, in_bytes, out_packets, out_bytes;
};
FL_SIZE(fl_rs_counts, 56);

/* --- Connections ------------------------------------------------------------------------------ */

/* Where a packet is looked at. */
enum fl_point { FL_INGRESS, FL_EGRESS };

/* Map `flows` (hash, preallocated). The key is a packet's tuple as it is at that point. */
struct fl_tuple {
  struct fl_addr saddr, daddr;
  __be16 sport, dport;
  __u8 protocol;
  __u8 point;
  __u16 pad;
};
FL_SIZE(fl_tuple, 40);

/*
 * A connection is two flows, or four if its client is hidden:
 *
 *   FL_FORWARD  client -> virtual, at the client's side in:   destination becomes the server
 *   FL_HIDE     client -> server,  at the server's side out:  source becomes the node's address
 *   FL_UNHIDE   server -> node,    at the server's side in:   destination becomes the client
 *   FL_REPLY    server -> client,  at the client's side out:  source becomes the virtual server
 *
 * The stack between sees client and server only, as with netfilter's own NAT. FL_FORWARD owns the
 * connection: its state, its place in the counters, its death. All others follow from it:
 * {saddr, addr} is the key of FL_HIDE, and turned around that of FL_REPLY; FL_HIDE's addr names
 * FL_UNHIDE. FL_HIDE with port 0 waits for its first packet to choose the address.
 *
 * Under a flood of SYNs (fl_pressure) new TCP connections start in the map `half` (LRU hash, same
 * keys and values) and move to `flows` with the client's first ACK. They are counted only then.
 *
 * With one-packet scheduling there is no connection: every datagram is a choice of its own. Only
 * what its answer needs is kept, per client port and server: FL_REPLY, and FL_HIDE and FL_UNHIDE if
 * the client is hidden. They go when they have been silent for the timeout of UDP.
 *
 * One client port can lead to one server by two virtual servers. The second of two such connections
 * gets another client port on its way through: FL_FORWARD and FL_HIDE, FL_REPLY are keyed and
 * written with that one. client_port is in FL_FORWARD what the server's side sees, in FL_REPLY what
 * the client has.
 */
enum fl_flow_kind { FL_FORWARD = 1, FL_HIDE, FL_UNHIDE, FL_REPLY };

struct fl_flow {
  struct fl_addr addr; /* what is written into the packet */
  __be16 port;
  __u8 kind;
  __u8 flags;
  __u32 rs;
  __u32 generation; /* of the real server */
  __u32 state;      /* FL_FORWARD: enum fl_tcp_state, fl_sctp_state, or 0 */
  __u32 seen;       /* ticks (fl_ticks) of the last packet */
  __u32 packets;
  __u32 born;         /* ticks */
  __be16 client_port; /* see above */
  __u8 way;           /* FL_FORWARD, FL_REPLY: enum fl_way */
  __u8 pad;
  __u64 bytes; /* of IP packets */
};
FL_SIZE(fl_flow, 56);
/* What a connection may take, with the fast path on. The stack has carried the first packet each
 * way, and the reply came in as the server sent it: then nothing on the way changes it. A reply
 * takes the fast path only where requests have found it. */
enum fl_way { FL_WAY_STACK, FL_WAY_ANSWERED, FL_WAY_FAST };
enum fl_flow_flags {
  FL_FLOW_HIDDEN = 1,    /* there are FL_HIDE and FL_UNHIDE */
  FL_FLOW_INACTIVE = 2,  /* as IPVS: counted as inactive */
  FL_FLOW_TEMPLATE = 4,  /* made through persistence */
  FL_FLOW_NO_OUTPUT = 8, /* direct, tunnel: replies are not seen, FL_FORWARD is the only flow */
  FL_FLOW_TUNNEL = 16,
  FL_FLOW_ONE_PACKET = 32, /* FL_REPLY and FL_HIDE that no FL_FORWARD owns: see above */
  FL_FLOW_ACK_COUNTS = 64, /* FL_REPLY: the next ACK can change the state, which few can */
};

/* Map `pressure` (array of one, mmapped). */
struct fl_pressure {
  __u32 half_open; /* connections of `flows` in FL_TCP_SYN_RECV */
  __u32 half_used; /* ticks when `half` was last of use; 0: never */
};

/* Time is counted in ticks of 2^20 ns (about a millisecond) of CLOCK_MONOTONIC, and wraps. */
#define FL_TICK_SHIFT 20
#define FL_TICKS_PER_SECOND 954U

/* Numbers as in kernel IPVS. */
enum fl_tcp_state {
  FL_TCP_NONE,
  FL_TCP_ESTABLISHED,
  FL_TCP_SYN_SENT,
  FL_TCP_SYN_RECV,
  FL_TCP_FIN_WAIT,
  FL_TCP_TIME_WAIT,
  FL_TCP_CLOSE,
  FL_TCP_CLOSE_WAIT,
  FL_TCP_LAST_ACK,
  FL_TCP_LISTEN,
  FL_TCP_SYNACK,
  FL_TCP_STATES
};
enum fl_sctp_state {
  FL_SCTP_NONE,
  FL_SCTP_INIT1,
  FL_SCTP_INIT,
  FL_SCTP_COOKIE_SENT,
  FL_SCTP_COOKIE_REPLIED,
  FL_SCTP_COOKIE_WAIT,
  FL_SCTP_COOKIE,
  FL_SCTP_COOKIE_ECHOED,
  FL_SCTP_ESTABLISHED,
  FL_SCTP_SHUTDOWN_SENT,
  FL_SCTP_SHUTDOWN_RECEIVED,
  FL_SCTP_SHUTDOWN_ACK_SENT,
  FL_SCTP_REJECTED,
  FL_SCTP_CLOSED,
  FL_SCTP_STATES
};

/* Map `ending` (array of one, mmapped): connections that the daemon holds for over, and what fl_end
 * made of each. */
#define FL_ENDING_MOST 1024
struct fl_ending {
  __u32 count; /* of keys: of FL_FORWARD, and of FL_REPLY with FL_FLOW_ONE_PACKET */
  __u32 now;   /* ticks */
  struct fl_tuple keys[FL_ENDING_MOST];
  __u8 has_ended[FL_ENDING_MOST]; /* out: 0, 1 */
};
FL_SIZE(fl_ending, 8 + FL_ENDING_MOST * 41);

/* Map `clients` (hash): persistence. The address is masked. */
struct fl_client_key {
  struct fl_addr addr;
  __u32 vs;
};
FL_SIZE(fl_client_key, 20);
struct fl_client {
  __u32 rs;
  __u32 generation;
  __u32 seen;    /* ticks of the newest connection made through it */
  __u32 timeout; /* ticks */
};
FL_SIZE(fl_client, 16);

/* Map `fragments` (LRU hash): the ports that a first fragment had; none if it was a ping. */
struct fl_fragment_key {
  struct fl_addr saddr, daddr;
  __u32 id;
  __u8 protocol;
  __u8 pad[3];
};
FL_SIZE(fl_fragment_key, 40);
struct fl_ports {
  __be16 sport, dport;
};
FL_SIZE(fl_ports, 4);

/* --- Sockets (cgroup hooks) ------------------------------------------------------------------- */

/* Map `socket_peers` (LRU hash): what a socket asked for, by what it got, and the other way. */
struct fl_socket_key {
  __u64 cookie;
  struct fl_addr addr;
  __be16 port;
  __u8 asked; /* 1: addr is the virtual server, 0: the real server */
  __u8 protocol;
  __u32 pad;
};
FL_SIZE(fl_socket_key, 32);
struct fl_socket_peer {
  struct fl_addr addr; /* the other one */
  __be16 port;
  __u16 pad;
  __u32 rs;
  __u32 generation;
};
FL_SIZE(fl_socket_peer, 28);

/* --- The node --------------------------------------------------------------------------------- */

/* Map `classes` (LPM trie): source address -> enum fl_class as __u32; else external. */
struct fl_prefix {
  __u32 length; /* of 128 bits */
  struct fl_addr addr;
};
FL_SIZE(fl_prefix, 20);

/* Map `devices` (hash): by interface index. */
struct fl_device {
  struct fl_addr hide4, hide6; /* what a masqueraded client looks like to servers behind it */
  __u32 flags;
};
FL_SIZE(fl_device, 36);
enum fl_device_flags {
  FL_DEVICE_PODS = 1, /* what comes in is from a pod */
  FL_DEVICE_PEER = 2, /* a veth whose other end is in another namespace */
};

/* Map `filter` (array of one, mmapped): sets of addresses, as bitmaps by FL_FILTER_BIT. A packet
 * with no address in its point's set passes at once. [FL_INGRESS]: virtual addresses, those that
 * hide clients, and firewall marks; [FL_EGRESS]: real servers. */
struct fl_filter {
  __u64 bits[2][1024];
};
#define FL_FILTER_BIT(w0, w1, w2, w3) ((((w0) ^ (w1) ^ (w2) ^ (w3)) * 0x61C88647U) >> 16)

/* Map `config` (array of one, mmapped). */
struct fl_config {
  __u32 layout;                       /* FL_LAYOUT; stays the first field */
  __u32 tcp_timeout[FL_TCP_STATES];   /* ticks */
  __u32 sctp_timeout[FL_SCTP_STATES]; /* ticks */
  __u32 udp_timeout;                  /* ticks */
  __u16 port_first[2], port_last[2];  /* ranges of source ports for hidden clients, inclusive */
  __u32 port_seed;
  __u32 sockets;         /* enum fl_sockets: whose are translated */
  __u32 half_open_limit; /* beyond it, new TCP connections start in `half`; 0: never */
  __u64 netns_cookie;    /* of the node's own namespace */
};
enum fl_sockets { FL_SOCKETS_OFF, FL_SOCKETS_NODE, FL_SOCKETS_ALL };

/* Map `events` (per-CPU array of __u64): what happened. */
enum fl_event {
  FL_EVENT_NEW,
  FL_EVENT_REFUSED,     /* no server, no such port: answered with an ICMP error */
  FL_EVENT_DROPPED,     /* as the set's verdict says */
  FL_EVENT_TABLE_FULL,  /* a new connection had no room */
  FL_EVENT_NO_PORT,     /* no source port was free */
  FL_EVENT_MALFORMED,   /* headers cut short or impossible */
  FL_EVENT_STRAY,       /* neither a connection nor the start of one */
  FL_EVENT_SERVER_GONE, /* the connection's server was removed */
  FL_EVENT_FRAGMENT,    /* a fragment whose first one was not seen */
  FL_EVENT_REUSED,      /* a SYN took over a connection that had ended */
  FL_EVENT_NO_ROUTE,    /* direct, tunnel: no way to the server */
  FL_EVENT_TOO_BIG,     /* direct, tunnel: answered with the size that fits */
  FL_EVENTS
};

/* Program array `before`, filled while maps of another layout or size are taken over: the programs
 * that go by those. */
enum fl_before { FL_BEFORE_IN, FL_BEFORE_OUT, FL_BEFORE_IN_L3, FL_BEFORE_OUT_L3, FL_BEFORES };

/* NOLINTEND */
#endif
