# SPDX-License-Identifier: Apache-2.0
"""`fairlead plan` says what `fairlead run` does."""

import os
import subprocess

from lab import DNS_PORT
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
