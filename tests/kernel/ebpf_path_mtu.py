# SPDX-License-Identifier: Apache-2.0
"""The way to the servers gets narrower, behind a router, and then devices do nothing for the stack.
By every forwarding method a client finds out what fits, and everything arrives."""

import probes
from lab import CLUSTER_CIDR, DNS_PORT, WEB_PORT, LiveConnection, ask
from own_answers import TunnelEnds, let_answer
from runner import each_family, lab_of
from service_forwarding import BULK_PORT, FORWARDING, GUE, OVERHEAD, PORTS

SIZE = 1_000_000
NOBODY = ""  # is masqueraded


def serve(lab, method, pods, cluster_cidr):
    service = lab.service("web", ports=PORTS, annotations={FORWARDING: method}).publish(pods)
    lab.fairlead(cluster_cidr=cluster_cidr).serving(service)
    return service


def narrow(lab, router, pods, mtu):
    """The links between router and pods. The pods go on to offer segments as for a wide one, so that
    who sends to them has to find out."""
    header = 60 if lab.family.bits == 128 else 40
    for pod in pods:
        router.ip(f"link set {pod.name} mtu {mtu}")
        route = f"default via {lab.family.gateway} dev eth0 advmss {1500 - header}"
        pod.host.ip(f"link set eth0 mtu {mtu}\nroute replace {route}")


def transfer(lab, address, host=None):
    """There, then back. Returns the size of a packet to the server."""
    average = probes.transfer(lab, address, BULK_PORT, up=SIZE, down=10, host=host)
    probes.transfer(lab, address, BULK_PORT, up=10, down=SIZE, host=host)
    return average


def without_offloads(lab):
    lab.client.offload("eth0", False)
    lab.node.offload("outside", False)
    lab.node.offload("far", False)
    for pod in lab.pods:
        pod.host.offload("eth0", False)


def walk(lab, router, address, overhead=0):
    with probes.BulkServers(lab.pods, BULK_PORT):
        assert transfer(lab, address) > 3000, "offloads are lost"

        narrow(lab, router, lab.pods, 1400)
        # By UDP first, then by TCP: what one has found out the other knows.
        assert probes.path_mtu(lab.client, address, DNS_PORT) == 1400 - overhead
        transfer(lab, address)
        least = 1280 + (overhead if lab.family.bits == 128 else 0)  # IPv6 takes no less inside
        narrow(lab, router, lab.pods, least)
        transfer(lab, address)
        assert probes.known_path_mtu(lab.client, address, DNS_PORT) == least - overhead

        without_offloads(lab)
        assert transfer(lab, address) < 1500, "not all offloads are off"
    with LiveConnection(lab.client, address, DNS_PORT, "UDP") as flow:
        flow.echo("x" * 3000)


def walk_translated(lab, method, cluster_cidr, peer):
    router = lab.put_behind_router(lab.pods)
    service = serve(lab, method, lab.pods, cluster_cidr)
    assert ask(lab.client, service.address, WEB_PORT).peer == peer
    walk(lab, router, service.address)


@each_family
def test_nat(lab):
    walk_translated(lab, "nat", NOBODY, lab.family.client)


@each_family
def test_nat_of_masqueraded_clients(lab):
    walk_translated(lab, "nat", CLUSTER_CIDR, lab.family.external(101))


@each_family
def test_full_nat(lab):
    walk_translated(lab, "fullnat", NOBODY, lab.family.external(101))


@each_family
@lab_of(pods=1)
def test_direct_routing(lab):
    """By a router that knows where the virtual address is."""
    router = lab.put_behind_router(lab.pods)
    service = serve(lab, "direct", lab.pods, NOBODY)
    let_answer(lab, service.address)
    pod = lab.pods[0]
    router.ip(f"route add {service.address} via {pod.address(lab.family)} dev {pod.name} onlink")
    walk(lab, router, service.address)


def tunnel(lab, kind):
    router = lab.put_behind_router(lab.pods)
    with TunnelEnds(lab, kind) as ends:
        service = serve(lab, kind, lab.pods, NOBODY)
        let_answer(lab, service.address)
        outer = 40 if lab.family.bits == 128 else 20
        walk(lab, router, service.address, outer + OVERHEAD[kind])
        assert ends.packets > 0, "nothing came through a tunnel"


@each_family
def test_tunnel_ipip(lab):
    tunnel(lab, "ipip")


@each_family
def test_tunnel_gue(lab):
    tunnel(lab, GUE)


@each_family
def test_tunnel_gre(lab):
    tunnel(lab, "gre")


@each_family
def test_narrow_way_to_the_client(lab):
    """A router between node and client speaks to the service about answers: the server hears it."""
    far, *near = lab.pods
    router = lab.put_behind_router([far])
    with probes.BulkServers(lab.pods, BULK_PORT):
        for method, cluster_cidr, peer in (
            ("nat", NOBODY, far.address(lab.family)),
            ("fullnat", NOBODY, lab.family.gateway),
        ):
            service = serve(lab, method, near, cluster_cidr)
            assert ask(far.host, service.address, WEB_PORT).peer == peer
            for mtu in 1400, 1280:
                narrow(lab, router, [far], mtu)
                transfer(lab, service.address, host=far.host)
            narrow(lab, router, [far], 1500)
            lab.daemons[-1].stop()
