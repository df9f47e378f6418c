// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The same programs for Linux 5.10 to 5.17: see age.h. */
#define FL_OLD_KERNEL
#include "fairlead.bpf.c"
