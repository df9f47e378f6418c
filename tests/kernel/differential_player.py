# SPDX-License-Identifier: Apache-2.0
"""Plays the differential scenario on the data plane of the mode, and tells what it saw.

Run by `differential`, which compares. Each line that starts with "trace " is one observation, as
JSON: of the step, what became of its packet, and what the plane holds then about the connection and
the virtual server.
"""

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
SILENCE = 0.4  # seconds without an answer
CLOSE_SECONDS = 10.0


@lab_of(pods=scenario.PODS)
def test_walk(lab):
    walk = scenario.Walk(
        seed=int(os.environ.get("DIFFERENTIAL_SEED", 1)),
        rounds=int(os.environ.get("DIFFERENTIAL_ROUNDS", 4)),
        steps_per_round=int(os.environ.get("DIFFERENTIAL_STEPS", 600)),
    )
    Player(lab, walk).play()


class Connection:
    """A TCP connection by hand: where it goes, and the next sequence number of each end."""

    def __init__(self, service, source, port):
        self.service, self.source, self.port = service, source, port
        self.pod = None
        self.first = 0  # sequence number of the SYN; the server's is beyond it
        self.client_seq = self.server_seq = 0

    def begin(self):
        self.first += 1_000_000
        self.client_seq = self.first + 1
        self.server_seq = self.first + 500_001


