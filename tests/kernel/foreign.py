# SPDX-License-Identifier: Apache-2.0
"""What other software does on a node: a stateful firewall, tc programs of its own."""

import json
import os

import bpf

STATEFUL = """\
*filter
:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -m conntrack --ctstate NEW -j ACCEPT
COMMIT
"""


def tool(lab, suffix=""):
    return ("ip6tables-nft" if lab.family.name == "ipv6" else "iptables-nft") + suffix


def restrict(lab, rules=STATEFUL):
    lab.node.run(tool(lab, "-restore"), input=rules)


def assert_nothing_was_invalid(lab):
    for line in lab.node.run(tool(lab), "-nvxL", "FORWARD").splitlines():
        words = line.split()
        if "INVALID" in line:
            assert words[0] == "0", f"the firewall dropped packets as invalid: {line}"
            return
    raise AssertionError("the rule is not there")


class ForeignPrograms:
    """Somebody's tc program on some devices, both ways, and a thing of theirs in the bpffs."""

    def __init__(self, lab):
        self._node = lab.node
        self._directory = os.path.join(lab.plane.bpffs, "others")
        os.mkdir(self._directory)
        self._program = bpf.CountingProgram(self._directory)
        self._devices = ("outside", "pod1")
        for device in self._devices:
            if "clsact" not in self._node.run("tc", "qdisc", "show", "dev", device):
                self._node.run("tc", "qdisc", "add", "dev", device, "clsact")
            for way in "ingress", "egress":
                self._node.run(
                    "tc", "filter", "add", "dev", device, way, "pref", "7", "handle", "1",
                    "bpf", "direct-action", "object-pinned", self._program.path,
                )  # fmt: skip
        self._before = self._seen()
        assert len(self._before[1]) == 4, self._before

    def _seen(self):
        qdiscs = json.loads(self._node.run("tc", "-j", "qdisc", "show"))
        filters = []
        for device in self._devices:
            for way in "ingress", "egress":
                shown = self._node.run("tc", "-j", "filter", "show", "dev", device, way)
                filters += [each for each in json.loads(shown) if each["pref"] == 7]
        ours = [each for each in qdiscs if each["dev"] in self._devices]
        return ours, [each for each in filters if "options" in each], os.listdir(self._directory)

    def assert_untouched(self):
        seen = self._seen()
        assert seen == self._before, f"{seen}, was {self._before}"

    def assert_sees_traffic(self, make):
        before = self._program.packets()
        make()
        assert self._program.packets() - before >= 4, "packets pass their program by"

    def close(self):
        self._program.close()
