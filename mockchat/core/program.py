"""Process helpers shared by both programs: exit statuses, the one error, the event loop.

No traceback reaches a user: expected errors become a `ProgramError` where they happen, and `run` prints it as one line.
"""

import asyncio
import contextlib
import io
import os
import resource
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")

OK, FAILED, COULD_NOT_RUN, INTERRUPTED = 0, 1, 2, 130
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ProgramError(Exception):
    """The program can't continue. The text is one line: what is wrong, where, and what to do."""


def run(command: Callable[[], int]) -> int:
    """Run a program's command. Returns the exit status."""
    allow_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return command()
    except ProgramError as error:
        problem = str(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        # Only printing raises OSError here: files and sockets raise ProgramError, which names them.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        problem = f"can't print: {error.strerror}"
    print(f"{Path(sys.argv[0]).name}: {problem}", file=sys.stderr)
    return COULD_NOT_RUN


def run_on_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on uvloop, and restore the signal handlers: uvloop keeps those that the coroutine added."""
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # None: not set from Python, so Python can't restore it.
                signal.signal(number, handler)


def on_stop_signals(stop: Callable[[], object], *, once: bool = False) -> None:
    """Call `stop` on the running loop at SIGINT or SIGTERM; with `once`, the next signal ends the process."""
    loop = asyncio.get_running_loop()

    def caught(number: int, frame: object) -> None:
        if once:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        loop.call_soon_threadsafe(stop)

    for number in STOP_SIGNALS:
        signal.signal(number, caught)


def allow_descriptors() -> None:
    """Raise the soft limit of open files to the hard one: the usual 1,024 is soon reached."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
