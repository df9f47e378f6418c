#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The daemon against a real kube-apiserver and etcd, its work seen in a real kernel's IPVS table.

  cluster_test.py [--fairlead BINARY] [-k TEXT] [--keep]

The API server runs in a network namespace made here, the daemon in a user-mode Linux guest joined
to it by a tap device, and kubectl is what changes things:

  namespace: etcd, kube-apiserver 203.0.113.1 --- tap0/vec0 --- 203.0.113.2 guest: daemon, ip_vs

BINARY defaults to $FAIRLEAD. One server, guest and daemon serve all tests, in order; a test uses
objects of its own. One line per test, then "N passed, N failed".
"""

import argparse
import ipaddress
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SERVER_ADDRESS = "203.0.113.1"
NODE_ADDRESS = "203.0.113.2"
NODE_NAME = "node1"
KUBERNETES = "TCP 10.96.0.1:443"  # the server's own service, there from the start

CHANGE_SECONDS = 20  # from kubectl's return until the kernel shows it, on a busy machine
RECONNECT_SECONDS = 60  # as above, after the connection was lost: backoff included
DRAIN_SECONDS = 60
GUEST_SECONDS = 1200
PAGES = 520  # services; a client that lists in pages of 500 needs a second one


class Failure(Exception):
    """A test's finding, or what is missing to run it."""


def environment():
    return {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}


