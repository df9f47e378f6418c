# SPDX-License-Identifier: Apache-2.0
"""Packets of every shape through a service: large, cut up, without a checksum, refused."""

from concurrent import futures

import probes
from lab import DNS_PORT, WEB_PORT, LiveConnection, eventually, refused
from manifests import Port
from runner import each_family

WEB = Port(80, WEB_PORT, name="web")
DNS = Port(53, DNS_PORT, "UDP", name="dns")
BULK = Port(91, 9100, name="bulk")
NO_CLUSTER = {"cluster_cidr": ""}  # nobody is masqueraded


def serve(lab, *ports, pods=None, **options):
    service = lab.service("web", ports=ports).publish(lab.pods if pods is None else pods)
    lab.fairlead(**options).serving(service)
    return service


def each_way(lab, *ports):
    """The service twice: first its client is masqueraded, then not."""
    yield serve(lab, *ports)
    lab.daemons[-1].stop()
    yield serve(lab, *ports, **NO_CLUSTER)


@each_family
def test_large_transfer_both_ways(lab):
    with probes.BulkServers(lab.pods, 9100):
        for service in each_way(lab, BULK):
            average = probes.transfer(lab, service.address, 91, up=6_000_000, down=6_000_000)
            assert average > 3000, f"{average} bytes in a packet on average: offloads are lost"


@each_family
def test_large_transfer_from_pod_and_node(lab):
    service = serve(lab, BULK)
    with probes.BulkServers(lab.pods, 9100):
        for _ in lab.pods:  # one of them is the pod itself
            for host in lab.pods[0].host, lab.node:
                probes.transfer(lab, service.address, 91, up=2_000_000, down=2_000_000, host=host)


@each_family
def test_pods_with_a_smaller_mtu(lab):
    for pod in lab.pods:
        lab.node.ip(f"link set {pod.name} mtu 1400")
        pod.host.ip("link set eth0 mtu 1400")
    with probes.BulkServers(lab.pods, 9100):
        for service in each_way(lab, BULK, DNS):
            probes.transfer(lab, service.address, 91, up=2_000_000, down=2_000_000)
            with LiveConnection(lab.client, service.address, 53, "UDP") as flow:
                flow.echo("x" * 1300)
                # IPv6 fragments have the size that the sender knows; it has to learn of 1400 first.
                eventually(lambda flow=flow: flow.echo("x" * 3000))


@each_family
def test_path_mtu_towards_the_pod_is_discovered(lab):
    for pod in lab.pods:
        lab.node.ip(f"link set {pod.name} mtu 1400")
    with probes.BulkServers(lab.pods, 9100):
        service = serve(lab, BULK, DNS)
        assert probes.path_mtu(lab.client, service.address, 53) == 1400
        probes.transfer(lab, service.address, 91, up=2_000_000, down=10)


@each_family
def test_path_mtu_towards_the_pod_is_discovered_without_masquerade(lab):
    for pod in lab.pods:
        lab.node.ip(f"link set {pod.name} mtu 1400")
    with probes.BulkServers(lab.pods, 9100):
        service = serve(lab, BULK, DNS, **NO_CLUSTER)
        assert probes.path_mtu(lab.client, service.address, 53) == 1400
        probes.transfer(lab, service.address, 91, up=2_000_000, down=10)


@each_family
def test_path_mtu_towards_the_client_is_discovered(lab):
    lab.node.ip("link set outside mtu 1400")
    with probes.BulkServers(lab.pods, 9100):
        for service in each_way(lab, BULK):
            probes.transfer(lab, service.address, 91, up=10, down=2_000_000)


@each_family
def test_datagrams_in_fragments(lab):
    for service in each_way(lab, DNS):
        for _ in lab.pods:
            with LiveConnection(lab.client, service.address, 53, "UDP") as flow:
                flow.echo("x" * 3000)
                flow.echo("y" * 20000)
                flow.ping()


@each_family
def test_datagrams_in_fragments_from_pod_and_node(lab):
    service = serve(lab, DNS)
    for host in lab.pods[0].host, lab.node:
        for _ in lab.pods:
            with LiveConnection(host, service.address, 53, "UDP") as flow:
                flow.echo("x" * 3000)


def test_datagram_without_checksum(lab):
    for service in each_way(lab, DNS):
        probes.datagram_without_checksum(lab, service.address, 53)


@each_family
def test_closed_port_of_a_pod_refuses(lab):
    for service in each_way(lab, Port(80, 9999, name="web"), Port(53, 9999, "UDP", name="dns")):
        for host in lab.client, lab.pods[0].host, lab.node:
            assert refused(host, service.address, 80), host
            assert refused(host, service.address, 53, "UDP"), host


