# SPDX-License-Identifier: Apache-2.0
"""What the kernel's schedulers pick, computed.

`walk` is the order in which they see the real servers: the latest added first.
"""

import ipaddress
import itertools
import math


def round_robin(walk, count):
    return list(itertools.islice(itertools.cycle(walk), count))


def weighted_round_robin(walk, weights, count):
    """For real servers that were added one by one with these weights, and not edited since. Each
    addition sets the level anew, which shows in the first picks."""
    level = 0
    for added in range(1, len(walk) + 1):
        present = [weights[server] for server in walk[-added:] if weights[server]]
        step = math.gcd(*present)
        top = max(present) - (step - 1)
        if level > top or level == 0:
            level = top
        elif step > 1:
            level = level // step * step + 1

    picks = []
    while len(picks) < count:
        picks += [server for server in walk if weights[server] >= level]
        level -= step
        if level <= 0:
            level = top
    return picks[:count]


def source_hash(walk, source):
    """For equal weights: 256 buckets are dealt out in walk order, and one is found by a
    multiplicative hash of the source address (IPv6: of the XOR of its four words)."""
    packed = ipaddress.ip_address(source).packed
    folded = 0
    for i in range(0, len(packed), 4):
        folded ^= int.from_bytes(packed[i : i + 4], "big")
    bucket = (folded * 0x61C88647 % 2**32) >> 24
    return walk[bucket % len(walk)]
