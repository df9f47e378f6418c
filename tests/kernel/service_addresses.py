# SPDX-License-Identifier: Apache-2.0
"""Every kind of service address, from every place a client can be; and whom the pod then sees."""

from lab import DNS_PORT, WEB_PORT, ask, eventually, refused, spread
from manifests import Endpoint, Port
from runner import each_family

WEB = Port(80, WEB_PORT, name="web")
DNS = Port(53, DNS_PORT, "UDP", name="dns")
ALL_PODS = {"pod1", "pod2", "pod3"}


def serve(lab, *flags, ports=(WEB,), **spec):
    """A service over all pods, and the daemon that made the kernel serve it."""
    web = lab.service("web", ports=ports, **spec).publish(lab.pods)
    daemon = lab.fairlead(*flags)
    daemon.serving(web)
    return web, daemon


def peers(answers):
    return {answer.peer for answer in answers}


@each_family
def test_cluster_ip_from_node(lab):
    web, _ = serve(lab, ports=(WEB, DNS))
    for port, protocol in (80, "TCP"), (53, "UDP"):
        answers = [ask(lab.node, web.address, port, protocol) for _ in range(6)]
        assert {answer.server for answer in answers} == ALL_PODS, answers
        assert peers(answers) == {lab.family.gateway}, answers


@each_family
def test_cluster_ip_from_pod_keeps_the_source(lab):
    web, _ = serve(lab, ports=(WEB, DNS))
    pod = lab.pods[0]
    for port, protocol in (80, "TCP"), (53, "UDP"):
        answers = [ask(pod.host, web.address, port, protocol) for _ in range(6)]
        assert {answer.server for answer in answers} == ALL_PODS, answers
        others = [answer for answer in answers if answer.server != pod.name]
        assert peers(others) == {pod.address(lab.family)}, answers


@each_family
def test_hairpin_to_self(lab):
    pod = lab.pods[0]
    web = lab.service("web", ports=(WEB, DNS)).publish([pod])
    lab.fairlead().serving(web)
    for port, protocol in (80, "TCP"), (53, "UDP"):
        answer = ask(pod.host, web.address, port, protocol)
        assert (answer.server, answer.peer) == (pod.name, lab.family.gateway), answer


@each_family
def test_cluster_ip_from_outside_is_masqueraded(lab):
    web, _ = serve(lab, ports=(WEB, DNS))
    for port, protocol in (80, "TCP"), (53, "UDP"):
        answers = [ask(lab.client, web.address, port, protocol) for _ in range(6)]
        assert {answer.server for answer in answers} == ALL_PODS, answers
        assert peers(answers) == {lab.family.gateway}, answers


@each_family
def test_without_cluster_cidr_nothing_but_the_node_is_masqueraded(lab):
    web = lab.service("web").publish(lab.pods)
    lab.fairlead(cluster_cidr="").serving(web)
    assert ask(lab.client, web.address, 80).peer == lab.family.client
    assert ask(lab.node, web.address, 80).peer == lab.family.gateway


@each_family
def test_masquerade_all_hides_pods_too(lab):
    web, _ = serve(lab, "--masquerade-all")
    answers = [ask(lab.pods[0].host, web.address, 80) for _ in range(3)]
    assert peers(answers) == {lab.family.gateway}, answers


@each_family
def test_node_port_from_outside_is_masqueraded(lab):
    ports = (
        Port(80, WEB_PORT, name="web", node_port=30080),
        Port(53, DNS_PORT, "UDP", name="dns", node_port=30053),
    )
    serve(lab, ports=ports)
    for port, protocol in (30080, "TCP"), (30053, "UDP"):
        answers = [ask(lab.client, lab.family.node, port, protocol) for _ in range(6)]
        assert {answer.server for answer in answers} == ALL_PODS, answers
        assert peers(answers) == {lab.family.gateway}, answers


@each_family
def test_node_port_from_pod_and_from_node(lab):
    serve(lab, ports=(Port(80, WEB_PORT, name="web", node_port=30080),))
    assert set(spread(lab.pods[1].host, lab.family.node, 30080, 6)) == ALL_PODS
    assert set(spread(lab.node, lab.family.node, 30080, 6)) == ALL_PODS


@each_family
def test_node_port_on_chosen_addresses_only(lab):
    port = Port(80, WEB_PORT, name="web", node_port=30080)
    serve(lab, "--nodeport-addresses", "192.0.2.0/24,2001:db8:1::/64", ports=(port,))
    eventually(lambda: lab.table.virtual_server(lab.family.node, 30080))
    assert lab.table.virtual_server(lab.family.gateway, 30080) is None
    assert set(spread(lab.client, lab.family.node, 30080, 6)) == ALL_PODS


@each_family
def test_external_ip(lab):
    external = lab.family.external(7)
    web, _ = serve(lab, external_ips=[external])
    eventually(lambda: lab.table.virtual_server(external, 80))
    answers = [ask(lab.client, external, 80) for _ in range(6)]
    assert {answer.server for answer in answers} == ALL_PODS, answers
    assert peers(answers) == {lab.family.gateway}, answers
    assert lab.table.addresses() >= {web.address, external}


@each_family
def test_same_port_number_by_two_protocols(lab):
    both = (Port(53, WEB_PORT, name="dns-tcp"), Port(53, DNS_PORT, "UDP", name="dns"))
    web, _ = serve(lab, ports=both)
    assert set(spread(lab.client, web.address, 53, 6, "TCP")) == ALL_PODS
    assert set(spread(lab.client, web.address, 53, 6, "UDP")) == ALL_PODS


@each_family
def test_same_name_in_two_namespaces(lab):
    pod1, pod2, _ = lab.pods
    here = lab.service("web", "here").publish([pod1])
    there = lab.service("web", "there").publish([pod2])
    daemon = lab.fairlead()
    daemon.serving(here, there)
    assert set(spread(lab.client, here.address, 80, 4)) == {"pod1"}
    assert set(spread(lab.client, there.address, 80, 4)) == {"pod2"}

    here.delete()
    daemon.eventually(lambda: lab.table.virtual_server(here.address, 80) is None)
    assert set(spread(lab.client, there.address, 80, 4)) == {"pod2"}


@each_family
def test_without_endpoints_the_client_is_refused(lab):
    web = lab.service("web").publish([])
    daemon = lab.fairlead()
    daemon.serving(web)
    assert refused(lab.client, web.address, 80)
    web.publish(lab.pods)
    daemon.serving(web)
    assert set(spread(lab.client, web.address, 80, 6)) == ALL_PODS


@each_family
def test_only_ready_endpoints_are_used(lab):
    pod1, pod2, pod3 = lab.pods
    leaving = Endpoint(pod3, ready=False, serving=True, terminating=True)
    web = lab.service("web").publish([pod1, Endpoint(pod2, ready=False, serving=False), leaving])
    lab.fairlead().serving(web)
    assert set(spread(lab.client, web.address, 80, 4)) == {"pod1"}


@each_family
def test_nothing_is_programmed_that_was_not_asked_for(lab):
    web, _ = serve(lab, ports=(WEB, DNS))
    assert set(lab.table.virtual_servers()) == set(web.expected())
    assert lab.table.addresses() == {web.address}
