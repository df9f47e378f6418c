# SPDX-License-Identifier: Apache-2.0
"""The shop of examples/ in a lab, either shown to a person or served until Ctrl-C.

    demo_lab.py show  --fairlead BINARY [--colour] [--ascii]
    demo_lab.py serve --fairlead BINARY [--colour] [--ascii] --control DIR [-- FLAG...]
    demo_lab.py exec DIR HOST COMMAND...

`tools/demo` starts it where it may make namespaces at will. Hosts, servers and clients are those of
the kernel tests. Each pod of a manifest becomes a namespace behind the node:

    client 192.0.2.2 ---- 192.0.2.1 node1 198.51.100.1 ---- a veth pair for each pod

Clients of the show end their connections by reset: the kernel forgets such a one after 10 s, but an
orderly closed one after 120 s, which is longer than anybody wants to watch a drain.
"""

import argparse
import collections
import contextlib
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "kernel"))

from fairlead import Fairlead  # noqa: E402
from kernel_state import ipvsadm_save, virtual_servers  # noqa: E402
from lab import Broken, LiveConnection, Servers, ask, eventually  # noqa: E402
from netns import Host  # noqa: E402

EXAMPLES = os.path.join(ROOT, "examples")
NODE_NAME = "node1"
NODE_ADDRESS, CLIENT_ADDRESS = "192.0.2.1", "192.0.2.2"
GATEWAY, POD_NET = "198.51.100.1", "198.51.100.0/24"
FLAGS = ("--cluster-cidr", POD_NET, "--nodeport-addresses", f"{NODE_ADDRESS}/24")
MANIFEST = re.compile(r"[^.].*\.(ya?ml|json)")


# ---- the screen ---------------------------------------------------------------------------------


class Screen:
    """Plain text of at most 100 columns, or the same with colours."""

    def __init__(self, colour=False, ascii_only=False):
        self._colour = colour
        self.block, self.arrow, self.line = ("#", "->", "-") if ascii_only else ("█", "→", "─")
        self._yes, self._no = ("ok", "FAIL") if ascii_only else ("✓", "✗ FAIL")

    def _paint(self, code, text):
        return f"\033[{code}m{text}\033[0m" if self._colour else text

    def bold(self, text):
        return self._paint("1", text)

    def dim(self, text):
        return self._paint("2", text)

    def pod(self, name, text):
        """In the colour of the pod: web-1, api-1, ... have the same."""
        number = int(re.sub(r"\D", "", name.split("-")[-1]) or 0)
        return self._paint(("36", "33", "35", "34", "32")[(number - 1) % 5], text)

    def say(self, text=""):
        print(text, flush=True)

    def head(self, number, title, why):
        self.say()
        self.say(self.bold(f"{number:2}  {title}"))
        self.say(f"    {why}")

    def show(self, text):
        self.say(f"      {text}")

    def holds(self, text):
        self.say(f"    {self._paint('32', self._yes)} {text}")

    def fails(self, text):
        self.say(f"    {self._paint('1;31', self._no)} {text}")

    def bar(self, pod, count, longest, width=44):
        size = round(count * width / longest) if longest else 0
        return self.pod(pod, self.block * max(size, 1 if count else 0))

    def chart(self, counts, pods, notes=None):
        longest = max(counts.values(), default=0)
        for pod in pods:
            note = self.dim((notes or {}).get(pod, ""))
            self.show(f"{pod:8} {self.bar(pod, counts[pod], longest)} {counts[pod]:<4} {note}")


# ---- the lab ------------------------------------------------------------------------------------


