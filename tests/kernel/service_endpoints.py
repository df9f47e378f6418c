# SPDX-License-Identifier: Apache-2.0
"""Endpoints come, go and flap under live connections; none of these may break."""

from lab import DNS_PORT, WEB_PORT, LiveConnection, Traffic, eventually, refused, spread
from manifests import DRAIN_TIMEOUT, Endpoint, Port
from runner import each_family


def serve(lab, pods=None, **spec):
    web = lab.service("web", **spec).publish(lab.pods if pods is None else pods)
    daemon = lab.fairlead()
    daemon.serving(web)
    return web, daemon


def connect_to_all(lab, service, pods):
    """One live connection for each pod; rr sees to that."""
    live = [LiveConnection(lab.client, service.address, service.port) for _ in pods]
    assert {connection.server for connection in live} == {pod.name for pod in pods}
    return live


def real_server(lab, service, pod):
    port = service.ports[0]
    held = lab.table.virtual_server(service.address, port.number, port.protocol)
    return held and held.server(pod.address(lab.family), port.target)


@each_family
def test_added_endpoint_is_used(lab):
    pod1, pod2, pod3 = lab.pods
    web, daemon = serve(lab, [pod1, pod2])
    live = connect_to_all(lab, web, [pod1, pod2])
    with Traffic(lab.client, web.address, 80, live=live) as traffic:
        web.publish([pod1, pod2, pod3])
        daemon.serving(web)
        traffic.pass_on(6)
    assert traffic.servers["pod3"]


@each_family
def test_removed_endpoint_drains_and_then_goes(lab):
    pod1, pod2, pod3 = lab.pods
    web, daemon = serve(lab)
    live = connect_to_all(lab, web, lab.pods)
    # No other connections: one that ended in the usual way is remembered for two minutes.
    web.publish([pod1, pod2])
    daemon.serving(web)
    assert set(spread(lab.client, web.address, 80, 4)) == {"pod1", "pod2"}
    draining = real_server(lab, web, pod3)
    assert (draining.weight, draining.active) == (0, 1), draining

    for connection in live:
        connection.ping()
        connection.reset()
    # The kernel remembers a reset connection for 10 s, and the daemon looks every 10 s at the most.
    daemon.eventually(lambda: real_server(lab, web, pod3) is None, timeout=40)


@each_family
def test_removed_endpoint_without_connections_goes_at_once(lab):
    pod1, pod2, pod3 = lab.pods
    web, daemon = serve(lab)
    web.publish([pod1, pod2])
    daemon.eventually(lambda: real_server(lab, web, pod3) is None, timeout=5)


@each_family
def test_drain_ends_at_its_deadline(lab):
    pod1, pod2, pod3 = lab.pods
    web, daemon = serve(lab, annotations={DRAIN_TIMEOUT: "2s"})
    live = connect_to_all(lab, web, lab.pods)
    web.publish([pod1, pod2])
    daemon.serving(web)
    daemon.eventually(lambda: real_server(lab, web, pod3) is None, timeout=10)
    for connection in live:
        if connection.server != pod3.name:
            connection.ping()


@each_family
def test_endpoint_flaps_under_traffic(lab):
    pod1, pod2, pod3 = lab.pods
    web, daemon = serve(lab)
    live = connect_to_all(lab, web, lab.pods)
    with Traffic(lab.client, web.address, 80, live=live):
        for _ in range(3):
            web.publish([pod1, pod2, Endpoint(pod3, ready=False, serving=False)])
            daemon.serving(web)
            web.publish(lab.pods)
            daemon.serving(web)
    # The same real server throughout: it still counts its connection.
    assert real_server(lab, web, pod3).active == 1
    assert set(spread(lab.client, web.address, 80, 6)) == {"pod1", "pod2", "pod3"}