def call(*argv, seconds=60, stdin=None):
    """Output of the command, which must succeed."""
    argv = [str(a) for a in argv]
    try:
        done = subprocess.run(argv, env=environment(), input=stdin, capture_output=True, text=True,
                              timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise Failure(f"{' '.join(argv[:6])}: not done after {seconds} s") from None
    if done.returncode != 0:
        raise Failure(f"{' '.join(argv[:6])}: {done.stderr.strip()[-600:]}")
    return done.stdout


def wait_for(seconds, condition):
    """True as soon as the condition holds; False if it never does in that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


# Objects -----------------------------------------------------------------------------------------


def port(number, target, protocol="TCP", name=None):
    return {"name": name or f"p{number}-{protocol.lower()}", "port": number, "targetPort": target,
            "protocol": protocol}


def service(name, *ports, namespace="default", **spec):
    return {"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"ports": list(ports), **spec}}


def endpoint_slice(name, of, addresses, *ports, namespace="default", family="IPv4", not_ready=()):
    """As the cluster's controller would write it; a port's target is the number served on."""
    endpoints = [{"addresses": [a], "conditions": {"ready": a not in not_ready},
                  "topology": {"kubernetes.io/hostname": "node2"}} for a in addresses]
    return {"apiVersion": "discovery.k8s.io/v1beta1", "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": namespace,
                         "labels": {"kubernetes.io/service-name": of}},
            "addressType": family, "endpoints": endpoints,
            "ports": [{"name": p["name"], "protocol": p["protocol"], "port": p["targetPort"]}
                      for p in ports]}


def node():
    return {"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": NODE_NAME, "labels": {"kubernetes.io/hostname": NODE_NAME}},
            "status": {"addresses": [{"type": "InternalIP", "address": NODE_ADDRESS},
                                     {"type": "Hostname", "address": NODE_NAME}]}}


# The kernel's table ------------------------------------------------------------------------------


def socket_text(text):
    """`0A600001:01BB` or `[2001:0db8:...]:0050`, as the kernel prints it, in the usual form."""
    host, _, number = text.rpartition(":")
    if host.startswith("["):
        return f"[{ipaddress.IPv6Address(host.strip('[]'))}]:{int(number, 16)}"
    return f"{ipaddress.IPv4Address(int(host, 16))}:{int(number, 16)}"


def parse_table(text):
    """{"TCP 10.96.0.1:443": {"scheduler": "rr", "servers": {"203.0.113.1:6443": 1}}}, the number
    being the weight."""
    table, servers = {}, {}
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["->"] and ":" in words[1] and words[1] != "RemoteAddress:Port":
            servers[socket_text(words[1])] = int(words[3])
        elif words and words[0] in ("TCP", "UDP", "SCTP"):
            servers = {}
            table[f"{words[0]} {socket_text(words[1])}"] = {
                "scheduler": words[2], "servers": servers}
    return table


# The two sides -----------------------------------------------------------------------------------


class Cluster:
    """etcd and kube-apiserver in a network namespace."""

    def __init__(self, work):
        self.netns = f"fairlead-{os.getpid()}"
        self.dir = work / "cluster"

    def start(self):
        call("ip", "netns", "add", self.netns)
        for command in ("link set lo up", "tuntap add tap0 mode tap",
                        f"addr add {SERVER_ADDRESS}/24 dev tap0", "link set tap0 up"):
            self.ip(*command.split())
        self.control("start", "--netns", self.netns, "--address", SERVER_ADDRESS)

    def stop(self):
        if (self.dir / "settings.json").exists():
            self.control("stop")
        if Path("/run/netns", self.netns).exists():
            call("ip", "netns", "del", self.netns)

    def ip(self, *arguments):
        call("ip", "-n", self.netns, *arguments)

    def control(self, verb, *arguments, seconds=180, stdin=None):
        return call(HERE / "apiserver", verb, self.dir, *arguments, seconds=seconds, stdin=stdin)

    def kubectl(self, *arguments, stdin=None):
        return self.control("kubectl", *arguments, stdin=stdin)

    def apply(self, *objects):
        items = {"apiVersion": "v1", "kind": "List", "items": objects}
        # Without validation: it makes each call wait for a schema of several megabytes.
        self.kubectl("apply", "--validate=false", "-f", "-", stdin=json.dumps(items))

    def delete(self, kind, *names, namespace="default"):
        self.kubectl("delete", "-n", namespace, kind, *names, "--wait=false")

    def get(self, kind, name, path, namespace="default"):
        return self.kubectl("get", "-n", namespace, kind, name, "-o", f"jsonpath={path}")

    def address_of(self, name, namespace="default", path="{.spec.clusterIP}"):
        address = self.get("service", name, path, namespace)
        return f"[{address}]" if ":" in address else address

    def resource_version(self):
        return self.kubectl("get", "--raw", "/api/v1/services?limit=1").partition(
            '"resourceVersion":"')[2].partition('"')[0]

    def watch_answer(self, resource_version):
        """First line of a watch of services from that version."""
        path = f"/api/v1/services?watch=1&timeoutSeconds=1&resourceVersion={resource_version}"
        return self.kubectl("get", "--raw", path).partition("\n")[0]

    def lists_by_proxy(self):
        """How many lists of services the daemon's user has been answered."""
        count = 0
        with open(self.dir / "audit.log", encoding="utf-8") as log:
            for line in log:
                if '"verb":"list"' in line and '"system:kube-proxy"' in line:
                    event = json.loads(line)
                    count += (event["objectRef"]["resource"] == "services"
                              and event["responseStatus"]["code"] == 200)
        return count


class Guest:
    """The user-mode Linux guest, through the directory shared with cluster_guest.py."""

    def __init__(self, work, netns):
        self.work = work
        self.share = work / "share"
        self.share.mkdir()
        self.netns = netns
        self.process = None
        self.requests = 0

    def start(self):
        log = open(self.work / "guest.log", "wb")
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "--", str(HERE / "uml"),
             "--mem", "1G", "--timeout", str(GUEST_SECONDS), "--tap", f"{self.netns}:tap0",
             "--share", str(self.work), "--kernel-log", str(self.work / "kernel.log"), "--",
             "/usr/bin/python3", str(HERE / "cluster_guest.py"), str(self.share),
             f"{NODE_ADDRESS}/24"],
            env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        if not wait_for(60, lambda: (self.share / "table").exists()
                        or self.process.poll() is not None):
            raise Failure("the guest did not boot in 60 s")
        self.check_alive()

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(timeout=30)

    def check_alive(self):
        if self.process.poll() is not None:
            last = (self.work / "guest.log").read_text(errors="replace")[-600:]
            raise Failure(f"the guest ended: {last}")

    def request(self, limit=10, /, **what):
        name = str(self.requests)
        self.requests += 1
        fresh = self.share / ".do.new"
        fresh.write_text(json.dumps(what))
        fresh.rename(self.share / f"do.{name}")
        answer = self.share / f"done.{name}"
        # The slack is for a guest that gets little of a busy machine.
        if not wait_for(limit + 20, answer.exists):
            self.check_alive()
            raise Failure(f"the guest does not answer {what}")
        result = json.loads(answer.read_text())
        if "error" in result:
            raise Failure(f"in the guest: {result['error']}")
        return result

    def run(self, *argv, seconds=20):
        done = self.request(seconds, run=[str(a) for a in argv], seconds=seconds)
        if done["status"] != 0:
            raise Failure(f"in the guest: {' '.join(map(str, argv[:4]))}: "
                          f"status {done['status']}: {done['stderr'].strip()[-400:]}")
        return done["stdout"]

    def snapshot(self):
        about, _, table = (self.share / "table").read_text().partition("\n")
        return json.loads(about), table

    def table(self):
        """As it is now, not as it was: waits for a snapshot that began after the call."""
        seen = self.snapshot()[0]["number"]
        if not wait_for(20, lambda: self.snapshot()[0]["number"] > seen + 1):
            self.check_alive()
            raise Failure("the guest shows no new table")
        return parse_table(self.snapshot()[1])


