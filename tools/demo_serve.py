# SPDX-License-Identifier: Apache-2.0
"""Serves the shop until Ctrl-C, following edits of examples/, or looks into a lab that does.

    demo_serve.py --mode ipvs|ebpf --fairlead BINARY [--colour] [--ascii] --control DIR [-- FLAG...]
    demo_serve.py exec DIR HOST COMMAND...
"""

import argparse
import collections
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time

from demo_lab import CLIENT_ADDRESS, NODE_ADDRESS, Shop, options, read, table, write
from lab import ask


def serve(chosen):
    screen, shop = chosen.screen, Shop(chosen.mode, chosen.fairlead, chosen.flags)
    plan, shown = _refresh(shop) or [], {}
    shop.daemon.start()
    screen.say(f"""
  The lab is up: hosts client ({CLIENT_ADDRESS}), node ({NODE_ADDRESS}) and a host for each pod.
  Edit the files in examples/: the daemon sees it within a second. The log below is the daemon's;
  the table is what the kernel holds, whenever it changes. From another terminal:

      tools/demo --exec node {shop.words["listing"]}
      tools/demo --exec node curl -s 127.0.0.1:10249/statusz
      tools/demo --exec client ask {NODE_ADDRESS}:30080 12        (12 connections, and who answered)
      tools/demo --exec web-1 ask 10.96.0.53:53/UDP

  Ctrl-C ends it.
""")
    threading.Thread(target=_answer_execs, args=(shop, chosen.control), daemon=True).start()
    with open(shop.log, errors="replace") as log:
        for turn in itertools.count():
            for line in log:
                screen.say(screen.dim(line.rstrip("\n")))
            if turn % 4 == 0 and (changed := shop.copy_changes()):
                screen.say(f"changed: {', '.join(changed)}")
                plan = _refresh(shop) or plan
            try:
                state = _state(shop.table)
            except AssertionError:
                if shown:
                    raise
                state = shown  # the daemon has not made its maps yet
            if state != shown:
                shown = state
                screen.say()
                table(screen, shop, plan)
                screen.say()
            try:
                shop.daemon.eventually(lambda: True)  # raises if it has ended
            except AssertionError as ended:
                screen.say(log.read().rstrip())
                screen.fails(str(ended))
                return 1
            time.sleep(0.25)


def _refresh(shop):
    """The plan with its pods up; None while a manifest is broken, as the daemon's log tells."""
    try:
        plan = shop.plan()
    except AssertionError:
        return None
    shop.raise_pods(plan)
    return plan


def _state(held):
    """What makes a new table worth showing: not the counters."""
    return {
        key: (virtual.scheduler, virtual.persistence, virtual.weights())
        for key, virtual in held.virtual_servers().items()
    }


# ---- commands from another terminal -------------------------------------------------------------
# A request is a file NUMBER.ask in the control folder, its answer NUMBER.answer; both are JSON.


def _answer_execs(shop, control):
    while True:
        for name in os.listdir(control):
            if name.endswith(".ask"):
                path = os.path.join(control, name)
                text = read(path)
                os.unlink(path)
                answer = _answer(shop, *json.loads(text))
                write(path.replace(".ask", ".answer"), json.dumps(answer))
        time.sleep(0.15)


def _answer(shop, name, argv):
    """Exit status and output of a command."""
    host = shop.host(name)
    if not host:
        pods = " ".join(sorted(pod.name for pod in shop.pods.values()))
        return 2, f"no host {name}; there are client, node, {pods}\n"
    try:
        if argv[0] == "ask":
            return 0, _ask_many(host, *argv[1:])
        process = host.start(shop.command(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True)  # fmt: skip
        try:
            output, _ = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            return 124, output + "killed after 30 s\n"
        return process.returncode, output
    except (OSError, AssertionError, ValueError, TypeError) as error:
        return 1, f"{error}\n"


def _ask_many(host, target, count="12"):
    match = re.fullmatch(r"([\d.]+):(\d+)(?:/(TCP|UDP))?", target)
    if not match:
        raise ValueError(f"ask: {target}: write ADDRESS:PORT[/UDP] [COUNT]")
    address, port, protocol = match[1], int(match[2]), match[3] or "TCP"
    answers = [ask(host, address, port, protocol) for _ in range(int(count))]
    counts = collections.Counter((answer.server, answer.peer) for answer in answers)
    return "".join(
        f"{server:8} {'#' * min(seen, 60)} {seen}  saw {peer}\n"
        for (server, peer), seen in sorted(counts.items())
    )


def execute(control, host, argv):
    if not os.path.isdir(control):
        print("demo: no lab is being served: start one with make run", file=sys.stderr)
        return 2
    question = os.path.join(control, f"{os.getpid()}.ask")
    answer = question.replace(".ask", ".answer")
    write(question, json.dumps([host, argv]))
    deadline = time.monotonic() + 40
    while not os.path.exists(answer):
        if time.monotonic() > deadline or not os.path.isdir(control):
            print("demo: the lab does not answer", file=sys.stderr)
            return 2
        time.sleep(0.05)
    status, output = json.loads(read(answer))
    os.unlink(answer)
    sys.stdout.write(output)
    return status


def main():
    if sys.argv[1:2] == ["exec"]:
        return execute(sys.argv[2], sys.argv[3], sys.argv[4:])
    parser = argparse.ArgumentParser()
    parser.add_argument("--control", required=True, metavar="DIR")
    parser.add_argument("flags", nargs="*", metavar="FLAG", help="more flags of the daemon")
    return serve(options(parser))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
