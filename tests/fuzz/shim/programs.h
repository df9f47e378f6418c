/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The programs as functions, for C++. */
#ifndef FAIRLEAD_FUZZ_PROGRAMS_H
#define FAIRLEAD_FUZZ_PROGRAMS_H

#ifdef __cplusplus
extern "C" {
#endif

struct __sk_buff;
struct bpf_sock_addr;

struct shim_map {
  const char* name; /* null: the last one */
  const void* address;
  unsigned type, key_size, value_size, max_entries;
};
extern const struct shim_map shim_maps[];
/* A constant of the programs, which the loader sets. */
extern const volatile void* const shim_fast_path;

int fl_in(struct __sk_buff* skb);
int fl_out(struct __sk_buff* skb);
int fl_in_l3(struct __sk_buff* skb);
int fl_out_l3(struct __sk_buff* skb);
int fl_end(struct __sk_buff* skb);
int fl_connect4(struct bpf_sock_addr* context);
int fl_connect6(struct bpf_sock_addr* context);
int fl_sendmsg4(struct bpf_sock_addr* context);
int fl_sendmsg6(struct bpf_sock_addr* context);
int fl_recvmsg4(struct bpf_sock_addr* context);
int fl_recvmsg6(struct bpf_sock_addr* context);

#ifdef __cplusplus
}
#endif
#endif
