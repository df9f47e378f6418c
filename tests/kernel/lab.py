# SPDX-License-Identifier: Apache-2.0
"""A node, its pods and an outside client, as network namespaces joined by veth pairs.

    client ---- 192.0.2.0/24 ---- node ---- 198.51.100.11  pod1
     .2, .10-.17            .1   (.1) |---- 198.51.100.12  pod2
                                      `---- ...
    and the same in IPv6: 2001:db8:1::/64 outside, 2001:db8:2::/64 for the pods.

Each pod has a veth pair of its own and the node routes between them, instead of bridging: then
every packet between two pods, replies included, passes the node's IP layer. On a bridge the reply
of a pod to its neighbour would bypass the director, and the connection would fail unless
br_netfilter were there to drag it back. It also makes hairpin plain routing: out of the interface
it came from.

The client's and the pods' default routes lead to the node, so service addresses do, too.
Nothing here needs Fairlead: bed_test.py proves the lab, and ipvs_bed.py that with ipvsadm as the
director.
"""

import collections
import dataclasses
import ipaddress
import itertools
import os
import selectors
import shutil
import socket
import tempfile
import threading
import time

from fairlead import Fairlead
from manifests import NODE_NAME, Service
from netns import Host
from planes import IpvsPlane

WEB_PORT = 8080  # every pod answers here by TCP ...
DNS_PORT = 5353  # ... and here by UDP


# ---- addresses ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Family:
    """One IP family and the lab's addresses in it."""

    name: str
    af: socket.AddressFamily
    outside_net: ipaddress.IPv4Network | ipaddress.IPv6Network
    pod_net: ipaddress.IPv4Network | ipaddress.IPv6Network
    service_net: ipaddress.IPv4Network | ipaddress.IPv6Network

    def __str__(self):
        return self.name

    @property
    def bits(self):
        return self.pod_net.max_prefixlen

    @property
    def node(self):
        """The node's address on the outside network."""
        return str(self.outside_net[1])

    def external(self, number):
        """An address of neither network, for external IPs and other people's virtual servers."""
        return f"2001:db8:203::{number:x}" if self.bits == 128 else f"203.0.113.{number}"

    @property
    def gateway(self):
        """The node's address towards every pod: what a pod sees of masqueraded traffic."""
        return str(self.pod_net[1])

    @property
    def client(self):
        return str(self.outside_net[2])

    @property
    def clients(self):
        """More addresses of the client, for what depends on the source."""
        return [str(self.outside_net[10 + i]) for i in range(8)]

    def pod(self, number):
        return str(self.pod_net[10 + number])

    def vip(self, number):
        return str(self.service_net[number])


IPV4 = Family(
    "ipv4",
    socket.AF_INET,
    ipaddress.ip_network("192.0.2.0/24"),
    ipaddress.ip_network("198.51.100.0/24"),
    ipaddress.ip_network("10.96.0.0/16"),
)
IPV6 = Family(
    "ipv6",
    socket.AF_INET6,
    ipaddress.ip_network("2001:db8:1::/64"),
    ipaddress.ip_network("2001:db8:2::/64"),
    ipaddress.ip_network("2001:db8:96::/108"),
)
FAMILIES = (IPV4, IPV6)
CLUSTER_CIDR = ",".join(str(family.pod_net) for family in FAMILIES)


def same_address(text):
    """The one way we write an address."""
    return str(ipaddress.ip_address(text))


# ---- waiting ------------------------------------------------------------------------------------