class Shop:
    """Client, node and the pods of a manifest folder, which is a copy: edit it at will."""

    def __init__(self, binary, flags=()):
        os.environ["FAIRLEAD"] = binary
        self._binary = binary
        self._flags = FLAGS + tuple(flags)
        self._directory = tempfile.mkdtemp(prefix="shop.", dir="/run")
        self.manifests = os.path.join(self._directory, "manifests")
        self.log = os.path.join(self._directory, "fairlead.log")
        os.mkdir(self.manifests)
        self.copy_changes()
        self.pods = {}  # by address
        self._links = itertools.count(1)
        self._served = set()
        self._servers = Servers()

        self.client, self.node = Host("client"), Host("node")
        self.node.sysctl(ipv4__ip_forward=1)
        for host in self.client, self.node:
            _plain_routing(host)
        self.node.ip(
            f"""link set lo up
                link add outside type veth peer name eth0 netns client
                addr add {NODE_ADDRESS}/24 dev outside
                link set outside up"""
        )
        self.client.ip(
            f"""link set lo up
                addr add {CLIENT_ADDRESS}/24 dev eth0
                link set eth0 up
                route add default via {NODE_ADDRESS}"""
        )
        self.daemon = Fairlead(
            self.node, self._directory, "--manifests", self.manifests,
            "--hostname-override", NODE_NAME, "--allocation-file", self._directory + "/allocations",
            *self._flags,
        )  # fmt: skip

    def copy_changes(self):
        """Brings the folder in line with examples/; returns the names that changed. Renamed into
        place, so the daemon sees whole files. (inotify in user-mode Linux does not tell of what
        others do to the host's files, hence the copy.)"""
        changed = []
        wanted = {name for name in os.listdir(EXAMPLES) if MANIFEST.fullmatch(name)}
        for name in sorted(wanted):
            to = os.path.join(self.manifests, name)
            try:
                text = _read(os.path.join(EXAMPLES, name))
            except FileNotFoundError:
                continue  # just now
            if not os.path.exists(to) or _read(to) != text:
                _write(to, text)
                changed.append(name)
        for name in set(os.listdir(self.manifests)) - wanted:
            os.unlink(os.path.join(self.manifests, name))
            changed.append(name)
        return changed

    def plan(self):
        """The virtual servers that `fairlead plan` prints for the folder now."""
        return json.loads(self._plan("json"))["virtualServers"]

    def plan_as_ipvsadm(self):
        return sorted(self._plan("ipvsadm").splitlines())

    def _plan(self, form):
        argv = (
            self._binary, "plan", "--manifests", self.manifests, "--node", NODE_NAME,
            *self._flags, "-o", form,
        )  # fmt: skip
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise AssertionError(f"fairlead plan: {done.stderr.strip()}")
        return done.stdout

    def raise_pods(self, plan):
        """A host for each endpoint of the plan that has none yet, answering where it should. A pod
        that left the manifests stays up: that is what draining is for."""
        names = self._pod_names()
        for virtual in plan:
            for real in virtual["realServers"]:
                address = real["address"]
                if ":" in address:
                    continue  # this lab is IPv4
                if address not in self.pods:
                    self._raise_pod(names.get(address, address), address)
                port = (address, real["port"], virtual["protocol"])
                if port not in self._served:
                    self._servers.listen(self.pods[address], *port[1:])
                    self._served.add(port)

    def _raise_pod(self, name, address):
        pod = Host(name)
        link = f"pod{next(self._links)}"
        _plain_routing(pod)
        self.node.ip(
            f"""link add {link} type veth peer name eth0 netns {name}
                addr add {GATEWAY}/32 dev {link}
                link set {link} up
                route add {address}/32 dev {link}"""
        )
        pod.ip(
            f"""link set lo up
                addr add {address}/32 dev eth0
                link set eth0 up
                route add {GATEWAY} dev eth0
                route add default via {GATEWAY}"""
        )
        self.pods[address] = pod

    def _pod_names(self):
        names = {}
        for _, text in self.files():
            for document in re.split(r"^---", text, flags=re.MULTILINE):
                name = re.search(r'^  "?name"?: *"?([\w.-]+)', document, re.MULTILINE)
                address = re.search(r'podIP"?: *"?([\d.]+)', document)
                if name and address and name[1] not in names.values():
                    names[address[1]] = name[1]
        return names

    def files(self):
        for name in sorted(os.listdir(self.manifests)):
            path = os.path.join(self.manifests, name)
            yield path, _read(path)

    def host(self, name):
        """A host by its name; None if there is none."""
        hosts = {"client": self.client, "node": self.node}
        hosts.update((pod.name, pod) for pod in self.pods.values())
        return hosts.get(name)

    def name(self, address):
        return self.pods[address].name if address in self.pods else address

    def edit(self, pattern, replacement):
        """Edits the one manifest that matches; returns the file's name."""
        found = [(path, text) for path, text in self.files() if re.search(pattern, text)]
        assert len(found) == 1, f"examples: {len(found)} files match {pattern!r}, not one"
        path, text = found[0]
        _write(path, re.sub(pattern, replacement, text, count=1))
        return os.path.basename(path)

    def status(self):
        """What the daemon's /statusz says."""
        with self.node:
            with urllib.request.urlopen("http://127.0.0.1:10249/statusz", timeout=5) as answer:
                return json.load(answer)