@each_family
def test_endpoint_flaps_faster_than_it_is_followed(lab):
    pod1, pod2, _ = lab.pods
    web, daemon = serve(lab)
    live = connect_to_all(lab, web, lab.pods)
    with Traffic(lab.client, web.address, 80, live=live):
        for _ in range(50):
            web.publish([pod1, pod2])
            web.publish(lab.pods)
        web.publish([pod1, pod2])
        daemon.serving(web)


@each_family
def test_rolling_replacement_under_traffic(lab):
    pod1, pod2, pod3 = lab.pods
    web, daemon = serve(lab, [pod1])
    live = [LiveConnection(lab.client, web.address, 80)]
    with Traffic(lab.client, web.address, 80, live=live) as traffic:
        for pods in [pod1, pod2], [pod2], [pod2, pod3], [pod3]:
            web.publish(pods)
            daemon.serving(web)
            traffic.pass_on(3)
    assert set(traffic.servers) == {"pod1", "pod2", "pod3"}


@each_family
def test_target_port_changes_under_traffic(lab):
    for pod in lab.pods:
        lab.servers.listen(pod.host, 9090)
    web, daemon = serve(lab)
    live = connect_to_all(lab, web, lab.pods)
    with Traffic(lab.client, web.address, 80, live=live):
        web.ports = [Port(80, 9090)]
        web.publish()
        daemon.serving(web)
    new = LiveConnection(lab.client, web.address, 80)
    assert real_server(lab, web, lab.pod(new.server)).active == 1


@each_family
def test_service_port_changes(lab):
    web, daemon = serve(lab)
    web.ports = [Port(81, WEB_PORT)]
    web.publish()
    daemon.serving(web)
    daemon.eventually(lambda: lab.table.virtual_server(web.address, 80) is None)
    assert set(spread(lab.client, web.address, 81, 6)) == {"pod1", "pod2", "pod3"}
    assert refused(lab.client, web.address, 80)


@each_family
def test_service_is_deleted_and_created_again(lab):
    pod1, pod2, pod3 = lab.pods
    web, daemon = serve(lab, [pod1, pod2])
    neighbour = lab.service("neighbour").publish(lab.pods)
    daemon.serving(neighbour)
    assert set(spread(lab.client, web.address, 80, 4)) == {"pod1", "pod2"}

    with Traffic(lab.client, neighbour.address, 80):
        web.delete()
        daemon.eventually(lambda: lab.table.virtual_server(web.address, 80) is None)
        daemon.eventually(lambda: web.address not in lab.table.addresses())

        web.publish([pod2, pod3])
        daemon.serving(web)
        eventually(lambda: web.address in lab.table.addresses())
    assert set(spread(lab.client, web.address, 80, 4)) == {"pod2", "pod3"}


@each_family
def test_udp_flow_leaves_a_removed_endpoint(lab):
    dns, daemon = serve(lab, ports=(Port(53, DNS_PORT, "UDP"),))
    flow = LiveConnection(lab.client, dns.address, 53, "UDP", timeout=0.5)
    flow.ping()
    gone = lab.pod(flow.server)
    left = {pod.name for pod in lab.pods} - {gone.name}

    dns.publish([pod for pod in lab.pods if pod is not gone])
    daemon.serving(dns)
    daemon.eventually(lambda: real_server(lab, dns, gone) is None, timeout=5)
    # The packet that finds its server gone may be lost; a client of UDP asks again.
    eventually(lambda: flow.exchange().server in left, timeout=5)

    def stale():
        return lab.table.flows_to(gone.address(lab.family), "UDP", dns.address, 53)

    eventually(lambda: not stale(), timeout=5)


@each_family
def test_udp_flow_starts_once_there_is_an_endpoint(lab):
    dns, daemon = serve(lab, [], ports=(Port(53, DNS_PORT, "UDP"),))
    assert refused(lab.client, dns.address, 53, "UDP", source_port=40053)
    dns.publish(lab.pods)
    daemon.serving(dns)
    assert spread(lab.client, dns.address, 53, 1, "UDP", source_port=40053)
