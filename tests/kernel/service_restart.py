# SPDX-License-Identifier: Apache-2.0
"""The daemon ends, by signal or by force, and comes back; traffic does not notice."""

import os

from lab import DNS_PORT, WEB_PORT, LiveConnection, Traffic, eventually, spread
from manifests import Port
from runner import each_family

PORTS = (Port(80, WEB_PORT, name="web"), Port(53, DNS_PORT, "UDP", name="dns"))


def serve(lab, *flags):
    web = lab.service("web", ports=PORTS).publish(lab.pods)
    daemon = lab.fairlead(*flags)
    daemon.serving(web)
    return web, daemon


def hold(lab, web):
    live = [LiveConnection(lab.client, web.address, 80) for _ in lab.pods]
    return live + [LiveConnection(lab.client, web.address, 53, "UDP")]


def real_server(lab, web, pod):
    return lab.table.virtual_server(web.address, 80).server(pod.address(lab.family), WEB_PORT)


def first_sync(lab, daemon):
    """Waits until a daemon that found everything in place has looked: it serves what is new."""
    name = f"news-{len(os.listdir(lab.manifests))}"
    news = lab.service(name).publish(lab.pods)
    daemon.serving(news)


@each_family
def test_kill_9_and_restart_under_traffic(lab):
    web, daemon = serve(lab)
    with Traffic(lab.client, web.address, 80, live=hold(lab, web)) as traffic:
        for _ in range(2):
            before = lab.table.lines()
            daemon.kill()
            traffic.pass_on(3)
            daemon.start()
            first_sync(lab, daemon)
            assert set(lab.table.lines()) >= set(before)


@each_family
def test_stop_leaves_the_table_and_the_traffic(lab):
    web, daemon = serve(lab)
    before = lab.table.lines()
    with Traffic(lab.client, web.address, 80, live=hold(lab, web)) as traffic:
        daemon.stop()
        traffic.pass_on(5)
        assert lab.table.lines() == before
        daemon.start()
        first_sync(lab, daemon)


@each_family
def test_what_changed_meanwhile_is_caught_up(lab):
    pod1, pod2, pod3 = lab.pods
    web, daemon = serve(lab)
    old = lab.service("old").publish(lab.pods)
    daemon.serving(old)
    live = [LiveConnection(lab.client, web.address, 80) for _ in lab.pods]
    with Traffic(lab.client, web.address, 80, live=live):
        daemon.kill()
        old.delete()
        web.publish([pod1, pod2])
        daemon.start()
        daemon.serving(web)
        daemon.eventually(lambda: lab.table.virtual_server(old.address, 80) is None)
    assert real_server(lab, web, pod3).weight == 0  # drains, for the connection it holds


@each_family
def test_drain_survives_kill_9(lab):
    pod1, pod2, pod3 = lab.pods
    web, daemon = serve(lab)
    live = [LiveConnection(lab.client, web.address, 80) for _ in lab.pods]
    web.publish([pod1, pod2])
    daemon.serving(web)

    daemon.kill()
    daemon.start()
    first_sync(lab, daemon)
    draining = real_server(lab, web, pod3)
    assert (draining.weight, draining.active) == (0, 1), draining
    for connection in live:
        connection.ping()
        connection.reset()
    daemon.eventually(lambda: real_server(lab, web, pod3) is None, timeout=150)


@each_family
def test_drained_endpoint_returns_during_the_restart(lab):
    pod1, pod2, _ = lab.pods
    web, daemon = serve(lab)
    live = [LiveConnection(lab.client, web.address, 80) for _ in lab.pods]
    with Traffic(lab.client, web.address, 80, live=live):
        web.publish([pod1, pod2])
        daemon.serving(web)
        daemon.kill()
        web.publish(lab.pods)
        daemon.start()
        daemon.serving(web)
    assert set(spread(lab.client, web.address, 80, 6)) == {"pod1", "pod2", "pod3"}


@each_family
def test_restart_with_another_scheduler(lab):
    web, daemon = serve(lab)
    with Traffic(lab.client, web.address, 80, live=hold(lab, web)):
        daemon.stop()
        lab.fairlead("--ipvs-scheduler", "lc")
        eventually(lambda: lab.table.virtual_server(web.address, 80).scheduler == "lc")
