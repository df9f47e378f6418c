# SPDX-License-Identifier: Apache-2.0
"""Which endpoint gets which connection.

Real servers are walked from the one added last. The order in which the daemon adds them is its own
affair, so tests read the walk from the table, and the picks must follow from that exactly.
"""

from lab import DNS_PORT, LiveConnection, ask, eventually, spread
from manifests import SCHEDULER, WEIGHTS, Port
from runner import each_family
from schedules import round_robin, source_hash, weighted_round_robin


def serve(lab, *flags, **spec):
    web = lab.service("web", **spec).publish(lab.pods)
    daemon = lab.fairlead(*flags)
    daemon.serving(web)
    return web, daemon


def table(lab, service):
    port = service.ports[0]
    return lab.table.virtual_server(service.address, port.number, port.protocol)


def walk(lab, service):
    """Names of the pods in the order in which the schedulers see them."""
    names = {pod.address(lab.family): pod.name for pod in lab.pods}
    return [names[server.address] for server in table(lab, service).servers]


@each_family
def test_rr_is_the_default_and_takes_turns(lab):
    web, _ = serve(lab)
    assert table(lab, web).scheduler == "rr"
    assert spread(lab.client, web.address, 80, 7) == round_robin(walk(lab, web), 7)


@each_family
def test_rr_takes_turns_over_udp(lab):
    dns, _ = serve(lab, ports=(Port(53, DNS_PORT, "UDP"),))
    assert spread(lab.client, dns.address, 53, 7, "UDP") == round_robin(walk(lab, dns), 7)


@each_family
def test_wrr_of_equal_weights_takes_turns(lab):
    web, _ = serve(lab, annotations={SCHEDULER: "wrr"})
    assert table(lab, web).scheduler == "wrr"
    assert spread(lab.client, web.address, 80, 7) == round_robin(walk(lab, web), 7)


def weights_text(lab, weights):
    return ",".join(f"{lab.pod(name).address(lab.family)}={n}" for name, n in weights.items())


@each_family
def test_wrr_follows_weights(lab):
    weights = {"pod1": 4, "pod2": 3, "pod3": 2}
    annotations = {SCHEDULER: "wrr", WEIGHTS: weights_text(lab, weights)}
    web, _ = serve(lab, annotations=annotations)
    expected = weighted_round_robin(walk(lab, web), weights, 18)
    assert spread(lab.client, web.address, 80, 18) == expected


@each_family
def test_weights_change_in_place(lab):
    web, daemon = serve(lab, annotations={SCHEDULER: "wrr"})
    live = [LiveConnection(lab.client, web.address, 80) for _ in lab.pods]
    weights = {"pod1": 1, "pod2": 0, "pod3": 5}
    web.annotations[WEIGHTS] = weights_text(lab, weights)
    web.publish()

    def weights_now():
        held = table(lab, web).servers
        return {pod.name: s.weight for pod in lab.pods for s in held
                if s.address == pod.address(lab.family)}  # fmt: skip

    daemon.eventually(lambda: weights_now() == weights)
    for connection in live:
        connection.ping()
    picks = spread(lab.client, web.address, 80, 12)
    assert (picks.count("pod1"), picks.count("pod3")) == (2, 10), picks


@each_family
def test_lc_picks_who_has_fewest_connections(lab):
    web, _ = serve(lab, annotations={SCHEDULER: "lc"})
    order = walk(lab, web)
    held = [LiveConnection(lab.client, web.address, 80) for _ in range(6)]
    assert [connection.server for connection in held] == round_robin(order, 6)

    freed = order[1]
    for connection in held:
        if connection.server == freed:
            connection.reset()
    address = lab.pod(freed).address(lab.family)
    eventually(lambda: table(lab, web).server(address, 8080).active == 0)
    refill = [LiveConnection(lab.client, web.address, 80) for _ in range(2)]
    assert [connection.server for connection in refill] == [freed, freed]


@each_family
def test_sh_picks_by_source_address(lab):
    web, _ = serve(lab, annotations={SCHEDULER: "sh"})
    order = walk(lab, web)
    for source in lab.family.clients:
        picks = spread(lab.client, web.address, 80, 3, source=source)
        assert picks == [source_hash(order, source)] * 3, f"{source}: {picks}"


@each_family
def test_flag_sets_the_default_and_annotation_overrides_it(lab):
    plain = lab.service("plain").publish(lab.pods)
    special = lab.service("special", annotations={SCHEDULER: "sh"}).publish(lab.pods)
    lab.fairlead("--ipvs-scheduler", "lc").serving(plain, special)
    assert table(lab, plain).scheduler == "lc"
    assert table(lab, special).scheduler == "sh"


@each_family
def test_misspelt_scheduler_leaves_that_service_with_the_default(lab):
    odd = lab.service("odd", annotations={SCHEDULER: "nosuch"}).publish(lab.pods)
    fine = lab.service("fine", annotations={SCHEDULER: "wrr"}).publish(lab.pods)
    lab.fairlead("--ipvs-scheduler", "lc").serving(odd, fine)
    assert table(lab, odd).scheduler == "lc"
    assert table(lab, fine).scheduler == "wrr"


@each_family
def test_scheduler_that_the_kernel_lacks_falls_back_to_rr_for_that_service_alone(lab):
    odd = lab.service("odd", annotations={SCHEDULER: "twos"}).publish(lab.pods)
    fine = lab.service("fine", annotations={SCHEDULER: "wrr"}).publish(lab.pods)
    lab.fairlead("--ipvs-scheduler", "lc").serving(odd, fine)
    assert table(lab, odd).scheduler == "rr"
    assert table(lab, fine).scheduler == "wrr"
    assert spread(lab.client, odd.address, 80, 3) == walk(lab, odd)


@each_family
def test_scheduler_changes_in_place(lab):
    web, daemon = serve(lab)
    with LiveConnection(lab.client, web.address, 80) as live:
        web.annotations[SCHEDULER] = "sh"
        web.publish()
        daemon.eventually(lambda: table(lab, web).scheduler == "sh")
        live.ping()
        address = lab.pod(live.server).address(lab.family)
        assert table(lab, web).server(address, 8080).active == 1
    source = lab.family.clients[0]
    pick = ask(lab.client, web.address, 80, source=source).server
    assert pick == source_hash(walk(lab, web), source)
