"""A replay by several processes, forked once the recordings are read.

- Of n processes, each asks for every n-th reply. All share a few numbers in memory: when to begin, whether to stop, and
  the progress of each. A process sends its `Result` through a pipe and ends.
- A pipe that closes without a result is a process that died. A process whose parent died stops by itself.
- The parent alone handles signals: a terminal sends them to all.
"""

import asyncio
import contextlib
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Coroutine
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from mockchat.core import program
from mockchat.core.program import STOP_SIGNALS, ProgramError
from mockchat.requester.plan import Load, part_of
from mockchat.requester.result import Result, merged
from mockchat.requester.run import Progress

Replay = Callable[..., Coroutine[Any, Any, Result]]
_POLL = 0.02  # seconds


class _Shared:
    """The numbers that all processes share."""

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("fork")
        self.begin = context.RawValue("d", math.inf)  # A moment of `time.perf_counter`.
        self.stop = context.RawValue("b", False)
        self.requests = context.RawArray("q", [-1] * processes)  # -1: not ready to begin.
        self.failed = context.RawArray("q", processes)
        self.parent = os.getpid()


async def replay(ask: Replay, load: Load, progress: Progress) -> Result:
    """Run `ask(load=…, process=…, begin=…, progress=…)` in `load.processes` processes, each on its own loop.

    Once `progress` returns True, it returns the results so far, as interrupted. A process that dies loses its results;
    `lost` names it. Raises `ProgramError` if a process can't be started.
    """
    shared = _Shared(load.processes)
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    results: list[Result] = []
    lost: list[str] = []
    interrupted = False
    with contextlib.ExitStack() as ended:
        for number in range(load.processes):
            pipe, process = _start(ask, load, number, shared)
            running[pipe] = number, process
            ended.callback(process.join)
            ended.callback(process.kill)
        while running:
            failed = lost or any(result.failures for result in results)
            shared.stop.value = interrupted or (bool(failed) and not load.keep_going)
            if shared.stop.value or min(shared.requests) >= 0:
                shared.begin.value = min(shared.begin.value, time.perf_counter() + 2 * _POLL)
            ready = wait(list(running), 0)
            for pipe in [pipe for pipe in running if pipe in ready]:
                number, process = running.pop(pipe)
                match _receive(pipe, process):
                    case Result() as result:
                        results.append(result)
                    case why:
                        lost.append(f"process {number + 1} of {load.processes} {why}")
                        shared.requests[number] = max(0, shared.requests[number])
            interrupted = progress(sum(max(0, count) for count in shared.requests), sum(shared.failed)) or interrupted
            await asyncio.sleep(_POLL)
    whole = merged(results)
    whole.lost, whole.interrupted = lost, interrupted
    return whole


def _start(ask: Replay, load: Load, number: int, shared: _Shared) -> tuple[Connection, BaseProcess]:
    """Start a process; returns the pipe for its result, and the process."""
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

    def progress(requests: int, failed: int) -> bool:
        shared.requests[number], shared.failed[number] = requests, failed
        return shared.stop.value or os.getppid() != shared.parent

    def begin() -> float:
        while not progress(0, 0) and (left := shared.begin.value - time.perf_counter()) > 0:
            time.sleep(min(left, _POLL))
        return float(min(shared.begin.value, time.perf_counter()))

    result: Result | str
    try:
        result = program.run_on_loop(ask(load=part_of(load, number), process=number, begin=begin, progress=progress))
        progress(result.requests, len(result.failures))
    except Exception as error:  # A mistake in the program: no traceback.
        result = f"failed: {error!r}"
    with contextlib.suppress(OSError):  # The parent is gone.
        pipe.send(result)
