# SPDX-License-Identifier: Apache-2.0
"""Traffic that looks at more than who answered: content, sizes, checksums, path MTU."""

import contextlib
import dataclasses
import hashlib
import random
import select
import socket
import struct
import threading

from lab import FAMILIES, IPV6, eventually, same_address

_PATTERN = random.Random(1).randbytes(1 << 20)


# ---- large transfers ----------------------------------------------------------------------------


class BulkServers(contextlib.AbstractContextManager):
    """In each pod, a TCP server for `transfer`."""

    def __init__(self, pods, port):
        self._listeners = []
        for pod in pods:
            for family in FAMILIES:
                with pod.host:
                    listener = socket.socket(family.af, socket.SOCK_STREAM)
                if family is IPV6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind(("", port))
                listener.listen()
                self._listeners.append(listener)
                threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def __exit__(self, *_):
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)  # ends its accept()
            listener.close()

    def _serve(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(30)
                up, down = struct.unpack("!QQ", _receive(connection, 16))
                connection.sendall(hashlib.sha256(_receive(connection, up)).digest())
                connection.sendall(_bytes(down))


def transfer(lab, address, port, *, up, down, host=None):
    """So many bytes from the client (or `host`) and back; what arrives must be what was sent.
    Returns how many bytes a packet of the client's device had on average, less headers."""
    before = _packets(lab.node, "outside")
    with host or lab.client:
        af = socket.AF_INET6 if ":" in address else socket.AF_INET
        connection = socket.socket(af, socket.SOCK_STREAM)
    with connection:
        connection.settimeout(30)
        connection.connect((address, port))
        connection.sendall(struct.pack("!QQ", up, down) + _bytes(up))
        digest = _receive(connection, 32)
        assert digest == hashlib.sha256(_bytes(up)).digest(), "the server received something else"
        assert _receive(connection, down) == _bytes(down), "the client received something else"
    packets = _packets(lab.node, "outside") - before
    return (up + down) // max(packets, 1)


def _bytes(count):
    return (_PATTERN * (count // len(_PATTERN) + 1))[:count]


def _receive(connection, count):
    data = bytearray()
    while len(data) < count:
        more = connection.recv(min(count - len(data), 1 << 20))
        if not more:
            raise ConnectionResetError(f"closed after {len(data)} of {count} bytes")
        data += more
    return bytes(data)


def _packets(host, device):
    """Received and sent by the device; one that is segmented or merged later counts as one."""
    for line in host.read("/proc/net/dev").splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == device:
            words = counters.split()
            return int(words[1]) + int(words[9])
    raise AssertionError(f"{host} has no {device}")


# ---- single datagrams ---------------------------------------------------------------------------

_SO_NO_CHECK = 11
_IP_MTU_DISCOVER, _IP_MTU = 10, 14
_IPV6_MTU_DISCOVER, _IPV6_MTU = 23, 24
_PMTUDISC_DO = 2


def datagram_without_checksum(lab, address, port):
    """A question by UDP whose checksum is 0, "none": it must be answered, and arrive as it is."""
    sniffers = []
    for pod in lab.pods:
        with pod.host:
            ipv4 = socket.htons(0x0800)
            sniffers.append(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, ipv4))
    with lab.client:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with contextlib.ExitStack() as stack:
        for each in (client, *sniffers):
            stack.enter_context(each)
        client.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, 1)
        client.settimeout(5)
        client.connect((address, port))
        client.send(b"none\n")
        assert client.recv(4096).endswith(b"none\n")
        seen = []
        for sniffer in sniffers:
            sniffer.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    packet, info = sniffer.recvfrom(4096)
                    if info[2] == socket.PACKET_HOST and packet.endswith(b"none\n"):
                        seen.append(struct.unpack_from("!H", packet, 20 + 6)[0])
    assert seen == [0], f"checksums of what came to the pods: {seen}"


@contextlib.contextmanager
def _client_that_does_not_fragment(host, address, port):
    """Its socket, and what tells the path MTU that its kernel knows."""
    v6 = ":" in address
    with host:
        client = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
    level = socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP
    with client:
        client.setsockopt(level, _IPV6_MTU_DISCOVER if v6 else _IP_MTU_DISCOVER, _PMTUDISC_DO)
        client.settimeout(2)
        client.connect((address, port))
        yield client, lambda: client.getsockopt(level, _IPV6_MTU if v6 else _IP_MTU)


def known_path_mtu(host, address, port):
    """What was learnt before."""
    with _client_that_does_not_fragment(host, address, port) as (_, mtu):
        return mtu()


def path_mtu(host, address, port):
    """What a client learns by sending datagrams that may not be fragmented."""
    v6 = ":" in address
    with _client_that_does_not_fragment(host, address, port) as (client, mtu):
        first = mtu()

        def learnt():
            with contextlib.suppress(OSError):  # the error that carries the news
                client.send(b"x".ljust(first - (48 if v6 else 28)))
            return mtu() != first

        eventually(learnt)

        # What just fits is answered; with few bytes, for the way back may have another MTU. Tried
        # again, since the error of an earlier datagram may be reported here.
        def fits():
            client.send(b"fits".ljust(mtu() - (48 if v6 else 28)))
            return client.recv(4096).strip().endswith(b"fits")

        eventually(fits)
        return mtu()


# ---- pings --------------------------------------------------------------------------------------


def ping(host, address, payload=b"x" * 56, timeout=5):
    """One ping, which must be answered by `address` with the same bytes."""
    v6 = ":" in address
    host.sysctl(ipv4__ping_group_range="0 0")  # of both families
    with host:
        client = socket.socket(
            socket.AF_INET6 if v6 else socket.AF_INET,
            socket.SOCK_DGRAM,
            socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP,
        )
    with client:
        client.settimeout(timeout)
        client.connect((address, 0))
        # The kernel fills in checksum and identifier.
        client.send(struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, 0, 7) + payload)
        answer = client.recv(65536)
        assert answer[0] == (129 if v6 else 0) and answer[8:] == payload, answer
        assert struct.unpack_from("!H", answer, 6) == (7,), answer


