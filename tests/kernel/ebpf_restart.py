# SPDX-License-Identifier: Apache-2.0
"""The programs are the kernel's: traffic passes whether a daemon runs, goes or is upgraded."""

import contextlib
import os

from lab import DNS_PORT, WEB_PORT, LiveConnection, Traffic, ask, eventually, spread
from manifests import Port
from runner import each_family

PORTS = (
    Port(80, WEB_PORT, name="web", node_port=30080),
    Port(53, DNS_PORT, "UDP", name="dns"),
)


def serve(lab, *flags):
    web = lab.service("web", ports=PORTS).publish(lab.pods)
    daemon = lab.fairlead(*flags)
    daemon.serving(web)
    return web, daemon


def hold(lab, web):
    return [
        *(LiveConnection(lab.client, web.address, 80) for _ in lab.pods),
        *(LiveConnection(lab.pods[0].host, web.address, 80) for _ in lab.pods),
        LiveConnection(lab.node, web.address, 80),
        LiveConnection(lab.client, lab.family.node, 30080),
        LiveConnection(lab.client, web.address, 53, "UDP"),
        LiveConnection(lab.node, web.address, 53, "UDP"),
    ]


def first_sync(lab, daemon, number):
    """A daemon that found everything in place has looked once it serves what is new."""
    news = lab.service(f"news-{number}").publish(lab.pods)
    daemon.serving(news)


@each_family
def test_traffic_goes_on_while_no_daemon_runs(lab):
    web, daemon = serve(lab)
    with Traffic(lab.client, web.address, 80, live=hold(lab, web)) as traffic:
        daemon.kill()
        traffic.pass_on(50)
        assert set(traffic.servers) == {"pod1", "pod2", "pod3"}
        for host in lab.node, lab.pods[0].host:
            assert set(spread(host, web.address, 80, 6)) == {"pod1", "pod2", "pod3"}
            assert set(spread(host, lab.family.node, 30080, 6)) == {"pod1", "pod2", "pod3"}
            assert set(spread(host, web.address, 53, 6, "UDP")) == {"pod1", "pod2", "pod3"}
        daemon.start()
        first_sync(lab, daemon, 0)


@each_family
def test_upgrade_under_load_loses_nothing(lab):
    """Each start loads the programs anew and swaps them in."""
    web, daemon = serve(lab)
    live = hold(lab, web)
    with (
        Traffic(lab.client, web.address, 80, live=live) as tcp,
        Traffic(lab.client, web.address, 53, "UDP") as udp,
        Traffic(lab.node, web.address, 80) as own,
    ):
        for number in range(8):
            if number % 2:
                daemon.restart()
            else:
                daemon.kill()
                daemon.start()
            first_sync(lab, daemon, number)
    for traffic in tcp, udp, own:
        assert traffic.servers.total() > 20, traffic.servers


@each_family
def test_counters_survive_a_restart(lab):
    web, daemon = serve(lab)
    live = [LiveConnection(lab.client, web.address, 80) for _ in range(6)]

    def active():
        return [server.active for server in lab.table.virtual_server(web.address, 80).servers]

    assert active() == [2, 2, 2]
    daemon.kill()
    daemon.start()
    first_sync(lab, daemon, 0)
    assert active() == [2, 2, 2]
    for connection in live:
        connection.ping()
        connection.reset()
    daemon.eventually(lambda: active() == [0, 0, 0])


@each_family
def test_turns_go_on_where_they_were(lab):
    """A restart that changes nothing must not begin the round robin anew."""
    web, daemon = serve(lab)
    first = spread(lab.client, web.address, 80, 1)[0]
    daemon.restart()
    first_sync(lab, daemon, 0)
    assert spread(lab.client, web.address, 80, 2).count(first) == 0


def test_the_ipvs_mode_takes_it_out(lab):
    """What is left in front of IPVS would go on with what it knew last."""
    service = lab.service("web").publish(lab.pods)
    daemon = lab.fairlead()
    daemon.serving(service)
    daemon.stop()
    assert os.path.exists(lab.plane.pin_directory)
    # Where the kernel has no IPVS it ends soon, which is another matter.
    lab.fairlead("--proxy-mode", "ipvs")
    eventually(lambda: not os.path.exists(lab.plane.pin_directory))
    if not os.path.exists("/proc/net/ip_vs"):
        with contextlib.suppress(OSError):
            ask(lab.client, service.address, 80, timeout=0.5)
            raise AssertionError("something still serves it")
