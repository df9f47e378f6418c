# SPDX-License-Identifier: Apache-2.0
"""Pods that answer clients themselves: they have the virtual address too, take packets out of
tunnels, and reach the client past the node (by which such answers could not go: there the virtual
address is the node's own)."""

import contextlib
import fcntl
import os
import select
import socket
import struct
import threading

from lab import IPV6

GUE_PORT = 6080
_UDP_NO_CHECK6_RX = 102
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x1, 0x1000, 0x4000
_NEEDS_CHECKSUM, _GSO_TCPV4, _GSO_TCPV6 = 1, 1, 4
_LONGEST_SEGMENT = 1300


def let_answer(lab, address, pods=None):
    """The pods have `address`, and a link of their own to the client."""
    family = lab.family
    flag = " nodad" if family is IPV6 else ""
    for pod in pods or lab.pods:
        mac = f"02:00:00:00:00:{pod.number:02x}"
        clients = [family.client, *family.clients]
        pod.host.ip("\n".join([
            f"addr add {address}/{family.bits} dev lo{flag}",
            f"link add back type veth peer name back{pod.number} address {mac} netns client",
            "link set back up",
            *(f"neigh add {client} lladdr {mac} dev back nud permanent" for client in clients),
            # The source is for servers that leave it to the route, as those of UDP do here.
            *(f"route add {client}/{family.bits} dev back src {address}" for client in clients),
        ]))  # fmt: skip
        lab.client.ip(f"link set back{pod.number} up")


class TunnelEnds(contextlib.AbstractContextManager):
    """In each pod, the far end of tunnels: of `ipip` and `gre` by raw sockets, of `gue` by UDP. What
    comes out is received anew from a TUN device."""

    def __init__(self, lab, kind):
        self.kind = kind
        self.packets = 0
        self._v6 = lab.family is IPV6
        self._devices = {}  # by socket
        self._stop, self._stopped = socket.socketpair()
        for pod in lab.pods:
            self._devices[self._listen(pod.host)] = self._tun(pod.host)
        self._thread = threading.Thread(target=self._run, daemon=True, name="tunnels")
        self._thread.start()

    def __exit__(self, *_):
        self._stop.close()
        self._thread.join()
        for end, device in self._devices.items():
            end.close()
            os.close(device)

    def _listen(self, host):
        af = socket.AF_INET6 if self._v6 else socket.AF_INET
        with host:
            if self.kind.startswith("gue"):
                end = socket.socket(af, socket.SOCK_DGRAM)
                if self._v6:
                    end.setsockopt(socket.IPPROTO_UDP, _UDP_NO_CHECK6_RX, 1)
                end.bind(("", GUE_PORT))
                return end
            inner = socket.IPPROTO_IPV6 if self._v6 else socket.IPPROTO_IPIP
            return socket.socket(
                af, socket.SOCK_RAW, socket.IPPROTO_GRE if self.kind == "gre" else inner
            )

    def _tun(self, host):
        with host:
            device = os.open("/dev/net/tun", os.O_RDWR)
            flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
            fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"tunnel", flags))
        host.sysctl(ipv4__conf__tunnel__rp_filter=0)
        host.ip("link set tunnel up")
        return device

    def _run(self):
        while True:
            ready, _, _ = select.select([self._stopped, *self._devices], [], [])
            if self._stopped in ready:
                return
            for end in ready:
                packet = self._unwrap(end.recv(1 << 17))
                self.packets += 1
                with contextlib.suppress(OSError):  # as a device drops what it cannot take
                    os.write(self._devices[end], _offload_header(packet) + packet)

    def _unwrap(self, data):
        if self.kind.startswith("gue"):
            assert data[:4] == bytes([0, 41 if self._v6 else 4, 0, 0]), data[:4]
            return data[4:]
        if not self._v6:  # a raw socket of IPv4 gets the header
            data = data[(data[0] & 15) * 4 :]
        if self.kind == "gre":
            assert data[:4] == bytes.fromhex("000086dd" if self._v6 else "00000800"), data[:4]
            data = data[4:]
        return data


def _offload_header(packet):
    """What the sender left to its device: the checksum, and the cutting into segments."""
    v6 = packet[0] >> 4 == 6
    start = 40 if v6 else (packet[0] & 15) * 4
    protocol = packet[6] if v6 else packet[9]
    if protocol not in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        return bytes(10)
    is_tcp = protocol == socket.IPPROTO_TCP
    header = start + ((packet[start + 12] >> 4) * 4 if is_tcp else 8)
    kind, size = 0, 0
    if is_tcp and len(packet) - header > _LONGEST_SEGMENT:
        kind, size = (_GSO_TCPV6 if v6 else _GSO_TCPV4), _LONGEST_SEGMENT
    return struct.pack(
        "=BBHHHH", _NEEDS_CHECKSUM, kind, header, size, start, 16 if is_tcp else 6
    )
