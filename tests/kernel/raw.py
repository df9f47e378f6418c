# SPDX-License-Identifier: Apache-2.0
"""Frames as no stack would send them: from anybody, cut short, with headers that lie."""

import contextlib
import json
import random
import socket
import struct

from lab import IPV6

SYN, ACK = 2, 16
_ETHERTYPES = {socket.AF_INET: 0x0800, socket.AF_INET6: 0x86DD}


class Sender(contextlib.AbstractContextManager):
    """The client's device, for whole IP packets to the node."""

    def __init__(self, lab):
        device = json.loads(lab.node.run("ip", "-j", "link", "show", "dev", "outside"))[0]
        self._to = bytes.fromhex(device["address"].replace(":", ""))
        self._from = bytes.fromhex("020000000001")
        with lab.client:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind(("eth0", 0))

    def send(self, packet, ethertype=0):
        """As IPv4 or IPv6, as its first byte says, or as what else it shall be taken for."""
        family = socket.AF_INET6 if packet[:1] and packet[0] >> 4 == 6 else socket.AF_INET
        kind = ethertype or _ETHERTYPES[family]
        self._socket.send(self._to + self._from + struct.pack("!H", kind) + packet)

    def __exit__(self, *_):
        self._socket.close()


def stranger(family, number):
    """One of many addresses outside that nobody has."""
    if family is IPV6:
        return f"2001:db8:bad::{number & 0xFFFF:x}"
    return f"198.{18 + (number >> 16 & 1)}.{number >> 8 & 0xFF}.{number & 0xFF}"


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(
    family, source, to, protocol, payload, *, fragment=0, identity=1, extensions=b"", first=0
):
    """An IP packet. `fragment`: IPv4's field; `extensions`: IPv6 headers, whose first one is of the
    kind `first`."""
    addresses = socket.inet_pton(family.af, source) + socket.inet_pton(family.af, to)
    if family is IPV6:
        length = len(extensions) + len(payload)
        header = struct.pack("!IHBB", 6 << 28, length, first or protocol, 64)
        return header + addresses + extensions + payload
    header = struct.pack(
        "!BBHHHBBH", 0x45, 0, 20 + len(payload), identity, fragment, 64, protocol, 0
    )
    total = checksum(header + addresses)
    return header[:10] + struct.pack("!H", total) + addresses + payload


def transport(family, source, to, protocol, content, at):
    """`content` with its checksum, which is `at` there."""
    addresses = socket.inet_pton(family.af, source) + socket.inet_pton(family.af, to)
    total = checksum(addresses + struct.pack("!II", len(content), protocol) + content)
    return content[:at] + struct.pack("!H", total) + content[at + 2 :]


def segment(family, source, source_port, to, port, flags=SYN):
    """A TCP segment without data, as an IP packet."""
    header = struct.pack(
        "!HHIIBBHHH", source_port, port, random.getrandbits(32), 0, 5 << 4, flags, 65535, 0, 0
    )
    content = transport(family, source, to, socket.IPPROTO_TCP, header, 16)
    return packet(family, source, to, socket.IPPROTO_TCP, content)


def datagram(family, source, source_port, to, port, text=b"hello\n", **options):
    """By UDP, as an IP packet."""
    header = struct.pack("!HHHH", source_port, port, 8 + len(text), 0)
    content = transport(family, source, to, socket.IPPROTO_UDP, header + text, 6)
    return packet(family, source, to, socket.IPPROTO_UDP, content, **options)
