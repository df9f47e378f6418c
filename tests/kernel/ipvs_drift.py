# SPDX-License-Identifier: Apache-2.0
"""Someone changes the kernel's table by hand; the daemon's audit finds and mends it."""

from kernel_state import device_addresses, endpoint_text, ipvsadm_save, virtual_server
from lab import WEB_PORT, spread
from runner import each_family


def serve(lab):
    web = lab.service("web").publish(lab.pods)
    daemon = lab.fairlead("--ipvs-sync-period", "1s")
    daemon.serving(web)
    return web, daemon, ipvsadm_save(lab.node)


def real(lab, pod):
    return endpoint_text(pod.address(lab.family), WEB_PORT)


def mended(lab, web, daemon, table):
    daemon.eventually(lambda: ipvsadm_save(lab.node) == table)
    assert set(spread(lab.client, web.address, 80, 6)) == {"pod1", "pod2", "pod3"}


@each_family
def test_virtual_server_deleted(lab):
    web, daemon, table = serve(lab)
    lab.node.run("ipvsadm", "-D", "-t", endpoint_text(web.address, 80))
    mended(lab, web, daemon, table)


@each_family
def test_table_cleared(lab):
    web, daemon, table = serve(lab)
    lab.node.run("ipvsadm", "-C")
    mended(lab, web, daemon, table)


@each_family
def test_real_server_deleted(lab):
    web, daemon, table = serve(lab)
    virtual = endpoint_text(web.address, 80)
    lab.node.run("ipvsadm", "-d", "-t", virtual, "-r", real(lab, lab.pods[1]))
    mended(lab, web, daemon, table)


@each_family
def test_weight_changed(lab):
    web, daemon, table = serve(lab)
    virtual = endpoint_text(web.address, 80)
    lab.node.run("ipvsadm", "-e", "-t", virtual, "-r", real(lab, lab.pods[1]), "-m", "-w", "0")
    mended(lab, web, daemon, table)


@each_family
def test_scheduler_changed(lab):
    web, daemon, table = serve(lab)
    lab.node.run("ipvsadm", "-E", "-t", endpoint_text(web.address, 80), "-s", "sh")
    mended(lab, web, daemon, table)


@each_family
def test_real_server_added_to_a_virtual_server_of_ours(lab):
    web, daemon, table = serve(lab)
    virtual = endpoint_text(web.address, 80)
    stranger = endpoint_text(lab.family.pod(99), WEB_PORT)
    lab.node.run("ipvsadm", "-a", "-t", virtual, "-r", stranger, "-m", "-w", "1")
    mended(lab, web, daemon, table)


@each_family
def test_address_taken_from_the_device(lab):
    web, daemon, table = serve(lab)
    bound = f"{web.address}/{lab.family.bits}"
    lab.node.run("ip", "address", "del", bound, "dev", "kube-ipvs0")
    daemon.eventually(lambda: web.address in device_addresses(lab.node, "kube-ipvs0"))
    mended(lab, web, daemon, table)


@each_family
def test_repair_does_not_wait_for_other_changes(lab):
    web, daemon, _ = serve(lab)
    other = lab.service("other").publish(lab.pods)
    lab.node.run("ipvsadm", "-D", "-t", endpoint_text(web.address, 80))
    daemon.serving(web, other)
    assert virtual_server(lab.node, other.address, 80)
