# SPDX-License-Identifier: Apache-2.0
"""Connection thresholds: an endpoint that has as many connections as it may gets no new ones."""

from lab import DNS_PORT, LiveConnection, ask, eventually, refused, spread
from manifests import Port
from runner import each_family

THRESHOLDS = "fairlead.io/connection-thresholds"


def serve(lab, thresholds, *flags, **spec):
    web = lab.service("web", annotations={THRESHOLDS: thresholds}, **spec).publish(lab.pods)
    daemon = lab.fairlead(*flags)
    daemon.serving(web)
    return web, daemon


def connect(lab, service, count):
    return [LiveConnection(lab.client, service.address, service.port) for _ in range(count)]


def names(lab):
    return {pod.name for pod in lab.pods}


@each_family
def test_full_endpoints_are_passed_over(lab):
    web, daemon = serve(lab, "2:1")
    live = connect(lab, web, 6)
    assert sorted(connection.server for connection in live) == sorted([*names(lab)] * 2)
    assert refused(lab.client, web.address, 80)

    # A reset connection is remembered for 10 s. With one of two gone a server has as many as the
    # lower threshold, with both it has fewer.
    freed = live[0].server
    mine = [connection for connection in live if connection.server == freed]
    port = web.ports[0].target

    def remembered():
        server = lab.table.virtual_server(web.address, 80).server(lab.pod(freed).address(lab.family), port)
        return server.active + server.inactive

    mine[0].reset()
    daemon.eventually(lambda: remembered() == 1, timeout=30)
    assert refused(lab.client, web.address, 80)
    mine[1].reset()
    daemon.eventually(lambda: remembered() == 0, timeout=30)
    assert [connection.server for connection in connect(lab, web, 2)] == [freed] * 2
    assert refused(lab.client, web.address, 80)
    for connection in set(live) - set(mine):
        connection.ping()


@each_family
def test_silent_udp_clients_make_room(lab):
    dns, _ = serve(lab, "1", "--ipvs-udp-timeout", "2s", ports=(Port(53, DNS_PORT, "UDP"),))
    assert set(spread(lab.client, dns.address, 53, 3, "UDP")) == names(lab)
    assert refused(lab.client, dns.address, 53, "UDP")
    eventually(lambda: not refused(lab.client, dns.address, 53, "UDP"), timeout=30)


@each_family
def test_thresholds_change_in_place(lab):
    web, daemon = serve(lab, "1")
    live = connect(lab, web, 3)
    assert {connection.server for connection in live} == names(lab)
    assert refused(lab.client, web.address, 80)

    def publish(thresholds):
        web.annotations = {THRESHOLDS: thresholds} if thresholds else {}
        web.publish()
        daemon.eventually(lambda: not refused(lab.client, web.address, 80))

    publish("100")
    publish(None)
    for connection in live:
        connection.ping()
    held = lab.table.virtual_server(web.address, 80).servers
    assert all(server.active >= 1 for server in held), f"not the same real servers: {held}"


@each_family
def test_clients_with_affinity_stay(lab):
    web, _ = serve(lab, "1", affinity_seconds=600)
    first = connect(lab, web, 1)[0].server
    assert spread(lab.client, web.address, 80, 3) == [first] * 3
    others = [ask(lab.client, web.address, 80, source=s).server for s in lab.family.clients[:2]]
    assert {first, *others} == names(lab)
    assert refused(lab.client, web.address, 80, source=lab.family.clients[2])


@each_family
def test_thresholds_and_a_restart(lab):
    web, daemon = serve(lab, "1")
    live = connect(lab, web, 3)
    daemon.stop()
    news = lab.service("news").publish(lab.pods)  # tells when it is through
    daemon.start()
    daemon.serving(web, news)
    assert refused(lab.client, web.address, 80)

    daemon.stop()
    web.annotations = {}
    web.publish()
    daemon.start()
    daemon.eventually(lambda: not refused(lab.client, web.address, 80))
    for connection in live:
        connection.ping()


@each_family
def test_nonsense_is_a_problem_and_there_are_none(lab):
    web, daemon = serve(lab, "2:3")
    assert len(connect(lab, web, 9)) == 9
    daemon.eventually(lambda: any("with LOWER from 1 to UPPER" in l for l in daemon.log_tail()))
