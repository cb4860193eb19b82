"""A replay by several processes, forked once the recordings are read.

- Of n processes, each asks for every n-th reply. All see the same few numbers in shared memory: when to begin, whether
  to stop, and how far each process is. A process sends its `Result` through a pipe and ends.
- A pipe that closes without a result is a process that died. A process whose parent died stops by itself.
- Signals are handled by the parent alone: a terminal sends them to all.
"""

import asyncio
import contextlib
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from mockchat.core import program
from mockchat.core.program import STOP_SIGNALS, ProgramError
from mockchat.requester.plan import Load, part_of
from mockchat.requester.result import Result, merged
from mockchat.requester.run import TICK, Progress

Replay = Callable[..., Coroutine[Any, Any, Result]]
_POLL = 0.01  # seconds


class _Shared:
    """The numbers that all processes see."""

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("fork")
        self.begin = context.RawValue("d", math.inf)  # A moment of `time.perf_counter`.
        self.stop = context.RawValue("b", False)
        self.requests = context.RawArray("q", [-1] * processes)  # -1: not yet ready to begin.
        self.failed = context.RawArray("q", processes)
        self.parent = os.getpid()


def replay(ask: Replay, load: Load, progress: Progress) -> Result:
    """Run `ask(load=…, process=…, begin=…, stopped=…, progress=…)` in `load.processes` processes, each on its own loop.

    Stopped by a signal, it returns the results so far, as interrupted. A process that dies loses its results; `lost`
    names it. Raises `ProgramError` if no process can be started.
    """
    shared = _Shared(load.processes)
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    results: list[Result] = []
    lost: list[str] = []
    with _interruptible() as interruptions, contextlib.ExitStack() as ended:
        for number in range(load.processes):
            pipe, process = _start(ask, load, number, shared)
            running[pipe] = number, process
            ended.callback(process.join)
            ended.callback(process.kill)
        while running:
            if any(interruptions) or ((lost or any(result.failures for result in results)) and not load.keep_going):
                shared.stop.value = True
            elif shared.begin.value == math.inf and min(shared.requests) >= 0:
                shared.begin.value = time.perf_counter() + 2 * _POLL
            ready = wait(list(running), TICK)
            for pipe in [pipe for pipe in running if pipe in ready]:
                number, process = running.pop(pipe)
                match _receive(pipe, process):
                    case Result() as result:
                        results.append(result)
                    case why:
                        lost.append(f"process {number + 1} of {load.processes} {why}")
                        shared.requests[number] = max(0, shared.requests[number])
            progress(sum(max(0, requests) for requests in shared.requests), sum(shared.failed))
    whole = merged(results)
    whole.lost, whole.interrupted = lost, any(interruptions)
    return whole


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """The list of the stop signals so far; a second one of a kind ends the program at once."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    caught: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    try:
        for number in STOP_SIGNALS:
            signal.signal(number, interrupt)
        yield caught
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, before[number])


def _start(ask: Replay, load: Load, number: int, shared: _Shared) -> tuple[Connection, BaseProcess]:
    """Start a process; returns the pipe that its result will come through."""
    context = multiprocessing.get_context("fork")
    try:
        pipe, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(ask, load, number, shared, theirs))
        process.start()
    except OSError as error:
        raise ProgramError(f"can't start {load.processes:,} processes: {error.strerror}") from None
    theirs.close()
    return pipe, process


def _receive(pipe: Connection, process: BaseProcess) -> object:
    """A process's result, or how it ended without one."""
    with contextlib.suppress(EOFError, OSError):
        return pipe.recv()
    process.join(1)
    code = process.exitcode or 0
    return f"was ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit status {code}"


def _work(ask: Replay, load: Load, number: int, shared: _Shared, pipe: Connection) -> None:
    """Run in a process: replay its part and send the result."""
    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, signal.SIG_IGN)
    result: Result | str
    try:
        result = program.run_on_loop(_ask(ask, load, number, shared))
    except Exception as error:  # A mistake in the program: no traceback.
        result = f"failed: {error!r}"
    with contextlib.suppress(OSError):  # The parent is gone.
        pipe.send(result)


async def _ask(ask: Replay, load: Load, number: int, shared: _Shared) -> Result:
    stopped = asyncio.Event()

    def tell(requests: int, failed: int) -> None:
        shared.requests[number], shared.failed[number] = requests, failed

    async def begin() -> float:
        tell(0, 0)
        while (wait_for := shared.begin.value - time.perf_counter()) > 0:
            await asyncio.sleep(min(wait_for, _POLL))
        moment: float = shared.begin.value
        return moment

    async def watch() -> None:
        while not shared.stop.value and os.getppid() == shared.parent:
            await asyncio.sleep(_POLL)
        stopped.set()

    watching = asyncio.create_task(watch())
    result = await ask(load=part_of(load, number), process=number, begin=begin, stopped=stopped, progress=tell)
    watching.cancel()
    tell(result.requests, len(result.failures))
    return result
