# SPDX-License-Identifier: Apache-2.0
"""SCTP by the kernel's own stack at both ends, where there is one.

An association names all addresses that its ends are bound to, and none of them is translated. So
clients bind to the one they speak from, as behind every NAT.
"""

from lab import LiveConnection, Traffic, ask, eventually, spread
from manifests import Port
from runner import each_family, needs, only

SIGNAL = Port(90, 9000, "SCTP", name="signal", node_port=30090)


def serve(lab, *flags, annotations=None, **options):
    for pod in lab.pods:
        lab.servers.listen(pod.host, SIGNAL.target, "SCTP")
    service = lab.service("signal", ports=(SIGNAL,), annotations=annotations).publish(lab.pods)
    daemon = lab.fairlead(*flags, **options)
    daemon.serving(service)
    return service, daemon


def associate(lab, address, port=SIGNAL.number, client=None):
    """Held, by each pod one."""
    source = lab.family.client if client is None else client.address(lab.family)
    host = lab.client if client is None else client.host
    live = [
        LiveConnection(host, address, port, "SCTP", source=source, timeout=15) for _ in lab.pods
    ]
    assert sorted(each.server for each in live) == [pod.name for pod in lab.pods], live
    return live


def peers(associations):
    return {each.peer for each in associations}


@each_family
@needs("SCTP")
def test_sctp_by_every_address(lab):
    service, _ = serve(lab)
    node_port = (lab.family.node, SIGNAL.node_port)
    eventually(lambda: lab.table.virtual_server(*node_port, "SCTP"))
    from_outside = [*associate(lab, service.address), *associate(lab, *node_port)]
    assert peers(from_outside) == {lab.family.gateway}, "masqueraded"
    from_pod = associate(lab, service.address, client=lab.pods[0])
    for each in from_pod:
        to_itself = each.server == lab.pods[0].name
        assert each.peer == (lab.family.gateway if to_itself else lab.pods[0].address(lab.family))
    for each in (*from_outside, *from_pod):
        each.ping()
    states = {c.state for c in lab.table.connections() if c.protocol == "SCTP"}
    assert states == {"ESTABLISHED"}, states


@each_family
@needs("SCTP")
def test_sctp_lives_through_restarts_and_leaving_endpoints(lab):
    service, daemon = serve(lab, cluster_cidr="")
    live = associate(lab, service.address)
    assert peers(live) == {lab.family.client}, "not masqueraded"
    here = lab.pods[0]  # has one address of each family
    with Traffic(here.host, service.address, SIGNAL.number, "SCTP", live=live) as traffic:
        daemon.kill()
        traffic.pass_on(3)
        daemon.start()
        daemon.serving(lab.service("news").publish(lab.pods))
        traffic.pass_on(3)
    service.publish(lab.pods[:2])
    daemon.serving(service)
    staying = {pod.name for pod in lab.pods[:2]}

    def has_left():  # as with UDP, a removed endpoint does not drain
        return len(lab.table.virtual_server(service.address, SIGNAL.number, "SCTP").servers) == 2

    daemon.eventually(has_left)
    for each in live:
        if each.server in staying:
            each.ping()
    assert set(spread(here.host, service.address, SIGNAL.number, 4, "SCTP")) == staying


@each_family
@needs("SCTP")
@only("ebpf")  # the kernel has none
def test_sctp_by_full_nat(lab):
    service, _ = serve(lab, annotations={"fairlead.io/forwarding": "fullnat"}, cluster_cidr="")
    live = associate(lab, service.address)
    assert peers(live) == {lab.family.gateway}
    for each in live:
        each.ping()
        each.close()
    answer = ask(lab.pods[0].host, service.address, SIGNAL.number, "SCTP")
    assert answer.peer == lab.family.gateway