def _plain_routing(host):
    host.sysctl(
        ipv4__conf__all__rp_filter=0,
        ipv4__conf__default__rp_filter=0,
        ipv4__conf__all__send_redirects=0,
        ipv4__conf__default__send_redirects=0,
    )


def _read(path):
    with open(path) as file:
        return file.read()


def _write(path, text):
    unfinished = f"{path}.tmp"  # a name that is no manifest's
    with open(unfinished, "w") as file:
        file.write(text)
    os.rename(unfinished, path)


# ---- traffic ------------------------------------------------------------------------------------


def request(host, address, port, protocol="TCP"):
    """One connection, one question; the answer says which pod and what peer it saw."""
    connection = LiveConnection(host, address, port, protocol)
    connection.reset()
    return connection.answer


Served = collections.namedtuple("Served", "started took server")


class Traffic(threading.Thread):
    """Connects without end, and keeps asking on live connections in between."""

    def __init__(self, host, address, port, live):
        super().__init__(daemon=True, name="traffic")
        self._target = (host, address, port)
        self._live = list(live)
        self._lock = threading.Lock()
        self._done = threading.Event()
        self.served = []
        self.pings = 0
        self.failures = []

    def run(self):
        while not self._done.wait(0.004):
            started = time.monotonic()
            try:
                with self._lock:
                    for connection in self._live:
                        connection.ping()
                        self.pings += 1
                server = request(*self._target).server
                self.served.append(Served(started, time.monotonic() - started, server))
            except (OSError, Broken) as error:
                self.failures.append(str(error))

    def between(self, start, end=float("inf")):
        return [one for one in self.served if start <= one.started < end]

    def release(self, connection):
        """Ends a live connection, on purpose."""
        with self._lock:
            self._live.remove(connection)
        connection.reset()

    def stop(self):
        self._done.set()
        self.join()


# ---- the show -----------------------------------------------------------------------------------