class Player:
    def __init__(self, lab, walk):
        self._lab = lab
        self._walk = walk
        self._families = {family.name: family for family in FAMILIES}
        self._services = [self._service(spec) for spec in walk.services]
        self._wires = {}
        self._connections = {}
        self._pods = {
            pod.address(family): pod for pod in lab.pods for family in FAMILIES
        }
        self._first_reset = None

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
        for spec in self._walk.services:
            self._tell({"services": spec.name, "server": self._row(spec.number)})
        for step in self._walk.steps:
            seen = getattr(self, "_" + step.do.replace("-", "_"))(step)
            self._tell({"step": str(step), **seen})
        for wire in self._wires.values():
            wire.close()

    def _without_tracking(self):
        """Connection tracking has its own opinion of TCP: what is no plausible next segment it takes
        for a new connection, and gives it another port. IPVS does not need it to decide."""
        if self._lab.plane.mode == "ipvs":
            self._lab.node.sysctl(ipv4__vs__conntrack=0)

    def _tell(self, observation):
        print("trace " + json.dumps(observation), flush=True)

    # ---- services -------------------------------------------------------------------------------

    def _service(self, spec):
        family = self._families[spec.family]
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

    def _row(self, number):
        return self._row_of(number, self._lab.table.virtual_servers())

    def _rows(self):
        table = self._lab.table.virtual_servers()
        return [self._row_of(number, table) for number in range(len(self._services))]

    def _row_of(self, number, table):
        service = self._services[number]
        port = service.ports[0]
        held = table[virtual_server_key(service.address, port.number, port.protocol)]
        return {
            "scheduler": held.scheduler,
            "persistence": held.persistence,
            "servers": [
                [self._pods[s.address].name, s.weight, s.active, s.inactive] for s in held.servers
            ],
        }

    def _change(self, step):
        service = self._services[step.service]
        self._publish(service, step)
        wanted = {service.endpoints[i].pod.name: w for i, w in enumerate(step.weights.values())}
        drains = self._walk.services[step.service].protocol == "TCP"

        def is_done():
            row = self._row(step.service)
            assert (row["scheduler"], row["persistence"]) == (step.scheduler, step.affinity), row
            weights = {name: weight for name, weight, *_ in row["servers"]}
            assert {name: weights.get(name) for name in wanted} == wanted, f"{row} want {wanted}"
            for name, weight, active, inactive in row["servers"]:
                may_stay = drains and weight == 0 and active + inactive > 0
                assert name in wanted or may_stay, f"{name} is still there: {row}"
            return row

        return {"server": self._daemon.eventually(is_done)}

    def _restart(self, step):
        """Must leave all as it is. A service that is new afterwards tells when it is through."""
        before = self._rows()
        self._daemon.stop()
        news = self._lab.service(f"news-{step.number}", address=self._lab.family.vip(200))
        news.publish(self._lab.pods)
        self._daemon.start()
        self._daemon.serving(news)
        self._without_tracking()
        return {"unchanged": self._rows() == before}

    def _end(self, step):
        """All these connections, at once. A half-open one stays so when the client resets it, so
        each gets an ACK first."""
        for flags in ACK, RST | ACK:
            if flags & RST:
                self._first_reset = self._first_reset or time.monotonic()
            for number in step.connections:
                if self._connections[number].pod is not None:  # not refused
                    self._from_client(self._connections[number], flags, observe=False)
        return {"servers": self._rows()}

    def _settle(self, _step):
        late = self._first_reset and time.monotonic() - self._first_reset
        assert not late or late < CLOSE_SECONDS - 1, (
            f"this machine is too slow: {late:.1f} s passed since the first reset of the round, so "
            "that connections may have expired before its end"
        )
        self._first_reset = None

        def is_done():
            closed = [c for c in self._lab.table.connections() if c.state == "CLOSE"]
            assert not closed, f"{len(closed)} connections are still in state CLOSE"
            rows = self._rows()
            for service, row in zip(self._services, rows):
                wanted = {endpoint.pod.name for endpoint in service.endpoints}
                assert wanted == {server[0] for server in row["servers"]}, (wanted, row)
            return rows

        return {"servers": self._daemon.eventually(is_done, timeout=60)}

    # ---- TCP ------------------------------------------------------------------------------------

    def _open(self, step):
        """The whole handshake."""
        seen = self._syn(step)
        connection = self._connections[step.connection]
        if connection.pod is not None:
            self._from_server(step, SYN | ACK, seq=connection.first + 500_000, observe=False)
            after = self._from_client(connection, ACK)
            assert after["got"] == seen["got"], (seen, after)
            seen = after
        return seen

    def _syn(self, step):
        if step.connection not in self._connections:
            family = self._services[step.service].family
            source = [family.client, *family.clients][step.client]
            self._connections[step.connection] = Connection(
                step.service, source, FIRST_PORT + step.port
            )
        connection = self._connections[step.connection]
        # On a connection that goes on it is a late copy of its first segment.
        if self._state(connection)[0] in ("TIME_WAIT", "CLOSE", None):
            connection.begin()
        return self._from_client(connection, SYN, seq=connection.first)

    def _syn_ack(self, step):
        connection = self._connections[step.connection]
        return self._from_server(step, SYN | ACK, seq=connection.first + 500_000)

    def _ack(self, step):
        return self._from_client(self._connections[step.connection], ACK)

    def _data(self, step):
        return self._from_client(self._connections[step.connection], ACK, b"question", takes=8)

    def _answer(self, step):
        return self._from_server(step, ACK, b"answer", takes=6)

    def _fin(self, step):
        return self._from_client(self._connections[step.connection], FIN | ACK, takes=1)

    def _server_fin(self, step):
        return self._from_server(step, FIN | ACK, takes=1)

    def _rst(self, step):
        self._first_reset = self._first_reset or time.monotonic()
        return self._from_client(self._connections[step.connection], RST | ACK)

    def _server_rst(self, step):
        self._first_reset = self._first_reset or time.monotonic()
        return self._from_server(step, RST | ACK)

    def _from_client(self, connection, flags, data=b"", takes=0, seq=None, observe=True):
        service = self._services[connection.service]
        wire = self._wires[service.family.name]
        wire.send(
            connection.source, connection.port, service.address, service.port, flags,
            seq or connection.client_seq, connection.server_seq if flags & ACK else 0, data,
        )  # fmt: skip
        connection.client_seq += takes
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
        return self._after(connection, wire, result) if observe else None

    def _from_server(self, step, flags, data=b"", takes=0, seq=None, observe=True):
        connection = self._connections[step.connection]
        if connection.pod is None:
            return {"got": "no server"}
        service = self._services[connection.service]
        wire = self._wires[service.family.name]
        own = connection.pod.address(service.family)
        wire.send(
            own, POD_PORT, connection.source, connection.port, flags,
            seq or connection.server_seq, connection.client_seq, data,
        )  # fmt: skip
        connection.server_seq += takes
        came = wire.receive(SILENCE)
        if came is None or came == "unreachable":
            result = came or "silence"
        elif (came.source, came.source_port) == (service.address, service.port):
            result = "client"
        else:
            result = "client, not from the virtual server"
        return self._after(connection, wire, result) if observe else None

    def _after(self, connection, wire, result):
        more = wire.drain()
        state, expires = self._state(connection)
        return {
            "got": result,
            "more": [str(each) for each in more],
            "state": state,
            "expires": expires,
            "server": self._row(connection.service),
        }

    def _state(self, connection):
        service = self._services[connection.service]
        port = service.ports[0]
        for each in self._lab.table.connections():
            if (
                (each.protocol, each.virtual, each.client_port)
                == (port.protocol, service.address, connection.port)
                and each.client == connection.source
            ):  # fmt: skip
                return each.state, each.expires
        return None, None

    # ---- UDP ------------------------------------------------------------------------------------

    def _datagram(self, step):
        service = self._services[step.service]
        family = service.family
        source = [family.client, *family.clients][step.client]
        with self._lab.client:
            client = socket.socket(family.af, socket.SOCK_DGRAM)
        with client:
            client.settimeout(SILENCE)
            client.bind((source, FIRST_PORT + step.port))
            client.connect((service.address, service.port))
            try:
                client.send(b"hello\n")
                answer = client.recv(2048).decode().split()
                assert (answer[1], int(answer[2])) == (source, FIRST_PORT + step.port), answer
                result = answer[0]
            except ConnectionRefusedError:
                result = "unreachable"
            except TimeoutError:
                result = "silence"
        self._wires[family.name].drain()
        connection = Connection(step.service, source, FIRST_PORT + step.port)
        state, expires = self._state(connection)
        return {
            "got": result, "state": state, "expires": expires, "server": self._row(step.service),
        }  # fmt: skip
