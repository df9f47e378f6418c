# SPDX-License-Identifier: Apache-2.0
"""Another version of the program, with maps of another layout or size, takes the node over: both
ways, under traffic, and from where a killed one has stopped."""

import contextlib
import os
import random
import socket
import time

from ebpf_restart import first_sync, hold, serve
from ebpf_sockets import exchange, new_socket
from fairlead import other_layout
from lab import LiveConnection, Traffic, ask, spread
from runner import each_family


def versions():
    """The two programs in turn, the other one first."""
    ours = os.environ["FAIRLEAD"]
    while True:
        yield other_layout()
        yield ours


def wait_for_copy(lab):
    """Until a migration has copied, and is about to replace the programs; or there is none."""
    copied = os.path.join(lab.plane.pin_directory, "v1", "next")
    deadline = time.monotonic() + 0.7
    while not os.path.exists(copied) and time.monotonic() < deadline:
        time.sleep(0.001)


def assert_in_order(lab):
    """Nothing of a migration is left."""
    scheme = os.path.dirname(os.path.dirname(lab.table.pin("maps/flows")))
    assert sorted(os.listdir(scheme)) == ["links", "maps"], os.listdir(scheme)


@each_family
def test_another_layout_is_taken_over_under_load(lab):
    web, daemon = serve(lab)
    live = hold(lab, web)
    with (
        Traffic(lab.client, web.address, 80, live=live) as tcp,
        Traffic(lab.client, web.address, 53, "UDP") as udp,
        Traffic(lab.client, lab.family.node, 30080) as hidden,
        Traffic(lab.node, web.address, 80) as own,
    ):
        for number, version in zip(range(6), versions()):
            if number % 2:
                daemon.kill()
                daemon.become(version)
                daemon.start()
            else:
                daemon.restart_as(version)
            first_sync(lab, daemon, number)
            assert_in_order(lab)
    for traffic in tcp, udp, hidden, own:
        assert traffic.servers.total() > 20, traffic.servers


@each_family
def test_state_is_that_of_before(lab):
    web, daemon = serve(lab)
    sticky = lab.service("sticky", affinity_seconds=600).publish(lab.pods)
    daemon.serving(sticky)
    live = [LiveConnection(lab.client, web.address, 80) for _ in range(6)]
    bound = ask(lab.client, sticky.address, 80).server

    def counters():
        return [
            [(str(s), s.active, s.inactive) for s in lab.table.virtual_server(*key).servers]
            for key in ((web.address, 80), (web.address, 53, "UDP"), (sticky.address, 80))
        ]

    with new_socket(lab.node, lab.family.af, socket.SOCK_DGRAM) as client:
        first = exchange(client, web.address, 53)
        turns = spread(lab.client, web.address, 80, 3)
        held = counters()
        known = {(c.client_port, c.server, c.state) for c in lab.table.connections()}
        for number, version in zip(range(4), versions()):
            daemon.restart_as(version)
            first_sync(lab, daemon, number)
            assert counters() == held
            assert known <= {(c.client_port, c.server, c.state) for c in lab.table.connections()}
            assert exchange(client, web.address, 53) == first
        assert ask(lab.client, sticky.address, 80).server == bound
        assert spread(lab.client, web.address, 80, 3) == turns
    for connection in live:
        connection.ping()
        connection.reset()
    daemon.eventually(
        lambda: [s.active for s in lab.table.virtual_server(web.address, 80).servers] == [0, 0, 0]
    )


@each_family
def test_killed_in_the_middle(lab):
    """At any moment of it; the next start goes on, or begins again."""
    web, daemon = serve(lab)
    live = hold(lab, web)
    moments = random.Random(lab.family.name)
    programs = (os.environ["FAIRLEAD"], other_layout())
    with Traffic(lab.client, web.address, 80, live=live):
        for number in range(3):
            for _ in range(8):
                daemon.kill()
                daemon.become(moments.choice(programs))
                daemon.start()
                wait_for_copy(lab)
                time.sleep(moments.uniform(0, 0.06))
            daemon.kill()
            daemon.become(programs[number % 2])
            daemon.start()
            first_sync(lab, daemon, number)
            assert_in_order(lab)


@each_family
def test_room_for_connections_changes(lab):
    web, daemon = serve(lab, "--ebpf-max-connections", "3000")
    live = hold(lab, web)
    for number, room in enumerate(("9000", "2000")):
        with Traffic(lab.client, web.address, 80, live=live):
            daemon.kill()
            daemon = lab.fairlead("--ebpf-max-connections", room)
            first_sync(lab, daemon, number)
            assert_in_order(lab)
    more = [LiveConnection(lab.client, web.address, 80) for _ in range(100)]
    daemon.stop()
    # Two flows each do not go into a table of 128. What serves goes on.
    small = lab.fairlead("--ebpf-max-connections", "64")
    with contextlib.suppress(AssertionError):
        small.eventually(lambda: False, timeout=10)
    assert small.status() not in (0, None)
    said = "".join(small.log_tail(5))
    assert "take over map flows" in said and "raise --ebpf-max-connections" in said, said
    for connection in live + more:
        connection.ping()
    lab.fairlead("--ebpf-max-connections", "2000").serving(web)
    assert_in_order(lab)
