# SPDX-License-Identifier: Apache-2.0
"""The lab with ipvsadm as the director: what fails here is no fault of the daemon."""

import collections

from kernel_state import (
    conntrack_entries,
    device_addresses,
    endpoint_text,
    ipsets,
    iptables_rules,
    ipvs_connections,
    ipvsadm_save,
    virtual_server,
)
from lab import (
    DNS_PORT,
    WEB_PORT,
    Broken,
    LiveConnection,
    Traffic,
    ask,
    refused,
    spread,
)
from runner import each_family
from schedules import round_robin, source_hash, weighted_round_robin

MASQUERADE = "-t nat -A POSTROUTING -m comment --comment bed -j MASQUERADE".split()


def direct(lab, port, target, protocol="TCP", *, scheduler="rr", weights=None,
           masquerade=True, options=""):  # fmt: skip
    """A virtual server over all pods on a new address, as kube-proxy would hold it: the address on
    a dummy device, conntrack on, sources masqueraded."""
    address = lab.vip()
    service = endpoint_text(address, port)
    letter = {"TCP": "t", "UDP": "u"}.get(protocol)
    flag = f"-{letter}" if letter else "--sctp-service"
    rules = [f"-A {flag} {service} -s {scheduler} {options}"]
    for pod in lab.pods:
        real = endpoint_text(pod.address(lab.family), target)
        rules.append(f"-a {flag} {service} -r {real} -m -w {(weights or {}).get(pod.name, 1)}")
    lab.node.run("ipvsadm", "-R", input="\n".join(rules) + "\n")
    if "vs0" not in device_list(lab):
        lab.node.run("ip", "link", "add", "vs0", "type", "dummy")
    lab.node.run("ip", "address", "add", f"{address}/{lab.family.bits}", "dev", "vs0")
    lab.node.sysctl(ipv4__vs__conntrack=1, ipv4__vs__expire_nodest_conn=1)
    if masquerade:
        lab.node.run(iptables(lab), *MASQUERADE)
    return address


def device_list(lab):
    return [line.split(":")[0].strip() for line in lab.node.read("/proc/net/dev").splitlines()]


def iptables(lab):
    return "ip6tables" if lab.family.name == "ipv6" else "iptables"


def walk(lab):
    return [pod.name for pod in reversed(lab.pods)]


@each_family
def test_tcp_from_client_pod_and_node(lab):
    vip = direct(lab, 80, WEB_PORT)
    assert spread(lab.client, vip, 80, 7) == round_robin(walk(lab), 7)
    assert set(spread(lab.pods[0].host, vip, 80, 3)) == {"pod1", "pod2", "pod3"}
    assert set(spread(lab.node, vip, 80, 3)) == {"pod1", "pod2", "pod3"}


@each_family
def test_udp_from_client_pod_and_node(lab):
    vip = direct(lab, 53, DNS_PORT, "UDP")
    assert spread(lab.client, vip, 53, 7, "UDP") == round_robin(walk(lab), 7)
    assert set(spread(lab.pods[0].host, vip, 53, 3, "UDP")) == {"pod1", "pod2", "pod3"}
    assert set(spread(lab.node, vip, 53, 3, "UDP")) == {"pod1", "pod2", "pod3"}


@each_family
def test_sctp(lab):
    for pod in lab.pods:
        lab.servers.listen(pod.host, 9000, "SCTP")
    vip = direct(lab, 90, 9000, "SCTP", masquerade=False)
    assert spread(lab.client, vip, 90, 4, "SCTP") == round_robin(walk(lab), 4)


@each_family
def test_hairpin_to_self(lab):
    vip = direct(lab, 80, WEB_PORT)
    pod = lab.pods[0]
    answers = [ask(pod.host, vip, 80) for _ in lab.pods]
    assert [a.peer for a in answers if a.server == pod.name] == [lab.family.gateway], answers


@each_family
def test_source_is_seen_without_masquerade(lab):
    vip = direct(lab, 80, WEB_PORT, masquerade=False)
    source = lab.family.clients[3]
    answer = ask(lab.client, vip, 80, source=source, source_port=40123)
    assert (answer.peer, answer.peer_port) == (source, 40123), answer


@each_family
def test_wrr_of_equal_weights_takes_turns(lab):
    vip = direct(lab, 80, WEB_PORT, scheduler="wrr")
    assert spread(lab.client, vip, 80, 7) == round_robin(walk(lab), 7)


@each_family
def test_wrr_follows_weights(lab):
    weights = {"pod1": 4, "pod2": 3, "pod3": 2}
    vip = direct(lab, 80, WEB_PORT, scheduler="wrr", weights=weights)
    expected = weighted_round_robin(walk(lab), weights, 18)
    assert spread(lab.client, vip, 80, 18) == expected


