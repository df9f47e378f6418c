# SPDX-License-Identifier: Apache-2.0
"""The data planes that the tests know: what each needs on a node, its flags, its table."""

import ctypes
import os

from netns import check
from table import EbpfTable, IpvsTable

_libc = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2


class IpvsPlane:
    mode = "ipvs"

    def __init__(self, node, _directory):
        self.table = IpvsTable(node)
        self.flags = ()
        self.view_flags = ("--proxy-mode", self.mode)  # of the commands that look at it

    def close(self):
        pass


class EbpfPlane:
    """A bpffs of its own below the lab's directory. What is pinned there, programs on devices and
    sockets included, ends with it. Sockets are translated for the cgroup that the tests run in."""

    mode = "ebpf"

    def __init__(self, _node, directory):
        self.bpffs = os.path.join(directory, "bpffs")
        os.mkdir(self.bpffs)
        check(_libc.mount(b"bpf", self.bpffs.encode(), b"bpf", 0, None), f"mount {self.bpffs}")
        self.pin_directory = os.path.join(self.bpffs, "fairlead")
        self.table = EbpfTable(self.pin_directory)
        self.view_flags = ("--proxy-mode", self.mode, "--ebpf-pin-dir", self.pin_directory)
        self.flags = ("--ebpf-pin-dir", self.pin_directory, "--ebpf-cgroup", own_cgroup())

    def close(self):
        check(_libc.umount2(self.bpffs.encode(), _MNT_DETACH), f"unmount {self.bpffs}")
        os.rmdir(self.bpffs)


PLANES = {plane.mode: plane for plane in (IpvsPlane, EbpfPlane)}


def own_cgroup():
    """The directory of our own cgroup in the cgroup2 tree, which must not be its root: programs
    attached there would reach every process of the machine."""
    with open("/proc/self/cgroup") as file:
        path = next(line[3:].strip() for line in file if line.startswith("0::"))
    assert path != "/", "the tests run in the root cgroup; start them by tests/kernel/run"
    with open("/proc/mounts") as file:
        mount = next(words[1] for words in map(str.split, file) if words[2] == "cgroup2")
    return mount + path
