# SPDX-License-Identifier: Apache-2.0
"""The data planes whose traffic is compared. Each programs the same services on a director, and
knows whether this kernel and machine have what it needs."""

import ctypes
import json
import os
import shutil
import subprocess
import time

from netns import check

PORT = 80
SERVER_PORT = 8080
SERVERS = ("198.51.100.11", "198.51.100.12")
SERVICE_NET = "10.96.0.0/16"
CLIENT_NET = "192.0.2.0/24"
PROBED = "10.96.255.1"  # the last of all services, and the one that leads to real servers

_libc = ctypes.CDLL(None, use_errno=True)


def services(count):
    """(address, servers) of each; the probed one is the last."""
    made_up = [
        (
            f"10.96.{n // 250}.{1 + n % 250}",
            [f"198.18.{n // 125}.{1 + n % 125 * 2 + i}" for i in range(len(SERVERS))],
        )
        for n in range(count - 1)
    ]
    return made_up + [(PROBED, list(SERVERS))]


class Plane:
    """Nothing, so far: the director routes."""

    kind = "routing"

    def __init__(self, count=0):
        self.count = count
        self.name = f"{self.kind}-{count}" if count else self.kind
        self.targets = (PROBED,) if count else SERVERS
        self.port = PORT if count else SERVER_PORT

    def lacks(self):
        """What is missing on this machine; empty: nothing."""
        return ""

    def program(self, director, directory):
        pass

    def close(self):
        pass


