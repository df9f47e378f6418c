# SPDX-License-Identifier: Apache-2.0
"""What the kernel of a host holds: IPVS table and connections, addresses, ipsets, rules.

What is polled is read from /proc, without a process.
"""

import dataclasses
import ipaddress
import json
import socket

TICKS = 100  # HZ of the guest's kernel, in which /proc/net/ip_vs tells the persistence timeout


def endpoint_text(address, port):
    """192.0.2.1:80 or [2001:db8::1]:80"""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def virtual_server_key(address, port, protocol="TCP"):
    return f"{protocol} {endpoint_text(address, port)}"


@dataclasses.dataclass(frozen=True)
class RealServer:
    address: str
    port: int
    method: str
    weight: int
    active: int
    inactive: int

    def __str__(self):
        return endpoint_text(self.address, self.port)


@dataclasses.dataclass
class VirtualServer:
    key: str
    address: str  # empty for a firewall mark
    scheduler: str
    persistence: int  # seconds, 0: none
    servers: list  # in the order in which schedulers walk them: latest added first

    def weights(self):
        return {str(server): server.weight for server in self.servers}

    def server(self, address, port):
        """The real server, or None."""
        return next((s for s in self.servers if (s.address, s.port) == (address, port)), None)


def virtual_servers(host):
    """By key, such as `TCP 10.96.0.10:80`."""
    table = {}
    current = None
    for line in host.read("/proc/net/ip_vs").splitlines()[3:]:
        words = line.split()
        if words[0] == "->":
            address, port = _hex_endpoint(words[1])
            numbers = map(int, words[3:6])
            current.servers.append(RealServer(address, port, words[2], *numbers))
            continue
        address = ""
        if words[0] == "FWM":
            key = f"FWM {int(words[1], 16)}"
        else:
            address, port = _hex_endpoint(words[1])
            key = virtual_server_key(address, port, words[0])
        persistence = 0
        if "persistent" in words:
            persistence = int(words[words.index("persistent") + 1]) // TICKS
        current = VirtualServer(key, address, words[2], persistence, [])
        table[key] = current
    return table


def assert_local(host, address):
    """The host takes packets to this address: the table alone does not make it so. Found out by
    binding a socket, which costs no process."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with host, socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            raise AssertionError(f"{address} is not an address of the node: {error}") from error


def virtual_server(host, address, port, protocol="TCP"):
    """The virtual server, or None."""
    return virtual_servers(host).get(virtual_server_key(address, port, protocol))


@dataclasses.dataclass(frozen=True)
class IpvsConnection:
    protocol: str
    client: str
    client_port: int  # 0: a persistence template
    virtual: str
    virtual_port: int
    server: str
    server_port: int
    state: str
    expires: int


def ipvs_connections(host):
    rows = []
    for line in host.read("/proc/net/ip_vs_conn").splitlines()[1:]:
        protocol, *ends, state, expires = line.split()[:9]
        rows.append(
            IpvsConnection(
                protocol,
                _hex_address(ends[0]),
                int(ends[1], 16),
                _hex_address(ends[2]),
                int(ends[3], 16),
                _hex_address(ends[4]),
                int(ends[5], 16),
                state,
                int(expires),
            )
        )
    return rows


def ipvsadm_save(host):
    """Lines of `ipvsadm -S -n`, sorted."""
    return sorted(host.run("ipvsadm", "-S", "-n").splitlines())


def device_addresses(host, device):
    """Addresses on a device, less the link-local ones the kernel makes; empty if there is none."""
    if device not in _devices(host):
        return set()
    found = json.loads(host.run("ip", "-json", "address", "show", "dev", device))
    return {
        info["local"]
        for link in found
        for info in link.get("addr_info", [])
        if info["scope"] != "link"
    }


def ipsets(host):
    """Members of each ipset, as text."""
    sets = {}
    for line in host.run("ipset", "save").splitlines():
        words = line.split()
        if words[0] == "create":
            sets[words[1]] = set()
        elif words[0] == "add":
            sets[words[1]].add(words[2])
    return sets


def iptables_rules(host, family):
    """Lines of iptables-save or ip6tables-save, without comments and counters."""
    tool = "ip6tables-save" if family.name == "ipv6" else "iptables-save"
    lines = host.run(tool).splitlines()
    return [line.split(" [")[0] for line in lines if not line.startswith("#")]


def conntrack_entries(host, protocol, address, port):
    """Lines of the connection tracking table whose original destination is this."""
    wanted = [f"dst={ipaddress.ip_address(address).exploded}", f"dport={port}"]
    found = []
    for line in host.read("/proc/net/nf_conntrack").splitlines():
        words = line.split()
        if words[2] != protocol.lower():
            continue
        original = words[: next(i for i, w in enumerate(words) if w.startswith("dport=")) + 1]
        if all(word in original for word in wanted):
            found.append(line)
    return found


def _devices(host):
    lines = host.read("/proc/net/dev").splitlines()[2:]
    return {line.split(":")[0].strip() for line in lines}


def _hex_endpoint(text):
    address, _, port = text.rpartition(":")
    return _hex_address(address), int(port, 16)


def _hex_address(text):
    if ":" in text:
        return str(ipaddress.IPv6Address(text.strip("[]")))
    return str(ipaddress.IPv4Address(int(text, 16)))
