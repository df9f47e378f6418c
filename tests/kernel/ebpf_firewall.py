# SPDX-License-Identifier: Apache-2.0
"""Other people's stateful firewall on the node: it must see connections it understands."""

import probes
from foreign import assert_nothing_was_invalid, restrict
from lab import DNS_PORT, WEB_PORT, LiveConnection, Traffic, ask, spread
from manifests import Port
from runner import each_family

PORTS = (
    Port(80, WEB_PORT, name="web"),
    Port(91, 9100, name="bulk"),
    Port(53, DNS_PORT, "UDP", name="dns"),
)


def pass_everything(lab, service):
    live = [LiveConnection(lab.client, service.address, 80) for _ in lab.pods]
    live.append(LiveConnection(lab.client, service.address, 53, "UDP"))
    live.append(LiveConnection(lab.pods[0].host, service.address, 80))
    with Traffic(lab.client, service.address, 80, live=live) as traffic:
        traffic.pass_on(30)
    with Traffic(lab.pods[0].host, service.address, 80) as traffic:
        traffic.pass_on(15)
    with Traffic(lab.client, service.address, 53, "UDP") as traffic:
        traffic.pass_on(15)
    with probes.BulkServers(lab.pods, 9100):
        for host in lab.client, lab.pods[0].host:
            probes.transfer(lab, service.address, 91, up=2_000_000, down=2_000_000, host=host)
    assert_nothing_was_invalid(lab)


@each_family
def test_ct_state_invalid_drop(lab):
    restrict(lab)
    service = lab.service("web", ports=PORTS).publish(lab.pods)
    lab.fairlead().serving(service)
    pass_everything(lab, service)


@each_family
def test_ct_state_invalid_drop_without_masquerade(lab):
    restrict(lab)
    service = lab.service("web", ports=PORTS).publish(lab.pods)
    lab.fairlead(cluster_cidr="").serving(service)
    pass_everything(lab, service)


@each_family
def test_rules_see_client_and_pod(lab):
    """What the forward chain matches on are the real ends, as with netfilter's own NAT."""
    pod = lab.pods[0]
    service = lab.service("web").publish([pod])
    lab.fairlead().serving(service)
    chosen, other = lab.family.clients[:2]
    restrict(
        lab,
        f"*filter\n-A FORWARD -s {chosen} -d {pod.address(lab.family)} -p tcp --dport {WEB_PORT}"
        " -j REJECT --reject-with tcp-reset\nCOMMIT\n",
    )
    try:
        ask(lab.client, service.address, 80, source=chosen)
    except ConnectionRefusedError:
        pass
    else:
        raise AssertionError("the rule did not match")
    assert spread(lab.client, service.address, 80, 2, source=other) == [pod.name] * 2