class Bed:
    """What a test gets."""

    def __init__(self, cluster, guest, binary):
        self.cluster = cluster
        self.guest = guest
        self.binary = binary

    # The daemon

    def start_daemon(self, kubeconfig="proxy"):
        self.guest.request(start=[
            self.binary, "run", "--kubeconfig", str(self.cluster.dir / f"{kubeconfig}.kubeconfig"),
            "--proxy-mode", "ipvs", "--hostname-override", NODE_NAME])
        self.guest.table()  # so that no snapshot tells of the one before

    def signal_daemon(self, number):
        self.guest.request(signal=int(number))
        if number in (signal.SIGKILL, signal.SIGTERM) and not wait_for(
                20, lambda: self.guest.snapshot()[0]["daemon_status"] is not None):
            raise Failure(f"the daemon does not end on signal {int(number)}")

    # What should be in the kernel

    def expect(self, want, gone=(), seconds=CHANGE_SECONDS):
        """Waits until each virtual server in `want` has exactly these real servers that take new
        connections, and those in `gone` are no more."""
        found = None

        def holds():
            nonlocal found
            about, text = self.guest.snapshot()
            if about["daemon_started"] and about["daemon_status"] is not None:
                raise Failure(f"the daemon ended with status {about['daemon_status']}")
            found = parse_table(text)
            return (not any(key in found for key in gone)
                    and all(active(found, key) == set(want[key]) for key in want))

        if wait_for(seconds, holds):
            return found
        self.guest.check_alive()
        wrong = [f"{key}: want {sorted(want[key])}, "
                 f"is {found.get(key, {}).get('servers', 'absent')}"
                 for key in want if active(found, key) != set(want[key])]
        wrong += [f"{key}: want it gone" for key in gone if key in found]
        raise Failure(f"after {seconds} s: {'; '.join(wrong[:3])}"
                      + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""))

    def create(self, name, addresses, number=80, target=8080, **options):
        """A service with one port and its slice; returns its virtual server once programmed."""
        p = port(number, target)
        self.cluster.apply(service(name, p, **options),
                           endpoint_slice(f"{name}-1", name, addresses, p))
        key = f"TCP {self.cluster.address_of(name)}:{number}"
        self.expect({key: sockets(addresses, target)})
        return key

    def scale(self, name, addresses, target=8080, number=80, **options):
        self.cluster.apply(endpoint_slice(f"{name}-1", name, addresses, port(number, target),
                                          **options))

    def connections(self, key):
        """Connections scheduled since the virtual server was made."""
        for line in self.guest.run("ipvsadm", "-L", "-n", "--stats", "--exact").splitlines():
            words = line.split()
            if words[:2] == key.split():
                return int(words[2])
        raise Failure(f"{key} is not in the table")


