# SPDX-License-Identifier: Apache-2.0
"""What others put into the kernel stays as it is: through start, changes, audits and restart."""

from kernel_state import endpoint_text, ipsets, iptables_rules, ipvsadm_save
from lab import WEB_PORT, ask
from runner import each_family


def foreign_table(lab):
    """Virtual servers of another director: two by address, one by firewall mark."""
    family = "-6" if lab.family.name == "ipv6" else ""
    real = endpoint_text(lab.pods[0].address(lab.family), WEB_PORT)
    rules = []
    for address in lab.family.external(1), lab.family.external(200):
        virtual = endpoint_text(address, 8000)
        rules += [f"-A -t {virtual} -s wlc", f"-a -t {virtual} -r {real} -m -w 7"]
    rules += [f"-A -f 7 {family} -s sh", f"-a -f 7 {family} -r {real} -g -w 3"]
    lab.node.run("ipvsadm", "-R", input="\n".join(rules) + "\n")
    return set(ipvsadm_save(lab.node))


def live_through_everything(lab, daemon, web, untouched):
    """Calls `untouched` after each thing that makes a daemon look at the whole kernel."""
    daemon.serving(web)
    untouched()

    web.publish(lab.pods[:1])
    daemon.serving(web)
    untouched()

    # An audit has passed when it has mended what we broke.
    lab.node.run("ipvsadm", "-D", "-t", endpoint_text(web.address, 80))
    daemon.serving(web)
    untouched()

    daemon.kill()
    web.publish(lab.pods)
    daemon.start()
    daemon.serving(web)
    untouched()

    web.delete()
    daemon.eventually(lambda: endpoint_text(web.address, 80) not in str(ipvsadm_save(lab.node)))
    untouched()

    daemon.stop()
    untouched()


@each_family
def test_foreign_virtual_servers(lab):
    before = foreign_table(lab)
    web = lab.service("web").publish(lab.pods)
    daemon = lab.fairlead("--ipvs-sync-period", "1s")

    def untouched():
        assert set(ipvsadm_save(lab.node)) >= before, ipvsadm_save(lab.node)

    live_through_everything(lab, daemon, web, untouched)


@each_family
def test_excluded_cidrs(lab):
    before = foreign_table(lab)
    web = lab.service("web").publish(lab.pods)
    daemon = lab.fairlead(
        "--ipvs-sync-period", "1s", "--ipvs-exclude-cidrs", "203.0.113.0/25,2001:db8:203::/120"
    )

    def untouched():
        assert set(ipvsadm_save(lab.node)) >= before, ipvsadm_save(lab.node)

    live_through_everything(lab, daemon, web, untouched)


@each_family
def test_foreign_rules_and_sets(lab):
    v6 = lab.family.name == "ipv6"
    source = lab.family.external(9)
    lab.node.run(
        "ipset", "restore",
        input=f"create FOREIGN hash:ip family {'inet6' if v6 else 'inet'}\nadd FOREIGN {source}\n",
    )  # fmt: skip
    rules = f"""\
*filter
:FOREIGN - [0:0]
-A INPUT -s {source} -j DROP
-A FORWARD -j FOREIGN
-A FOREIGN -m set --match-set FOREIGN src -j DROP
COMMIT
*nat
:FOREIGN-NAT - [0:0]
-A POSTROUTING -s {source} -j FOREIGN-NAT
-A FOREIGN-NAT -j ACCEPT
COMMIT
"""
    lab.node.run("ip6tables-restore" if v6 else "iptables-restore", input=rules)
    before = set(iptables_rules(lab.node, lab.family))
    web = lab.service("web").publish(lab.pods)
    daemon = lab.fairlead("--ipvs-sync-period", "1s")

    def untouched():
        missing = before - set(iptables_rules(lab.node, lab.family))
        assert not missing, missing
        assert ipsets(lab.node)["FOREIGN"] == {source}

    live_through_everything(lab, daemon, web, untouched)


@each_family
def test_foreign_director_keeps_working(lab):
    foreign_table(lab)
    address = lab.family.external(200)
    lab.node.run("ip", "address", "add", f"{address}/{lab.family.bits}", "dev", "lo")
    web = lab.service("web").publish(lab.pods)
    lab.fairlead().serving(web)
    assert ask(lab.client, address, 8000).server == "pod1"
    assert ask(lab.client, web.address, 80).peer == lab.family.gateway
