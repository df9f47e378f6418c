/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The state of a connection, as kernel IPVS keeps it: its transition tables for TCP and SCTP, its
 * timeouts (in the map `config`), and what it counts as active. UDP has one state, 0.
 */
#ifndef FAIRLEAD_BPF_STATES_H
#define FAIRLEAD_BPF_STATES_H

#include "packet.h"

/* Who sent the packet; FROM_CLIENT_ONLY where replies are not seen (direct routing, tunnels). */
enum direction { FROM_CLIENT, FROM_SERVER, FROM_CLIENT_ONLY, DIRECTIONS };

/* --- TCP ------------------------------------------------------------------------------------- */

enum tcp_event { TCP_EVENT_SYN, TCP_EVENT_FIN, TCP_EVENT_ACK, TCP_EVENT_RST, TCP_EVENT_NONE };

/* The first that applies. */
static __always_inline enum tcp_event tcp_event(__u8 flags) {
  if (flags & FL_TCP_RST) {
    return TCP_EVENT_RST;
  }
  if (flags & FL_TCP_SYN) {
    return TCP_EVENT_SYN;
  }
  if (flags & FL_TCP_FIN) {
    return TCP_EVENT_FIN;
  }
  return flags & FL_TCP_ACK ? TCP_EVENT_ACK : TCP_EVENT_NONE;
}

#define NO FL_TCP_NONE
#define ES FL_TCP_ESTABLISHED
#define SS FL_TCP_SYN_SENT
#define SR FL_TCP_SYN_RECV
#define FW FL_TCP_FIN_WAIT
#define TW FL_TCP_TIME_WAIT
#define CL FL_TCP_CLOSE
#define CW FL_TCP_CLOSE_WAIT
#define LA FL_TCP_LAST_ACK
#define LI FL_TCP_LISTEN
#define SA FL_TCP_SYNACK
/* Columns: the present state, in the order of enum fl_tcp_state. */
static const __u8 tcp_next[DIRECTIONS][4][16] =
    {
        [FROM_CLIENT] =
            {
                [TCP_EVENT_SYN] = {SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR},
                [TCP_EVENT_FIN] = {CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW},
                [TCP_EVENT_ACK] = {ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES},
                [TCP_EVENT_RST] = {CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR},
            },
        [FROM_SERVER] =
            {
                [TCP_EVENT_SYN] = {SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR},
                [TCP_EVENT_FIN] = {TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW},
                [TCP_EVENT_ACK] = {ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES},
                [TCP_EVENT_RST] = {CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL},
            },
        [FROM_CLIENT_ONLY] =
            {
                [TCP_EVENT_SYN] = {SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR},
                [TCP_EVENT_FIN] = {CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW},
                [TCP_EVENT_ACK] = {ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES},
                [TCP_EVENT_RST] = {CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL},
            },
};

#define FL_TCP_ACTIVE \
  (1U << FL_TCP_ESTABLISHED | 1U << FL_TCP_SYN_SENT | 1U << FL_TCP_SYN_RECV | 1U << FL_TCP_SYNACK)
#undef NO
#undef ES
#undef SS
#undef SR
#undef FW
#undef TW
#undef CL
#undef CW
#undef LA
#undef LI
#undef SA

/* --- SCTP ------------------------------------------------------------------------------------ */

enum sctp_event {
  SCTP_EVENT_DATA,
  SCTP_EVENT_INIT,
  SCTP_EVENT_INIT_ACK,
  SCTP_EVENT_COOKIE_ECHO,
  SCTP_EVENT_COOKIE_ACK,
  SCTP_EVENT_SHUTDOWN,
  SCTP_EVENT_SHUTDOWN_ACK,
  SCTP_EVENT_SHUTDOWN_COMPLETE,
  SCTP_EVENT_ERROR,
  SCTP_EVENT_ABORT,
  SCTP_EVENTS
};

