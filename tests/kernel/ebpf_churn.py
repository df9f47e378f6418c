# SPDX-License-Identifier: Apache-2.0
"""Thousands of services that come, change and go: others are served meanwhile, and what they took
is free again."""

import collections
import json
import mmap
import os
import struct

import bpf
from lab import LiveConnection, Traffic
from manifests import NODE_NAME

SERVICES = 10000
PER_FILE = 1000
ROUNDS = 6

# Of bpf/abi.h: struct fl_vs, fl_rs, as far as they say what is in use.
_VS_SIZE, _RS_SIZE = 64, 64
_VS_USED, _RS_FREE = 1, 0

Use = collections.namedtuple("Use", "virtual_servers real_servers slots top_slot")


def in_use(table):
    """How much of the maps is taken, and up to where the slots are."""
    virtual = [row for row in rows(table, "vs", _VS_SIZE) if row[31] & _VS_USED]
    real = [row for row in rows(table, "rs", _RS_SIZE) if row[19] != _RS_FREE]
    blocks = {block for row in virtual for block in struct.unpack_from("3Q", row) if block}
    slots = [(block >> 32, (block >> 8 & 0xFFFFFF) + 1) for block in blocks]
    return Use(
        len(virtual),
        len(real),
        sum(count for _, count in slots),
        max((base + count for base, count in slots), default=0),
    )


def rows(table, name, size):
    """An array's elements."""
    fd = bpf.open_pinned(table.pin(f"maps/{name}"))
    try:
        entries = bpf.max_entries(fd)
        with mmap.mmap(fd, entries * size, prot=mmap.PROT_READ) as memory:
            data = bytes(memory)
    finally:
        os.close(fd)
    return [data[at : at + size] for at in range(0, len(data), size)]


class Crowd:
    """Services by the thousand, one file each. Nobody is behind their endpoints."""

    def __init__(self, folder):
        self._folder = folder

    def write(self, file, generation):
        """With endpoints of this generation."""
        items = []
        for number in range(file * PER_FILE, (file + 1) * PER_FILE):
            name = f"crowd-{number}"
            high, low = divmod(number, 250)
            items.append({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": name, "namespace": "crowd", "uid": name},
                "spec": {"clusterIP": f"10.96.{100 + high}.{low}", "ports": [{"port": 80}]},
            })  # fmt: skip
            items.append({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": f"{name}-a", "namespace": "crowd", "uid": f"{name}-a",
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": "IPv4", "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
                "endpoints": [
                    {
                        "addresses": [f"198.18.{(generation * 4 + i) % 256}.{number % 250}"],
                        "nodeName": NODE_NAME, "conditions": {"ready": True},
                    }
                    for i in range(1 + (number + generation) % 4)
                ],
            })  # fmt: skip
        path = self._path(file)
        with open(path + ".tmp", "w") as out:
            json.dump({"apiVersion": "v1", "kind": "List", "items": items}, out)
        os.rename(path + ".tmp", path)

    def delete(self, file):
        os.unlink(self._path(file))

    def _path(self, file):
        return os.path.join(self._folder, f"crowd-{file}.json")


def expected_real_servers(generations):
    """Of files with these generations."""
    return sum(
        1 + (number + generation) % 4
        for file, generation in generations.items()
        for number in range(file * PER_FILE, (file + 1) * PER_FILE)
    )


def test_ten_thousand_services(lab):
    live_services = [lab.service(f"live-{i}").publish(lab.pods) for i in range(3)]
    daemon = lab.fairlead()
    daemon.serving(*live_services)
    live = [LiveConnection(lab.client, service.address, 80) for service in live_services]
    at_first = in_use(lab.table)
    room = len(rows(lab.table, "rs", _RS_SIZE))
    crowd = Crowd(lab.manifests)
    files = range(SERVICES // PER_FILE)
    generations = {}

    def settled():
        used = in_use(lab.table)
        want = (
            at_first.virtual_servers + len(generations) * PER_FILE,
            at_first.real_servers + expected_real_servers(generations),
        )
        assert used[:2] == want, f"{used[:2]} are in use, want {want}"
        return used

    rounds = []
    with Traffic(lab.client, live_services[0].address, 80, live=live):
        for turn in range(ROUNDS):
            for file in files:  # come, or change
                generations[file] = turn + file
                crowd.write(file, generations[file])
            rounds.append(daemon.eventually(settled, timeout=60))
            for file in files if turn == ROUNDS - 1 else files[::2]:
                del generations[file]
                crowd.delete(file)
            left = daemon.eventually(settled, timeout=60)
    assert left == at_first, f"{left} are in use after all went, {at_first} were before"
    # All endpoints were others in each round. What was freed is used again: there are not that many
    # numbers, and the slots of later rounds, no more than those of the first one, reach hardly
    # higher.
    assert sum(used.real_servers for used in rounds) > room, f"{rounds} fit into {room}"
    assert max(used.top_slot for used in rounds) < 2 * rounds[0].top_slot, rounds
    for connection in live:
        connection.ping()
