# SPDX-License-Identifier: Apache-2.0
"""Virtual servers by firewall mark: whatever address and port the marked packets are for."""

import contextlib

import bpf
from lab import DNS_PORT, WEB_PORT, LiveConnection, Traffic, ask, spread
from manifests import Port
from runner import each_family

MARK = "fairlead.io/firewall-mark"
KEY = "FWM 7"


@contextlib.contextmanager
def all_marked(lab):
    """What comes from outside has mark 7 when the plane sees it. For kernel IPVS the node must take
    it, too, whoever it is for."""
    if lab.plane.mode == "ebpf":
        program = bpf.MarkingProgram(lab.node, "outside", 7, lab.plane.bpffs)
        yield
        program.close()
        return
    version = "-6" if lab.family.name == "ipv6" else "-4"
    tool = "ip6tables" if lab.family.name == "ipv6" else "iptables"
    lab.node.run(
        tool, "-t", "mangle", "-A", "PREROUTING", "-i", "outside", "-j", "MARK", "--set-mark", "7"
    )
    # By the device, too: with conntrack, what is on its way to the server is routed once more.
    rule = ("iif", "outside", "fwmark", "7", "lookup", "100")
    lab.node.run("ip", version, "rule", "add", *rule)
    lab.node.run("ip", version, "route", "add", "local", "default", "dev", "lo", "table", "100")
    yield


def nobodys(lab):
    return lab.family.vip(250)


def serve(lab, **spec):
    web = lab.service("web", annotations={MARK: "7"}, **spec).publish(lab.pods)
    daemon = lab.fairlead()
    daemon.serving(web)
    daemon.eventually(lambda: len(lab.table.virtual_servers()[KEY].servers) == len(lab.pods))
    return web, daemon


@each_family
def test_marked_packets_reach_the_service(lab):
    with all_marked(lab):
        web, _ = serve(lab)
        names = {pod.name for pod in lab.pods}
        for address, port in (nobodys(lab), 4711), (nobodys(lab), 443), (web.address, 80):
            assert set(spread(lab.client, address, port, 3)) == names, f"{address} port {port}"
        answer = ask(lab.client, nobodys(lab), 4711)
        assert answer.peer == lab.family.client, "never masqueraded"
        # Without a mark it is an ordinary service.
        assert set(spread(lab.pods[0].host, web.address, 80, 3)) == names


@each_family
def test_one_affinity_for_all_that_is_marked(lab):
    ports = (Port(WEB_PORT, WEB_PORT, name="web"), Port(DNS_PORT, DNS_PORT, "UDP", name="dns"))
    with all_marked(lab):
        serve(lab, ports=ports, affinity_seconds=600)
        chosen = []
        for source in lab.family.clients[:3]:
            picks = spread(lab.client, nobodys(lab), WEB_PORT, 2, source=source)
            picks += spread(lab.client, lab.family.vip(251), DNS_PORT, 2, "UDP", source=source)
            assert len(set(picks)) == 1, f"{source}: {picks}"
            chosen.append(picks[0])
        assert sorted(chosen) == sorted(pod.name for pod in lab.pods)


@each_family
def test_restart_and_removal(lab):
    with all_marked(lab):
        web, daemon = serve(lab)
        live = [LiveConnection(lab.client, nobodys(lab), 80) for _ in lab.pods]
        with Traffic(lab.client, nobodys(lab), 80, live=live):
            daemon.restart()
            web.publish(lab.pods[:2])
            daemon.serving(web)
        daemon.stop()
        web.annotations = {}
        web.publish()
        daemon.start()

        def takes_no_new_ones():
            server = lab.table.virtual_servers().get(KEY)
            return server is None or all(real.weight == 0 for real in server.servers)

        daemon.eventually(takes_no_new_ones)
        for connection in live:
            connection.ping()
            connection.reset()
        daemon.eventually(lambda: KEY not in lab.table.virtual_servers(), timeout=40)
