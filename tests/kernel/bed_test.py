# SPDX-License-Identifier: Apache-2.0
"""The lab itself, with no director at all: what fails here is no fault of the daemon."""

import probes
from lab import DNS_PORT, WEB_PORT, LiveConnection, ask, eventually, refused
from runner import each_family, needs


@each_family
def test_pods_answer_directly(lab):
    pod1, pod2, _ = lab.pods
    answer = ask(lab.client, pod1.address(lab.family), WEB_PORT)
    assert (answer.server, answer.peer) == ("pod1", lab.family.client), answer
    answer = ask(pod1.host, pod2.address(lab.family), DNS_PORT, "UDP")
    assert (answer.server, answer.peer) == ("pod2", pod1.address(lab.family)), answer
    answer = ask(lab.node, pod2.address(lab.family), WEB_PORT)
    assert (answer.server, answer.peer) == ("pod2", lab.family.gateway), answer


@each_family
@needs("SCTP")
def test_pods_answer_directly_by_sctp(lab):
    pod = lab.pods[0]
    lab.servers.listen(pod.host, 9000, "SCTP")
    assert ask(lab.client, pod.address(lab.family), 9000, "SCTP").server == pod.name


@each_family
def test_sctp_by_hand(lab):
    pod = lab.pods[0]
    got = probes.sctp_handshake(lab.client, lab.pods, pod.address(lab.family), 9000)
    assert (got.server, got.port, got.peer) == (pod.name, 9000, lab.family.client), got


@each_family
def test_closed_ports_refuse(lab):
    address = lab.pods[0].address(lab.family)
    assert refused(lab.client, address, 9999)
    assert refused(lab.client, address, 9999, "UDP")


@each_family
def test_datagrams_in_fragments(lab):
    address = lab.pods[0].address(lab.family)
    with LiveConnection(lab.client, address, DNS_PORT, "UDP") as flow:
        flow.echo("x" * 3000)


def test_datagram_without_checksum(lab):
    pod = lab.pods[0]
    probes.datagram_without_checksum(lab, pod.address(lab.family), DNS_PORT)


@each_family
def test_large_transfer_both_ways(lab):
    pod = lab.pods[0]
    with probes.BulkServers(lab.pods, 9100):
        average = probes.transfer(lab, pod.address(lab.family), 9100, up=4_000_000, down=4_000_000)
    assert average > 3000, f"{average} bytes in a packet on average: no segmentation offload"


@each_family
def test_path_mtu_is_discovered(lab):
    pod = lab.pods[0]
    lab.node.ip(f"link set {pod.name} mtu 1400")
    address = pod.address(lab.family)
    assert probes.path_mtu(lab.client, address, DNS_PORT) == 1400
    with probes.BulkServers(lab.pods, 9100):
        probes.transfer(lab, address, 9100, up=1_000_000, down=10)


@each_family
def test_a_pod_can_join_later(lab):
    pod = lab.add_pod()
    assert ask(lab.client, pod.address(lab.family), WEB_PORT).server == pod.name
    assert ask(pod.host, lab.pods[0].address(lab.family), WEB_PORT).peer == pod.address(lab.family)


def test_eventually_tells_the_last_reason(lab):
    def never():
        assert False, "no luck"

    try:
        eventually(never, timeout=0.1)
    except AssertionError as error:
        assert "no luck" in str(error), error
    else:
        raise AssertionError("it did not fail")