def eventually(check, timeout=15.0):
    """Calls `check` until its result is true, and returns that. A check that asserts, or whose host
    refuses it, is tried again; at the deadline its last reason is the failure."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            result = check()
            if result:
                return result
            reason = f"still {result!r}"
        except (AssertionError, OSError) as error:
            reason = str(error) or type(error).__name__
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout:g} s: {reason}")
        time.sleep(0.03)


# ---- servers ------------------------------------------------------------------------------------


class Servers(threading.Thread):
    """All servers of a lab: one thread, sockets in many namespaces. To each line (TCP, SCTP) or
    datagram (UDP) a server answers with its own name, the peer it saw, and the line."""

    def __init__(self):
        super().__init__(daemon=True, name="servers")
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self.start()

    def listen(self, host, port, protocol="TCP"):
        for family in FAMILIES:
            with host:
                listener = _socket(family.af, protocol)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family is IPV6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(("", port))
            if protocol != "UDP":
                listener.listen(128)
            listener.setblocking(False)
            serve = self._answer_datagrams if protocol == "UDP" else self._accept
            self._selector.register(listener, selectors.EVENT_READ, (serve, host))

    def stop(self):
        self._wake.close()
        self.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()

    def run(self):
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                serve, host = key.data
                try:
                    serve(key.fileobj, host)
                except BlockingIOError:
                    pass
                except OSError:  # a client that reset its connection
                    self._forget(key.fileobj)

    def _accept(self, listener, host):
        connection, _ = listener.accept()
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, (self._answer_lines, host))

    def _answer_lines(self, connection, host):
        data = connection.recv(65536)
        if not data:
            return self._forget(connection)
        peer = connection.getpeername()
        for line in data.splitlines():
            connection.sendall(_answer(host, peer, line))

    def _answer_datagrams(self, listener, host):
        data, peer = listener.recvfrom(65536)
        try:
            listener.sendto(_answer(host, peer, data.strip()), peer)
        except OSError:
            pass  # an error of an earlier answer; the socket goes on

    def _forget(self, connection):
        if connection.type == socket.SOCK_DGRAM:
            return
        self._selector.unregister(connection)
        connection.close()


def _answer(host, peer, line):
    return f"{host.name} {same_address(peer[0])} {peer[1]} ".encode() + line + b"\n"


def _socket(af, protocol):
    kind = socket.SOCK_DGRAM if protocol == "UDP" else socket.SOCK_STREAM
    return socket.socket(af, kind, socket.IPPROTO_SCTP if protocol == "SCTP" else 0)


# ---- clients ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Answer:
    server: str  # name of the pod
    peer: str  # address the pod saw the question come from
    peer_port: int
    text: str


class Broken(AssertionError):
    """A connection that should have lived did not."""


class LiveConnection:
    """A client that stays connected. `server` is the pod it got, `peer` what that pod saw of us."""

    def __init__(
        self, host, address, port, protocol="TCP", *, source="", source_port=0, timeout=5.0
    ):
        self._what = f"{host.name} -> {address} port {port}/{protocol}"
        af = socket.AF_INET6 if ":" in address else socket.AF_INET
        with host:
            self._socket = _socket(af, protocol)
        self._received = b""
        self._pings = 0
        try:
            self._socket.settimeout(timeout)
            if source or source_port:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self._socket.bind((source, source_port))
            self._socket.connect((address, port))
            self.address, self.port = self._socket.getsockname()[:2]  # our end
            answer = self._exchange("hello")
        except OSError as error:
            self._socket.close()
            raise type(error)(*error.args[:1], f"{self._what}: {error}") from error
        self.server, self.peer, self.peer_port = answer.server, answer.peer, answer.peer_port
        self.answer = answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def ping(self):
        """Raises `Broken` unless the same pod answers."""
        self._pings += 1
        text = f"ping-{self._pings}"
        try:
            answer = self._exchange(text)
        except OSError as error:
            raise Broken(f"{self._what}, on {self.server}: {error}") from error
        if (answer.server, answer.text) != (self.server, text):
            raise Broken(f"{self._what}, on {self.server}: {text} was answered by {answer}")

    def exchange(self):
        """As `ping`, but any pod may answer (UDP)."""
        return self._exchange("hello")

    def echo(self, text):
        """Raises unless just this comes back, of whatever length."""
        answer = self._exchange(text)
        assert answer.text == text, f"{self._what}: sent {len(text)}, got {len(answer.text)} bytes"
        return answer

    def close(self):
        self._socket.close()

    def reset(self):
        """Ends at once: IPVS counts the connection no more as active, and forgets it in 10 s
        (after an ordinary close it lingers for 120 s)."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._socket.close()

    def _exchange(self, text):
        self._socket.sendall(text.encode() + b"\n")
        while b"\n" not in self._received:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError("closed by the other side")
            self._received += data
        line, self._received = self._received.split(b"\n", 1)
        server, peer, peer_port, text = line.decode().split(" ", 3)
        return Answer(server, peer, int(peer_port), text)


def ask(host, address, port, protocol="TCP", **options):
    """One connection, one question. Options as of `LiveConnection`."""
    with LiveConnection(host, address, port, protocol, **options) as connection:
        return connection.answer


def spread(host, address, port, count, protocol="TCP", **options):
    """The pods that answered `count` questions, in order."""
    return [ask(host, address, port, protocol, **options).server for _ in range(count)]


