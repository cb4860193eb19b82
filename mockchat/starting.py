"""Imports a program. Ctrl-C meanwhile ends it without a traceback."""

import os
import signal
from collections.abc import Callable
from importlib import import_module

INTERRUPTED = 130


def load(module: str) -> Callable[..., int]:
    """The `main` of a module. Ctrl-C during the import ends the process with 130.

    A `KeyboardInterrupt` would not do: where an import calls back, it is printed and ignored.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    main: Callable[..., int] = import_module(module).main
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, before)
    return main


def server() -> int:
    """The command `mockchat-server`."""
    return load("mockchat.server.cli")()


def requester() -> int:
    """The command `mockchat-requester`."""
    return load("mockchat.requester.cli")()
