# SPDX-License-Identifier: Apache-2.0
"""The daemon under test, on the lab's node. $FAIRLEAD names the binary."""

import os
import signal
import subprocess
import time

from planes import IpvsPlane


class Fairlead:
    """A running daemon of the plane's mode. Whether it is ready, and whether it has done something,
    is read from the plane's table, which is what matters."""

    def __init__(self, node, directory, *flags, plane=None):
        self._node = node
        self._plane = plane or IpvsPlane(node, directory)
        self._argv = [_binary(), "run", "--proxy-mode", self._plane.mode]
        self._argv += [*self._plane.flags, *flags]
        self._log_path = os.path.join(directory, "fairlead.log")
        self._process = None

    def start(self):
        with open(self._log_path, "ab") as log:
            log.write(f"--- {' '.join(self._argv)}\n".encode())
            log.flush()
            self._process = self._node.start(
                self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def stop(self):
        """Asks it to end; it must do so at once, and without complaint."""
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(timeout=10)
        assert status == 0, f"fairlead ended with status {status} after SIGTERM"

    def kill(self):
        """kill -9; no complaint if it is gone."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def restart(self):
        self.stop()
        self.start()

    def become(self, binary):
        """From the next start on it is another version of the program."""
        self._argv[0] = self._plane.table.binary = binary

    def restart_as(self, binary):
        self.stop()
        self.become(binary)
        self.start()

    def status(self):
        """Its exit status; None while it runs."""
        return self._process.poll()

    def log_tail(self, lines=40):
        with open(self._log_path, errors="replace") as log:
            return log.read().splitlines()[-lines:]

    def eventually(self, check, timeout=20.0):
        """As lab.eventually, but fails at once if the daemon has ended."""
        from lab import eventually

        ended = []

        def check_alive():
            status = self._process.poll()
            if status is not None:
                ended.append(status)
                return True
            return check()

        result = eventually(check_alive, timeout)
        assert not ended, f"fairlead ended by itself with status {ended[0]}"
        return result

    def serving(self, *services):
        """Waits until the plane sends new connections of these services to their ready endpoints
        and to no others. Real servers may be left that take no new ones (weight 0)."""
        expected = {}
        for service in services:
            expected.update(service.expected())

        def check():
            table = self._plane.table.virtual_servers()
            found = {
                key: table[key]
                and {str(server) for server in table[key].servers if server.weight > 0}
                for key in expected
                if key in table
            }
            assert found == expected, f"it has {found}, want {expected}"
            for key in expected:
                self._plane.table.assert_taken(table[key].address)
            return True

        started = time.monotonic()
        self.eventually(check, timeout=60)  # Linux 6.1 in qemu looks long at the programs
        return time.monotonic() - started


def other_layout():
    """The program that keeps its state in maps of another layout (tests/layout)."""
    build = os.path.dirname(os.path.dirname(_binary()))
    path = os.path.join(build, "tests", "layout", "fairlead-other-layout")
    assert os.access(path, os.X_OK), f"{path}: no such program; build it first"
    return path


def _binary():
    path = os.environ.get("FAIRLEAD", "")
    assert path, "FAIRLEAD is not set: it names the daemon's binary"
    assert os.access(path, os.X_OK), f"FAIRLEAD={path}: no such program; build it first"
    return path
