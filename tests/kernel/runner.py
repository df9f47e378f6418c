# SPDX-License-Identifier: Apache-2.0
"""Runs the `test_*` functions of modules, each in a lab of its own.

    runner.py [-k TEXT] FILE...

A test takes the lab as its only argument and fails by raising. `@each_family` runs it once for each
IP family, told apart by `lab.family` and by the name: `test_x[ipv6]`. `@lab_of(pods=2)` asks for
another number of pods than three. -k picks the tests with TEXT in `file:name`.
"""

import argparse
import importlib.util
import os
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


def main():
    parser = argparse.ArgumentParser(prog="runner.py")
    parser.add_argument("-k", metavar="TEXT", default="", help="run tests with TEXT in file:name")
    parser.add_argument("files", nargs="+")
    arguments = parser.parse_args()

    passed = failed = 0
    for file in arguments.files:
        for name, test, family in _tests(file):
            if arguments.k not in name:
                continue
            if _run(name, test, family):
                passed += 1
            else:
                failed += 1
    print(f"{passed} passed, {failed} failed", flush=True)
    return 0 if failed == 0 and passed > 0 else 1


def _tests(file):
    from lab import FAMILIES, IPV4

    stem = os.path.basename(file).removesuffix(".py")
    spec = importlib.util.spec_from_file_location(stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, test in list(vars(module).items()):
        if not name.startswith("test_"):
            continue
        if getattr(test, "each_family", False):
            for family in FAMILIES:
                yield f"{stem}:{name}[{family}]", test, family
        else:
            yield f"{stem}:{name}", test, IPV4


def _run(name, test, family):
    from lab import Lab

    started = time.monotonic()
    lab = Lab(family, getattr(test, "pods", 3))
    try:
        test(lab)
    except Exception as error:
        print(f"FAIL {name}: {error or type(error).__name__}", flush=True)
        _explain(error, lab)
        return False
    finally:
        lab.close()
    print(f"ok {name} ({time.monotonic() - started:.1f} s)", flush=True)
    return True


def _explain(error, lab):
    """Where the test stood, what the kernel had, and what the daemon said last."""
    from kernel_state import ipvsadm_save

    for frame in traceback.extract_tb(error.__traceback__)[1:]:
        print(f"    {os.path.basename(frame.filename)}:{frame.lineno}: {frame.line}")
    try:
        for line in ipvsadm_save(lab.node):
            print(f"    table: {line}")
    except AssertionError as unreadable:
        print(f"    table: {unreadable}")
    for daemon in lab.daemons:
        for line in daemon.log_tail():
            print(f"    log: {line}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    sys.exit(main())
