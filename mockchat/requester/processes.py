"""A replay by several processes, forked once the recordings are read.

- Of n processes, each asks for every n-th reply, sends its `Result` through a pipe and ends.
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
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from mockchat.core import program
from mockchat.core.program import STOP_SIGNALS, ProgramError
from mockchat.requester.plan import Load
from mockchat.requester.result import Result, merged
from mockchat.requester.run import Progress

Replay = Callable[..., Coroutine[Any, Any, Result]]
_FORK = multiprocessing.get_context("fork")
_POLL = 0.02  # seconds


class _Shared:
    """The numbers that all processes share: when to begin, whether to stop, and the progress of each."""

    def __init__(self, processes: int) -> None:
        self.begin = _FORK.RawValue("d", math.inf)  # A moment of `time.perf_counter`.
        self.stop = _FORK.RawValue("b", False)
        self.ready = _FORK.RawArray("b", processes)
        self.requests = _FORK.RawArray("q", processes)
        self.failed = _FORK.RawArray("q", processes)
        self.parent = os.getpid()


async def replay(ask: Replay, load: Load, progress: Progress) -> Result:
    """Run `ask(load=…, process=…, begin=…, progress=…)` in `load.processes` processes, each on its own loop.

    Once `progress` returns True, it returns the results so far, as interrupted. A process that dies loses its results;
    `lost` names it. Raises `ProgramError` if a process can't be started.
    """
    shared = _Shared(load.processes)
    running: dict[int, tuple[Connection, BaseProcess]] = {}
    results: list[Result] = []
    lost: list[str] = []
    interrupted = False
    with contextlib.ExitStack() as ended:
        for number in range(load.processes):
            running[number] = _, process = _start(ask, load, number, shared)
            ended.callback(process.join)
            ended.callback(process.kill)
        while running:
            failed = bool(lost) or any(shared.failed)
            shared.stop.value = interrupted or (failed and not load.keep_going)
            if shared.stop.value or all(shared.ready[number] for number in running):
                shared.begin.value = min(shared.begin.value, time.perf_counter() + 2 * _POLL)
            for number, (pipe, process) in list(running.items()):
                if pipe.poll():
                    del running[number]
                    try:
                        results.append(pipe.recv())
                    except (EOFError, OSError):
                        lost.append(f"process {number + 1} of {load.processes} {_how_it_ended(process)}")
            interrupted = progress(sum(shared.requests), sum(shared.failed)) or interrupted
            await asyncio.sleep(_POLL)
    whole = merged(results)
    whole.lost, whole.interrupted = lost, interrupted
    return whole


def _start(ask: Replay, load: Load, number: int, shared: _Shared) -> tuple[Connection, BaseProcess]:
    try:
        pipe, theirs = _FORK.Pipe(duplex=False)
        process = _FORK.Process(target=_work, args=(ask, load, number, shared, theirs))
        process.start()
    except OSError as error:
        raise ProgramError(f"can't start {load.processes:,} processes: {error.strerror}") from None
    theirs.close()
    return pipe, process


def _how_it_ended(process: BaseProcess) -> str:
    process.join(1)
    code = process.exitcode or 0
    return f"was ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit status {code}"


def _work(ask: Replay, load: Load, number: int, shared: _Shared, pipe: Connection) -> None:
    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, signal.SIG_IGN)

    def progress(requests: int, failed: int) -> bool:
        shared.requests[number], shared.failed[number] = requests, failed
        return shared.stop.value or os.getppid() != shared.parent

    def begin() -> float:
        shared.ready[number] = True
        while not progress(0, 0) and (left := shared.begin.value - time.perf_counter()) > 0:
            time.sleep(min(left, _POLL))
        return float(min(shared.begin.value, time.perf_counter()))

    load = replace(load, concurrency=len(range(number, load.concurrency, load.processes)))
    result = program.run_on_loop(ask(load=load, process=number, begin=begin, progress=progress))
    progress(result.requests, len(result.failures))
    with contextlib.suppress(OSError):  # The parent is gone.
        pipe.send(result)
