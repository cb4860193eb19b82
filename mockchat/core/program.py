"""What both programs have in common as programs: their exit statuses, their one error, their event loop.

Rules that hold here:

- A program that can't do what it was asked raises `ProgramError` wherever it finds out. `run` prints it as one line.
- No traceback reaches a user: what may fail in another way is turned into a `ProgramError` where it happens.
"""

import asyncio
import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

try:
    import resource
except ImportError:  # Windows has no limits of this kind.
    resource = None  # type: ignore[assignment]

try:
    import uvloop

    new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
except ImportError:  # Windows has no uvloop.
    new_loop = asyncio.new_event_loop

T = TypeVar("T")

OK, FAILED, COULD_NOT_RUN, INTERRUPTED = 0, 1, 2, 130
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ProgramError(Exception):
    """The program can't go on. The text is one line: what is wrong, where, and what to do."""


def run(command: Callable[[], int]) -> int:
    """Run a program's command to its end and return the exit status; what stops it is told on stderr in one line."""
    _open_closed_streams()
    allow_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return command()
    except ProgramError as error:
        _tell(str(error))
        return COULD_NOT_RUN
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        # Only printing is left to fail with an OSError: files and sockets raise ProgramError, which names them.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _tell(f"can't print: {error.strerror}")
        return COULD_NOT_RUN


def run_on_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a new event loop (uvloop's where there is one), and return what it returns.

    Signals do then again what they did before: uvloop would go on catching those that the coroutine had handlers for.
    """
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(main)
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # None is one that Python did not set, and can't set again.
                signal.signal(number, handler)


def on_stop_signals(stop: Callable[[], object], *, once: bool = False) -> None:
    """Have the running loop call `stop` when SIGINT or SIGTERM comes; if only `once`, the next one ends the process.

    Python's own handlers do it, which every system has; those of event loops are not there on Windows.
    """
    loop = asyncio.get_running_loop()

    def caught(number: int, frame: object) -> None:
        if once:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        loop.call_soon_threadsafe(stop)

    for number in STOP_SIGNALS:
        signal.signal(number, caught)


def descriptor_limit() -> int:
    """The number of files and sockets that this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] if resource else sys.maxsize


def allow_descriptors() -> None:
    """Raise the limit of open files to what the system allows: the usual 1,024 is soon reached."""
    if resource:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _open_closed_streams() -> None:
    """Open what a shell has closed (`>&-`): the next socket would get that number, and be printed to."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115  It takes the free number.


def _tell(line: str) -> None:
    print(f"{Path(sys.argv[0]).name}: {line}", file=sys.stderr)
