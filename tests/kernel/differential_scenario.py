# SPDX-License-Identifier: Apache-2.0
"""A random walk of connections and endpoint changes, the same for the same seed.

Only data: the player makes it happen on a data plane. Nothing here depends on what a plane decides,
so both planes get the same steps.

A walk is made of rounds. The clock must not decide what is compared, so within a round no
connection expires: resets (10 s in state CLOSE, all other states last a minute or more) come in
its last steps only. A round ends with `end`, which resets what lingers, and `settle`: the player waits
until all of that, and each real server that drained, is gone.
"""

import dataclasses
import random

SCHEDULERS = ("rr", "wrr", "lc", "wlc", "sed", "nq", "fo", "ovf", "sh", "dh", "mh")
HASHES = ("sh", "dh", "mh")
PODS = 5
CLIENTS = 9  # addresses
AFFINITY = 600
LAST_STEPS = 15  # of a round, in which there may be resets

SEGMENTS = ("syn", "syn-ack", "ack", "data", "answer", "fin", "server-fin")
RESETS = ("rst", "server-rst")


@dataclasses.dataclass(frozen=True)
class Service:
    number: int
    family: str
    protocol: str
    scheduler: str
    affinity: int
    weights: dict  # of the pods that are its endpoints, by number

    @property
    def name(self):
        sticky = "-sticky" if self.affinity else ""
        return f"{self.scheduler}{sticky}-{self.protocol.lower()}-{self.family}".replace("_", "")


@dataclasses.dataclass(frozen=True)
class Step:
    """`do` and what it needs; the others are as they are."""

    number: int
    do: str
    service: int = -1
    connection: int = -1
    connections: tuple = ()
    client: int = 0  # index of its address
    port: int = 0
    weights: dict = dataclasses.field(default_factory=dict)
    scheduler: str = ""
    affinity: int = 0

    def __str__(self):
        given = dataclasses.asdict(self)
        for name in "number", "do":
            del given[name]
        if self.service < 0:
            del given["service"]
        if self.connection < 0:
            del given["connection"]
        words = [f"{name}={value}" for name, value in given.items() if value]
        return " ".join([str(self.number), self.do, *words])


def services():
    """One for each scheduler, protocol and family, and some with affinity."""
    made = []
    random_weights = random.Random(7)
    for family in ("ipv4", "ipv6"):
        for protocol in ("TCP", "UDP"):
            kinds = [(scheduler, 0) for scheduler in SCHEDULERS]
            kinds += [("rr", AFFINITY), ("wlc", AFFINITY)]
            for scheduler, affinity in kinds:
                pods = random_weights.sample(range(1, PODS + 1), 4)
                weights = {pod: random_weights.randint(1, 5) for pod in sorted(pods)}
                made.append(Service(len(made), family, protocol, scheduler, affinity, weights))
    return made


