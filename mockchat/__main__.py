"""Starts each program: python -m mockchat serve, replay, bench or seed-test, or the commands that pip installs."""

import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module

PROGRAMS = {
    "serve": "mockchat.server.cli",
    "replay": "mockchat.requester.cli",
    "bench": "mockchat.bench",
    "seed-test": "mockchat.seed_test",
}


def load(name: str) -> Callable[..., int]:
    """Import a program and return its `main`. Ctrl-C during the import ends the process with 130.

    A `KeyboardInterrupt` would not do: where an import calls back, it is printed and ignored.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    main: Callable[..., int] = import_module(PROGRAMS[name]).main
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, before)
    return main


def server() -> int:
    return load("serve")()


def requester() -> int:
    return load("replay")()


def main() -> int:
    name, *arguments = sys.argv[1:] or [""]
    if name not in PROGRAMS:
        print(f"usage: python -m mockchat {'|'.join(PROGRAMS)} [--help]", file=sys.stderr)
        return 2
    sys.argv[0] = f"mockchat {name}"
    return load(name)(arguments)


if __name__ == "__main__":
    sys.exit(main())
