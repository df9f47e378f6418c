# SPDX-License-Identifier: Apache-2.0
"""Plays the differential scenario on the data plane of the mode, and tells what it saw.

Run by `differential`, which compares. Each line that starts with "trace " is an observation, as
JSON: of a step, what became of its packet; and every few steps and after each change, all virtual
servers and connections that are not as they were when we last looked.
"""

import concurrent.futures
import json
import os
import socket
import time

import differential_scenario as scenario
from kernel_state import virtual_server_key
from lab import DNS_PORT, FAMILIES
from manifests import SCHEDULER, WEIGHTS, Port, Service
from runner import lab_of
from segments import ACK, FIN, RST, SYN, Wire

FIRST_PORT = 40000
POD_PORT = 9090
SILENCE = 2.0  # seconds without an answer; hardly ever there is none
TICK = 0.05  # in which the kernel's timers have done what was due
LOOK_EVERY = 8  # steps; for one of the modes a look is two processes
CLIENT_SEQ, SERVER_SEQ = 1_000_000, 2_000_000
# Seconds within which nothing expires that is compared: state CLOSE lasts 10 s, others 60 s or more.
RESETS_LAST, ROUND_LASTS = 9, 58


@lab_of(pods=scenario.PODS)
def test_walk(lab):
    walk = scenario.Walk(*(int(os.environ[f"DIFFERENTIAL_{x}"]) for x in ("SEED", "ROUNDS", "STEPS")))
    Player(lab, walk).play()


class Connection:
    """A TCP connection by hand. The planes follow flags, not sequence numbers."""

    def __init__(self, service, source, port):
        self.service, self.source, self.port = service, source, port
        self.pod = None


