#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The guest's side of cluster_test.py: shows the kernel's IPVS table and does what it is told.

  cluster_guest.py DIR ADDRESS/LENGTH

DIR is shared with the host, and is the only channel, so that it works while the guest's network is
cut on purpose. Every file in it appears by rename, hence whole:
  table       every 100 ms: a line of JSON about us, then /proc/net/ip_vs
  do.N        from the host, N counting up: one request as JSON
  done.N      our answer to it
Requests: {"run": argv, "seconds": limit}, {"start": argv}, {"signal": number}; the last two are for
the one daemon under test, whose output goes to DIR/daemon.log.
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

SNAPSHOT_SECONDS = 0.1
REQUEST_POLL_SECONDS = 0.02


class Agent:
    def __init__(self, directory):
        self.dir = Path(directory)
        self.daemon = None

    def publish(self, name, text):
        fresh = self.dir / f".{name}.new"
        fresh.write_text(text)
        fresh.rename(self.dir / name)

    def snapshot_forever(self):
        number = 0
        while True:
            number += 1
            status = self.daemon.poll() if self.daemon else None
            about = {"number": number, "daemon_started": self.daemon is not None,
                     "daemon_status": status}
            table = Path("/proc/net/ip_vs").read_text()
            self.publish("table", json.dumps(about) + "\n" + table)
            time.sleep(SNAPSHOT_SECONDS)

    def serve_forever(self):
        number = 0
        while True:
            request = self.dir / f"do.{number}"
            if request.exists():
                answer = self.answer(json.loads(request.read_text()))
                self.publish(f"done.{number}", json.dumps(answer))
                number += 1
            else:
                time.sleep(REQUEST_POLL_SECONDS)

    def answer(self, request):
        try:
            if "run" in request:
                return run(request["run"], request["seconds"])
            if "start" in request:
                with open(self.dir / "daemon.log", "ab") as log:
                    self.daemon = subprocess.Popen(
                        request["start"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                return {}
            self.daemon.send_signal(request["signal"])
            return {}
        except OSError as error:
            return {"error": str(error)}


def run(argv, seconds):
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {seconds} s: {' '.join(argv)}"}
    return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def main():
    directory, address = sys.argv[1:]
    for command in (f"ip addr add {address} dev vec0", "ip link set vec0 up"):
        subprocess.run(command.split(), check=True)
    agent = Agent(directory)
    threading.Thread(target=agent.snapshot_forever, daemon=True).start()
    agent.serve_forever()


if __name__ == "__main__":
    main()