# ---- SCTP, where the kernel has none ------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Handshake:
    server: str  # name of the pod
    port: int  # where it got the INIT
    peer: str
    peer_port: int


def sctp_handshake(client, pods, address, port, source_port=40132):
    """INIT and INIT ACK by raw sockets, in both directions with a CRC that the receiver checks."""
    v6 = ":" in address
    af = socket.AF_INET6 if v6 else socket.AF_INET
    ends = {}
    with contextlib.ExitStack() as stack:
        for host in [client] + [pod.host for pod in pods]:
            with host:
                ends[host.name] = raw = socket.socket(af, socket.SOCK_RAW, socket.IPPROTO_SCTP)
            stack.enter_context(raw)
        ends[client.name].sendto(_sctp_packet(source_port, port, 0, _INIT), (address, 0))
        servers = {ends[pod.name]: pod.name for pod in pods}
        server, peer_port, at_port, peer = _sctp_receive(servers, v6, _INIT)
        server.sendto(_sctp_packet(at_port, peer_port, 1, _INIT_ACK), (peer, 0))
        _, *got = _sctp_receive([ends[client.name]], v6, _INIT_ACK)
        assert got == [port, source_port, same_address(address)], got
        return Handshake(servers[server], at_port, peer, peer_port)


_INIT, _INIT_ACK = 1, 2


def _sctp_packet(source, destination, tag, chunk):
    body = struct.pack("!BBHIIHHI", chunk, 0, 20, 1, 65536, 1, 1, 1)
    header = struct.pack("!HHI", source, destination, tag)
    return header + struct.pack("<I", _crc32c(header + bytes(4) + body)) + body


def _sctp_receive(sockets, v6, chunk):
    """The first packet with such a chunk: its socket, ports and sender. Its checksum must be right.
    (A kernel that has SCTP answers an INIT by itself; such packets are passed over.)"""
    while True:
        ready, _, _ = select.select(list(sockets), [], [], 5)
        assert ready, f"no packet with chunk {chunk} came"
        packet, sender = ready[0].recvfrom(4096)
        if not v6:
            packet = packet[(packet[0] & 15) * 4 :]
        if packet[12] != chunk:
            continue
        (told,) = struct.unpack_from("<I", packet, 8)
        right = _crc32c(packet[:8] + bytes(4) + packet[12:])
        assert told == right, f"checksum {told:#x}, should be {right:#x}"
        return ready[0], *struct.unpack_from("!HH", packet), same_address(sender[0])


def _crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