class Show:
    """The steps, in order. A step fails by raising; the others still have their turn."""

    def __init__(self, screen, shop):
        self.screen, self.shop = screen, shop
        self.requests = 0
        self.traffic = None
        self.live = []
        self.removed = None  # text of a pod's manifest
        self.kept = ""

    def run(self):
        started = time.monotonic()
        steps = (
            self.services, self.round_robin, self.weights, self.affinity, self.udp, self.node_port,
            self.scale_down, self.kill_9, self.schedulers, self.drained, self.the_end,
        )  # fmt: skip
        failed = []
        for number, step in enumerate(steps, 1):
            title, why = (part.strip() for part in step.__doc__.split("\n", 1))
            self.screen.head(number, title, "\n    ".join(map(str.strip, why.splitlines())))
            try:
                step()
            except Exception as error:
                failed.append(number)
                self._explain(error)
        total = self.requests
        if self.traffic:
            self.traffic.stop()
            total += len(self.traffic.served) + len(self.traffic.failures)
        seconds = time.monotonic() - started
        self.screen.say()
        if failed:
            numbers = ", ".join(map(str, failed))
            self.screen.fails(f"{len(failed)} of {len(steps)} steps did not hold: {numbers}")
            return 1
        self.screen.holds(
            self.screen.bold(f"all {len(steps)} steps hold: {total} requests in {seconds:.0f} s")
        )
        self.screen.say("\n    Try it yourself: make run. What is proven in earnest: make test.")
        return 0

    def _explain(self, error):
        self.screen.fails(str(error) or type(error).__name__)
        frames = traceback.extract_tb(error.__traceback__)
        mine = [frame for frame in frames if frame.filename.endswith("demo_lab.py")][-1]
        self.screen.show(f"demo_lab.py:{mine.lineno}: {mine.line}")
        for line in self.shop.node.run("ipvsadm", "-Ln").splitlines()[3:]:
            self.screen.show(self.screen.dim(f"kernel: {line}"))
        for line in self.shop.daemon.log_tail(6):
            self.screen.show(self.screen.dim(f"daemon: {line}"))

    def services(self):
        """Services become virtual servers in the kernel
        `fairlead run --manifests` reads Services and Pods and programs IPVS. This is what IPVS has."""
        plan = self.shop.plan()
        self.shop.raise_pods(plan)
        started = time.monotonic()
        self.shop.daemon.start()
        want = self.shop.plan_as_ipvsadm()
        self.shop.daemon.eventually(lambda: len(ipvsadm_save(self.shop.node)) >= len(want))
        seconds = time.monotonic() - started
        table(self.screen, self.shop, plan)
        self._table_is_as_planned()
        self.screen.holds(f"programmed within {seconds:.1f} s of the daemon's start")

    def _table_is_as_planned(self):
        want, found = self.shop.plan_as_ipvsadm(), []

        def same():
            found[:] = ipvsadm_save(self.shop.node)
            return found == want

        with contextlib.suppress(AssertionError):
            eventually(same, timeout=5)
        odd = sorted(set(found) ^ set(want))
        assert not odd, f"kernel and `fairlead plan` differ: {odd}"
        virtual = sum(line.startswith("-A") for line in want)
        self.screen.holds(
            f"ipvsadm -S prints what `fairlead plan -o ipvsadm` foretold, line by line: {virtual} "
            f"virtual, {len(want) - virtual} real servers"
        )

    def round_robin(self):
        """rr: each connection takes the next endpoint
        The default. 30 connections from a pod of api to the ClusterIP of web, one after another."""
        web = self._virtual("shop/web", "cluster-ip")
        counts = self._spread(self._a_pod("api"), web, 30)
        self.screen.chart(counts, self._pods(web))
        share = 30 // len(self._pods(web))
        self._counts_are(counts, {pod: share for pod in self._pods(web)})

    def weights(self):
        """wrr: endpoints by weight
        `fairlead.io/weights` on the service api favours the stronger node2. 60 connections from a
        pod of web."""
        api = self._virtual("shop/api", "cluster-ip")
        weights = {self.shop.name(r["address"]): r["weight"] for r in api["realServers"]}
        counts = self._spread(self._a_pod("web"), api, 60)
        self.screen.chart(counts, weights, {pod: f"weight {w}" for pod, w in weights.items()})
        assert len(set(weights.values())) > 1, f"examples: weights are all alike: {weights}"
        self._counts_are(counts, {pod: 60 * w // sum(weights.values()) for pod, w in weights.items()})

    def affinity(self):
        """Session affinity: a client comes back to the pod it had
        Carts live in one pod's memory. Each client makes 8 connections to the service cart."""
        cart = self._virtual("shop/cart", "cluster-ip")
        self._by_client(cart, 8, [self._a_pod(app, i) for app in ("web", "api") for i in (0, 1)])
        seconds = cart["persistenceSeconds"]
        self.screen.holds(f"every client stayed with its pod; the kernel remembers it for {seconds} s")

    def udp(self):
        """UDP: the dns service
        20 questions, each from a socket of its own; and 4 by TCP on the same address and port."""
        dns = self._virtual("shop/dns", "cluster-ip", "UDP")
        over_tcp = self._virtual("shop/dns", "cluster-ip", "TCP")
        counts = self._spread(self._a_pod("web"), dns, 20)
        self.screen.chart(counts, self._pods(dns))
        self._counts_are(counts, {pod: 20 // len(self._pods(dns)) for pod in self._pods(dns)})
        by_tcp = self._spread(self._a_pod("web"), over_tcp, 4)
        assert sorted(by_tcp) == sorted(self._pods(dns)), by_tcp
        self.screen.holds("a virtual server of each protocol: TCP is answered as well")

    def node_port(self):
        """NodePort: the shop from outside
        A client that is no pod asks the node's own address. Replies must come back through the
        node, so it is masqueraded."""
        port = self._virtual("shop/web", "node-port")
        answers = self._ask(self.shop.client, port, 30)
        counts = collections.Counter(answer.server for answer in answers)
        self.screen.chart(counts, self._pods(port))
        self._counts_are(counts, {pod: 10 for pod in self._pods(port)})
        peers = {answer.peer for answer in answers}
        self.screen.show(f"from outside: {CLIENT_ADDRESS} {self.screen.arrow} "
                         f"{port['address']}:{port['port']}; the pods saw {', '.join(peers)}")  # fmt: skip
        assert peers == {GATEWAY}, f"pods saw {peers}, not the node's {GATEWAY}"

        pod = self._a_pod("api")
        web = self._virtual("shop/web", "cluster-ip")
        [answer] = self._ask(pod, web, 1)
        self.screen.show(f"from a pod:   {self._address(pod)} {self.screen.arrow} "
                         f"{web['address']}:{web['port']}; the pod saw {answer.peer}")  # fmt: skip
        assert answer.peer == self._address(pod), f"the pod saw {answer.peer}"
        self.screen.holds("the outside client is masqueraded as the node, pods keep their address")

    def scale_down(self):
        """Scale down under traffic
        An outside client connects without a pause and holds one connection to each pod of web. Now
        the manifest of one pod is removed."""
        port = self._virtual("shop/web", "node-port")
        pods = self._pods(port)
        leaving = pods[-1]
        at = (self.shop.client, port["address"], port["port"])
        self.live = [LiveConnection(*at) for _ in pods]
        assert {c.server for c in self.live} == set(pods), [c.server for c in self.live]
        self.traffic = Traffic(*at, self.live)
        self.traffic.start()
        begun = time.monotonic()
        time.sleep(1.2)

        path = next(p for p, text in self.shop.files() if re.search(rf"^  name: {leaving}$", text, re.M))
        self.removed = (path, _read(path))
        os.unlink(path)
        cut = time.monotonic()
        eventually(lambda: self._real(port, leaving).weight == 0)
        drained = time.monotonic()
        time.sleep(1.2)

        before = collections.Counter(one.server for one in self.traffic.between(begun, cut))
        after = collections.Counter(one.server for one in self.traffic.between(drained))
        longest = max([*before.values(), *after.values()])
        self.screen.show(self.screen.dim(f"{'':8} {'before':36} after"))
        for pod in pods:
            left = self.screen.bar(pod, before[pod], longest, 28)
            pad = " " * (34 - round(before[pod] * 28 / longest) - len(str(before[pod])))
            right = self.screen.bar(pod, after[pod], longest, 28)
            self.screen.show(f"{pod:8} {left} {before[pod]}{pad} {right} {after[pod]}")
        real = self._real(port, leaving)
        self.screen.show(
            f"{(drained - cut) * 1000:.0f} ms after {os.path.basename(path)} was removed the kernel "
            f"has {leaving} at weight {real.weight}, with {real.active} active connection"
        )
        assert before[leaving] > 0 and after[leaving] == 0, f"{leaving}: {before}, then {after}"
        assert real.active == 1, f"{leaving} has {real.active} active connections, not the live one"
        self.screen.holds(f"it drains: nothing new goes to {leaving}, its live connection still answers")
        self._none_failed()

    def kill_9(self):
        """kill -9 of the daemon, and a new one
        The kernel moves the packets, so they do not need the daemon; and a new one must find all as
        it is, the drain included."""
        before = ipvsadm_save(self.shop.node)
        killed = time.monotonic()
        self.shop.daemon.kill()
        time.sleep(1.5)
        meanwhile = len(self.traffic.between(killed))
        self.shop.daemon.start()
        status = self.shop.daemon.eventually(lambda: self._synced())
        restarted = time.monotonic()
        time.sleep(0.5)
        self.screen.show(f"{meanwhile} connections were made while no daemon ran, "
                         f"{len(self.traffic.between(killed, restarted)) - meanwhile} while the new one started")  # fmt: skip
        self.screen.show(
            f"the new daemon: {status['virtualServers']} virtual servers, {status['realServers']} "
            f"real servers, {status['draining']} draining, {status['operations']} changes made"
        )
        assert meanwhile > 0, "no request was answered while the daemon was dead"
        assert ipvsadm_save(self.shop.node) == before, "the kernel's table changed"
        assert status["operations"] == 0, f"the new daemon made {status['operations']} changes"
        assert status["draining"] > 0, "the new daemon does not know of the drain"
        self.screen.holds(f"the table is as it was; all {len(self.live)} live connections go on")
        self._none_failed()

    def _synced(self):
        status = self.shop.status()
        return status if status["synced"] and status["upToDate"] else None

    def schedulers(self):
        """Another scheduler, by editing one line
        The service api, now wrr, becomes lc and then sh: fairlead.io/scheduler in its manifest. The
        virtual server is edited in place."""
        staying = self._pods(self._virtual("shop/web", "node-port"))
        for connection in self.live:
            if connection.server not in staying:  # the next step waits for the kernel to forget it
                self.traffic.release(connection)

        api, client = self._virtual("shop/api", "cluster-ip"), self._a_pod("web")
        pods = self._pods(api)
        name = self._reschedule(api, "wrr", "lc")
        at = (client, api["address"], api["port"])
        first = [LiveConnection(*at) for _ in range(3 * len(pods))]
        freed = pods[1]
        for connection in first:
            if connection.server == freed:
                connection.reset()
        held = [connection for connection in first if connection.server != freed]
        eventually(lambda: self._real(api, freed).active == 0)
        busy = collections.Counter(connection.server for connection in held)
        new = [LiveConnection(*at) for _ in range(3)]
        got = collections.Counter(connection.server for connection in new)
        self.requests += len(first) + len(new)
        self.screen.show(f"lc in {name}: least connections, so three new ones go to the idle pod")
        self.screen.chart(busy + got, pods, {pod: f"{busy[pod]} held + {got[pod]} new" for pod in pods})
        for connection in held + new:
            connection.ping()
            connection.reset()
        assert got == {freed: 3}, f"new connections went to {dict(got)}, not to the idle {freed}"
        self.screen.holds(f"all new ones went to {freed}")

        self._reschedule(api, "lc", "sh")
        self.screen.show(f"sh in {name}: source hashing, so a client's address alone decides")
        clients = [self._a_pod("web", 0), self._a_pod("web", 1)]
        clients += [self._a_pod(app, i) for app in ("cart", "dns") for i in (0, 1)]
        self._by_client(api, 4, clients)
        self.screen.holds("every client has its pod, and nothing had to be remembered for it")

    def _reschedule(self, virtual, old, new):
        name = self.shop.edit(rf"(fairlead\.io/scheduler: ){old}\b", rf"\g<1>{new}")
        eventually(lambda: self._held(virtual).scheduler == new)
        return name

    def drained(self):
        """The drain ends, and the pod returns
        The last connection to the removed pod has ended; the kernel forgets it 10 s later, then
        the real server goes. Then the manifest comes back."""
        path, text = self.removed
        port = self._virtual("shop/web", "node-port")
        gone = next(pod.name for pod in self.shop.pods.values() if f"name: {pod.name}\n" in text)
        started = time.monotonic()
        eventually(lambda: self._real(port, gone) is None, timeout=30)
        self.screen.show(f"after {time.monotonic() - started:.1f} s more, {gone} left the kernel's table")

        _write(path, text)
        back = time.monotonic()
        eventually(lambda: gone in [one.server for one in self.traffic.between(back)])
        first = next(one for one in self.traffic.between(back) if one.server == gone)
        self.screen.show(
            f"{(first.started - back) * 1000:.0f} ms after {os.path.basename(path)} came back, {gone} "
            "got its first new connection"
        )
        self.screen.holds(f"{gone} drained, left, and serves again")
        self.traffic.stop()
        self._none_failed()

    def the_end(self):
        """What the kernel has at the end
        The node's ipvsadm -Ln, as an operator sees it; inactive connections are forgotten soon."""
        for line in self.shop.node.run("ipvsadm", "-Ln").splitlines()[1:]:
            self.screen.show(line.rstrip())
        self._table_is_as_planned()
        self.shop.daemon.stop()
        self.screen.holds("the daemon ended when asked to, and left the table as it is")

    # What the steps are made of.

    def _none_failed(self):
        failures = self.traffic.failures
        assert not failures, f"{len(failures)} requests failed, the first: {failures[0]}"
        slowest = max(one.took for one in self.traffic.served) * 1000
        self.screen.holds(
            f"0 failed: {len(self.traffic.served)} new connections and {self.traffic.pings} questions "
            f"on live ones so far, the slowest {slowest:.0f} ms"
        )

    def _virtual(self, owner, kind, protocol="TCP"):
        for virtual in self.shop.plan():
            if (virtual["kind"], virtual["protocol"]) == (kind, protocol):
                if virtual["owner"].split(":")[0] == owner:
                    return virtual
        raise AssertionError(f"examples: no {kind} of {owner} for {protocol}")

    def _held(self, virtual):
        key = f"{virtual['protocol']} {virtual['address']}:{virtual['port']}"
        return virtual_servers(self.shop.node)[key]

    def _real(self, virtual, pod):
        servers = self._held(virtual).servers
        return next((s for s in servers if self.shop.name(s.address) == pod), None)

    def _pods(self, virtual):
        return [self.shop.name(real["address"]) for real in virtual["realServers"]]

    def _a_pod(self, app, index=0):
        pods = sorted(p.name for p in self.shop.pods.values() if p.name.startswith(f"{app}-"))
        assert len(pods) > index, f"examples: {app} has pods {pods}, want more"
        return self.shop.host(pods[index])

    def _address(self, host):
        return next(address for address, pod in self.shop.pods.items() if pod is host)

    def _ask(self, host, virtual, count):
        at = (virtual["address"], virtual["port"], virtual["protocol"])
        self.requests += count
        return [request(host, *at) for _ in range(count)]

    def _spread(self, host, virtual, count):
        return collections.Counter(answer.server for answer in self._ask(host, virtual, count))

    def _counts_are(self, counts, want):
        assert counts == want, f"{dict(counts)}, want {want}"
        shares = " : ".join(str(count) for count in want.values())
        self.screen.holds(f"exactly {shares}")

    def _by_client(self, virtual, count, clients):
        for client in clients:
            counts = self._spread(client, virtual, count)
            pod = counts.most_common(1)[0][0]
            bar = self.screen.bar(pod, counts[pod], count, 24)
            self.screen.show(f"{client.name:8} {bar} {counts[pod]} {self.screen.arrow} {pod}")
            assert len(counts) == 1, f"{client} was sent to {dict(counts)}, not to one pod"


def table(screen, shop, plan):
    """The kernel's virtual servers, with the names that the plan knows."""
    owners = {
        f"{v['protocol']} {v['address']}:{v['port']}": (v["owner"].split(":")[0], v["kind"])
        for v in plan
    }
    rows = []
    for key, virtual in virtual_servers(shop.node).items():
        owner, kind = owners.get(key, ("", ""))
        scheduler = virtual.scheduler
        if virtual.persistence:
            scheduler += f", {virtual.persistence} s"
        reals = [
            screen.pod(name, name) + ("" if weight == 1 else screen.dim(f"={weight}"))
            for name, weight in sorted((shop.name(s.address), s.weight) for s in virtual.servers)
        ]
        rows.append((owner, kind, " ".join(reversed(key.split(" "))), scheduler, " ".join(reals)))
    form = "{:10} {:11} {:20} {:12} {}"
    heads = ("service", "kind", "virtual server", "scheduler", "real servers (=weight if not 1)")
    screen.show(screen.dim(form.format(*heads)))
    for row in sorted(rows):
        screen.show(form.format(*row))


def show(screen, options):
    arrow = screen.line * 5
    system = f"Linux {platform.release()}"
    screen.say()
    screen.say(screen.bold("Fairlead") + f": a small shop, balanced by real kernel IPVS ({system})")
    screen.say()
    screen.show(f"outside client {arrow} node1: fairlead, IPVS {arrow} pods of web, api, cart, dns")
    screen.show(screen.dim(f"{CLIENT_ADDRESS:>14}       {NODE_ADDRESS:<21}       {POD_NET}"))
    return Show(screen, Shop(options.fairlead)).run()


# ---- serving ------------------------------------------------------------------------------------


def serve(screen, options):
    shop = Shop(options.fairlead, options.flags)
    plan, shown = _refresh(shop) or [], None
    shop.daemon.start()
    screen.say(f"""
  The lab is up: hosts client ({CLIENT_ADDRESS}), node ({NODE_ADDRESS}) and a host for each pod.
  Edit the files in examples/: the daemon sees it within a second. The log below is the daemon's;
  the table is the kernel's, whenever it changes. From another terminal:

      tools/demo --exec node ipvsadm -Ln
      tools/demo --exec node curl -s 127.0.0.1:10249/statusz
      tools/demo --exec client ask {NODE_ADDRESS}:30080 12        (12 connections, and who answered)
      tools/demo --exec web-1 ask 10.96.0.53:53/UDP

  Ctrl-C ends it.
""")
    threading.Thread(target=_answer_execs, args=(shop, options.control), daemon=True).start()
    with open(shop.log, errors="replace") as log:
        for turn in itertools.count():
            for line in log:
                screen.say(screen.dim(line.rstrip("\n")))
            if turn % 4 == 0 and (changed := shop.copy_changes()):
                screen.say(f"changed: {', '.join(changed)}")
                plan = _refresh(shop) or plan
            state = _state(shop.node)
            if state != shown:
                shown = state
                screen.say()
                table(screen, shop, plan)
                screen.say()
            try:
                shop.daemon.eventually(lambda: True)  # raises if it has ended
            except AssertionError as ended:
                screen.say(log.read().rstrip())
                screen.fails(str(ended))
                return 1
            time.sleep(0.25)


def _refresh(shop):
    """The plan with its pods up; None while a manifest is broken, of which the daemon's log tells."""
    try:
        plan = shop.plan()
    except AssertionError:
        return None
    shop.raise_pods(plan)
    return plan


def _state(node):
    """What makes a new table worth showing: not the counters."""
    return {
        key: (virtual.scheduler, virtual.persistence, virtual.weights())
        for key, virtual in virtual_servers(node).items()
    }


# ---- commands from another terminal ---------------------------------------------------------------
# A request is a file NUMBER.ask in the control folder, its answer NUMBER.answer; both are JSON.


def _answer_execs(shop, control):
    while True:
        for name in os.listdir(control):
            if name.endswith(".ask"):
                path = os.path.join(control, name)
                text = _read(path)
                os.unlink(path)
                answer = _answer(shop, *json.loads(text))
                _write(path.replace(".ask", ".answer"), json.dumps(answer))
        time.sleep(0.15)


def _answer(shop, name, argv):
    """Exit status and output of a command."""
    host = shop.host(name)
    if not host:
        pods = " ".join(sorted(pod.name for pod in shop.pods.values()))
        return 2, f"no host {name}; there are client, node, {pods}\n"
    try:
        if argv[0] == "ask":
            return 0, _ask_many(host, *argv[1:])
        process = host.start(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True)  # fmt: skip
        try:
            output, _ = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            return 124, output + "killed after 30 s\n"
        return process.returncode, output
    except (OSError, AssertionError, ValueError, TypeError) as error:
        return 1, f"{error}\n"


def _ask_many(host, target, count="12"):
    match = re.fullmatch(r"([\d.]+):(\d+)(?:/(TCP|UDP))?", target)
    if not match:
        raise ValueError(f"ask: {target}: write ADDRESS:PORT[/UDP] [COUNT]")
    address, port, protocol = match[1], int(match[2]), match[3] or "TCP"
    answers = [ask(host, address, port, protocol) for _ in range(int(count))]
    counts = collections.Counter((answer.server, answer.peer) for answer in answers)
    return "".join(
        f"{server:8} {'#' * min(seen, 60)} {seen}  saw {peer}\n"
        for (server, peer), seen in sorted(counts.items())
    )


def execute(control, host, argv):
    if not os.path.isdir(control):
        print("demo: no lab is being served: start one with make run", file=sys.stderr)
        return 2
    question = os.path.join(control, f"{os.getpid()}.ask")
    answer = question.replace(".ask", ".answer")
    _write(question, json.dumps([host, argv]))
    deadline = time.monotonic() + 40
    while not os.path.exists(answer):
        if time.monotonic() > deadline or not os.path.isdir(control):
            print("demo: the lab does not answer", file=sys.stderr)
            return 2
        time.sleep(0.05)
    status, output = json.loads(_read(answer))
    os.unlink(answer)
    sys.stdout.write(output)
    return status


def main():
    if sys.argv[1:2] == ["exec"]:
        return execute(sys.argv[2], sys.argv[3], sys.argv[4:])
    parser = argparse.ArgumentParser(prog="demo_lab.py")
    parser.add_argument("mode", choices=("show", "serve"))
    parser.add_argument("--fairlead", required=True, metavar="BINARY")
    parser.add_argument("--colour", action="store_true")
    parser.add_argument("--ascii", action="store_true")
    parser.add_argument("--control", metavar="DIR")
    parser.add_argument("flags", nargs="*", metavar="FLAG")
    options = parser.parse_args()
    sys.stdout.reconfigure(encoding="utf-8", line_buffering=True)
    screen = Screen(options.colour, options.ascii)
    return {"show": show, "serve": serve}[options.mode](screen, options)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
