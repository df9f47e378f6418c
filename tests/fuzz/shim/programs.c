/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The programs, compiled for the fuzzer's own process, and what is known of their maps. */
#include "programs.h"

#include "../../../bpf/fairlead.bpf.c"

#define MAP(name)                    \
  {#name,                            \
   &name,                            \
   sizeof(*name.type) / sizeof(int), \
   sizeof(*name.key),                \
   sizeof(*name.value),              \
   sizeof(*name.max_entries) / sizeof(int)}

const struct shim_map shim_maps[] = {
    MAP(vs),        MAP(vs_counts),    MAP(rs),       MAP(rs_counts),
    MAP(slots),     MAP(filter),       MAP(pressure), MAP(config),
    MAP(numbers),   MAP(flows),        MAP(half),     MAP(clients),
    MAP(fragments), MAP(socket_peers), MAP(devices),  MAP(classes),
    MAP(events),    MAP(scratch),      MAP(ending),   MAP(ways),     {0},
};

const volatile void* const shim_fast_path = &fl_fast_path;