def active(table, key):
    """Real servers with a weight; None if the virtual server is absent."""
    if key not in table:
        return None
    return {server for server, weight in table[key]["servers"].items() if weight > 0}


def sockets(addresses, number):
    return {f"[{a}]:{number}" if ":" in a else f"{a}:{number}" for a in addresses}


def pods(*numbers):
    return [f"192.0.2.{n}" for n in numbers]


# Tests: the first needs no daemon and proves the bed ---------------------------------------------


def test_bed(bed):
    """The guest reaches the server over TLS and is known there."""
    directory = bed.cluster.dir
    config = json.loads((directory / "proxy.kubeconfig").read_text())
    token = Path(config["users"][0]["user"]["tokenFile"]).read_text()
    curl = ("curl", "-sS", "--fail", "--max-time", "10", "--cacert", directory / "ca.crt",
            "-H", f"Authorization: Bearer {token}")
    listed = json.loads(bed.guest.run(*curl, f"https://{SERVER_ADDRESS}:6443/api/v1/services"))
    names = [item["metadata"]["name"] for item in listed["items"]]
    if names != ["kubernetes"]:
        raise Failure(f"services listed: {names}")
    version = listed["metadata"]["resourceVersion"]
    watched = bed.guest.run(
        *curl, f"https://{SERVER_ADDRESS}:6443/apis/discovery.k8s.io/v1beta1/endpointslices"
        f"?watch=1&timeoutSeconds=1&resourceVersion={version}")
    if '"code":410' in watched:
        raise Failure("a fresh version cannot be watched")
    if bed.guest.table():
        raise Failure("the kernel's table is not empty at the start")


def test_first_sync(bed):
    bed.cluster.apply(node())
    bed.start_daemon()
    bed.expect({KUBERNETES: {f"{SERVER_ADDRESS}:6443"}}, seconds=RECONNECT_SECONDS)


def test_server_through_its_own_service(bed):
    """Traffic: from the node, by ClusterIP, to a real server on another host."""
    ca = bed.cluster.dir / "ca.crt"
    for _ in range(3):
        text = bed.guest.run("curl", "-sS", "--fail", "--max-time", "10", "--cacert", ca,
                             "https://10.96.0.1/version")
        if json.loads(text)["gitVersion"] != "v1.20.2":
            raise Failure(f"an odd answer: {text[:200]}")


def test_create(bed):
    http, dns, dns_tcp = port(80, 8080), port(53, 5353, "UDP"), port(53, 5353)
    bed.cluster.apply(service("create", http, dns, dns_tcp),
                      endpoint_slice("create-1", "create", pods(1, 2), http, dns, dns_tcp))
    address = bed.cluster.address_of("create")
    bed.expect({f"TCP {address}:80": sockets(pods(1, 2), 8080),
                f"UDP {address}:53": sockets(pods(1, 2), 5353),
                f"TCP {address}:53": sockets(pods(1, 2), 5353)})


def test_service_before_its_endpoints(bed):
    bed.cluster.apply(service("early", port(80, 8080)))
    key = f"TCP {bed.cluster.address_of('early')}:80"
    bed.expect({key: ()})
    bed.scale("early", pods(1))
    bed.expect({key: sockets(pods(1), 8080)})


def test_headless_service_is_left_out(bed):
    bed.cluster.apply(service("headless", port(80, 8080), clusterIP="None"),
                      endpoint_slice("headless-1", "headless", pods(1), port(80, 8080)))
    # Objects of one kind arrive in order, so once a later service is there, this one was seen.
    bed.create("after-headless", pods(1))
    if any("None" in key for key in bed.guest.table()):
        raise Failure("a headless service has a virtual server")


def test_two_namespaces(bed):
    bed.cluster.kubectl("create", "namespace", "other")
    p = port(80, 8080)
    bed.cluster.apply(
        service("twin", p), endpoint_slice("twin-1", "twin", pods(1), p),
        service("twin", p, namespace="other"),
        endpoint_slice("twin-1", "twin", pods(2), p, namespace="other"))
    one = f"TCP {bed.cluster.address_of('twin')}:80"
    two = f"TCP {bed.cluster.address_of('twin', 'other')}:80"
    bed.expect({one: sockets(pods(1), 8080), two: sockets(pods(2), 8080)})
    bed.cluster.delete("service", "twin")
    bed.expect({two: sockets(pods(2), 8080)}, gone=[one])


