# SPDX-License-Identifier: Apache-2.0
"""`fairlead plan` says what `fairlead run` does, `diff` where it is not so, `get` what there is."""

import json
import os
import subprocess

from lab import CLUSTER_CIDR, DNS_PORT, LiveConnection, ask
from manifests import Port
from runner import each_family


@each_family
def test_plan_is_what_ipvsadm_shows(lab):
    web = lab.service(
        "web", annotations={"fairlead.io/scheduler": "sh", "fairlead.io/firewall-mark": "7"}
    ).publish(lab.pods)
    dns = lab.service("dns", ports=(Port(53, DNS_PORT, "UDP"),)).publish(lab.pods)
    cart = lab.service("cart", affinity_seconds=600).publish(lab.pods[:1])
    mail = lab.service(
        "mail", affinity_seconds=60, annotations={"fairlead.io/affinity-prefix": "20,60"}
    ).publish(lab.pods)
    daemon = lab.fairlead()
    daemon.serving(web, dns, cart, mail)
    planned = subprocess.run(
        [os.environ["FAIRLEAD"], "plan", "--manifests", lab.manifests, "--node", "node1", "-o", "ipvsadm"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout.splitlines()
    assert sorted(planned) == sorted(lab.table.lines()), planned


def look(lab, *words):
    """A command that looks at the data plane, on the node."""
    with lab.node:
        return subprocess.run(
            [os.environ["FAIRLEAD"], *words, *lab.plane.view_flags],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip


def diff(lab):
    done = look(
        lab, "diff", "--manifests", lab.manifests, "--node", "node1", "--cluster-cidr", CLUSTER_CIDR
    )
    lines = done.stdout.splitlines()
    assert done.returncode == (1 if lines else 0), (done.returncode, done.stderr, lines)
    return lines


@each_family
def test_diff_is_empty_while_a_daemon_runs(lab):
    ports = (Port(80, 8080, name="web", node_port=30080), Port(53, DNS_PORT, "UDP", name="dns"))
    annotations = {"fairlead.io/connection-thresholds": "100:80"}
    web = lab.service("web", ports=ports, annotations=annotations).publish(lab.pods)
    cart = lab.service("cart", affinity_seconds=600).publish(lab.pods[:1])
    daemon = lab.fairlead()
    daemon.serving(web, cart)
    assert diff(lab) == []

    daemon.kill()
    more = lab.service("more").publish(lab.pods)
    web.publish(lab.pods[1:])
    cart.delete()
    lines = diff(lab)
    assert any(line.endswith("is missing") and more.address in line for line in lines), lines
    assert any(line.endswith("is not planned") and cart.address in line for line in lines), lines
    gone = [line for line in lines if web.address in line and "->" in line]
    assert len(gone) == 2 and all(line.endswith("is not planned") for line in gone), lines


@each_family
def test_get_tells_connections_and_what_they_carried(lab):
    web = lab.service("web").publish(lab.pods[:1])
    daemon = lab.fairlead()
    daemon.serving(web)
    live = LiveConnection(lab.client, web.address, 80)
    ask(lab.client, web.address, 80)

    def rows():
        table = json.loads(look(lab, "get", "table", "-o", "json").stdout)
        (server,) = (row for row in table["virtual_servers"] if row["address"] == web.address)
        (real,) = server["real_servers"]
        assert real["active"] == 1 and real["forwarding"] == "nat", real
        return server, real

    def all_is_counted():
        """Kernel IPVS sums up every two seconds."""
        return all(
            row["connections"] >= 2 and row["in_packets"] >= 6 and row["out_bytes"] > 300
            for row in rows()
        )

    daemon.eventually(all_is_counted)
    connections = json.loads(look(lab, "get", "connections", "-o", "json").stdout)["connections"]
    states = [row["state"] for row in connections if row["virtual"] == web.address]
    assert states.count("ESTABLISHED") == 1 and len(states) >= 2, connections
    assert web.address in look(lab, "get", "table").stdout
    live.ping()