@each_family
def test_sh_picks_by_source_address(lab):
    vip = direct(lab, 80, WEB_PORT, scheduler="sh")
    for source in lab.family.clients:
        assert ask(lab.client, vip, 80, source=source).server == source_hash(walk(lab), source)


@each_family
def test_persistence_is_read_from_the_table(lab):
    vip = direct(lab, 80, WEB_PORT, options="-p 600")
    assert len(set(spread(lab.client, vip, 80, 4))) == 1
    assert virtual_server(lab.node, vip, 80).persistence == 600


@each_family
def test_live_connection_survives_weight_0_and_breaks_without_its_server(lab):
    vip = direct(lab, 80, WEB_PORT)
    virtual = endpoint_text(vip, 80)
    live = LiveConnection(lab.client, vip, 80)
    pod = lab.pod(live.server)
    real = endpoint_text(pod.address(lab.family), WEB_PORT)
    lab.node.run("ipvsadm", "-e", "-t", virtual, "-r", real, "-m", "-w", "0")
    live.ping()
    server = virtual_server(lab.node, vip, 80).server(pod.address(lab.family), WEB_PORT)
    assert (server.weight, server.active) == (0, 1), server

    lab.node.run("ipvsadm", "-d", "-t", virtual, "-r", real)
    try:
        live.ping()
    except Broken:
        return
    raise AssertionError("it lives on without its real server")


@each_family
def test_refused_without_endpoints(lab):
    vip = direct(lab, 80, WEB_PORT)
    lab.node.run("ipvsadm", "-C")
    lab.node.run("ipvsadm", "-A", "-t", endpoint_text(vip, 80), "-s", "rr")
    for _ in range(3):
        assert refused(lab.client, vip, 80)


@each_family
def test_traffic_notices_a_gap(lab):
    vip = direct(lab, 80, WEB_PORT)
    live = [LiveConnection(lab.client, vip, 80) for _ in range(3)]
    with Traffic(lab.client, vip, 80, live=live) as quiet:
        quiet.pass_on(10)
    assert set(quiet.servers) == {"pod1", "pod2", "pod3"}

    with Traffic(lab.client, vip, 80, may_fail=True) as disturbed:
        lab.node.run("ipvsadm", "-C")
        disturbed.pass_on(2)
    assert disturbed.failures


@each_family
def test_connections_are_listed(lab):
    vip = direct(lab, 53, DNS_PORT, "UDP")
    answer = ask(lab.client, vip, 53, "UDP", source_port=40053)
    connection = next(c for c in ipvs_connections(lab.node) if c.client_port == 40053)
    assert (connection.protocol, connection.virtual) == ("UDP", vip), connection
    pod = lab.pod(answer.server)
    assert connection.server == pod.address(lab.family), connection
    assert len(conntrack_entries(lab.node, "UDP", vip, 53)) == 1


@each_family
def test_ipset_and_iptables(lab):
    v6 = lab.family.name == "ipv6"
    vip = lab.vip()
    lab.node.run(
        "ipset", "restore",
        input=f"create BED hash:ip,port family {'inet6' if v6 else 'inet'}\nadd BED {vip},tcp:80\n"
        "create BEDPORTS bitmap:port range 0-65535\nadd BEDPORTS 30080\n",
    )  # fmt: skip
    assert ipsets(lab.node) == {"BED": {f"{vip},tcp:80"}, "BEDPORTS": {"30080"}}
    rule = "-A INPUT -m set --match-set BED dst,dst -m comment --comment bed -j REJECT"
    lab.node.run(iptables(lab) + "-restore", "--noflush", input=f"*filter\n{rule}\nCOMMIT\n")
    found = iptables_rules(lab.node, lab.family)
    assert any(line.startswith("-A INPUT -m set --match-set BED dst,dst") for line in found), found


@each_family
def test_what_the_kernel_holds_is_read_right(lab):
    vip = direct(lab, 80, WEB_PORT)
    assert device_addresses(lab.node, "vs0") == {vip}
    assert device_addresses(lab.node, "nosuch0") == set()
    held = virtual_server(lab.node, vip, 80)
    walk = [pod.address(lab.family) for pod in reversed(lab.pods)]
    assert [server.address for server in held.servers] == walk, held
    assert (held.scheduler, held.persistence) == ("rr", 0), held
    text = endpoint_text(vip, 80)
    assert f"-A -t {text} -s rr" in ipvsadm_save(lab.node)


def test_sessions_spread_evenly(lab):
    vip = direct(lab, 80, WEB_PORT)
    counts = collections.Counter(spread(lab.client, vip, 80, 30))
    assert counts == {"pod1": 10, "pod2": 10, "pod3": 10}, counts
