# SPDX-License-Identifier: Apache-2.0
"""Someone takes away what is ours in the kernel; the daemon's audit finds and mends it."""

import glob
import ipaddress
import os
import socket
import struct

import bpf
from lab import LiveConnection, spread
from runner import each_family


def serve(lab):
    web = lab.service("web").publish(lab.pods)
    daemon = lab.fairlead("--ipvs-sync-period", "1s")
    daemon.serving(web)
    return web, daemon


def key_of(address, port=0, protocol=0):
    """struct fl_vs_key"""
    parsed = ipaddress.ip_address(address)
    packed = parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed
    return packed + struct.pack("!HBx", port, protocol)


def mended(lab, web, daemon):
    def serves():
        picks = spread(lab.client, web.address, 80, 6, timeout=0.5)
        return set(picks) == {"pod1", "pod2", "pod3"}

    daemon.eventually(serves)


@each_family
def test_virtual_server_deleted(lab):
    web, daemon = serve(lab)
    live = LiveConnection(lab.client, web.address, 80)
    bpf.delete(lab.table.pin("maps/numbers"), key_of(web.address, 80, socket.IPPROTO_TCP))
    live.ping()
    mended(lab, web, daemon)
    live.ping()


@each_family
def test_address_deleted(lab):
    web, daemon = serve(lab)
    bpf.delete(lab.table.pin("maps/numbers"), key_of(web.address))
    daemon.eventually(lambda: web.address in lab.table.addresses())
    mended(lab, web, daemon)


def has_our_filter(node, device):
    shown = (node.run("tc", "filter", "show", "dev", device, way) for way in ("ingress", "egress"))
    return all("fl_" in text for text in shown)


@each_family
def test_programs_taken_from_devices(lab):
    web, daemon = serve(lab)
    live = LiveConnection(lab.client, web.address, 80)
    links = glob.glob(os.path.join(glob.escape(lab.table.pin("links")), "[0-9]*"))
    # The kernel detaches a moment later, so traffic alone would prove nothing.
    if links:
        for link in links:
            os.unlink(link)
        daemon.eventually(lambda: all(map(os.path.exists, links)))
    else:  # a kernel without TCX: they are filters, which go with their qdisc
        devices = ["outside", *(pod.name for pod in lab.pods)]
        for device in devices:
            lab.node.run("tc", "qdisc", "del", "dev", device, "clsact")
        daemon.eventually(lambda: all(has_our_filter(lab.node, device) for device in devices))
    mended(lab, web, daemon)
    live.ping()
