# SPDX-License-Identifier: Apache-2.0
"""Which data plane serves where none is asked for, and what tells of it."""

import json
import os
import urllib.request

from lab import ask


def test_left_empty_the_mode_is_what_the_kernel_allows(lab):
    service = lab.service("web").publish(lab.pods)
    daemon = lab.fairlead("--proxy-mode", "")
    daemon.serving(service)
    assert ask(lab.client, service.address, 80).server in {pod.name for pod in lab.pods}

    with lab.node:
        with urllib.request.urlopen("http://127.0.0.1:10249/statusz", timeout=5) as answer:
            status = json.load(answer)
        with urllib.request.urlopen("http://127.0.0.1:10249/proxyMode", timeout=5) as answer:
            page = answer.read().decode()
    assert status["mode"] == page == lab.plane.mode
    assert any(status["modeReason"] in line for line in daemon.log_tail())

    doctor = json.loads(
        lab.node.run(os.environ["FAIRLEAD"], "doctor", "-o", "json", *lab.plane.flags)
    )
    assert doctor["mode"] == lab.plane.mode
    assert doctor["reason"] == status["modeReason"]
    assert doctor[lab.plane.mode]["works"]
    other = doctor["ipvs" if lab.plane.mode == "ebpf" else "ebpf"]
    assert other["works"] or other["reason"], "what is missing is told"
