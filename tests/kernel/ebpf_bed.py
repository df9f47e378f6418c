# SPDX-License-Identifier: Apache-2.0
"""What the tests of the ebpf mode lean on, with no daemon: what fails here is no fault of it."""

import probes
from foreign import ForeignPrograms, assert_nothing_was_invalid, restrict
from lab import WEB_PORT, ask
from planes import own_cgroup
from runner import each_family


@each_family
def test_foreign_programs_count_and_let_pass(lab):
    others = ForeignPrograms(lab)
    address = lab.pods[0].address(lab.family)
    others.assert_sees_traffic(lambda: ask(lab.client, address, WEB_PORT))
    others.assert_untouched()
    lab.node.run("tc", "filter", "del", "dev", "pod1", "ingress")
    try:
        others.assert_untouched()
    except AssertionError:
        return
    finally:
        others.close()
    raise AssertionError("it was not noticed that a filter went")


@each_family
def test_stateful_firewall_lets_plain_routing_pass(lab):
    restrict(lab)
    with probes.BulkServers(lab.pods, 9100):
        probes.transfer(lab, lab.pods[0].address(lab.family), 9100, up=1_000_000, down=1_000_000)
    assert_nothing_was_invalid(lab)


def test_cgroup_is_ours_alone(lab):
    assert "/fairlead-sandbox-" in own_cgroup()
