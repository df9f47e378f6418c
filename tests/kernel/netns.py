# SPDX-License-Identifier: Apache-2.0
"""Hosts that are network namespaces.

A host is entered by the calling thread (`with host:`), so its sockets are made without spawning
anything: a process costs some 30 ms in user-mode Linux, and a test makes hundreds of connections.
"""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import threading

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MNT_DETACH = 2
_NAMES = "/run/netns"
_SIOCETHTOOL = 0x8946
# ETHTOOL_SRXCSUM, STXCSUM, SSG, STSO, SGSO, SGRO: each needs those before it.
_OFFLOADS = (0x15, 0x17, 0x19, 0x1F, 0x24, 0x2C)

_entered = threading.local()


def check(result, what):
    """Raises what a C function that returns 0 for success left in errno."""
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def _own_namespace():
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


class Host:
    """A network namespace, also known to `ip netns` by its name."""

    def __init__(self, name):
        self.name = name
        self._path = f"{_NAMES}/{name}"
        os.makedirs(_NAMES, exist_ok=True)
        before = _own_namespace()
        try:
            check(_libc.unshare(_CLONE_NEWNET), "unshare")
            self._namespace = _own_namespace()
            with open(self._path, "x"):
                pass
            check(
                _libc.mount(b"/proc/thread-self/ns/net", self._path.encode(), None, _MS_BIND, None),
                f"bind {self._path}",
            )
        finally:
            check(_libc.setns(before, _CLONE_NEWNET), "setns")
            os.close(before)

    def __repr__(self):
        return self.name

    def __enter__(self):
        if not hasattr(_entered, "stack"):
            _entered.stack = []
        _entered.stack.append(_own_namespace())
        check(_libc.setns(self._namespace, _CLONE_NEWNET), f"enter {self.name}")
        return self

    def __exit__(self, *_):
        before = _entered.stack.pop()
        check(_libc.setns(before, _CLONE_NEWNET), f"leave {self.name}")
        os.close(before)

    def close(self):
        """Forgets the namespace; the kernel frees it when its last socket and process are gone."""
        check(_libc.umount2(self._path.encode(), _MNT_DETACH), f"unmount {self._path}")
        os.unlink(self._path)
        os.close(self._namespace)

    def start(self, argv, **kwargs):
        """A process in this host. (A child inherits the namespace of the thread that forks it.)"""
        with self:
            return subprocess.Popen(argv, **kwargs)

    def run(self, *argv, input=None, seconds=60):
        """stdout of a command that must succeed, and within so long."""
        process = self.start(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        out, err = process.communicate(input, timeout=seconds)
        if process.returncode != 0:
            raise AssertionError(f"{self.name}: {' '.join(argv)}: {err.strip() or out.strip()}")
        return out

    def ip(self, commands):
        """Many `ip` commands, one per line, in one process."""
        self.run("ip", "-batch", "-", input=commands)

    def offload(self, device, on):
        """Switches on or off what the device does for the stack: segmentation, merging, checksums,
        all that `ethtool -K` calls rx tx sg tso gso gro."""
        with self, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            order = _OFFLOADS if on else reversed(_OFFLOADS)
            for command in order:
                value = ctypes.create_string_buffer(struct.pack("II", command, on))
                request = struct.pack("16sP16x", device.encode(), ctypes.addressof(value))
                fcntl.ioctl(control, _SIOCETHTOOL, request)

    def read(self, path):
        """A file below /proc/net/ or /proc/sys/net/ as this host sees it."""
        with self, open(path.replace("/proc/net/", "/proc/thread-self/net/")) as file:
            return file.read()

    def sysctl(self, **values):
        """Writes settings below /proc/sys/net; `__` stands for `/`."""
        with self:
            for name, value in values.items():
                with open("/proc/sys/net/" + name.replace("__", "/"), "w") as file:
                    file.write(str(value))
