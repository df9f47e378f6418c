# SPDX-License-Identifier: Apache-2.0
"""The shop of examples/ in a lab, for demo_show.py and demo_serve.py.

Hosts, servers, clients and data planes are those of the kernel tests. Each pod of a manifest
becomes a namespace behind the node:

    client 192.0.2.2 ---- 192.0.2.1 node1 198.51.100.1 ---- a veth pair for each pod

`tools/demo` starts them where they may make namespaces at will, and leave them to be cleared up.
"""

import argparse
import collections
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "kernel"))

from fairlead import Fairlead  # noqa: E402
from lab import Broken, LiveConnection, Servers  # noqa: E402
from netns import Host  # noqa: E402
from planes import PLANES  # noqa: E402

EXAMPLES = os.path.join(ROOT, "examples")
NODE_NAME = "node1"
NODE_ADDRESS, CLIENT_ADDRESS = "192.0.2.1", "192.0.2.2"
GATEWAY, POD_NET = "198.51.100.1", "198.51.100.0/24"
FLAGS = {"--cluster-cidr": POD_NET, "--nodeport-addresses": "192.0.2.0/24"}
WORDS = {  # what is called otherwise in each mode
    "ipvs": {
        "balancer": "kernel IPVS",
        "programs": "programs IPVS: here it is",
        "forgets": "The kernel forgets it 10 s later, and the daemon, which looks every few "
        "seconds, takes the pod out.",
        "listing": "ipvsadm -Ln",
        "serve": "make run MODE=ipvs",
    },
    "ebpf": {
        "balancer": "BPF programs",
        "programs": "fills its BPF maps: here they are",
        "forgets": "10 s later the daemon, which looks every few seconds, forgets it and takes the "
        "pod out.",
        "listing": "fairlead get table",
        "serve": "make run",
    },
}
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
        for line in why:
            self.say(f"    {line}")

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

    def __init__(self, mode, binary, flags=()):
        os.environ["FAIRLEAD"] = binary
        self.words = WORDS[mode]
        self._binary = binary
        given = {flag.split("=")[0] for flag in flags}
        self._flags = [part for flag in FLAGS.items() if flag[0] not in given for part in flag]
        self._more_flags = list(flags)
        self._directory = tempfile.mkdtemp(prefix="shop.")
        self.manifests = os.path.join(self._directory, "manifests")
        self._allocations = os.path.join(self._directory, "allocations")
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
        plane = PLANES[mode](self.node, self._directory)
        self.table = plane.table
        self._plane_flags = plane.flags
        self.daemon = Fairlead(
            self.node, self._directory, "--manifests", self.manifests,
            "--hostname-override", NODE_NAME, "--allocation-file", self._allocations,
            *self._flags, *self._more_flags, plane=plane,
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
                text = read(os.path.join(EXAMPLES, name))
            except FileNotFoundError:
                continue  # just now
            if not os.path.exists(to) or read(to) != text:
                write(to, text)
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
            self._binary, "plan", "-o", form, "--manifests", self.manifests, "--node", NODE_NAME,
            "--allocation-file", self._allocations, *self._flags,
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
            yield path, read(path)

    def listing(self):
        """The lines by which an operator of the node sees the table."""
        return self.node.run(*self.command(self.words["listing"].split())).splitlines()

    def command(self, argv):
        """The command with what this lab knows about our own program: where it is, and its maps."""
        if argv[0] != "fairlead":
            return argv
        flags = self._plane_flags[:2] if argv[1:2] in (["get"], ["cleanup"]) else ()
        return [self._binary, *argv[1:], *flags]

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
        write(path, re.sub(pattern, replacement, text, count=1))
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


def read(path):
    with open(path) as file:
        return file.read()


def write(path, text):
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
        self._answered = {}  # when each live connection last was
        self.failures = []

    def run(self):
        while not self._done.wait(0.004):
            started = time.monotonic()
            try:
                with self._lock:
                    for connection in self._live:
                        connection.ping()
                        self.pings += 1
                        self._answered[connection] = time.monotonic()
                server = request(*self._target).server
                self.served.append(Served(started, time.monotonic() - started, server))
            except (OSError, Broken) as error:
                self.failures.append(str(error))

    def between(self, start, end=float("inf")):
        return [one for one in self.served if start <= one.started < end]

    def all_live_since(self, start):
        """Whether every live connection was answered after that time."""
        return all(self._answered.get(connection, 0) > start for connection in self._live)

    def release(self, connection):
        """Ends a live connection, on purpose."""
        with self._lock:
            self._live.remove(connection)
        connection.reset()

    def stop(self):
        self._done.set()
        self.join()


# ---- what both need -----------------------------------------------------------------------------


def table(screen, shop, plan):
    """The data plane's virtual servers, with the names that the plan knows."""
    owners = {
        f"{v['protocol']} {v['address']}:{v['port']}": (v["owner"].split(":")[0], v["kind"])
        for v in plan
    }
    rows = []
    for key, virtual in shop.table.virtual_servers().items():
        owner, kind = owners.get(key, ("", ""))
        scheduler = virtual.scheduler
        if virtual.persistence:
            scheduler += f" persistent {virtual.persistence}"
        reals = [
            screen.pod(name, name) + ("" if weight == 1 else screen.dim(f"={weight}"))
            for name, weight in sorted((shop.name(s.address), s.weight) for s in virtual.servers)
        ]
        rows.append((owner, kind, " ".join(reversed(key.split(" "))), scheduler, " ".join(reals)))
    form = "{:10} {:11} {:20} {:18} {}"
    heads = ("service", "kind", "virtual server", "scheduler", "real servers (=weight if not 1)")
    screen.show(screen.dim(form.format(*heads)))
    for row in sorted(rows):
        screen.show(form.format(*row))


def options(parser=None):
    """The command line: what both take, and what the parser has been told of."""
    parser = parser or argparse.ArgumentParser()
    parser.add_argument("--mode", required=True, choices=sorted(PLANES))
    parser.add_argument("--fairlead", required=True, metavar="BINARY")
    parser.add_argument("--colour", action="store_true")
    parser.add_argument("--ascii", action="store_true", help="of the terminal's characters")
    parsed = parser.parse_args()
    sys.stdout.reconfigure(encoding="utf-8", line_buffering=True)
    parsed.screen = Screen(parsed.colour, parsed.ascii)
    return parsed