def test_scale(bed):
    key = bed.create("scale", pods(1, 2))
    for numbers in ((1, 2, 3, 4, 5), (5,), (), (6, 7)):
        bed.scale("scale", pods(*numbers))
        bed.expect({key: sockets(pods(*numbers), 8080)})
    # Nothing was connected, so the drained ones are soon gone, not just at weight 0.
    if not wait_for(DRAIN_SECONDS, lambda: len(bed.guest.table()[key]["servers"]) == 2):
        raise Failure(f"still there after {DRAIN_SECONDS} s: {bed.guest.table()[key]['servers']}")


def test_two_slices(bed):
    key = bed.create("slices", pods(1, 2))
    bed.cluster.apply(endpoint_slice("slices-2", "slices", pods(2, 3), port(80, 8080)))
    bed.expect({key: sockets(pods(1, 2, 3), 8080)})
    bed.cluster.delete("endpointslice", "slices-1")
    bed.expect({key: sockets(pods(2, 3), 8080)})


def test_readiness(bed):
    key = bed.create("ready", pods(1, 2))
    bed.scale("ready", pods(1, 2), not_ready=pods(2))
    bed.expect({key: sockets(pods(1), 8080)})
    bed.scale("ready", pods(1, 2))
    bed.expect({key: sockets(pods(1, 2), 8080)})


def test_edit_port(bed):
    """With the real `kubectl edit`."""
    key = bed.create("edit", pods(1))
    os.environ["KUBE_EDITOR"] = "sed -i 's/port: 80$/port: 81/'"
    bed.cluster.kubectl("edit", "service", "edit")
    bed.expect({key.removesuffix("80") + "81": sockets(pods(1), 8080)}, gone=[key])


def test_edit_to_node_port(bed):
    bed.create("nodeport", pods(1, 2))
    bed.cluster.kubectl("patch", "service", "nodeport", "-p", '{"spec":{"type":"NodePort"}}')
    number = bed.cluster.get("service", "nodeport", "{.spec.ports[0].nodePort}")
    key = f"TCP {NODE_ADDRESS}:{number}"
    bed.expect({key: sockets(pods(1, 2), 8080)})
    bed.cluster.kubectl("patch", "service", "nodeport", "--type=json", "-p", json.dumps([
        {"op": "replace", "path": "/spec/type", "value": "ClusterIP"},
        {"op": "remove", "path": "/spec/ports/0/nodePort"}]))
    bed.expect({}, gone=[key])


def test_edit_external_ip(bed):
    bed.create("external", pods(1))
    bed.cluster.kubectl("patch", "service", "external", "-p",
                        '{"spec":{"externalIPs":["198.51.100.80"]}}')
    bed.expect({"TCP 198.51.100.80:80": sockets(pods(1), 8080)})
    bed.cluster.kubectl("patch", "service", "external", "-p", '{"spec":{"externalIPs":null}}')
    bed.expect({}, gone=["TCP 198.51.100.80:80"])


def test_edit_affinity(bed):
    key = bed.create("affinity", pods(1))
    bed.cluster.kubectl("patch", "service", "affinity", "-p", json.dumps({"spec": {
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 120}}}}))

    # By the tool: the kernel's own table has it in ticks, however many make a second.
    def shown():
        return bed.guest.run("ipvsadm", "-L", "-n", "-t", key.split()[1])

    if not wait_for(CHANGE_SECONDS, lambda: "persistent 120\n" in shown()):
        raise Failure(f"ipvsadm shows {shown()}")
    bed.cluster.kubectl("patch", "service", "affinity", "-p", '{"spec":{"sessionAffinity":"None"}}')
    if not wait_for(CHANGE_SECONDS, lambda: "persistent" not in shown()):
        raise Failure("still persistent")


