# SPDX-License-Identifier: Apache-2.0
"""Shows the shop to a person, step by step; exits 1 if anything does not hold.

    demo_show.py --mode ipvs|ebpf --fairlead BINARY [--colour] [--ascii]

Clients end their connections by reset: such a one is forgotten after 10 s, but an orderly closed
one after 120 s, which is longer than anybody wants to watch a drain.
"""

import collections
import contextlib
import os
import platform
import re
import sys
import textwrap
import time
import traceback

from demo_lab import (
    CLIENT_ADDRESS, GATEWAY, NODE_ADDRESS, POD_NET, Shop, Traffic, options, read, table,
    write,
)  # fmt: skip
from lab import LiveConnection, eventually


class Show:
    """The steps, in order. A step fails by raising; the others still have their turn. The text of a
    step is what a person reads: its title, and why it is there."""

    def __init__(self, screen, shop):
        self.screen, self.shop = screen, shop
        self.requests = 0
        self.traffic = None
        self.live = []
        self.removed = None  # name, file and text of the pod that was scaled down

    def run(self):
        started = time.monotonic()
        steps = (
            self.services, self.round_robin, self.weights, self.affinity, self.udp, self.node_port,
            self.scale_down, self.kill_9, self.schedulers, self.drained, self.the_end,
        )  # fmt: skip
        failed = []
        for number, step in enumerate(steps, 1):
            text = step.__doc__.format(**self.shop.words)
            title, why = (part.strip() for part in text.split("\n", 1))
            self.screen.head(number, title, textwrap.wrap(" ".join(why.split()), 92))
            try:
                step()
            except Exception as error:
                failed.append(number)
                self._explain(error)
                if step == self.services:
                    break  # nothing to show without them
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
        serve = self.shop.words["serve"]
        self.screen.say(f"\n    Try it yourself: {serve}. What is proven in earnest: make test.")
        return 0

    def _explain(self, error):
        self.screen.fails(str(error) or type(error).__name__)
        frames = traceback.extract_tb(error.__traceback__)
        mine = [frame for frame in frames if frame.filename == __file__][-1]
        self.screen.show(f"demo_show.py:{mine.lineno}: {mine.line}")
        with contextlib.suppress(AssertionError):  # no table yet
            for line in self.shop.listing():
                self.screen.show(self.screen.dim(f"kernel: {line}"))
        for line in self.shop.daemon.log_tail(6):
            self.screen.show(self.screen.dim(f"daemon: {line}"))

    def services(self):
        """Services become virtual servers in the kernel
        `fairlead run --manifests` reads Services and Pods, and {programs}."""
        plan = self.shop.plan()
        self.shop.raise_pods(plan)
        started = time.monotonic()
        self.shop.daemon.start()
        want = self.shop.plan_as_ipvsadm()
        self.shop.daemon.eventually(lambda: len(self.shop.table.lines()) >= len(want))
        seconds = time.monotonic() - started
        table(self.screen, self.shop, plan)
        self._table_is_as_planned()
        self.screen.holds(f"programmed within {seconds:.1f} s of the daemon's start")

    def _table_is_as_planned(self):
        want, found = self.shop.plan_as_ipvsadm(), []

        def same():
            found[:] = self.shop.table.lines()
            return found == want

        with contextlib.suppress(AssertionError):
            eventually(same, timeout=5)
        odd = sorted(set(found) ^ set(want))
        assert not odd, f"kernel and `fairlead plan` differ: {odd}"
        virtual = sum(line.startswith("-A") for line in want)
        self.screen.holds(
            f"the kernel has what `fairlead plan` foretold, line by line: {virtual} virtual and "
            f"{len(want) - virtual} real servers"
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
        unit = 60 // sum(weights.values())
        self._counts_are(counts, {pod: weight * unit for pod, weight in weights.items()})

    def affinity(self):
        """Session affinity: a client comes back to the pod it had
        Carts live in one pod's memory. Each client makes 8 connections to the service cart."""
        cart = self._virtual("shop/cart", "cluster-ip")
        self._by_client(cart, 8, [self._a_pod(app, i) for app in ("web", "api") for i in (0, 1)])
        seconds = cart["persistenceSeconds"]
        self.screen.holds(f"every client stayed with its pod, and will for {seconds} s")

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
        to = self.screen.arrow
        at, seen = f"{port['address']}:{port['port']}", ", ".join(peers)
        self.screen.show(f"from outside: {CLIENT_ADDRESS} {to} {at}; the pods saw {seen}")
        assert peers == {GATEWAY}, f"pods saw {peers}, not the node's {GATEWAY}"

        pod = self._a_pod("api")
        web = self._virtual("shop/web", "cluster-ip")
        [answer] = self._ask(pod, web, 1)
        at, source = f"{web['address']}:{web['port']}", self._address(pod)
        self.screen.show(f"from a pod:   {source} {to} {at}; the pod saw {answer.peer}")
        assert answer.peer == source, f"the pod saw {answer.peer}"
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

        its_name = re.compile(rf"^  name: {leaving}$", re.MULTILINE)
        path, text = next(file for file in self.shop.files() if its_name.search(file[1]))
        self.removed = (leaving, path, text)
        os.unlink(path)
        cut = time.monotonic()
        eventually(lambda: getattr(self._real(port, leaving), "weight", 0) == 0)
        drained = time.monotonic()
        time.sleep(1.2)

        before = collections.Counter(one.server for one in self.traffic.between(begun, cut))
        after = collections.Counter(one.server for one in self.traffic.between(drained))
        longest = max([*before.values(), *after.values()])
        self.screen.show(self.screen.dim(f"{'':8} {'before, 1.2 s':36} after, 1.2 s"))
        for pod in pods:
            left = self.screen.bar(pod, before[pod], longest, 28)
            pad = " " * (34 - round(before[pod] * 28 / longest) - len(str(before[pod])))
            right = self.screen.bar(pod, after[pod], longest, 28)
            self.screen.show(f"{pod:8} {left} {before[pod]}{pad} {right} {after[pod]}")
        real = self._real(port, leaving)
        assert real, f"{leaving} is gone from the kernel, though a connection to it lives"
        self.screen.show(
            f"{(drained - cut) * 1000:.0f} ms after {os.path.basename(path)} was removed: "
            f"{leaving} has weight {real.weight} and {real.active} active connection"
        )
        assert before[leaving] > 0 and after[leaving] == 0, f"{leaving}: {before}, then {after}"
        assert real.active == 1, f"{leaving} has {real.active} active connections, not the live one"
        self._all_live()
        self.screen.holds(f"{leaving} drains: nothing new goes there, its live connection goes on")
        self._none_failed()

    def kill_9(self):
        """kill -9 of the daemon, and a new one
        The kernel moves the packets, so they do not need the daemon; and a new one must find all as
        it is, the drain included."""
        before = self.shop.table.lines()
        killed = time.monotonic()
        self.shop.daemon.kill()
        time.sleep(1.5)
        meanwhile = len(self.traffic.between(killed))
        self.shop.daemon.start()
        status, after = self.shop.daemon.eventually(self._synced)
        starting = len(self.traffic.between(killed)) - meanwhile
        time.sleep(0.5)
        self.screen.show(
            f"{meanwhile} connections were made while no daemon ran, {starting} while the new one "
            "found its way"
        )
        self.screen.show(
            f"the new daemon has {status['virtualServers']} virtual and {status['realServers']} "
            f"real servers, {status['draining']} draining; changes made: {status['operations']}"
        )
        assert meanwhile > 0, "no request was answered while the daemon was dead"
        # On the ClusterIP, where nobody is connected, the drain may end any moment now.
        ended = set(before) - set(after)
        assert set(after) <= set(before), f"new in the table: {set(after) - set(before)}"
        assert all(line.endswith(" -w 0") for line in ended), f"gone from the table: {ended}"
        assert status["operations"] == len(ended), f"{status['operations']} changes were made"
        assert status["draining"] > 0, "the new daemon does not know of the drain"
        self._all_live()
        but = ", but for a drain that ended" if ended else ""
        self.screen.holds(
            f"the table is as it was{but}; all {len(self.live)} live connections go on"
        )
        self._none_failed()

    def _synced(self):
        """Status and table of one moment."""
        table = self.shop.table.lines()
        status = self.shop.status()
        settled = status["synced"] and status["upToDate"] and table == self.shop.table.lines()
        return (status, table) if settled else None

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
        notes = {pod: f"{busy[pod]} held + {got[pod]} new" for pod in pods}
        self.screen.chart(busy + got, pods, notes)
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
        The last connection to the removed pod has ended. {forgets} Then its manifest comes back."""
        gone, path, text = self.removed
        port = self._virtual("shop/web", "node-port")
        started = time.monotonic()
        eventually(lambda: self._real(port, gone) is None, timeout=30)
        waited = time.monotonic() - started
        self.screen.show(f"after {waited:.1f} s more, {gone} left the kernel's table")

        write(path, text)
        back = time.monotonic()
        eventually(lambda: gone in [one.server for one in self.traffic.between(back)])
        first = next(one for one in self.traffic.between(back) if one.server == gone)
        self.screen.show(
            f"{(first.started - back) * 1000:.0f} ms after {os.path.basename(path)} came back, "
            f"{gone} got its first new connection"
        )
        self.screen.holds(f"{gone} drained, left, and serves again")
        self.traffic.stop()
        self._none_failed()

    def the_end(self):
        """What the kernel has at the end
        The node's `{listing}`, as an operator sees it; inactive connections end soon."""
        for line in self.shop.listing():
            self.screen.show(line.rstrip())
        self._table_is_as_planned()
        self.shop.daemon.stop()
        self.screen.holds("the daemon ended when asked to, and left the table as it is")

    # What the steps are made of.

    def _all_live(self):
        now = time.monotonic()
        with contextlib.suppress(AssertionError):
            eventually(lambda: self.traffic.all_live_since(now), timeout=2)
        assert self.traffic.all_live_since(now), "a live connection is not answered any more"

    def _none_failed(self):
        failures = self.traffic.failures
        assert not failures, f"{len(failures)} requests failed, the first: {failures[0]}"
        slowest = max(one.took for one in self.traffic.served) * 1000
        self.screen.holds(
            f"0 failed of {len(self.traffic.served)} new connections and {self.traffic.pings} "
            f"questions on live ones; the slowest took {slowest:.0f} ms"
        )

    def _virtual(self, owner, kind, protocol="TCP"):
        for virtual in self.shop.plan():
            if (virtual["kind"], virtual["protocol"]) == (kind, protocol):
                if virtual["owner"].split(":")[0] == owner:
                    return virtual
        raise AssertionError(f"examples: no {kind} of {owner} for {protocol}")

    def _held(self, virtual):
        key = f"{virtual['protocol']} {virtual['address']}:{virtual['port']}"
        return self.shop.table.virtual_servers()[key]

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
        # All stay connected until the last is: two sockets of one port would be one flow by UDP.
        connections = [LiveConnection(host, *at) for _ in range(count)]
        for connection in connections:
            connection.reset()
        return [connection.answer for connection in connections]

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


def main():
    chosen = options()
    screen = chosen.screen
    link = screen.line * 5
    shop = Shop(chosen.mode, chosen.fairlead)
    balancer = shop.words["balancer"]
    screen.say()
    screen.say(
        screen.bold("Fairlead")
        + f": a small shop, balanced by {balancer} (Linux {platform.release()})"
    )
    screen.say()
    screen.show(
        f"outside client {link} node1: fairlead, {balancer} {link} pods of web, api, cart, dns"
    )
    node = f"{NODE_ADDRESS:<{17 + len(balancer)}}"
    screen.show(screen.dim(f"{CLIENT_ADDRESS:>14}       {node}       {POD_NET}"))
    return Show(screen, shop).run()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