class Walk:
    """Makes the steps. What it keeps is what it asked for, never what happened."""

    def __init__(self, seed, rounds, steps_per_round):
        self._random = random.Random(seed)
        self.services = services()
        self._now = {service.number: dataclasses.replace(service) for service in self.services}
        self._ports = {}
        self._live = {}  # connections of TCP: number -> service
        self._flows = []  # of UDP: (service, client, port)
        self._connections = 0
        self._closing = set()  # connections that are not to outlive the round
        self._draining = set()  # services
        self.steps = []
        for each in range(rounds):
            for step in range(steps_per_round):
                self._one(may_reset=step >= steps_per_round - LAST_STEPS)
            if each == rounds // 2:
                self._add("restart")
            self._settle()

    def _add(self, do, **more):
        self.steps.append(Step(len(self.steps), do, **more))

    def _one(self, may_reset):
        kinds = {
            self._open: 26,
            self._half_open: 6,
            self._segment: 30,
            self._datagram: 24,
            self._reweigh: 3,
            self._endpoints: 3,
            self._reschedule: 2,
            self._stick: 1,
        }
        if may_reset:
            kinds[self._reset] = 60
        self._random.choices(list(kinds), list(kinds.values()))[0]()

    def _service(self, protocol):
        return self._random.choice([s for s in self.services if s.protocol == protocol]).number

    def _client(self, service):
        client = self._random.randrange(CLIENTS)
        key = (self.services[service].family, client)
        self._ports[key] = self._ports.get(key, 0) + 1
        return client, self._ports[key] - 1

    def _may_start(self, service):
        """While a server drains the kernel's hash tables have a hole there, which we do not copy."""
        return not (service in self._draining and self._now[service].scheduler in HASHES)

    # ---- connections ----------------------------------------------------------------------------

    def _open(self, half=False):
        service = self._service("TCP")
        if not self._may_start(service):
            return self._datagram()
        client, port = self._client(service)
        number = self._connections
        self._connections += 1
        do = "syn" if half else "open"
        self._add(do, service=service, connection=number, client=client, port=port)
        self._live[number] = service
        if half:
            self._closing.add(number)

    def _half_open(self):
        self._open(half=True)

    def _segment(self, kinds=SEGMENTS):
        if not self._live:
            return self._open()
        number = self._random.choice(list(self._live))
        what = self._random.choice(kinds)
        if what == "syn" and not self._may_start(self._live[number]):
            what = "ack"
        if what not in ("ack", "data", "answer"):
            self._closing.add(number)
        self._add(what, service=self._live[number], connection=number)

    def _reset(self):
        self._segment(RESETS)

    def _datagram(self):
        if self._flows and self._random.random() < 0.3:
            service, client, port = self._random.choice(self._flows)
        else:
            service = self._service("UDP")
            client, port = self._client(service)
            self._flows.append((service, client, port))
        self._add("datagram", service=service, client=client, port=port)

    # ---- changes --------------------------------------------------------------------------------

    def _change(self, number, **fields):
        self._now[number] = dataclasses.replace(self._now[number], **fields)
        now = self._now[number]
        self._add(
            "change", service=number, weights=now.weights, scheduler=now.scheduler,
            affinity=now.affinity,
        )  # fmt: skip

    def _any(self):
        return self._random.choice(self.services).number

    def _reweigh(self):
        number = self._any()
        weights = dict(self._now[number].weights)
        for pod in self._random.sample(sorted(weights), min(len(weights), 2)):
            weights[pod] = self._random.choice((0, 1, 1, 2, 3, 4, 6, 10))
        self._change(number, weights=weights)

    def _endpoints(self):
        number = self._any()
        weights = dict(self._now[number].weights)
        pod = self._random.randint(1, PODS)
        if pod in weights and len(weights) > 1:
            del weights[pod]
            self._forget(number)
        else:
            weights[pod] = self._random.randint(1, 5)
        self._change(number, weights=weights)

    def _forget(self, number):
        """A real server of this service drains: by the end of the round it must be idle."""
        if self.services[number].protocol == "TCP":
            self._draining.add(number)
            self._closing.update(c for c, service in self._live.items() if service == number)

    def _reschedule(self):
        number = self._any()
        if number not in self._draining and not self._now[number].affinity:
            self._change(number, scheduler=self._random.choice(SCHEDULERS))

    def _stick(self):
        number = self._any()
        self._change(number, affinity=0 if self._now[number].affinity else AFFINITY)

    def _settle(self):
        ending = {c for c in self._live if c in self._closing or self._live[c] in self._draining}
        ending |= {c for c in self._live if self._random.random() < 0.5}
        self._add("end", connections=tuple(sorted(ending)))
        for number in ending:
            del self._live[number]
        self._closing.clear()
        self._add("settle")
        # Where the kernel forgets a server, wrr starts its turn again: bring both to the same place.
        for number in sorted(self._draining):
            if self._now[number].scheduler == "wrr":
                weights = {pod: weight + 1 for pod, weight in self._now[number].weights.items()}
                self._change(number, weights=weights)
        self._draining.clear()
