# SPDX-License-Identifier: Apache-2.0
"""Answered connections past the stack, which is asked for by a flag."""

import probes
from lab import DNS_PORT, WEB_PORT, LiveConnection, Traffic, ask
from manifests import Endpoint, Port
from runner import each_family

PORTS = (
    Port(80, WEB_PORT, name="web"),
    Port(91, 9100, name="bulk"),
    Port(53, DNS_PORT, "UDP", name="dns"),
)


def forwarded(lab):
    """Packets that the node's stack has forwarded."""
    if lab.family.bits == 32:
        names, values = [
            line.split() for line in lab.node.read("/proc/net/snmp").splitlines() if line[:3] == "Ip:"
        ]
        return int(values[names.index("ForwDatagrams")])
    rows = dict(line.split() for line in lab.node.read("/proc/net/snmp6").splitlines())
    return int(rows["Ip6OutForwDatagrams"])


def neighbours(lab, service):
    """What the fast path needs to know: everybody has been spoken to."""
    for _ in lab.pods:
        ask(lab.client, service.address, 80)


@each_family
def test_the_stack_forwards_first_packets_only(lab):
    service = lab.service("web", ports=PORTS).publish(lab.pods)
    lab.fairlead("--ebpf-fast-path").serving(service)
    neighbours(lab, service)
    live = [LiveConnection(lab.client, service.address, 80) for _ in lab.pods]
    live.append(LiveConnection(lab.client, service.address, 53, "UDP"))
    live.append(LiveConnection(lab.pods[0].host, service.address, 80))
    before = forwarded(lab)
    for _ in range(50):
        for connection in live:
            connection.ping()
    assert forwarded(lab) - before < 25, "these packets were to go past the stack"
    with probes.BulkServers(lab.pods, 9100):
        for host in lab.client, lab.pods[0].host:
            probes.transfer(lab, service.address, 91, up=3_000_000, down=3_000_000, host=host)


@each_family
def test_hidden_clients_and_hairpin(lab):
    service = lab.service("web", ports=PORTS).publish(lab.pods[:1])
    daemon = lab.fairlead("--ebpf-fast-path", "--masquerade-all")
    daemon.serving(service)
    neighbours(lab, service)
    for host in lab.client, lab.pods[0].host, lab.pods[1].host:
        with LiveConnection(host, service.address, 80) as connection:
            assert connection.peer == lab.family.gateway
            for _ in range(20):
                connection.ping()


@each_family
def test_switched_on_and_off_under_load(lab):
    """The programs are replaced in place: no connection notices."""
    service = lab.service("web", ports=PORTS).publish(lab.pods)
    daemon = lab.fairlead()
    daemon.serving(service)
    live = [LiveConnection(lab.client, service.address, 80) for _ in lab.pods]
    with Traffic(lab.client, service.address, 80, live=live) as traffic:
        for flags in (["--ebpf-fast-path"], [], ["--ebpf-fast-path"]):
            daemon.stop()
            daemon = lab.fairlead(*flags)
            daemon.serving(service)
            traffic.pass_on(15)


@each_family
def test_endpoints_come_and_go(lab):
    service = lab.service("web", ports=PORTS).publish(lab.pods)
    daemon = lab.fairlead("--ebpf-fast-path")
    daemon.serving(service)
    live = [LiveConnection(lab.client, service.address, 80) for _ in lab.pods]
    with Traffic(lab.client, service.address, 80, live=live):
        for leaving in lab.pods:
            staying = [pod for pod in lab.pods if pod is not leaving]
            service.publish([Endpoint(leaving, ready=False, terminating=True), *staying])
            daemon.serving(service)
            service.publish(lab.pods)
            daemon.serving(service)


@each_family
def test_path_mtu(lab):
    """What is too long goes to the stack, which says so."""
    service = lab.service("web", ports=PORTS).publish(lab.pods)
    lab.fairlead("--ebpf-fast-path").serving(service)
    for pod in lab.pods:
        lab.node.ip(f"link set {pod.name} mtu 1400")
        pod.host.ip("link set eth0 mtu 1400")
    assert probes.path_mtu(lab.client, service.address, 53) == 1400