def refused(host, address, port, protocol="TCP", **options):
    """Whether the question is refused at once, which is an answer; silence is not."""
    try:
        ask(host, address, port, protocol, **options)
    except ConnectionRefusedError:
        return True
    return False


class Traffic(threading.Thread):
    """Pings live connections and opens new ones until the block ends; then none may have failed.

        with Traffic(client, vip, 80, live=connections) as traffic:
            daemon.kill()
    """

    def __init__(self, host, address, port, protocol="TCP", live=(), may_fail=False):
        super().__init__(daemon=True, name="traffic")
        self._target = (host, address, port, protocol)
        self._live = live
        self._may_fail = may_fail
        self._done = threading.Event()
        self.servers = collections.Counter()
        self.failures = []

    def __enter__(self):
        self.start()
        eventually(lambda: self.servers or self.failures)
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.pass_on(2)  # what was done last must be survived, too
        self._done.set()
        self.join()
        if kind is None and not self._may_fail:
            assert not self.failures, f"{len(self.failures)} failed: {self.failures[0]}"

    def pass_on(self, rounds):
        """Waits for so many more questions, answered or not."""
        goal = self._asked() + rounds
        eventually(lambda: self._asked() >= goal)

    def _asked(self):
        return self.servers.total() + len(self.failures)

    def run(self):
        host, address, port, protocol = self._target
        while not self._done.wait(0.005):
            try:
                for connection in self._live:
                    connection.ping()
                self.servers[ask(host, address, port, protocol).server] += 1
            except (OSError, Broken) as error:
                self.failures.append(str(error))


# ---- the lab ------------------------------------------------------------------------------------


class Pod:
    def __init__(self, number, host):
        self.number = number
        self.host = host
        self.name = host.name

    def __repr__(self):
        return self.name

    def address(self, family):
        return family.pod(self.number)


class Lab:
    """Fresh namespaces, and room for one test: `family` is the one the test is about, all else is
    dual stack. `table` is what the data plane holds. Close it, and everything it made or started is
    gone."""

    def __init__(self, family=IPV4, pods=3, plane=IpvsPlane):
        self.family = family
        self.directory = tempfile.mkdtemp(prefix="lab.")
        self.manifests = os.path.join(self.directory, "manifests")
        os.mkdir(self.manifests)
        self.daemons = []
        self._next_vip = itertools.count(10)

        self.client = Host("client")
        self.node = Host("node")
        self.pods = [Pod(i, Host(f"pod{i}")) for i in range(1, pods + 1)]
        self._hosts = [self.client, self.node] + [pod.host for pod in self.pods]
        self.plane = plane(self.node, self.directory)
        self.table = self.plane.table
        for host in self._hosts:
            _prepare(host)
        self.node.sysctl(
            ipv4__ip_forward=1,
            ipv6__conf__all__forwarding=1,
            ipv4__conf__all__send_redirects=0,
            ipv4__conf__default__send_redirects=0,
        )
        self.node.ip(_node_links(self.pods))
        self.client.ip(_client_links())
        self.servers = Servers()
        for pod in self.pods:
            pod.host.ip(_pod_links(pod))
            self._serve(pod)
        self._until_links_carry(self.pods)

    def close(self):
        for daemon in self.daemons:
            daemon.kill()
        self.servers.stop()
        self.plane.close()
        for host in self._hosts:
            host.close()
        shutil.rmtree(self.directory)

    def add_pod(self):
        """One more pod; it is reachable on return."""
        number = len(self.pods) + 1
        pod = Pod(number, Host(f"pod{number}"))
        self.pods.append(pod)
        self._hosts.append(pod.host)
        _prepare(pod.host)
        self.join(pod)
        self._serve(pod)
        self._until_links_carry([pod])
        return pod

    def join(self, pod):
        """Makes the links of a pod that has none."""
        self.node.ip("\n".join(_pod_link_of_node(pod)))
        pod.host.ip(_pod_links(pod))

    def put_behind_router(self, pods):
        """Moves the pods' links from the node to a router behind it, which is returned."""
        router = Host("router")
        self._hosts.append(router)
        _prepare(router)
        router.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        self.node.ip("link add far type veth peer name near netns router")
        for host, device, number, other in (self.node, "far", 101, 102), (router, "near", 102, 101):
            host.ip(f"link set lo up\nlink set {device} up")
            for family in FAMILIES:
                prefix = family.bits - 2
                host.ip(f"addr add {family.external(number)}/{prefix} dev {device}{_nodad(family)}")
                if host is router:
                    host.ip(f"route add default via {family.external(other)}")
        for pod in pods:
            self.node.ip(f"link del {pod.name}")
            router.ip("\n".join(_pod_link_of_node(pod)))
            pod.host.ip(_pod_links(pod))
            for family in FAMILIES:
                self.node.ip(f"route add {pod.address(family)}/{family.bits} via {family.external(102)}")
        self._until_links_carry(pods)
        return router

    def _serve(self, pod):
        self.servers.listen(pod.host, WEB_PORT)
        self.servers.listen(pod.host, DNS_PORT, "UDP")

    def _until_links_carry(self, pods):
        """The kernel takes its time to notice that the other end of a new link is up."""
        for family, pod in itertools.product(FAMILIES, pods):
            at = (pod.address(family), DNS_PORT, "UDP")
            eventually(lambda at=at: ask(self.client, *at, timeout=0.2))

    def vip(self):
        """A service address that nobody has yet."""
        return self.family.vip(next(self._next_vip))

    def pod(self, name):
        return next(pod for pod in self.pods if pod.name == name)

    def service(self, name, namespace="default", **spec):
        """A Service in the manifest folder, with a ClusterIP of the test's family; written at its
        first `publish`. See `manifests.Service` for what it takes."""
        spec.setdefault("address", self.vip())
        return Service(self.manifests, self.family, name, namespace, **spec)

    def fairlead(self, *flags, cluster_cidr=CLUSTER_CIDR):
        """The daemon, running on the node over the manifest folder; see `fairlead.Fairlead`."""
        if cluster_cidr:
            flags += ("--cluster-cidr", cluster_cidr)
        daemon = Fairlead(
            self.node, self.directory, "--manifests", self.manifests,
            "--hostname-override", NODE_NAME, *flags, plane=self.plane,
        )  # fmt: skip
        self.daemons.append(daemon)
        daemon.start()
        return daemon


