# SPDX-License-Identifier: Apache-2.0
"""What a data plane holds, read the same way whichever it is.

`IpvsTable` reads the kernel's own table, `EbpfTable` asks the program for that of our maps. Tests
that serve both modes look at `lab.table` and at nothing else.
"""

import glob
import ipaddress
import json
import os
import subprocess

import bpf
import kernel_state
from kernel_state import (
    IpvsConnection,
    RealServer,
    VirtualServer,
    endpoint_text,
    virtual_server_key,
)


class Table:
    """What both have. A connection whose client_port is 0 is a persistence template."""

    def virtual_servers(self):
        """`VirtualServer`s by key, such as `TCP 10.96.0.10:80`."""
        raise NotImplementedError

    def virtual_server(self, address, port, protocol="TCP"):
        """The virtual server, or None."""
        return self.virtual_servers().get(virtual_server_key(address, port, protocol))

    def connections(self):
        raise NotImplementedError

    def addresses(self):
        """Service addresses that the node takes packets for, its own ones aside."""
        raise NotImplementedError

    def assert_taken(self, address):
        """The node takes packets to this service address: a virtual server alone does not do it."""
        raise NotImplementedError

    def lines(self):
        """All of it as `ipvsadm -S -n` writes it, sorted."""
        raise NotImplementedError

    def flows_to(self, server, protocol, address, port):
        """Whatever makes packets of known clients of a virtual server go on to this pod."""
        raise NotImplementedError

    def events(self):
        """Lines of counters that help to explain a failure."""
        return []


class IpvsTable(Table):
    """Kernel IPVS, and the dummy device with the addresses. What is polled costs no process."""

    DEVICE = "kube-ipvs0"

    def __init__(self, node):
        self._node = node

    def virtual_servers(self):
        return kernel_state.virtual_servers(self._node)

    def connections(self):
        return kernel_state.ipvs_connections(self._node)

    def addresses(self):
        return kernel_state.device_addresses(self._node, self.DEVICE)

    def assert_taken(self, address):
        kernel_state.assert_local(self._node, address)

    def lines(self):
        return kernel_state.ipvsadm_save(self._node)

    def flows_to(self, server, protocol, address, port):
        entries = kernel_state.conntrack_entries(self._node, protocol, address, port)
        return [entry for entry in entries if f"src={server}" in entry.split()]


class EbpfTable(Table):
    """The maps of our BPF programs, as the program prints them."""

    _METHODS = {"nat": "Masq", "fullnat": "Masq", "direct": "Route"}  # others are tunnels
    _OPTIONS = {"nat": "-m", "fullnat": "-m", "direct": "-g"}
    _FLAGS = {"TCP": "-t", "UDP": "-u", "SCTP": "--sctp-service"}
    # In the order of enum fl_event.
    EVENTS = (
        "new", "refused", "dropped", "table_full", "no_port", "malformed", "stray", "server_gone",
        "fragment", "reused", "no_route", "too_big",
    )  # fmt: skip

    def __init__(self, pin_directory):
        self._pin_directory = pin_directory
        self.binary = os.environ["FAIRLEAD"]  # the version whose maps they are

    def read(self, what="table"):
        """What `fairlead get` says, as it says it."""
        argv = [self.binary, "get", what, "-o", "json"]
        done = subprocess.run(
            [*argv, "--ebpf-pin-dir", self._pin_directory],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(argv[1:])}: {done.stderr.strip()}"
        return json.loads(done.stdout)

    def virtual_servers(self):
        table = {}
        for row in self.read()["virtual_servers"]:
            mark, address = row["firewall_mark"], row["address"]
            key = virtual_server_key(address, row["port"], row["protocol"])
            if mark:
                key, address = f"FWM {mark}", ""
            assert key not in table, f"{key} is there twice"
            servers = [
                RealServer(
                    server["address"], server["port"], self._METHODS.get(server["forwarding"], "Tunnel"),
                    server["weight"], server["active"], server["inactive"],
                )
                for server in row["real_servers"]
            ]  # fmt: skip
            table[key] = VirtualServer(
                key, address, row["scheduler"], row["persistence"], servers
            )
        return table

    def connections(self):
        return [
            IpvsConnection(
                row["protocol"], row["client"], row["client_port"], row["virtual"],
                row["virtual_port"], row["server"], row["server_port"], row["state"],
                row["expires"],
            )
            for row in self.read("connections")["connections"]
        ]  # fmt: skip

    def addresses(self):
        return set(self.read()["addresses"])

    def assert_taken(self, address):
        addresses = self.addresses()
        assert address in addresses, f"{address} is not taken: {addresses}"

    def lines(self):
        lines = []
        for row in self.read()["virtual_servers"]:
            virtual = f"{self._FLAGS[row['protocol']]} {endpoint_text(row['address'], row['port'])}"
            if mark := row["firewall_mark"]:
                virtual = f"-f {mark}" + (" -6" if ":" in row["address"] else "")
            persistence = f" -p {row['persistence']}" if row["persistence"] else ""
            network = ipaddress.ip_network(row["address"])
            if persistence and row["persistence_prefix"] < network.prefixlen:
                prefix = row["persistence_prefix"]
                mask = network.supernet(new_prefix=prefix).netmask
                persistence += f" -M {mask if network.version == 4 else prefix}"
            lines.append(f"-A {virtual} -s {row['scheduler']}{persistence}")
            for server in row["real_servers"]:
                real = endpoint_text(server["address"], server["port"])
                method = self._OPTIONS.get(server["forwarding"], "-i")
                lines.append(f"-a {virtual} -r {real} {method} -w {server['weight']}")
        return sorted(lines)

    def flows_to(self, server, protocol, address, port):
        return [
            connection
            for connection in self.connections()
            if (connection.protocol, connection.virtual, connection.virtual_port)
            == (protocol, address, port)
            and connection.server == server
        ]

    def event_counts(self):
        """By name, since the maps were made."""
        counters = bpf.per_cpu_counters(self.pin("maps/events"), len(self.EVENTS))
        return dict(zip(self.EVENTS, counters))

    def pin(self, path):
        """The path of what is pinned as this."""
        found = glob.glob(os.path.join(self._pin_directory, "v*", path))
        assert len(found) == 1, f"pinned as {path}: {found}"
        return found[0]

    def events(self):
        return [f"{name} {count}" for name, count in self.event_counts().items() if count]