@each_family
def test_closed_port_behind_a_node_port_refuses(lab):
    ports = (
        Port(80, 9999, name="web", node_port=30080),
        Port(53, 9999, "UDP", name="dns", node_port=30053),
    )
    serve(lab, *ports)
    assert refused(lab.client, lab.family.node, 30080)
    assert refused(lab.client, lab.family.node, 30053, "UDP")


@each_family
def test_port_of_a_service_address_that_nobody_serves_refuses(lab):
    service = serve(lab, WEB)
    for host in lab.client, lab.pods[0].host:
        assert refused(host, service.address, 81), host
        assert refused(host, service.address, 53, "UDP"), host


@each_family
def test_pings_are_answered(lab):
    """For every service address, with endpoints or without; and by the node for its own."""
    external = lab.family.external(7)
    port = Port(80, WEB_PORT, name="web", node_port=30080)
    web = lab.service("web", ports=(port,), external_ips=[external]).publish(lab.pods)
    empty = lab.service("empty").publish([])
    daemon = lab.fairlead()
    daemon.serving(web, empty)
    eventually(lambda: lab.table.virtual_server(external, 80))
    for host in lab.client, lab.pods[0].host:
        for address in (web.address, external, empty.address, lab.family.node):
            probes.ping(host, address)
            probes.ping(host, address, b"y" * 1400)
            probes.ping(host, address, b"z" * 8000)  # in fragments
    empty.delete()
    daemon.eventually(lambda: empty.address not in lab.table.addresses())
    try:
        probes.ping(lab.client, empty.address, timeout=1)
    except OSError:
        return
    raise AssertionError("a ping to an address that no service has was answered")


@each_family
def test_ports_of_the_node_that_are_no_service_stay_its_own(lab):
    lab.servers.listen(lab.node, 7000)
    lab.servers.listen(lab.node, 7000, "UDP")
    serve(lab, Port(80, WEB_PORT, name="web", node_port=30080))
    # Each asks the node's nearest address: from there a datagram is answered.
    for host, address in (lab.client, lab.family.node), (lab.pods[0].host, lab.family.gateway):
        for protocol in "TCP", "UDP":
            with LiveConnection(host, address, 7000, protocol) as own:
                assert own.server == lab.node.name, own.answer
        assert refused(host, address, 7001)


@each_family
def test_sctp_by_hand(lab):
    """By raw sockets, so on kernels without SCTP, too."""
    for service in each_way(lab, Port(90, 9000, "SCTP", name="signal")):
        got = probes.sctp_handshake(lab.client, lab.pods, service.address, 90)
        assert got.port == 9000, got
        masqueraded = len(lab.daemons) == 1
        assert got.peer == (lab.family.gateway if masqueraded else lab.family.client), got
        connection = next(c for c in lab.table.connections() if c.protocol == "SCTP")
        assert (connection.client, connection.virtual_port) == (lab.family.client, 90), connection


@each_family
def test_one_client_port_to_two_services_of_one_pod(lab):
    """Both connections have the same ends once translated, and must stay two."""
    pod = lab.pods[0]
    here = lab.service("here").publish([pod])
    there = lab.service("there").publish([pod])
    lab.fairlead(**NO_CLUSTER).serving(here, there)
    first = LiveConnection(lab.client, here.address, 80, source_port=40080)
    second = LiveConnection(lab.client, there.address, 80, source_port=40080)
    for _ in range(3):
        first.ping()
        second.ping()
    assert (first.peer, second.peer) == (lab.family.client, lab.family.client)
    assert first.peer_port == 40080 != second.peer_port, (first.answer, second.answer)


@each_family
def test_one_client_port_again_at_once(lab):
    """A connection that has ended does not stand in the way of the next one on its port."""
    service = serve(lab, WEB)
    for _ in range(50):
        connection = LiveConnection(lab.client, service.address, 80, source_port=40080)
        connection.ping()
        connection.reset()


@each_family
def test_transfers_side_by_side(lab):
    service = serve(lab, BULK)

    def work(_):
        for _ in range(3):
            probes.transfer(lab, service.address, 91, up=2_000_000, down=2_000_000)

    with probes.BulkServers(lab.pods, 9100), futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


@each_family
def test_connections_are_listed_and_counted(lab):
    service = serve(lab, WEB, pods=lab.pods[:1])
    live = LiveConnection(lab.client, service.address, 80, source_port=40081)
    held = [c for c in lab.table.connections() if c.client_port == 40081]
    pod = lab.pods[0].address(lab.family)
    assert [(c.client, c.virtual, c.server, c.server_port, c.state) for c in held] == [
        (lab.family.client, service.address, pod, WEB_PORT, "ESTABLISHED")
    ], held
    assert lab.table.virtual_server(service.address, 80).server(pod, WEB_PORT).active == 1
    live.reset()

    def counted():
        server = lab.table.virtual_server(service.address, 80).server(pod, WEB_PORT)
        return (server.active, server.inactive) == (0, 1)

    eventually(counted)