#define FL_SCTP_CHUNK_INIT 1
static __always_inline enum sctp_event sctp_event(__u8 chunk) {
  switch (chunk) {
    case FL_SCTP_CHUNK_INIT:
      return SCTP_EVENT_INIT;
    case 2:
      return SCTP_EVENT_INIT_ACK;
    case 6:
      return SCTP_EVENT_ABORT;
    case 7:
      return SCTP_EVENT_SHUTDOWN;
    case 8:
      return SCTP_EVENT_SHUTDOWN_ACK;
    case 9:
      return SCTP_EVENT_ERROR;
    case 10:
      return SCTP_EVENT_COOKIE_ECHO;
    case 11:
      return SCTP_EVENT_COOKIE_ACK;
    case 14:
      return SCTP_EVENT_SHUTDOWN_COMPLETE;
    default:
      return SCTP_EVENT_DATA;
  }
}

/* States in `from` lead to `to`, those in `from2` to `to2`, all others stay. */
struct sctp_rule {
  __u16 from, from2;
  __u8 to, to2;
};
#define NO (1U << FL_SCTP_NONE)
#define I1 (1U << FL_SCTP_INIT1)
#define IN (1U << FL_SCTP_INIT)
#define CS (1U << FL_SCTP_COOKIE_SENT)
#define CR (1U << FL_SCTP_COOKIE_REPLIED)
#define CW (1U << FL_SCTP_COOKIE_WAIT)
#define CO (1U << FL_SCTP_COOKIE)
#define CE (1U << FL_SCTP_COOKIE_ECHOED)
#define ES (1U << FL_SCTP_ESTABLISHED)
#define SS (1U << FL_SCTP_SHUTDOWN_SENT)
#define SR (1U << FL_SCTP_SHUTDOWN_RECEIVED)
#define SA (1U << FL_SCTP_SHUTDOWN_ACK_SENT)
#define RJ (1U << FL_SCTP_REJECTED)
#define CL (1U << FL_SCTP_CLOSED)
#define ALL 0x3fffU
#define TO(state) FL_SCTP_##state
static const struct sctp_rule sctp_next[DIRECTIONS][16] =
    {
        [FROM_CLIENT] =
            {
                [SCTP_EVENT_DATA] = {NO, 0, TO(ESTABLISHED), 0},
                [SCTP_EVENT_INIT] = {NO, I1 | RJ | CL, TO(INIT1), TO(INIT)},
                [SCTP_EVENT_INIT_ACK] = {NO | I1 | IN, CW, TO(COOKIE_WAIT), TO(COOKIE)},
                [SCTP_EVENT_COOKIE_ECHO] = {NO | CS, I1, TO(COOKIE_REPLIED), TO(INIT)},
                [SCTP_EVENT_COOKIE_ACK] = {NO | CE, 0, TO(ESTABLISHED), 0},
                [SCTP_EVENT_SHUTDOWN] = {NO | ES, 0, TO(SHUTDOWN_RECEIVED), 0},
                [SCTP_EVENT_SHUTDOWN_ACK] = {NO | SS | SA, I1, TO(CLOSED), TO(INIT)},
                [SCTP_EVENT_SHUTDOWN_COMPLETE] = {NO | I1 | IN | SA, 0, TO(CLOSED), 0},
                [SCTP_EVENT_ERROR] = {NO | CE, 0, TO(CLOSED), 0},
                [SCTP_EVENT_ABORT] = {CW, ALL & ~CW, TO(REJECTED), TO(CLOSED)},
            },
        [FROM_SERVER] =
            {
                [SCTP_EVENT_DATA] = {NO, 0, TO(ESTABLISHED), 0},
                [SCTP_EVENT_INIT] = {ALL & ~ES, 0, TO(COOKIE_WAIT), 0},
                [SCTP_EVENT_INIT_ACK] = {NO | I1 | IN, 0, TO(COOKIE_SENT), 0},
                [SCTP_EVENT_COOKIE_ECHO] = {NO | I1 | IN | CS | CR | CW | CO, 0, TO(COOKIE_ECHOED),
                                            0},
                [SCTP_EVENT_COOKIE_ACK] = {NO | I1 | IN | CS | CR | CW | CO | CE, 0,
                                           TO(ESTABLISHED), 0},
                [SCTP_EVENT_SHUTDOWN] = {NO | I1 | IN | CS | CR | CW | CO | CE | ES, 0,
                                         TO(SHUTDOWN_SENT), 0},
                [SCTP_EVENT_SHUTDOWN_ACK] = {NO | I1 | IN | CS | CR | SS | SR, 0,
                                             TO(SHUTDOWN_ACK_SENT), 0},
                [SCTP_EVENT_SHUTDOWN_COMPLETE] = {NO, 0, TO(CLOSED), 0},
                [SCTP_EVENT_ERROR] = {NO | I1 | IN | CS | CR, 0, TO(CLOSED), 0},
                [SCTP_EVENT_ABORT] = {I1, ALL & ~I1, TO(REJECTED), TO(CLOSED)},
            },
        [FROM_CLIENT_ONLY] =
            {
                [SCTP_EVENT_DATA] = {NO | CW, 0, TO(ESTABLISHED), 0},
                [SCTP_EVENT_INIT] = {NO, I1 | CS | CR | CW | RJ | CL, TO(INIT1), TO(INIT)},
                [SCTP_EVENT_INIT_ACK] = {NO | I1 | IN | CS | CR | CW, 0, TO(COOKIE_ECHOED), 0},
                [SCTP_EVENT_COOKIE_ECHO] = {NO | I1 | IN | CS | CR | CW, 0, TO(ESTABLISHED), 0},
                [SCTP_EVENT_COOKIE_ACK] = {NO | CS | CR | CO | CE, 0, TO(ESTABLISHED), 0},
                [SCTP_EVENT_SHUTDOWN] = {NO | ES, 0, TO(SHUTDOWN_RECEIVED), 0},
                [SCTP_EVENT_SHUTDOWN_ACK] = {NO | ES | SS | SA, I1, TO(CLOSED), TO(INIT)},
                [SCTP_EVENT_SHUTDOWN_COMPLETE] = {NO | I1 | IN | CS | CR | SR | SA, 0, TO(CLOSED),
                                                  0},
                [SCTP_EVENT_ERROR] = {NO, 0, TO(CLOSED), 0},
                [SCTP_EVENT_ABORT] = {CW, ALL & ~CW, TO(REJECTED), TO(CLOSED)},
            },
};
#undef NO
#undef I1
#undef IN
#undef CS
#undef CR
#undef CW
#undef CO
#undef CE
#undef ES
#undef SS
#undef SR
#undef SA
#undef RJ
#undef CL
#undef ALL
#undef TO
#define FL_SCTP_ACTIVE (1U << FL_SCTP_ESTABLISHED)

