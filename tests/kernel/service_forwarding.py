# SPDX-License-Identifier: Apache-2.0
"""Direct routing, tunnels and full NAT, by the annotation."""

import probes
from lab import CLUSTER_CIDR, DNS_PORT, WEB_PORT, LiveConnection, Traffic, ask, spread
from manifests import Endpoint, Port
from own_answers import GUE_PORT, TunnelEnds, let_answer
from runner import each_family, only

FORWARDING = "fairlead.io/forwarding"
BULK_PORT = 9100
# Such methods cannot change a port.
PORTS = (
    Port(WEB_PORT, WEB_PORT, name="web"),
    Port(BULK_PORT, BULK_PORT, name="bulk"),
    Port(DNS_PORT, DNS_PORT, "UDP", name="dns"),
)
GUE = f"gue:{GUE_PORT}"
OVERHEAD = {"direct": 0, "ipip": 0, GUE: 12, "gre": 4}


def own_answers_service(lab, method):
    service = lab.service("web", ports=PORTS, annotations={FORWARDING: method})
    let_answer(lab, service.address)
    service.publish(lab.pods)
    # Where the netfilter of the ipvs mode masquerades, it does so with direct routing, too: the
    # server would answer the node.
    cidr = CLUSTER_CIDR if lab.plane.mode == "ebpf" else ""
    lab.fairlead(cluster_cidr=cidr).serving(service)
    return service


def methods(lab, service):
    return {
        real.method
        for server in lab.table.virtual_servers().values()
        if server.address == service.address
        for real in server.servers
        if real.weight > 0
    }


def pass_everything(lab, service):
    names = sorted(pod.name for pod in lab.pods)
    assert sorted(spread(lab.client, service.address, WEB_PORT, 3)) == names
    assert sorted(spread(lab.client, service.address, DNS_PORT, 3, "UDP")) == names
    answer = ask(lab.client, service.address, WEB_PORT)
    assert answer.peer == lab.family.client, "the server sees the client"
    with probes.BulkServers(lab.pods, BULK_PORT):
        probes.transfer(lab, service.address, BULK_PORT, up=3_000_000, down=3_000_000)


@each_family
def test_direct_routing(lab):
    service = own_answers_service(lab, "direct")
    assert methods(lab, service) == {"Route"}
    pass_everything(lab, service)


def tunnel(lab, kind):
    with TunnelEnds(lab, kind) as ends:
        service = own_answers_service(lab, kind)
        assert methods(lab, service) == {"Tunnel"}
        mtu = 1500 - (40 if lab.family.bits == 128 else 20) - OVERHEAD[kind]
        assert probes.path_mtu(lab.client, service.address, DNS_PORT) == mtu
        pass_everything(lab, service)
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
def test_live_connections_keep_their_server_and_method(lab):
    """Endpoints leave and the method changes: what is connected goes on as it began."""
    service = own_answers_service(lab, "direct")
    live = [LiveConnection(lab.client, service.address, WEB_PORT) for _ in lab.pods]
    assert {connection.server for connection in live} == {pod.name for pod in lab.pods}
    daemon = lab.daemons[0]
    with Traffic(lab.client, service.address, WEB_PORT, live=live):
        service.publish([Endpoint(lab.pods[0], ready=False, terminating=True), *lab.pods[1:]])
        daemon.serving(service)
    service.annotations[FORWARDING] = "nat"
    service.publish()
    daemon.eventually(lambda: methods(lab, service) == {"Masq"})
    for connection in live:
        connection.ping()


@each_family
@only("ebpf")  # the kernel has none
def test_full_nat(lab):
    service = lab.service("web", annotations={FORWARDING: "fullnat"}).publish(lab.pods)
    lab.fairlead(cluster_cidr="").serving(service)  # by which nobody would be masqueraded
    for host in lab.client, lab.pods[0].host:
        for _ in lab.pods:
            assert ask(host, service.address, 80).peer == lab.family.gateway


@each_family
def test_a_port_that_would_have_to_change(lab):
    """Such a service is translated, and a problem says why."""
    service = lab.service("web", annotations={FORWARDING: "direct"}).publish(lab.pods)
    daemon = lab.fairlead()
    daemon.serving(service)
    assert methods(lab, service) == {"Masq"}
    assert len(set(spread(lab.client, service.address, 80, 3))) == 3
    daemon.eventually(lambda: any("make port and targetPort equal" in l for l in daemon.log_tail()))
