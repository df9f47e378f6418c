# SPDX-License-Identifier: Apache-2.0
"""Devices come and go, others have programs on them, and `fairlead cleanup` takes what is ours."""

import glob
import json
import os
import subprocess

from foreign import ForeignPrograms
from lab import DNS_PORT, WEB_PORT, LiveConnection, Traffic, ask, eventually, spread
from manifests import Port
from runner import each_family

PORTS = (Port(80, WEB_PORT, name="web"), Port(53, DNS_PORT, "UDP", name="dns"))


def serve(lab, *flags):
    web = lab.service("web", ports=PORTS).publish(lab.pods)
    daemon = lab.fairlead(*flags)
    daemon.serving(web)
    return web, daemon


def cleanup(lab):
    """Run on the node, for devices are looked for there."""
    lab.node.run(os.environ["FAIRLEAD"], "cleanup", "--ebpf-pin-dir", lab.plane.pin_directory)


@each_family
def test_foreign_programs_stay_and_see_packets(lab):
    others = ForeignPrograms(lab)
    web, daemon = serve(lab)
    others.assert_untouched()
    others.assert_sees_traffic(lambda: ask(lab.client, web.address, 80))
    daemon.restart()
    web.publish(lab.pods[:2])
    daemon.serving(web)
    others.assert_untouched()
    daemon.stop()
    others.assert_untouched()
    cleanup(lab)
    others.assert_untouched()
    others.assert_sees_traffic(lambda: ask(lab.client, lab.pods[0].address(lab.family), WEB_PORT))
    others.close()


@each_family
def test_foreign_programs_that_come_later(lab):
    web, _ = serve(lab)
    others = ForeignPrograms(lab)
    others.assert_sees_traffic(lambda: ask(lab.client, web.address, 80))
    others.assert_untouched()
    others.close()


@each_family
def test_a_new_pod_is_served_and_serves_without_a_loss(lab):
    web, daemon = serve(lab)
    live = [LiveConnection(lab.client, web.address, 80) for _ in lab.pods]
    with Traffic(lab.client, web.address, 80, live=live) as traffic:
        pod = lab.add_pod()
        web.publish(lab.pods)
        daemon.serving(web)
        traffic.pass_on(12)
    assert traffic.servers[pod.name]
    assert set(spread(pod.host, web.address, 80, 8)) == {each.name for each in lab.pods}


@each_family
def test_a_new_pod_is_served_before_it_could_start(lab):
    """The programs come with the news of the device; a container takes longer."""
    web, _ = serve(lab)
    for _ in range(3):
        pod = lab.add_pod()
        at_once = eventually(
            lambda pod=pod: ask(pod.host, web.address, 53, "UDP", timeout=0.05), timeout=0.2
        )
        assert at_once.peer == pod.address(lab.family), at_once


@each_family
def test_a_device_that_was_replaced(lab):
    """A pod's device goes and comes back under its name, as when the pod is started again."""
    web, daemon = serve(lab)
    pod = lab.pods[2]
    lab.node.ip(f"link del {pod.name}")
    lab.join(pod)
    daemon.eventually(
        lambda: set(spread(lab.client, web.address, 80, 6, timeout=0.5)) == {"pod1", "pod2", "pod3"}
    )
    assert set(spread(pod.host, web.address, 80, 6)) == {"pod1", "pod2", "pod3"}


@each_family
def test_devices_that_are_not_chosen_any_more(lab):
    """The operator names other devices: what the start before had put on the rest is taken off."""
    others = ForeignPrograms(lab)
    web, daemon = serve(lab)
    assert [ours_on(lab, device) for device in ("outside", "pod1", "pod2")] == [2, 2, 2]
    live = LiveConnection(lab.pods[0].host, web.address, 80)
    daemon.stop()
    fewer = lab.fairlead("--ebpf-devices", "pod*,!pod2")
    fewer.eventually(lambda: ours_on(lab, "outside") == ours_on(lab, "pod2") == 0)
    fewer.serving(lab.service("news").publish(lab.pods))
    assert ours_on(lab, "pod1") == ours_on(lab, "pod3") == 2
    live.ping()
    for host in lab.client, lab.pods[1].host:
        eventually(lambda host=host: unserved(host, web.address), timeout=5)
    others.assert_untouched()
    others.assert_sees_traffic(lambda: ask(lab.client, lab.pods[0].address(lab.family), WEB_PORT))

    fewer.stop()
    daemon.start()
    daemon.eventually(lambda: ours_on(lab, "outside") == ours_on(lab, "pod2") == 2)
    assert set(spread(lab.client, web.address, 80, 6)) == {"pod1", "pod2", "pod3"}
    live.ping()
    others.assert_untouched()
    others.close()


@each_family
def test_a_device_that_stops_being_chosen(lab):
    """Renamed under the daemon, to what the patterns do not name."""
    web, daemon = serve(lab, "--ebpf-devices", "!spare*")
    pod = lab.pods[1]
    lab.node.ip(f"link set {pod.name} down")
    lab.node.ip(f"link set {pod.name} name spare")
    daemon.eventually(lambda: ours_on(lab, "spare") == 0)
    lab.node.ip(f"link set spare name {pod.name}")
    daemon.eventually(lambda: ours_on(lab, pod.name) == 2)


def ours_on(lab, device):
    """How many programs of ours are on it: pins of links, or filters where there is no TCX."""
    interface = json.loads(lab.node.run("ip", "-j", "link", "show", device))[0]["ifindex"]
    pins = glob.glob(f"{glob.escape(lab.table.pin('links'))}/{interface}-*")
    ways = "ingress", "egress"
    shown = [lab.node.run("tc", "filter", "show", "dev", device, way) for way in ways]
    return len(pins) + sum("fl_" in text for text in shown)


@each_family
def test_cleanup_takes_all_and_nothing_else(lab):
    others = ForeignPrograms(lab)
    web, daemon = serve(lab)
    assert ask(lab.client, web.address, 80) and ask(lab.node, web.address, 80)
    daemon.stop()
    assert ask(lab.client, web.address, 80) and ask(lab.node, web.address, 80)
    cleanup(lab)

    left = list(os.walk(lab.plane.pin_directory))
    assert all(not files for _, _, files in left), left
    others.assert_untouched()
    for host in lab.client, lab.node, lab.pods[0].host:
        eventually(lambda host=host: unserved(host, web.address), timeout=5)
    assert lab.node.run("tc", "filter", "show", "dev", "pod2", "ingress") == ""
    assert ask(lab.client, lab.pods[0].address(lab.family), WEB_PORT).peer == lab.family.client

    cleanup(lab)  # what is gone is gone
    daemon.start()
    daemon.serving(web)
    assert set(spread(lab.client, web.address, 80, 6)) == {"pod1", "pod2", "pod3"}
    others.close()


def unserved(host, address):
    try:
        ask(host, address, 80, timeout=0.5)
    except OSError:
        return True
    return False


@each_family
def test_cleanup_where_nothing_is(lab):
    cleanup(lab)
    done = subprocess.run(
        [os.environ["FAIRLEAD"], "get", "table", "--ebpf-pin-dir", lab.plane.pin_directory],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0 and done.stderr, "a table of nothing was printed"