/* --- Either ---------------------------------------------------------------------------------- */

static __always_inline __u32 next_state(__u8 protocol, __u32 direction, __u32 state, __u8 event) {
  direction &= 3;
  if (direction >= DIRECTIONS) {
    return state;
  }
  if (protocol == IPPROTO_TCP) {
    __u32 what = tcp_event(event);
    return what == TCP_EVENT_NONE ? state : tcp_next[direction][what & 3][state & 15];
  }
  if (protocol == IPPROTO_SCTP) {
    const struct sctp_rule* rule = &sctp_next[direction][sctp_event(event) & 15];
    if (rule->from >> (state & 15) & 1) {
      return rule->to;
    }
    return rule->from2 >> (state & 15) & 1 ? rule->to2 : state;
  }
  return 0;
}

static __always_inline int is_active(__u8 protocol, __u32 state) {
  __u32 active = protocol == IPPROTO_TCP    ? FL_TCP_ACTIVE
                 : protocol == IPPROTO_SCTP ? FL_SCTP_ACTIVE
                                            : 0;
  return active >> (state & 15) & 1;
}

/* In ticks. */
static __always_inline __u32 timeout_of(__u8 protocol, __u32 state) {
  struct fl_config* c = settings();
  if (!c) {
    return 0;
  }
  if (protocol == IPPROTO_TCP) {
    return state < FL_TCP_STATES ? c->tcp_timeout[state] : 0;
  }
  if (protocol == IPPROTO_SCTP) {
    return state < FL_SCTP_STATES ? c->sctp_timeout[state] : 0;
  }
  return c->udp_timeout;
}

/* May start a connection: TCP any SYN without RST, SCTP an INIT, UDP anything. */
static __always_inline int is_start(const struct packet* p) {
  if (p->tuple.protocol == IPPROTO_TCP) {
    return (p->event & (FL_TCP_SYN | FL_TCP_RST)) == FL_TCP_SYN;
  }
  if (p->tuple.protocol == IPPROTO_SCTP) {
    return p->event == FL_SCTP_CHUNK_INIT;
  }
  return 1;
}

#endif