def _prepare(host):
    host.sysctl(
        # Addresses are usable at once; the links are ours, so nobody else can have them.
        ipv6__conf__all__accept_dad=0,
        ipv6__conf__default__accept_dad=0,
        ipv4__conf__all__rp_filter=0,
        ipv4__conf__default__rp_filter=0,
        # A refusal is an ICMP error, and by default there is one a second for each client.
        ipv4__icmp_ratelimit=0,
        ipv6__icmp__ratelimit=0,
    )


def _node_links(pods):
    lines = ["link set lo up", "link add outside type veth peer name eth0 netns client"]
    for family in FAMILIES:
        prefix = family.outside_net.prefixlen
        lines.append(f"addr add {family.node}/{prefix} dev outside{_nodad(family)}")
    lines.append("link set outside up")
    for pod in pods:
        lines += _pod_link_of_node(pod)
    return "\n".join(lines)


def _pod_link_of_node(pod):
    lines = [f"link add {pod.name} type veth peer name eth0 netns {pod.name}"]
    for family in FAMILIES:
        lines.append(f"addr add {family.gateway}/{family.bits} dev {pod.name}{_nodad(family)}")
    lines.append(f"link set {pod.name} up")
    for family in FAMILIES:
        lines.append(f"route add {pod.address(family)}/{family.bits} dev {pod.name}")
    return lines


def _client_links():
    lines = ["link set lo up", "link set eth0 up"]
    for family in FAMILIES:
        prefix = family.outside_net.prefixlen
        lines.append(f"addr add {family.client}/{prefix} dev eth0{_nodad(family)}")
        for address in family.clients:  # used only by who asks for them
            lines.append(f"addr add {address}/{prefix} dev eth0 preferred_lft 0{_nodad(family)}")
        lines.append(f"route add default via {family.node} dev eth0")
    return "\n".join(lines)


def _pod_links(pod):
    lines = ["link set lo up", "link set eth0 up"]
    for family in FAMILIES:
        lines.append(f"addr add {pod.address(family)}/{family.bits} dev eth0{_nodad(family)}")
        lines.append(f"route add {family.gateway} dev eth0")
        lines.append(f"route add default via {family.gateway} dev eth0")
    return "\n".join(lines)


def _nodad(family):
    return " nodad" if family is IPV6 else ""
