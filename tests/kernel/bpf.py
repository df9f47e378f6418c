# SPDX-License-Identifier: Apache-2.0
"""The bpf system call, as far as tests need it: pinned maps, and programs to stand for those of
other software."""

import ctypes
import errno
import os
import platform
import socket
import struct

_SYSCALL = {"x86_64": 321, "aarch64": 280}[platform.machine()]
_MAP_CREATE, _MAP_LOOKUP, _MAP_DELETE, _PROG_LOAD, _OBJ_PIN, _OBJ_GET = 0, 1, 3, 5, 6, 7
_GET_INFO = 15
_LINK_CREATE, _TCX_INGRESS = 28, 46
_MAP_TYPE_ARRAY, _PROG_TYPE_SCHED_CLS = 2, 3
_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    result = _libc.syscall(_SYSCALL, command, buffer, len(buffer))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"bpf command {command}: {os.strerror(error)}")
    return result


def _path_attributes(path, fd=0):
    name = ctypes.create_string_buffer(path.encode())
    return name, struct.pack("QI", ctypes.addressof(name), fd)


def open_pinned(path):
    """A descriptor of what is pinned there, which the caller closes."""
    _name, attributes = _path_attributes(path)
    return _bpf(_OBJ_GET, attributes)


def max_entries(fd):
    """Of a map."""
    info = ctypes.create_string_buffer(88)
    _bpf(_GET_INFO, struct.pack("IIQ", fd, len(info), ctypes.addressof(info)))
    return struct.unpack_from("5I", info)[4]  # type, id, sizes of key and value


def _pin(fd, path):
    _name, attributes = _path_attributes(path, fd)
    _bpf(_OBJ_PIN, attributes)


def _lookup(fd, key, size):
    value = ctypes.create_string_buffer(size)
    number = ctypes.c_uint32(key)
    pointers = (ctypes.addressof(number), ctypes.addressof(value))
    _bpf(_MAP_LOOKUP, struct.pack("IxxxxQQ", fd, *pointers))
    return value.raw


def per_cpu_counters(path, count):
    """The first numbers of a pinned per-CPU array of 64-bit ones, summed over the CPUs."""
    with open("/sys/devices/system/cpu/possible") as file:
        cpus = int(file.read().strip().split(",")[-1].split("-")[-1]) + 1
    fd = open_pinned(path)
    try:
        return [sum(struct.unpack(f"{cpus}Q", _lookup(fd, i, 8 * cpus))) for i in range(count)]
    finally:
        os.close(fd)


def delete(path, key):
    """Takes an entry out of a pinned map."""
    fd = open_pinned(path)
    bytes_of_key = ctypes.create_string_buffer(key, len(key))
    try:
        _bpf(_MAP_DELETE, struct.pack("IxxxxQ", fd, ctypes.addressof(bytes_of_key)))
    finally:
        os.close(fd)


class CountingProgram:
    """A tc program of somebody else's: counts packets and lets others decide. Pinned in the
    directory, with its map."""

    def __init__(self, directory):
        self.path = os.path.join(directory, "counting")
        self._map = _bpf(_MAP_CREATE, struct.pack("IIII", _MAP_TYPE_ARRAY, 4, 8, 1))
        _pin(self._map, self.path + "_map")
        code = [
            _instruction(0x62, 10, 0, -4, 0),  # *(u32*)(fp - 4) = 0
            _instruction(0xBF, 2, 10, 0, 0),  # r2 = fp
            _instruction(0x07, 2, 0, 0, -4),  # r2 += -4
            _instruction(0x18, 1, 1, 0, self._map) + _instruction(0, 0, 0, 0, 0),  # r1 = the map
            _instruction(0x85, 0, 0, 0, 1),  # r0 = map_lookup_elem(r1, r2)
            _instruction(0x15, 0, 0, 2, 0),  # if r0 == 0 skip the next two
            _instruction(0xB7, 1, 0, 0, 1),  # r1 = 1
            _instruction(0xDB, 0, 1, 0, 0),  # lock *(u64*)r0 += r1
            _instruction(0xB7, 0, 0, 0, -1),  # r0 = TC_ACT_UNSPEC
            _instruction(0x95, 0, 0, 0, 0),
        ]
        fd = _load(code)
        _pin(fd, self.path)
        os.close(fd)

    def packets(self):
        return struct.unpack("Q", _lookup(self._map, 0, 8))[0]

    def close(self):
        os.close(self._map)


class MarkingProgram:
    """Gives all packets that come in by a device of the host a firewall mark, and lets others decide.
    It comes before programs that are there later. Pinned in the directory."""

    def __init__(self, host, device, mark, directory):
        code = [
            _instruction(0xB7, 2, 0, 0, mark),  # r2 = mark
            _instruction(0x63, 1, 2, 8, 0),  # skb->mark = r2
            _instruction(0xB7, 0, 0, 0, -1),  # r0 = TC_ACT_UNSPEC
            _instruction(0x95, 0, 0, 0, 0),
        ]
        self._program = _load(code)
        self._link = None
        with host:
            interface = socket.if_nametoindex(device)
            try:
                self._link = _bpf(
                    _LINK_CREATE, struct.pack("IIII", self._program, interface, _TCX_INGRESS, 0)
                )
            except OSError as error:
                if error.errno != errno.EINVAL:  # before Linux 6.6
                    raise
        if self._link is None:
            path = os.path.join(directory, "marking")
            _pin(self._program, path)
            host.run("tc", "qdisc", "add", "dev", device, "clsact")
            host.run(
                "tc", "filter", "add", "dev", device, "ingress", "pref", "1", "handle", "1",
                "bpf", "direct-action", "object-pinned", path,
            )  # fmt: skip

    def close(self):
        os.close(self._program)
        if self._link is not None:
            os.close(self._link)


def _load(code):
    program = ctypes.create_string_buffer(b"".join(code))
    licence = ctypes.create_string_buffer(b"Dual BSD/GPL")
    count = (len(program) - 1) // 8
    return _bpf(
        _PROG_LOAD,
        struct.pack(
            "IIQQ", _PROG_TYPE_SCHED_CLS, count, ctypes.addressof(program),
            ctypes.addressof(licence),
        ),
    )  # fmt: skip


def _instruction(code, destination, source, offset, immediate):
    return struct.pack("<BBhi", code, destination | source << 4, offset, immediate)
