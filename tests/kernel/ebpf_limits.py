# SPDX-License-Identifier: Apache-2.0
"""When there is no more room: who is in stays in, who is not is told so, and it is counted."""

import contextlib
import urllib.request

import raw
from lab import DNS_PORT, WEB_PORT, LiveConnection, ask
from manifests import Port
from runner import each_family

PORTS = (Port(80, WEB_PORT, name="web"), Port(53, DNS_PORT, "UDP", name="dns"))


def fill(lab, address, most):
    """UDP connections, each from a port of its own, until none is let in; returns how many were."""
    passed = 0
    for port in range(20000, 20000 + most):
        source = lab.family.clients[port % 8]
        try:
            ask(lab.client, address, 53, "UDP", source=source, source_port=port, timeout=0.3)
        except OSError:
            return passed
        passed += 1
    raise AssertionError(f"{most} connections found room")


@each_family
def test_full_table(lab):
    web = lab.service("web", ports=PORTS).publish(lab.pods)
    # Ended UDP connections shall make room within the test, but not while it fills the table.
    daemon = lab.fairlead("--ebpf-max-connections", "512", "--ipvs-udp-timeout", "20s")
    daemon.serving(web)
    live = [LiveConnection(lab.client, web.address, 80) for _ in range(3)]
    live.append(LiveConnection(lab.pods[0].host, web.address, 80))
    before = lab.table.event_counts()["table_full"]
    passed = fill(lab, web.address, 4096)
    assert passed > 200, f"full after {passed} connections"

    for _ in range(3):
        with contextlib.suppress(OSError):
            ask(lab.client, web.address, 80, timeout=0.3)
            raise AssertionError("a full table took one more")
    assert lab.table.event_counts()["table_full"] > before
    for _ in range(20):
        for connection in live:
            connection.ping()

    def room():
        return ask(lab.client, web.address, 80, timeout=0.5).server

    daemon.eventually(room, timeout=60)
    for connection in live:
        connection.ping()


@each_family
def test_ended_connections_make_room(lab):
    """They wait two minutes in TIME_WAIT, but not in the way of new ones."""
    web = lab.service("web").publish(lab.pods)
    daemon = lab.fairlead("--ebpf-max-connections", "512")
    daemon.serving(web)
    live = LiveConnection(lab.client, web.address, 80)

    def connect():
        return ask(lab.client, web.address, 80, timeout=0.5).server

    passed = 0
    with contextlib.suppress(OSError):
        while passed < 4096:
            connect()
            passed += 1
    assert passed > 200, f"full after {passed} connections"
    # After the first pass they go on as fast as they end.
    daemon.eventually(connect, timeout=20)
    for _ in range(1000):
        daemon.eventually(connect, timeout=5)
    live.ping()


HIDDEN_PORTS = 30000 - 1024 + 65536 - 61001  # that clients get which are masqueraded


@each_family
def test_every_port_of_hidden_clients_is_taken(lab):
    """Behind the node's address there is one port for each client of a pod's port, whichever of
    two services leads there. Who has one keeps it; whose service goes leaves room."""
    ports = (Port(53, DNS_PORT, "UDP"),)
    crowded = lab.service("crowded", ports=ports).publish(lab.pods[:1])
    other = lab.service("other", ports=ports).publish(lab.pods[:1])
    daemon = lab.fairlead("--ebpf-sockets", "off")
    daemon.serving(crowded, other)
    live = [LiveConnection(lab.client, other.address, 53, "UDP") for _ in range(3)]
    before = lab.table.event_counts()
    count = HIDDEN_PORTS * 5 // 4
    with raw.Sender(lab) as sender:
        for number in range(count):
            source = raw.stranger(lab.family, number)
            sender.send(raw.datagram(lab.family, source, 40000, crowded.address, 53))
    after = lab.table.event_counts()
    assert after["new"] - before["new"] == count and after["table_full"] == 0, after
    without = after["no_port"] - before["no_port"]
    # The last ports are found late: a client tries 33 of them for each of its packets.
    least = count - HIDDEN_PORTS
    assert least <= without < least + HIDDEN_PORTS // 20, f"{without} of {count} have no port"

    def answered():
        """Whether a new client of the other service is."""
        try:
            return ask(lab.client, other.address, 53, "UDP", timeout=0.3).server
        except TimeoutError:
            return ""

    assert sum(answered() == "" for _ in range(8)) >= 4, "there was room"
    assert lab.table.event_counts()["no_port"] > after["no_port"]
    for connection in live:
        connection.ping()

    crowded.delete()
    daemon.eventually(lambda: all(answered() for _ in range(8)), timeout=40)
    for connection in live:
        connection.ping()


def test_counters_reach_the_metrics(lab):
    """What happens to packets is on the metrics page, within a pass of the sweep."""
    service = lab.service("web").publish(lab.pods)
    daemon = lab.fairlead()
    daemon.serving(service)
    for _ in range(3):
        ask(lab.client, service.address, 80)
    with contextlib.suppress(ConnectionRefusedError):
        ask(lab.client, service.address, 81)

    def counters():
        with lab.node:
            with urllib.request.urlopen("http://127.0.0.1:10249/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        name = "fairlead_dataplane_events_total"
        return dict(line.rsplit(" ", 1) for line in lines if line.startswith(name))

    daemon.eventually(
        lambda: counters().get('fairlead_dataplane_events_total{event="new"}') == "3"
        and counters().get('fairlead_dataplane_events_total{event="refused"}') == "1"
    )
