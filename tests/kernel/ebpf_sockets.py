# SPDX-License-Identifier: Apache-2.0
"""Sockets that are led to a pod before there is a packet; their process must not notice."""

import contextlib
import socket

from lab import DNS_PORT, WEB_PORT, LiveConnection, ask, eventually, refused, same_address, spread
from manifests import Port
from runner import each_family

PORTS = (Port(80, WEB_PORT, name="web"), Port(53, DNS_PORT, "UDP", name="dns"))
ALL_PODS = {"pod1", "pod2", "pod3"}


def serve(lab, *flags):
    web = lab.service("web", ports=PORTS).publish(lab.pods)
    daemon = lab.fairlead(*flags)
    daemon.serving(web)
    return web, daemon


def new_socket(host, family, kind):
    with host:
        opened = socket.socket(family, kind)
    opened.settimeout(2)
    return contextlib.closing(opened)


def exchange(client, address, port):
    """By an unconnected UDP socket: the pod that answered, and from where it seemed to."""
    client.sendto(b"hello\n", (address, port))
    data, sender = client.recvfrom(4096)
    return data.decode().split()[0], (same_address(sender[0]), sender[1])


@each_family
def test_process_sees_the_address_it_asked_for(lab):
    web, _ = serve(lab)
    for kind, port in (socket.SOCK_STREAM, 80), (socket.SOCK_DGRAM, 53):
        with new_socket(lab.node, lab.family.af, kind) as client:
            client.connect((web.address, port))
            client.sendall(b"hello\n")
            assert client.recv(4096).split()[0].decode() in ALL_PODS
            assert client.getpeername()[:2] == (web.address, port), client.getpeername()


@each_family
def test_unconnected_socket_gets_answers_from_the_service(lab):
    web, _ = serve(lab)
    with new_socket(lab.node, lab.family.af, socket.SOCK_DGRAM) as client:
        first = exchange(client, web.address, 53)
        assert first[1] == (web.address, 53), first
        # It stays with its pod, as a flow of packets would.
        assert {exchange(client, web.address, 53) for _ in range(5)} == {first}
        # And goes on talking to others.
        pod = lab.pods[0].address(lab.family)
        assert exchange(client, pod, DNS_PORT) == ("pod1", (pod, DNS_PORT))


@each_family
def test_unconnected_socket_of_two_services_on_one_pod(lab):
    """What comes from the pod seems to be from the one that was asked last."""
    pod1 = lab.pods[0]
    first = lab.service("first", ports=PORTS).publish([pod1])
    second = lab.service("second", ports=PORTS).publish([pod1])
    lab.fairlead().serving(first, second)
    with new_socket(lab.node, lab.family.af, socket.SOCK_DGRAM) as client:
        for service in (first, second, first, second):
            answer = exchange(client, service.address, 53)
            assert answer == ("pod1", (service.address, 53)), answer


@each_family
def test_unconnected_socket_leaves_a_removed_endpoint(lab):
    web, daemon = serve(lab)
    with new_socket(lab.node, lab.family.af, socket.SOCK_DGRAM) as client:
        gone, _ = exchange(client, web.address, 53)
        web.publish([pod for pod in lab.pods if pod.name != gone])
        daemon.serving(web)
        eventually(lambda: exchange(client, web.address, 53)[0] != gone, timeout=5)


def connected(lab, address, port, af=None, host=None):
    client = new_socket(host or lab.node, af or lab.family.af, socket.SOCK_DGRAM)
    client.thing.connect((address, port))
    return client


def is_closed(client):
    """Whether its owner is told that it was disconnected."""
    with contextlib.suppress(OSError):
        client.send(b"hello\n")  # has no address to go to, once disconnected
    try:
        client.recv(4096)
    except ConnectionAbortedError:
        return True
    return False


def name_of(client):
    client.send(b"hello\n")
    return client.recv(4096).split()[0].decode()


def check_sockets_of_a_removed_endpoint(lab, af, form):
    pod1, pod2, pod3 = lab.pods
    web = lab.service("web", ports=PORTS).publish([pod1])
    other = lab.service("other", ports=PORTS).publish([pod1])
    daemon = lab.fairlead()
    daemon.serving(web)
    daemon.serving(other)
    by_service = connected(lab, form(web.address), 53, af)
    by_other = connected(lab, form(other.address), 53, af)
    direct = connected(lab, form(pod1.address(lab.family)), DNS_PORT, af)
    with by_service as stale, by_other as kept, direct as own:
        assert [name_of(s) for s in (stale, kept, own)] == ["pod1"] * 3
        web.publish([pod2])
        daemon.serving(web)
        eventually(lambda: is_closed(stale))
        # The same socket serves on, once its owner asks again.
        stale.connect((form(web.address), 53))
        assert name_of(stale) == "pod2"
        # Another leaves. By the end of this second look the first one has passed the others by.
        web.publish([pod3])
        daemon.serving(web)
        eventually(lambda: is_closed(stale))
        stale.connect((form(web.address), 53))
        assert [name_of(s) for s in (stale, kept, own)] == ["pod3", "pod1", "pod1"]