class Ebpf(Plane):
    """The daemon itself, with a bpffs of its own. The clients are pods, so they are not hidden, and
    connections are translated on the director's devices only."""

    kind = "ebpf"
    flags = ()
    binary = ""
    _process = None

    def program(self, director, directory):
        manifests = os.path.join(directory, self.name)
        bpffs = os.path.join(directory, self.name + ".bpffs")
        os.mkdir(manifests)
        os.mkdir(bpffs)
        check(_libc.mount(b"bpf", bpffs.encode(), b"bpf", 0, None), f"mount {bpffs}")
        _write_manifests(manifests, services(self.count))
        pins = os.path.join(bpffs, "fairlead")
        log = os.path.join(directory, self.name + ".log")
        with open(log, "wb") as out:
            self._process = director.start(
                [
                    self.binary, "run", "--proxy-mode", "ebpf", "--manifests", manifests,
                    "--ebpf-pin-dir", pins, "--ebpf-sockets", "off", "--cluster-cidr", CLIENT_NET,
                    "--hostname-override", "director", "--allocation-file=", *self.flags,
                ],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        for _ in range(600):
            if self._process.poll() is not None:
                break
            command = [self.binary, "get", "table", "-o", "json", "--ebpf-pin-dir", pins]
            answer = subprocess.run(command, capture_output=True, text=True)
            if answer.returncode == 0 and (
                len(json.loads(answer.stdout)["virtual_servers"]) == self.count
            ):
                return
            time.sleep(0.1)
        with open(log, errors="replace") as text:
            raise AssertionError(f"{self.name} is not programmed: {text.read()[-2000:]}")

    def close(self):
        if self._process:
            self._process.terminate()
            self._process.wait(timeout=20)


class EbpfFast(Ebpf):
    """The same, with answered connections past the stack."""

    kind = "ebpf-fast"
    flags = ("--ebpf-fast-path",)


class EbpfOther(Ebpf):
    """Another build of the daemon, to be compared with the first."""

    kind = "ebpf-other"

    def lacks(self):
        return "" if self.binary else "another build (--other)"


class Nftables(Plane):
    """The rules of kube-proxy's nftables mode: a verdict map leads from address and port to the
    chain of the service, that to the one of an endpoint; and what goes with it for clients that
    are to be masqueraded, services without endpoints and addresses without a service."""

    kind = "nftables"

    def lacks(self):
        return "" if shutil.which("nft") else "the program nft"

    def program(self, director, directory):
        listed = services(self.count)
        addresses = ", ".join(address for address, _ in listed)
        chains, elements = [], []
        for number, (address, servers) in enumerate(listed):
            ways = []
            for i, at in enumerate(servers):
                endpoint = f"endpoint-{number}-{i}"
                ways.append(f"{i} : goto {endpoint}")
                chains.append(
                    f"chain {endpoint} {{ ip saddr {at} jump mark-for-masquerade; "
                    f"meta l4proto tcp dnat to {at}:{SERVER_PORT}; }}"
                )
            chains.append(
                f"chain service-{number} {{ ip daddr {address} tcp dport {PORT} "
                f"ip saddr != {CLIENT_NET} jump mark-for-masquerade; "
                f"numgen random mod {len(servers)} vmap {{ {', '.join(ways)} }}; }}"
            )
            elements.append(f"{address} . tcp . {PORT} : goto service-{number}")
        director.run("nft", "-f", "-", seconds=300, input=f"""
            table ip kube-proxy {{
              set cluster-ips {{ type ipv4_addr; elements = {{ {addresses} }}; }}
              set nodeport-ips {{ type ipv4_addr; elements = {{ 192.0.2.254 }}; }}
              map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
              map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; }}
              map firewall-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
              map service-nodeports {{ type inet_proto . inet_service : verdict; }}
              chain mark-for-masquerade {{ mark set mark or 0x4000; }}
              chain masquerading {{
                mark and 0x4000 == 0 return
                mark set mark xor 0x4000
                masquerade fully-random
              }}
              {chr(10).join(chains)}
              map service-ips {{
                type ipv4_addr . inet_proto . inet_service : verdict
                elements = {{ {", ".join(elements)} }}
              }}
              chain services {{
                ip daddr . meta l4proto . th dport vmap @service-ips
                ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
              }}
              chain firewall-check {{ ip daddr . meta l4proto . th dport vmap @firewall-ips; }}
              chain service-endpoints-check {{
                ip daddr . meta l4proto . th dport vmap @no-endpoint-services
              }}
              chain nodeport-endpoints-check {{
                ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
              }}
              chain cluster-ips-check {{
                ip daddr @cluster-ips reject
                ip daddr {SERVICE_NET} drop
              }}
              chain filter-prerouting-pre-dnat {{
                type filter hook prerouting priority -110
                ct state new jump firewall-check
              }}
              chain filter-input {{
                type filter hook input priority -110
                ct state new jump nodeport-endpoints-check
                ct state new jump service-endpoints-check
              }}
              chain filter-forward {{
                type filter hook forward priority -110
                ct state new jump service-endpoints-check
                ct state new jump cluster-ips-check
              }}
              chain nat-prerouting {{
                type nat hook prerouting priority dstnat
                jump services
              }}
              chain nat-postrouting {{
                type nat hook postrouting priority srcnat
                jump masquerading
              }}
            }}""")


class Iptables(Plane):
    """The rules of kube-proxy's iptables mode: a list with one rule for each service, a chain of
    each service and one of each endpoint; and what goes with it for clients that are to be
    masqueraded and for forwarded packets."""

    variant = ""

    def lacks(self):
        program = f"iptables-{self.variant}-restore"
        return "" if shutil.which(program) else f"the program {program}"

    def program(self, director, directory):
        listed = services(self.count)
        chains = ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-MARK-MASQ", "KUBE-POSTROUTING"]
        rules = [
            "-A PREROUTING -j KUBE-SERVICES",
            "-A POSTROUTING -j KUBE-POSTROUTING",
            "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
            "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
            "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
            "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
        ]
        for number, (address, servers) in enumerate(listed):
            service = f"KUBE-SVC-{number}"
            name = f'-m comment --comment "bench/service-{number}'
            chains.append(service)
            rules += [
                f'-A KUBE-SERVICES -d {address}/32 -p tcp {name} cluster IP" -m tcp '
                f"--dport {PORT} -j {service}",
                f'-A {service} ! -s {CLIENT_NET} -d {address}/32 -p tcp {name} cluster IP" '
                f"-m tcp --dport {PORT} -j KUBE-MARK-MASQ",
            ]
            for i, at in enumerate(servers):
                endpoint = f"KUBE-SEP-{number}-{i}"
                left = len(servers) - i
                chance = f"-m statistic --mode random --probability {1 / left:.6f} "
                chains.append(endpoint)
                rules += [
                    f'-A {service} {name} -> {at}:{SERVER_PORT}" '
                    f"{chance if left > 1 else ''}-j {endpoint}",
                    f'-A {endpoint} -s {at}/32 {name}" -j KUBE-MARK-MASQ',
                    f'-A {endpoint} -p tcp {name}" -m tcp -j DNAT '
                    f"--to-destination {at}:{SERVER_PORT}",
                ]
        rules.append("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")
        lines = ["*filter"]
        lines += [f":{chain} - [0:0]" for chain in FILTER_CHAINS]
        for hook in "INPUT", "FORWARD":
            for chain in FILTER_CHAINS[:2]:
                lines.append(f"-A {hook} -m conntrack --ctstate NEW -j {chain}")
        lines += [
            "-A FORWARD -j KUBE-FORWARD",
            "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
            "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
            "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "COMMIT",
            "*nat",
        ]
        lines += [f":{chain} - [0:0]" for chain in chains]
        lines += [*rules, "COMMIT", ""]
        director.run(f"iptables-{self.variant}-restore", seconds=300, input="\n".join(lines))


FILTER_CHAINS = ("KUBE-PROXY-FIREWALL", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD")


class IptablesNft(Iptables):
    kind = "iptables-nft"
    variant = "nft"


class IptablesLegacy(Iptables):
    kind = "iptables-legacy"
    variant = "legacy"


class Ipvs(Plane):
    """The kernel's, forwarding by NAT."""

    kind = "ipvs"

    def lacks(self):
        if not os.path.exists("/proc/net/ip_vs"):
            return "IPVS in the kernel"
        return "" if shutil.which("ipvsadm") else "the program ipvsadm"

    def program(self, director, directory):
        lines = []
        for address, servers in services(self.count):
            lines.append(f"-A -t {address}:{PORT} -s rr")
            lines += [f"-a -t {address}:{PORT} -r {at}:{SERVER_PORT} -m" for at in servers]
        director.run("ipvsadm", "-R", input="\n".join(lines) + "\n")
        director.run("ip", "route", "add", "local", SERVICE_NET, "dev", "lo")


SERVICE_PLANES = (Ebpf, EbpfFast, EbpfOther, Nftables, IptablesNft, IptablesLegacy, Ipvs)


def _write_manifests(folder, listed):
    for first in range(0, len(listed), 500):
        items = []
        for number, (address, servers) in enumerate(listed[first : first + 500], first):
            name = f"service-{number}"
            items.append({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": name, "namespace": "bench"},
                "spec": {
                    "clusterIP": address, "ports": [{"port": PORT, "targetPort": SERVER_PORT}]
                },
            })  # fmt: skip
            items.append({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": f"{name}-a", "namespace": "bench",
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": "IPv4",
                "ports": [{"name": "", "port": SERVER_PORT, "protocol": "TCP"}],
                "endpoints": [
                    {"addresses": [at], "conditions": {"ready": True}} for at in servers
                ],
            })  # fmt: skip
        with open(os.path.join(folder, f"{first:05}.json"), "w") as file:
            json.dump({"apiVersion": "v1", "kind": "List", "items": items}, file)
