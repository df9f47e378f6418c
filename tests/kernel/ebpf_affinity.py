# SPDX-License-Identifier: Apache-2.0
"""Where affinity differs from kernel IPVS on purpose."""

import time

from lab import DNS_PORT, LiveConnection, ask, spread
from manifests import Port
from runner import each_family


@each_family
def test_affinity_expires_although_its_connections_live(lab):
    web = lab.service("web", affinity_seconds=2).publish(lab.pods)
    lab.fairlead().serving(web)
    live = LiveConnection(lab.client, web.address, 80)
    assert set(spread(lab.client, web.address, 80, 3)) == {live.server}
    time.sleep(3)  # it is silence that ends it
    assert ask(lab.client, web.address, 80).server != live.server
    live.ping()


@each_family
def test_each_port_of_a_service_has_its_own_affinity(lab):
    """As in kernel IPVS; and templates are listed as there."""
    ports = (Port(80, 8080, name="web"), Port(53, DNS_PORT, "UDP", name="dns"))
    web = lab.service("web", affinity_seconds=600, ports=ports).publish(lab.pods)
    lab.fairlead().serving(web)
    assert len(set(spread(lab.client, web.address, 80, 4))) == 1
    assert len(set(spread(lab.client, web.address, 53, 4, "UDP"))) == 1
    templates = [c for c in lab.table.connections() if c.client_port == 0]
    assert sorted((c.protocol, c.client) for c in templates) == [
        ("TCP", lab.family.client), ("UDP", lab.family.client)
    ], templates  # fmt: skip
    assert {c.state for c in templates} == {"NONE"}, templates