class Player:
    def __init__(self, lab, walk):
        self._lab = lab
        self._walk = walk
        self._services = [self._service(spec) for spec in walk.services]
        self._names = {}  # of virtual servers, by address
        for service, spec in zip(self._services, walk.services):
            self._names[service.address] = spec.name
        self._pods = {pod.address(family): pod.name for pod in lab.pods for family in FAMILIES}
        self._wires = {}
        self._connections = {}
        self._seen = ({}, {})  # rows, connections
        self._touched = {}  # connections that had a packet since, and when
        self._first_reset = self._first_step = None
        self._reader = concurrent.futures.ThreadPoolExecutor(1)

    def play(self):
        ports = 1 + max(step.port for step in self._walk.steps)
        for family in FAMILIES:
            self._wires[family.name] = Wire(
                self._lab.client, self._lab.pods, family,
                range(FIRST_PORT, FIRST_PORT + ports), POD_PORT,
            )  # fmt: skip
        for service, spec in zip(self._services, self._walk.services):
            self._publish(service, spec)
        # Nothing is masqueraded, and nobody audits settings (see _without_tracking).
        self._daemon = self._lab.fairlead("--ipvs-sync-period", "1h", cluster_cidr="")
        self._daemon.serving(*self._services)
        self._without_tracking()
        self._look(-1)
        for step in self._walk.steps:
            self._first_step = self._first_step or time.monotonic()
            seen = getattr(self, "_" + step.do.replace("-", "_"))(step)
            name = self._walk.services[step.service].name if step.service >= 0 else ""
            rows = seen.pop("rows", None)
            self._tell({"step": str(step), "on": name, **seen})
            if rows or step.number % LOOK_EVERY == 0 or step.do in ("end", "restart"):
                self._look(step.number, rows)
        for wire in self._wires.values():
            wire.close()

    def _without_tracking(self):
        """Connection tracking has its own opinion of TCP: what is no plausible next segment it takes
        for a new connection, and gives it another port. IPVS does not need it to decide."""
        if self._lab.plane.mode == "ipvs":
            self._lab.node.sysctl(ipv4__vs__conntrack=0)

    def _tell(self, observation):
        print("trace " + json.dumps(observation), flush=True)

    # ---- what the plane holds -------------------------------------------------------------------

    def _look(self, number, rows=None):
        """What is new. Of connections that had a packet, also the time that it gave them."""
        reading = self._reader.submit(self._lab.table.connections)
        rows = rows or self._rows()
        held, left = {}, {}
        for each in reading.result():
            name = self._names.get(each.virtual)
            if name and each.client_port:  # no template
                key = f"{name} {each.client} {each.client_port}"
                held[key] = [self._pods[each.server], each.state]
                if key in self._touched:
                    left[key] = each.expires + int(time.monotonic() - self._touched[key])
        for key in sorted(left):
            self._tell({"after": number, "connection": key, "expires": left[key]})
        for what, now, before in zip(("server", "connection"), (rows, held), self._seen):
            for key in sorted(now.keys() | before.keys()):
                if now.get(key) != before.get(key):
                    self._tell({"after": number, what: key, "is": now.get(key)})
        self._seen = (rows, held)
        self._touched = {}

    def _rows(self):
        """By name of the virtual server: its real servers in the order of the walk."""
        table = self._lab.table.virtual_servers()
        rows = {}
        for service, spec in zip(self._services, self._walk.services):
            port = service.ports[0]
            held = table[virtual_server_key(service.address, port.number, port.protocol)]
            rows[spec.name] = {
                "scheduler": held.scheduler,
                "persistence": held.persistence,
                "servers": [
                    [self._pods[s.address], s.weight, s.active, s.inactive] for s in held.servers
                ],
            }
        return rows

    # ---- services -------------------------------------------------------------------------------

    def _service(self, spec):
        family = next(family for family in FAMILIES if family.name == spec.family)
        port = Port(80, POD_PORT) if spec.protocol == "TCP" else Port(53, DNS_PORT, "UDP")
        return Service(
            self._lab.manifests, family, spec.name, "default",
            address=family.vip(10 + spec.number), ports=(port,),
        )  # fmt: skip

    def _publish(self, service, spec):
        weights = {self._lab.pods[pod - 1]: weight for pod, weight in spec.weights.items()}
        service.annotations = {
            SCHEDULER: spec.scheduler,
            WEIGHTS: ",".join(f"{pod.address(service.family)}={n}" for pod, n in weights.items()),
        }
        service.affinity_seconds = spec.affinity
        service.publish(weights)

    def _change(self, step):
        spec = self._walk.services[step.service]
        self._publish(self._services[step.service], step)
        address = self._services[step.service].address
        wanted = {f"pod{pod}": weight for pod, weight in step.weights.items()}

        def is_done():
            rows = self._rows()
            row = rows[spec.name]
            assert (row["scheduler"], row["persistence"]) == (step.scheduler, step.affinity), row
            weights = {name: weight for name, weight, *_ in row["servers"]}
            assert {name: weights.get(name) for name in wanted} == wanted, f"{row} want {wanted}"
            for name, weight, active, inactive in row["servers"]:
                may_stay = spec.protocol == "TCP" and weight == 0 and active + inactive > 0
                assert name in wanted or may_stay, f"{name} is still there: {row}"
            if spec.protocol == "UDP":  # flows to who is gone end a moment later than that goes
                flows = [c for c in self._lab.table.connections() if c.virtual == address]
                gone = {self._pods[c.server] for c in flows if c.client_port} - set(wanted)
                assert not gone, f"there are still flows to {gone}"
            return rows

        return {"rows": self._daemon.eventually(is_done)}

    def _restart(self, step):
        """Must leave all as it is. A service that is new afterwards tells when it is through."""
        self._daemon.stop()
        news = self._lab.service(f"news-{step.number}", address=self._lab.family.vip(200))
        news.publish(self._lab.pods)
        self._daemon.start()
        self._daemon.serving(news)
        self._without_tracking()
        return {}

    def _end(self, step):
        """All these connections, at once. A half-open one stays so when the client resets it, so
        each gets an ACK first."""
        for flags in ACK, RST | ACK:
            if flags & RST:
                self._first_reset = self._first_reset or time.monotonic()
            for number in step.connections:
                if self._connections[number].pod is not None:  # not refused
                    self._from_client(self._connections[number], flags)
        return {}

    def _settle(self, _step):
        for since, limit in ((self._first_reset, RESETS_LAST), (self._first_step, ROUND_LASTS)):
            late = since and time.monotonic() - since
            assert not late or late < limit, (
                f"this machine is too slow: a round took {late:.1f} s of {limit} s, so that "
                "connections may have expired in it"
            )

        def is_done():
            closed = [c for c in self._lab.table.connections() if c.state == "CLOSE"]
            assert not closed, f"{len(closed)} connections are still in state CLOSE"
            rows = self._rows()
            for service, spec in zip(self._services, self._walk.services):
                wanted = {endpoint.pod.name for endpoint in service.endpoints}
                found = {server[0] for server in rows[spec.name]["servers"]}
                assert wanted == found, f"{spec.name} has {found}, want {wanted}"
            return rows

        rows = self._daemon.eventually(is_done, timeout=60)
        self._first_reset = self._first_step = None
        return {"rows": rows}

    # ---- TCP ------------------------------------------------------------------------------------

    def _open(self, step):
        """The whole handshake."""
        seen = self._syn(step)
        connection = self._connections[step.connection]
        if connection.pod is None:
            return seen
        return {"got": [seen["got"], self._syn_ack(step)["got"], self._ack(step)["got"]]}

    def _syn(self, step):
        if step.connection not in self._connections:
            service = self._services[step.service]
            self._connections[step.connection] = Connection(
                step.service, self._source(service, step.client), FIRST_PORT + step.port
            )
        connection = self._connections[step.connection]
        is_new = connection.pod is None
        seen = self._from_client(connection, SYN)
        if not is_new:
            # The kernel takes a connection that is replaced out of the counters at its next tick.
            time.sleep(TICK)
        return seen

    def _syn_ack(self, step):
        return self._from_server(step, SYN | ACK)

    def _ack(self, step):
        return self._from_client(self._connections[step.connection], ACK)

    def _data(self, step):
        return self._from_client(self._connections[step.connection], ACK, b"question")

    def _answer(self, step):
        return self._from_server(step, ACK, b"answer")

    def _fin(self, step):
        return self._from_client(self._connections[step.connection], FIN | ACK)

    def _server_fin(self, step):
        return self._from_server(step, FIN | ACK)

    def _rst(self, step):
        self._first_reset = self._first_reset or time.monotonic()
        return self._from_client(self._connections[step.connection], RST | ACK)

    def _server_rst(self, step):
        self._first_reset = self._first_reset or time.monotonic()
        return self._from_server(step, RST | ACK)

    def _source(self, service, client):
        return [service.family.client, *service.family.clients][client]

    def _from_client(self, connection, flags, data=b""):
        service = self._services[connection.service]
        wire = self._wires[service.family.name]
        wire.send(
            connection.source, connection.port, service.address, service.port, flags,
            CLIENT_SEQ, SERVER_SEQ if flags & ACK else 0, data,
        )  # fmt: skip
        came = wire.receive(SILENCE)
        if came is None or came == "unreachable":
            result = came or "silence"
        elif came.host == "client":
            assert came.flags & RST, came
            result = "reset"
        else:
            assert (came.source, came.source_port) == (connection.source, connection.port), came
            assert (came.port, came.flags) == (POD_PORT, flags), came
            connection.pod = self._lab.pod(came.host)
            result = came.host
        return self._after(connection, wire, result)

    def _from_server(self, step, flags, data=b""):
        connection = self._connections[step.connection]
        if connection.pod is None:
            return {"got": "no server"}
        service = self._services[connection.service]
        wire = self._wires[service.family.name]
        wire.send(
            connection.pod.address(service.family), POD_PORT, connection.source, connection.port,
            flags, SERVER_SEQ, CLIENT_SEQ, data,
        )  # fmt: skip
        came = wire.receive(SILENCE)
        if came is None or came == "unreachable":
            result = came or "silence"
        elif (came.source, came.source_port) == (service.address, service.port):
            result = "client"
        else:
            result = "client, not from the virtual server"
        return self._after(connection, wire, result)

    def _after(self, connection, wire, result):
        self._touch(connection)
        seen = {"got": result}
        if more := wire.drain():
            seen["more"] = [str(each) for each in more]
        return seen

    def _touch(self, connection):
        name = self._walk.services[connection.service].name
        self._touched[f"{name} {connection.source} {connection.port}"] = time.monotonic()

    # ---- UDP ------------------------------------------------------------------------------------

    def _datagram(self, step):
        service = self._services[step.service]
        source, port = self._source(service, step.client), FIRST_PORT + step.port
        with self._lab.client:
            client = socket.socket(service.family.af, socket.SOCK_DGRAM)
        with client:
            client.settimeout(SILENCE)
            client.bind((source, port))
            client.connect((service.address, service.port))
            try:
                client.send(b"hello\n")
                answer = client.recv(2048).decode().split()
                assert answer[1:] == [source, str(port), "hello"], answer
                result = answer[0]
            except ConnectionRefusedError:
                result = "unreachable"
            except TimeoutError:
                result = "silence"
        self._wires[service.family.name].drain()  # the ICMP error
        self._touch(Connection(step.service, source, port))
        return {"got": result}
