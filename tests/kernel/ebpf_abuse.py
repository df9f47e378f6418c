# SPDX-License-Identifier: Apache-2.0
"""What is sent to hurt: those who are served go on being served, and it is counted."""

import random
import socket
import struct

import raw
from lab import DNS_PORT, IPV6, WEB_PORT, LiveConnection, Traffic, ask
from manifests import Port
from runner import each_family

PORTS = (Port(80, WEB_PORT, name="web"), Port(53, DNS_PORT, "UDP", name="dns"))
FLOOD = 20000
CONNECTIONS = 2048  # a table that the flood would fill many times


def serve(lab, *flags):
    web = lab.service("web", ports=PORTS).publish(lab.pods)
    daemon = lab.fairlead(*flags)
    daemon.serving(web)
    return web, daemon


def live_connections(lab, address):
    return [
        LiveConnection(lab.client, address, 80),
        LiveConnection(lab.pods[0].host, address, 80),
        LiveConnection(lab.client, address, 53, "UDP"),
    ]


def assert_alive(lab, daemon, address, live):
    for connection in live:
        connection.ping()
    for host in lab.client, lab.pods[1].host:
        ask(host, address, 80)
        ask(host, address, 53, "UDP")
    daemon.eventually(lambda: lab.table.virtual_server(address, 80))


@each_family
def test_syn_flood(lab):
    """Half-open connections fill a table of their own, and nobody else notices."""
    web, daemon = serve(lab, "--ebpf-max-connections", str(CONNECTIONS))
    live = live_connections(lab, web.address)
    before = lab.table.event_counts()
    randomly = random.Random(1)
    with raw.Sender(lab) as sender, Traffic(lab.client, web.address, 80, live=live):
        for _ in range(FLOOD):
            source = raw.stranger(lab.family, randomly.getrandbits(17))
            port = randomly.randrange(1024, 65536)
            sender.send(raw.segment(lab.family, source, port, web.address, 80))
    after = lab.table.event_counts()
    assert after["new"] - before["new"] > FLOOD * 0.9, f"the flood did not come in: {after}"
    assert after["table_full"] == 0, f"the flood filled the table: {after}"
    assert after["no_port"] == 0, f"the flood took the ports: {after}"
    half_open = [row for row in lab.table.connections() if row.state == "SYN_RECV"]
    assert len(half_open) <= CONNECTIONS * 2 // 8 + 50, f"{len(half_open)} half-open connections"
    assert_alive(lab, daemon, web.address, live)


# ---- malformed packets --------------------------------------------------------------------------


def cut_short(family, whole):
    """Every length, as it is and as the header says."""
    for length in range(1, len(whole)):
        yield whole[:length]


def lying_lengths(family, whole):
    at = 4 if family is IPV6 else 2
    for length in (0, 1, 7, 8, 19, 20, 21, 27, 28, 39, 40, 41, 100, 1500, 65535):
        yield whole[:at] + struct.pack("!H", length) + whole[at + 2 :]
    if family is not IPV6:
        for version_and_words in range(0x40, 0x50):
            lying = bytes([version_and_words]) + whole[1:10] + b"\0\0" + whole[12:]
            words = version_and_words & 15
            total = raw.checksum(lying[: words * 4])
            yield lying[:10] + struct.pack("!H", total) + lying[12:]


def extension_chains(family, source, to):
    """Of IPv6: too long, cut short, and longer than the packet; some are fragments."""
    if family is not IPV6:
        return
    kinds = (0, 60, 43, 44)  # hop by hop, destination, routing, fragment
    for count in range(1, 12):
        for kind in kinds:
            for length in (0, 1, 31, 255):
                header = bytes([kind, length]) + b"\1\4\0\0\0\0"
                chain = header * (count - 1) + bytes([socket.IPPROTO_UDP]) + header[1:]
                yield raw.datagram(family, source, 4000, to, 53, extensions=chain, first=kind)
                yield raw.packet(family, source, to, 17, b"", extensions=chain, first=kind)


def fragments(family, source, to):
    """That overlap, repeat, end before they begin, and leave the first one out."""
    randomly = random.Random(2)
    content = struct.pack("!HHHH", 4001, 53, 8 + 200, 0) + b"x" * 200
    for identity in range(1, 200):
        for _ in range(4):
            offset = randomly.choice((0, 0, 1, 2, 5, 8, 0x1FFF))
            more = randomly.choice((0, 1))
            piece = content[offset * 8 :][: randomly.choice((1, 7, 8, 9, 24, 64, 208))]
            if family is IPV6:
                header = struct.pack("!BBHI", socket.IPPROTO_UDP, 0, offset << 3 | more, identity)
                yield raw.packet(family, source, to, 17, piece, extensions=header, first=44)
            else:
                field = more << 13 | offset
                yield raw.packet(
                    family, source, to, 17, piece, fragment=field, identity=identity
                )


def at_random(family, whole):
    """With some bytes replaced behind the addresses and before them, but not in them."""
    randomly = random.Random(3)
    addresses = range(8, 40) if family is IPV6 else range(12, 20)
    for _ in range(3000):
        damaged = bytearray(whole)
        for _ in range(randomly.randrange(1, 5)):
            at = randomly.randrange(len(damaged))
            if at not in addresses:
                damaged[at] = randomly.getrandbits(8)
        yield bytes(damaged)


def malformed(family, to):
    source = raw.stranger(family, 7)
    icmp = socket.IPPROTO_ICMPV6 if family is IPV6 else socket.IPPROTO_ICMP
    sctp = struct.pack("!HHIIBBH", 4000, 80, 0, 0, 1, 0, 4)
    for whole in (
        raw.segment(family, source, 4000, to, 80),
        raw.segment(family, source, 4000, to, 80, raw.ACK),
        raw.datagram(family, source, 4000, to, 53),
        raw.packet(family, source, to, socket.IPPROTO_SCTP, sctp),
        raw.packet(family, source, to, icmp, b"\3\4\0\0\0\0\5\0" + bytes(48)),
    ):
        yield from cut_short(family, whole)
        yield from lying_lengths(family, whole)
        yield from at_random(family, whole)
    yield from extension_chains(family, source, to)
    yield from fragments(family, source, to)


@each_family
def test_malformed_packets(lab):
    web, daemon = serve(lab)
    live = live_connections(lab, web.address)
    before = lab.table.event_counts()
    with raw.Sender(lab) as sender, Traffic(lab.client, web.address, 80, live=live):
        for packet in malformed(lab.family, web.address):
            sender.send(packet)
            if len(packet) > 40:
                sender.send(packet, 0x0800 if lab.family is IPV6 else 0x86DD)  # the other family's
    after = lab.table.event_counts()
    for event in "malformed", "fragment", "stray":
        assert after[event] > before[event], f"no packet was {event}: {after}"
    assert_alive(lab, daemon, web.address, live)
    # What got in is a connection like others: counted once, as long as it is there.
    rows = lab.table.connections()
    server_rows = [row for row in rows if (row.virtual, row.virtual_port) == (web.address, 80)]
    counted = sum(s.active + s.inactive for s in lab.table.virtual_server(web.address, 80).servers)
    assert counted == len(server_rows), f"{counted} are counted, {len(server_rows)} are there"
