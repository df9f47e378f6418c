# SPDX-License-Identifier: Apache-2.0
"""One-packet scheduling: every datagram is a choice of its own, and its answer comes back."""

from lab import DNS_PORT, LiveConnection
from manifests import Endpoint, Port
from runner import each_family

ANNOTATIONS = {"fairlead.io/one-packet": "true"}
PORTS = (Port(53, DNS_PORT, "UDP", name="dns"),)


@each_family
def test_each_datagram_is_scheduled(lab):
    service = lab.service("dns", ports=PORTS, annotations=ANNOTATIONS).publish(lab.pods)
    daemon = lab.fairlead()
    daemon.serving(service)
    with LiveConnection(lab.client, service.address, 53, "UDP") as socket:
        first = [socket.server] + [socket.exchange().server for _ in range(5)]
        assert sorted(first[:3]) == sorted(pod.name for pod in lab.pods), first
        assert first[3:] == first[:3], first
        # An endpoint less: the same socket does without it at once.
        service.publish([Endpoint(lab.pods[0], ready=False), *lab.pods[1:]])
        daemon.serving(service)
        assert {socket.exchange().server for _ in range(6)} == {p.name for p in lab.pods[1:]}
    table = lab.table.virtual_servers()
    assert all(s.active == s.inactive == 0 for v in table.values() for s in v.servers), table
    assert not lab.table.connections()


@each_family
def test_masqueraded(lab):
    service = lab.service("dns", ports=PORTS, annotations=ANNOTATIONS).publish(lab.pods)
    lab.fairlead("--masquerade-all").serving(service)
    with LiveConnection(lab.client, service.address, 53, "UDP") as socket:
        answers = [socket.exchange() for _ in range(6)]
        assert {answer.peer for answer in answers} == {lab.family.gateway}
        assert len({answer.server for answer in answers}) == 3