def test_dual_stack(bed):
    p = port(80, 8080)
    bed.cluster.apply(
        service("dual", p, ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv4", "IPv6"]),
        endpoint_slice("dual-4", "dual", pods(1, 2), p),
        endpoint_slice("dual-6", "dual", ["2001:db8:2::1"], p, family="IPv6"))
    four, six = (f"TCP {bed.cluster.address_of('dual', path=f'{{.spec.clusterIPs[{i}]}}')}:80"
                 for i in (0, 1))
    bed.expect({four: sockets(pods(1, 2), 8080), six: sockets(["2001:db8:2::1"], 8080)})
    bed.cluster.delete("service", "dual")
    bed.expect({}, gone=[four, six])


def test_deleted_and_recreated(bed):
    key = bed.create("again", pods(1))
    address = key.split()[1].rpartition(":")[0]
    bed.cluster.delete("service", "again")
    bed.expect({}, gone=[key])
    bed.cluster.apply(service("again", port(80, 8080), clusterIP=address))
    bed.expect({key: sockets(pods(1), 8080)})  # its slice was there all along


def test_server_killed_and_back(bed):
    key = bed.create("killed", pods(1))
    count = bed.connections(KUBERNETES)
    before = bed.guest.table()
    bed.cluster.control("kill-server")
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if bed.guest.table() != before:
            raise Failure("the table changed while the server was away")
    bed.cluster.control("start-server")
    bed.scale("killed", pods(1, 2))
    bed.expect({key: sockets(pods(1, 2), 8080)}, seconds=RECONNECT_SECONDS)
    if bed.connections(KUBERNETES) < count:
        raise Failure("a virtual server was made anew, though nothing about it changed")


def test_silence(bed):
    """The server is there but nothing it sends arrives; TCP does not tell."""
    key = bed.create("silence", pods(1))
    # Its packets go to a station that is not there. Not by taking tap0 down: user-mode Linux never
    # sends on vec0 again after that.
    neighbour = (NODE_ADDRESS, "dev", "tap0")
    bed.cluster.ip("neigh", "replace", *neighbour, "lladdr", "02:00:00:00:00:99",
                   "nud", "permanent")
    try:
        bed.scale("silence", pods(2))
        time.sleep(5)
        before = active(bed.guest.table(), key)
    finally:
        bed.cluster.ip("neigh", "del", *neighbour)
    if before != sockets(pods(1), 8080):
        raise Failure(f"cut off from the server, it became {before}")
    bed.expect({key: sockets(pods(2), 8080)}, seconds=RECONNECT_SECONDS)


def test_watch_gone(bed):
    """410 on the watch: a new list, applied as a difference. More services than fit one page."""
    p = port(80, 8080)
    many = [service(f"many-{i}", p) for i in range(PAGES)]
    bed.cluster.kubectl("create", "--validate=false", "-f", "-",
                        stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": many}))
    kept, removed, scaled = (bed.create(f"gone-{n}", pods(1))
                             for n in ("kept", "removed", "scaled"))
    before = bed.expect({kept: sockets(pods(1), 8080)})
    if not wait_for(RECONNECT_SECONDS, lambda: len(bed.guest.table()) >= PAGES):
        raise Failure(f"{len(bed.guest.table())} virtual servers of more than {PAGES}")
    before = bed.guest.table()
    count = bed.connections(KUBERNETES)
    version = bed.cluster.resource_version()

    bed.signal_daemon(signal.SIGSTOP)
    try:
        bed.cluster.control("kill-server")
        bed.cluster.control("start-server")
        bed.cluster.delete("service", "gone-removed", "many-7")
        bed.scale("gone-scaled", pods(1, 2, 3))
        bed.cluster.apply(service("gone-added", p),
                          endpoint_slice("gone-added-1", "gone-added", pods(9), p))
        added = f"TCP {bed.cluster.address_of('gone-added')}:80"
        bed.cluster.control("compact")
        bed.cluster.control("kill-server")  # with it goes the cache that remembers the changes
        bed.cluster.control("start-server")
        answer = bed.cluster.watch_answer(version)
        if '"code":410' not in answer:
            raise Failure(f"the server still remembers version {version}: {answer[:200]}")
        lists = bed.cluster.lists_by_proxy()
    finally:
        bed.signal_daemon(signal.SIGCONT)

    bed.expect({kept: sockets(pods(1), 8080), added: sockets(pods(9), 8080),
                scaled: sockets(pods(1, 2, 3), 8080), KUBERNETES: {f"{SERVER_ADDRESS}:6443"}},
               gone=[removed], seconds=RECONNECT_SECONDS)
    after = bed.guest.table()
    if len(after) != len(before) - 1:  # two went, one came
        raise Failure(f"{len(after)} virtual servers, were {len(before)}")
    if bed.cluster.lists_by_proxy() == lists:
        raise Failure("the daemon asked for no new list, so it met no 410")
    if bed.connections(KUBERNETES) < count:
        raise Failure("a virtual server was made anew, though nothing about it changed")


def test_deleted_while_daemon_was_dead(bed):
    kept, removed = (bed.create(f"dead-{n}", pods(1)) for n in ("kept", "removed"))
    count = bed.connections(KUBERNETES)
    bed.signal_daemon(signal.SIGKILL)
    bed.cluster.delete("service", "dead-removed")
    if active(bed.guest.table(), removed) != sockets(pods(1), 8080):
        raise Failure("the table does not outlive the daemon")
    bed.start_daemon()
    bed.expect({kept: sockets(pods(1), 8080)}, gone=[removed], seconds=RECONNECT_SECONDS)
    if bed.connections(KUBERNETES) < count:
        raise Failure("a virtual server was made anew, though nothing about it changed")


def test_restart_without_server(bed):
    """A daemon that starts while no server answers must not take what it finds for stale."""
    key = bed.create("blind", pods(1))
    bed.signal_daemon(signal.SIGKILL)
    bed.cluster.control("kill-server")
    before = bed.guest.table()
    bed.start_daemon()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if bed.guest.table().keys() != before.keys():
            raise Failure("the table changed before the first sync")
    bed.cluster.control("start-server")
    bed.scale("blind", pods(2))
    bed.expect({key: sockets(pods(2), 8080)}, seconds=RECONNECT_SECONDS)


def test_token_rotated(bed):
    """The old token is refused from now on; the new one is in the file the kubeconfig names."""
    key = bed.create("token", pods(1))
    bed.cluster.control("rotate-token")
    bed.scale("token", pods(1, 2))
    bed.expect({key: sockets(pods(1, 2), 8080)}, seconds=RECONNECT_SECONDS)


def test_token_refused_for_a_while(bed):
    key = bed.create("refused", pods(1))
    token = bed.cluster.dir / "proxy.token"
    good = token.read_text()
    token.write_text("0" * len(good))
    try:
        bed.cluster.control("kill-server")  # or the open watch would go on
        bed.cluster.control("start-server")
        bed.scale("refused", pods(2))
        time.sleep(5)
        if active(bed.guest.table(), key) != sockets(pods(1), 8080):
            raise Failure(f"refused by the server, yet it became {bed.guest.table().get(key)}")
    finally:
        token.write_text(good)
    bed.expect({key: sockets(pods(2), 8080)}, seconds=RECONNECT_SECONDS)


def test_client_certificate(bed):
    """The same with a kubeconfig that holds everything inline."""
    key = bed.create("certificate", pods(1))
    bed.signal_daemon(signal.SIGKILL)
    bed.start_daemon("proxy-cert")
    bed.scale("certificate", pods(3))
    bed.expect({key: sockets(pods(3), 8080)}, seconds=RECONNECT_SECONDS)


def test_delete_all(bed):
    # The many by one curl, because kubectl deletes no more than five a second.
    files = bed.cluster.dir
    call("ip", "netns", "exec", bed.cluster.netns, "curl", "-sS", "-o", "/dev/null", "-X", "DELETE",
         "--cacert", files / "ca.crt", "--cert", files / "admin.crt", "--key", files / "admin.key",
         f"https://{SERVER_ADDRESS}:6443/api/v1/namespaces/default/services/many-[0-{PAGES - 1}]")
    names = [n for n in bed.cluster.kubectl("get", "services", "-o", "name").split()
             if n != "service/kubernetes"]
    bed.cluster.kubectl("delete", "--wait=false", *names)
    bed.cluster.kubectl("delete", "-n", "other", "services", "--all", "--wait=false")
    if not wait_for(RECONNECT_SECONDS, lambda: set(bed.guest.table()) == {KUBERNETES}):
        raise Failure(f"left: {sorted(set(bed.guest.table()) - {KUBERNETES})[:5]}")


def test_ends_on_request(bed):
    """SIGTERM: the daemon goes, with success, and what it programmed stays."""
    bed.signal_daemon(signal.SIGTERM)
    status = bed.guest.snapshot()[0]["daemon_status"]
    if status != 0:
        raise Failure(f"status {status}")
    if set(bed.guest.table()) != {KUBERNETES}:
        raise Failure(f"the table has changed: {len(bed.guest.table())} virtual servers")


# Running -----------------------------------------------------------------------------------------


def tests():
    return {name.removeprefix("test_"): value for name, value in globals().items()
            if name.startswith("test_")}


def chosen(text):
    """The tests with that text in their name, and what they need to have run before."""
    needed = {"bed", "first_sync"} if text and text not in "bed" else {"bed"}
    return {name: test for name, test in tests().items() if text in name or name in needed}


def run(bed, selected):
    failed = 0
    for name, test in selected.items():
        started = time.monotonic()
        try:
            test(bed)
            print(f"ok {name} ({time.monotonic() - started:.1f} s)", flush=True)
        except Failure as failure:
            failed += 1
            print(f"FAIL {name}: {failure}", flush=True)
        except Exception as error:  # the others still have something to say
            failed += 1
            print(f"FAIL {name}: {type(error).__name__}: {error}", flush=True)
    return failed


def check_machine(binary):
    if os.geteuid() != 0:
        raise Failure("needs root, for network namespaces")
    for program, package in {"ip": "iproute2", "setpriv": "util-linux", "curl": "curl",
                             "ipvsadm": "ipvsadm", "kubectl": "kubernetes-client"}.items():
        if shutil.which(program) is None:
            raise Failure(f"needs '{program}': install package {package} (make deps)")
    if not Path("/dev/net/tun").exists():
        raise Failure("needs /dev/net/tun: load the kernel module tun")
    if binary and not os.access(binary, os.X_OK):
        raise Failure(f"{binary} is no program")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fairlead", default=os.environ.get("FAIRLEAD"), metavar="BINARY",
                        help="the daemon")
    parser.add_argument("-k", default="", metavar="TEXT", help="only tests with TEXT in the name")
    parser.add_argument("--keep", action="store_true", help="keep logs and state")
    options = parser.parse_args()
    selected = chosen(options.k)
    if set(selected) != {"bed"} and not options.fairlead:
        raise Failure("name the daemon's binary: --fairlead or $FAIRLEAD")
    check_machine(options.fairlead)
    # Before anything is set up, and with its progress seen: the first time it takes minutes.
    built = subprocess.run([HERE / "apiserver-build"], stdout=subprocess.DEVNULL, check=False)
    if built.returncode != 0:
        raise Failure("no kube-apiserver, see above")
    binary = os.path.abspath(options.fairlead) if options.fairlead else None

    def ended(number, _):
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, ended)
    signal.alarm(GUEST_SECONDS + 600)

    work = Path(tempfile.mkdtemp(prefix="fairlead-cluster-"))
    cluster = Cluster(work)
    guest = Guest(work, cluster.netns)
    failed = len(selected)
    try:
        cluster.start()
        guest.start()
        failed = run(Bed(cluster, guest, binary), selected)
    finally:
        guest.stop()
        log = guest.share / "daemon.log"
        if failed and log.exists():
            print("last words of the daemon:", *log.read_text(errors="replace").splitlines()[-40:],
                  sep="\n  ", file=sys.stderr)
        if options.keep:
            print(f"kept: {work}", file=sys.stderr)
            shutil.copytree(work, f"{work}-kept", symlinks=True)
        cluster.stop()
        shutil.rmtree(work)
    print(f"{len(selected) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"cluster_test: {failure}")