@each_family
def test_connected_udp_socket_is_told_of_a_removed_endpoint(lab):
    check_sockets_of_a_removed_endpoint(lab, lab.family.af, str)


def test_ipv6_socket_is_told_of_a_removed_ipv4_endpoint(lab):
    check_sockets_of_a_removed_endpoint(lab, socket.AF_INET6, lambda address: f"::ffff:{address}")


@each_family
def test_connected_udp_socket_is_told_of_a_removed_service(lab):
    web, daemon = serve(lab)
    with connected(lab, web.address, 53) as client:
        assert name_of(client) in ALL_PODS
        web.publish([])
        daemon.serving(web)
        eventually(lambda: is_closed(client))
        assert refused(lab.node, web.address, 53, "UDP")


@each_family
def test_connected_udp_socket_is_told_of_what_left_while_no_daemon_ran(lab):
    web, daemon = serve(lab)
    with connected(lab, web.address, 53) as client:
        gone = name_of(client)
        daemon.kill()
        web.publish([pod for pod in lab.pods if pod.name != gone])
        assert name_of(client) == gone
        daemon.start()
        eventually(lambda: is_closed(client))


def test_ipv4_service_by_an_ipv6_socket(lab):
    web, _ = serve(lab)
    mapped = f"::ffff:{web.address}"
    for kind, port in (socket.SOCK_STREAM, 80), (socket.SOCK_DGRAM, 53):
        with new_socket(lab.node, socket.AF_INET6, kind) as client:
            client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            client.connect((mapped, port))
            client.sendall(b"hello\n")
            assert client.recv(4096).split()[0].decode() in ALL_PODS
            assert client.getpeername()[:2] == (mapped, port), client.getpeername()


@each_family
def test_what_nobody_serves_is_refused(lab):
    web, daemon = serve(lab)
    assert refused(lab.node, web.address, 81)
    assert refused(lab.node, web.address, 54, "UDP")
    web.publish([])
    daemon.serving(web)
    assert refused(lab.node, web.address, 80)
    assert refused(lab.node, web.address, 53, "UDP")


@each_family
def test_other_namespaces_are_served_by_packets(lab):
    web, _ = serve(lab)
    live = LiveConnection(lab.pods[0].host, web.address, 80)
    seen = [c for c in lab.table.connections() if c.client_port == live.port]
    assert [c.client for c in seen] == [lab.pods[0].address(lab.family)], seen


@each_family
def test_all_sockets_below_the_cgroup(lab):
    web, _ = serve(lab, "--ebpf-sockets", "all")
    for host in lab.pods[0].host, lab.node:
        assert set(spread(host, web.address, 80, 6)) == ALL_PODS
        assert set(spread(host, web.address, 53, 6, "UDP")) == ALL_PODS
    assert lab.table.connections() == []
    # A pod that is led to itself needs no hairpin.
    own = [ask(lab.pods[0].host, web.address, 80) for _ in lab.pods]
    assert {a.peer for a in own if a.server == "pod1"} == {lab.pods[0].address(lab.family)}, own


@each_family
def test_connected_udp_sockets_of_pods_are_told_of_a_removed_endpoint(lab):
    """Of pods whose network namespace has a name below /run/netns."""
    pod1, pod2, pod3 = lab.pods
    web = lab.service("web", ports=PORTS).publish([pod1])
    daemon = lab.fairlead("--ebpf-sockets", "all")
    daemon.serving(web)
    by_service = connected(lab, web.address, 53, host=pod3.host)
    direct = connected(lab, pod1.address(lab.family), DNS_PORT, host=pod3.host)
    with by_service as stale, direct as own:
        assert [name_of(s) for s in (stale, own)] == ["pod1", "pod1"]
        web.publish([pod2])
        daemon.serving(web)
        eventually(lambda: is_closed(stale))
        stale.connect((web.address, 53))
        assert [name_of(s) for s in (stale, own)] == ["pod2", "pod1"]


@each_family
def test_no_sockets(lab):
    web, _ = serve(lab, "--ebpf-sockets", "off")
    for host in lab.pods[0].host, lab.client:
        live = LiveConnection(host, web.address, 80)
        assert any(c.client_port == live.port for c in lab.table.connections())
    with new_socket(lab.node, lab.family.af, socket.SOCK_DGRAM) as client:
        try:
            client.connect((web.address, 53))
        except OSError:
            return  # the node has no route there, which is the node's affair
        local = client.getsockname()[0]
        assert local != lab.family.gateway, f"from {local}: it was led to a pod"


@each_family
def test_node_port_on_the_node_itself(lab):
    port = Port(80, WEB_PORT, name="web", node_port=30080)
    web = lab.service("web", ports=(port,)).publish(lab.pods)
    lab.fairlead().serving(web)
    for address in lab.family.node, lab.family.gateway:
        assert set(spread(lab.node, address, 30080, 6)) == ALL_PODS
