# SPDX-License-Identifier: Apache-2.0
"""Runs the `test_*` functions of modules, each in a lab of its own.

    runner.py [--mode ipvs|ebpf] [-k TEXT]... [--not-needing FEATURE] FILE...

A test takes the lab as its only argument and fails by raising. `@each_family` runs it once for each
IP family, told apart by `lab.family` and by the name: `test_x[ipv6]`. `@lab_of(pods=2)` asks for
another number of pods than three. -k picks the tests with TEXT in `file:name`, or one of
several TEXTs.

Which data planes a test is for is said by its file's name, ipvs_* or ebpf_*, else it is for all, or
by `@only("ebpf")` on the test. `@needs("SCTP")` is for what some kernels lack: without it the test
is skipped, and the skip says so. The guests of `uml` and `qemu` have all, so they skip nothing; what
is run there anyway can be left out here (`--not-needing SCTP`), and is then no skip.
"""

import argparse
import importlib.util
import os
import socket
import sys
import time
import traceback

sys.dont_write_bytecode = True
if __name__ == "__main__":  # so that tests import these decorators, not a second copy
    sys.modules["runner"] = sys.modules[__name__]


def each_family(test):
    test.each_family = True
    return test


def lab_of(pods):
    def mark(test):
        test.pods = pods
        return test

    return mark


def only(mode):
    def mark(test):
        test.mode = mode
        return test

    return mark


def needs(feature):
    def mark(test):
        test.needs = feature
        return test

    return mark


def _has_sctp():
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


_PROBES = {"SCTP": _has_sctp}
_MODES = ("ipvs", "ebpf")


def main():
    parser = argparse.ArgumentParser(prog="runner.py")
    parser.add_argument("--mode", choices=_MODES, default="ipvs")
    parser.add_argument(
        "-k", metavar="TEXT", action="append", help="run tests with TEXT, or another, in file:name"
    )
    parser.add_argument("--not-needing", choices=_PROBES, help="leave out tests that need it")
    parser.add_argument("files", nargs="+")
    arguments = parser.parse_args()

    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for file in arguments.files:
        for name, test, family in _tests(file, arguments.mode):
            if arguments.not_needing and getattr(test, "needs", "") == arguments.not_needing:
                continue
            if not arguments.k or any(text in name for text in arguments.k):
                counts[_run(name, test, family, arguments.mode)] += 1
    print(", ".join(f"{count} {what}" for what, count in counts.items()), flush=True)
    return 0 if counts["failed"] == 0 and counts["passed"] > 0 else 1


def _tests(file, mode):
    from lab import FAMILIES, IPV4

    stem = os.path.basename(file).removesuffix(".py")
    of_file = stem.split("_")[0]
    if of_file in _MODES and of_file != mode:
        raise SystemExit(f"runner: {stem} is for the {of_file} mode, this is the {mode} mode")
    spec = importlib.util.spec_from_file_location(stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, test in list(vars(module).items()):
        if not name.startswith("test_") or getattr(test, "mode", mode) != mode:
            continue
        if getattr(test, "each_family", False):
            for family in FAMILIES:
                yield f"{stem}:{name}[{family}]", test, family
        else:
            yield f"{stem}:{name}", test, IPV4


def _run(name, test, family, mode):
    from lab import Lab
    from planes import PLANES

    feature = getattr(test, "needs", "")
    if feature and mode != "ipvs" and not _PROBES[feature]():
        print(f"skip {name}: this kernel has no {feature}", flush=True)
        return "skipped"
    started = time.monotonic()
    lab = Lab(family, getattr(test, "pods", 3), PLANES[mode])
    try:
        test(lab)
    except Exception as error:
        print(f"FAIL {name}: {error or type(error).__name__}", flush=True)
        _explain(error, lab)
        return "failed"
    finally:
        lab.close()
    print(f"ok {name} ({time.monotonic() - started:.1f} s)", flush=True)
    return "passed"


def _explain(error, lab):
    """Where the test stood, what the plane held, and what the daemon said last."""
    for frame in traceback.extract_tb(error.__traceback__)[1:]:
        print(f"    {os.path.basename(frame.filename)}:{frame.lineno}: {frame.line}")
    for what in lab.table.lines, lab.table.events:
        try:
            for line in what():
                print(f"    {what.__name__}: {line}")
        except (AssertionError, OSError) as unreadable:
            print(f"    {what.__name__}: {unreadable}")
    for daemon in lab.daemons:
        for line in daemon.log_tail():
            print(f"    log: {line}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    sys.exit(main())
