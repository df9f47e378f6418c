# SPDX-License-Identifier: Apache-2.0
"""TCP one segment at a time, from both ends, with nobody's stack in between.

An end is a raw socket, and for each of its ports a listener that drops what comes: so the stack of
that host stays silent, and every segment on the wire is one that the test sent.
"""

import ctypes
import dataclasses
import selectors
import socket
import struct
import time

from lab import IPV6, same_address
from raw import checksum

FIN, SYN, RST, ACK = 1, 2, 4, 16
_SO_ATTACH_FILTER = 26
_UNREACHABLE = {socket.AF_INET: (3, 3), socket.AF_INET6: (1, 4)}  # port unreachable


@dataclasses.dataclass(frozen=True)
class Segment:
    host: str  # where it came
    source: str
    source_port: int
    port: int
    flags: int


def mute(host, family, port):
    """A listener that answers no segment, not even by a reset."""
    with host:
        listener = socket.socket(family.af, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family is IPV6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # return 0: drop
    program = struct.pack("HP", 1, ctypes.addressof(code))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    listener.bind(("", port))
    listener.listen()
    return listener


class Wire:
    """All ends of one family: the client's addresses, and the pods."""

    def __init__(self, client, pods, family, ports, pod_port):
        self._sent_from = 0
        self._af = family.af
        self._selector = selectors.DefaultSelector()
        self._ends = {}  # by address
        self._listeners = [mute(client, family, port) for port in ports]
        for address in [family.client, *family.clients]:
            self._open(client, address)
        for pod in pods:
            self._listeners.append(mute(pod.host, family, pod_port))
            self._open(pod.host, pod.address(family))
        icmp = socket.IPPROTO_ICMPV6 if family is IPV6 else socket.IPPROTO_ICMP
        with client:
            self._errors = socket.socket(family.af, socket.SOCK_RAW, icmp)
        self._selector.register(self._errors, selectors.EVENT_READ, None)

    def _open(self, host, address):
        with host:
            end = socket.socket(self._af, socket.SOCK_RAW, socket.IPPROTO_TCP)
        end.bind((address, 0))
        self._ends[address] = end
        self._selector.register(end, selectors.EVENT_READ, (host.name, address))

    def close(self):
        self._selector.close()
        for end in (*self._ends.values(), *self._listeners, self._errors):
            end.close()

    def send(self, source, source_port, to, port, flags, seq, ack, data=b""):
        self._sent_from = source_port
        header = struct.pack(
            "!HHIIBBHHH", source_port, port, seq, ack, 5 << 4, flags, 65535, 0, 0
        )
        total = checksum(self._pseudo(source, to, len(header) + len(data)) + header + data)
        header = header[:16] + struct.pack("!H", total) + header[18:]
        self._ends[source].sendto(header + data, (to, 0))

    def receive(self, timeout):
        """The next segment, "unreachable" for an ICMP error, or None: nothing came in time."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                if key.data is None:
                    if self._is_unreachable(self._errors.recv(2048)):
                        return "unreachable"
                    continue
                packet, sender = key.fileobj.recvfrom(2048)
                return self._parse(*key.data, packet, sender[0])
        return None

    def drain(self):
        """What nobody waited for. There should be none."""
        left = []
        while (segment := self.receive(0.0001)) is not None:
            left.append(segment)
        return left

    def _is_unreachable(self, packet):
        """Whether it is about the segment that was sent last: others' errors may come late."""
        if self._af == socket.AF_INET:
            packet = packet[(packet[0] & 15) * 4 :]
        quoted = packet[8:]
        start = (quoted[0] & 15) * 4 if self._af == socket.AF_INET else 40
        return (
            tuple(packet[:2]) == _UNREACHABLE[self._af]
            and quoted[9 if self._af == socket.AF_INET else 6] == socket.IPPROTO_TCP
            and struct.unpack_from("!H", quoted, start)[0] == self._sent_from
        )

    def _parse(self, host, address, packet, source):
        if self._af == socket.AF_INET:
            packet = packet[(packet[0] & 15) * 4 :]
        source = same_address(source.split("%")[0])
        source_port, port, _, _, _, flags = struct.unpack_from("!HHIIBB", packet)
        # A reset may come from the node's stack, which leaves the sum to the device.
        if not flags & RST:
            total = checksum(self._pseudo(source, address, len(packet)) + packet)
            assert total == 0, f"a segment from {source} came to {host} with a wrong checksum"
        return Segment(host, source, source_port, port, flags)

    def _pseudo(self, source, to, length):
        addresses = socket.inet_pton(self._af, source) + socket.inet_pton(self._af, to)
        if self._af == socket.AF_INET:
            return addresses + struct.pack("!BBH", 0, socket.IPPROTO_TCP, length)
        return addresses + struct.pack("!II", length, socket.IPPROTO_TCP)
