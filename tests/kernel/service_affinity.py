# SPDX-License-Identifier: Apache-2.0
"""Session affinity: a client keeps its endpoint, for as long as it was promised."""

from lab import DNS_PORT, WEB_PORT, ask, eventually, spread
from manifests import Port
from runner import each_family


def serve(lab, seconds, *ports, flags=()):
    web = lab.service("web", affinity_seconds=seconds, ports=ports).publish(lab.pods)
    daemon = lab.fairlead(*flags)
    daemon.serving(web)
    return web, daemon


@each_family
def test_affinity_holds_for_each_client(lab):
    web, _ = serve(lab, 600, Port(80, WEB_PORT))
    assert lab.table.virtual_server(web.address, 80).persistence == 600
    chosen = set()
    for source in lab.family.clients[:3]:
        picks = spread(lab.client, web.address, 80, 4, source=source)
        assert len(set(picks)) == 1, f"{source}: {picks}"
        chosen.add(picks[0])
    assert chosen == {"pod1", "pod2", "pod3"}  # clients take turns, each by its first connection


@each_family
def test_affinity_expires(lab):
    # Kernel IPVS keeps a template, whatever its timeout, as long as connections it made are
    # remembered: for UDP 300 s. Let them be forgotten in a second.
    web, _ = serve(lab, 2, Port(53, DNS_PORT, "UDP"), flags=("--ipvs-udp-timeout", "1s"))
    first = spread(lab.client, web.address, 53, 3, "UDP")
    assert len(set(first)) == 1, first

    def remembered():
        return [c for c in lab.table.connections() if c.virtual == web.address]

    assert any(connection.client_port == 0 for connection in remembered())  # the template
    eventually(lambda: not remembered(), timeout=30)
    assert ask(lab.client, web.address, 53, "UDP").server != first[0]  # rr has moved on


@each_family
def test_affinity_moves_on_when_its_endpoint_goes(lab):
    web, daemon = serve(lab, 600, Port(80, WEB_PORT))
    first = ask(lab.client, web.address, 80).server
    web.publish([pod for pod in lab.pods if pod.name != first])
    daemon.serving(web)
    after = spread(lab.client, web.address, 80, 4)
    assert len(set(after)) == 1 and after[0] != first, f"{first}, then {after}"


@each_family
def test_affinity_is_switched_on_and_off_in_place(lab):
    web, daemon = serve(lab, 0, Port(80, WEB_PORT))
    assert len(set(spread(lab.client, web.address, 80, 3))) == 3

    def persistence():
        return lab.table.virtual_server(web.address, 80).persistence

    web.affinity_seconds = 300
    web.publish()
    daemon.eventually(lambda: persistence() == 300)
    assert len(set(spread(lab.client, web.address, 80, 4))) == 1

    web.affinity_seconds = 0
    web.publish()
    daemon.eventually(lambda: persistence() == 0)
    assert len(set(spread(lab.client, web.address, 80, 3))) == 3


@each_family
def test_affinity_by_network(lab):
    """All of the client's addresses are of one network: as long as that counts, it is one client."""
    web, daemon = serve(lab, 600, Port(80, WEB_PORT))
    mask = " -M 64" if lab.family.bits == 128 else " -M 255.255.255.0"

    def picks():
        return {ask(lab.client, web.address, 80, source=s).server for s in lab.family.clients[:3]}

    def is_by_network():
        return any(mask in line for line in lab.table.lines())

    assert len(picks()) == 3
    web.annotations = {"fairlead.io/affinity-prefix": "24,64"}
    web.publish()
    daemon.eventually(is_by_network)
    assert len(picks()) == 1

    web.annotations = {}
    web.publish()
    daemon.eventually(lambda: not is_by_network())
    assert len(picks()) == 3
