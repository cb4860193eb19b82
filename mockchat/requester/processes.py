"""A replay by several processes, forked once the recordings are read.

Rules that hold here:

- A process's share is a stretch of the file. Whoever uses a message writes its reference count, and the system then
  copies the page that it is on: so all processes together copy the recordings once, however many they are.
- Parent and process have a pipe. The process says how far it is, first when it is ready, and in the end its `Result`;
  the parent says at which moment to begin, and None to stop. If one of them dies, the other finds the pipe closed.
- Signals are the parent's: a terminal sends them to all.
"""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import time
from bisect import bisect_right
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import accumulate
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from mockchat.core import program, wire
from mockchat.core.entries import Conversation
from mockchat.core.program import STOP_SIGNALS, ProgramError
from mockchat.requester.run import TICK, Load, Progress, Result, Share

Replay = Callable[..., Coroutine[Any, Any, Result]]
Part = tuple[Sequence[Conversation], Load, Share]


def is_possible() -> bool:
    """Whether this system can fork."""
    return "fork" in multiprocessing.get_all_start_methods()


def parts(conversations: Sequence[Conversation], load: Load) -> list[Part]:
    """What each process has to do: equal parts of the requests in their order, and of those in flight.

    To shuffle is to do so within each part. There must be a request, and one in flight, for each process.
    """
    ends = list(accumulate(sum(map(wire.is_assistant, found.messages)) for found in conversations))
    total = ends[-1] if load.limit is None or load.shuffle else min(load.limit, ends[-1])
    found: list[Part] = []
    start = 0
    for process in range(load.processes):
        end = start + _portion(total, process, load)
        # Of the conversations, those from the one with the first of these replies to the one with the last.
        first, last = bisect_right(ends, start), bisect_right(ends, end - 1)
        before = ends[first - 1] if first else 0
        limit = None if load.limit is None else _portion(load.limit, process, load)
        own = replace(load, concurrency=_portion(load.concurrency, process, load), limit=limit)
        found.append((conversations[first : last + 1], own, Share(start - before, end - before, process)))
        start = end
    return found


def _portion(whole: int, process: int, load: Load) -> int:
    """How many of the numbers up to the whole are dealt to a process."""
    return len(range(process, whole, load.processes))


def merged(results: Sequence[Result]) -> Result:
    """The results as if one process had found all."""
    whole = Result()
    for result in results:
        for name in (field.name for field in fields(Result)):
            setattr(whole, name, getattr(whole, name) + getattr(result, name))
    whole.elapsed = max((result.elapsed for result in results), default=0.0)
    whole.failures.sort(key=lambda failure: failure.at)
    return whole


@dataclass(slots=True)
class _Worker:
    name: str
    process: BaseProcess
    pipe: Connection
    told: tuple[int, int] | None = None


def replay(
    ask: Replay,
    conversations: Sequence[Conversation],
    load: Load,
    progress: Progress,
) -> Result:
    """Have `load.processes` processes run `ask(conversations, load=…, share=…, begin=…, progress=…)`, each on its loop.

    Stopped by a signal, it returns what was done so far, as interrupted. What a process that died has found is lost,
    and the result says so. Raises `ProgramError`.
    """
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    interrupted = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(number, before[signal.Signals(number)])  # The next one ends it at once.

    context = multiprocessing.get_context("fork")
    workers: list[_Worker] = []
    try:
        for number in STOP_SIGNALS:
            signal.signal(number, interrupt)
        for own, own_load, share in parts(conversations, load):
            try:
                pipe, theirs = context.Pipe()
                held = [*(worker.pipe for worker in workers), pipe]
                asking = partial(ask, own, load=own_load, share=share)
                process = context.Process(target=_work, args=(asking, theirs, held), daemon=True)
                process.start()
            except OSError as error:
                raise ProgramError(f"can't start {load.processes:,} processes: {error.strerror}") from None
            theirs.close()
            workers.append(_Worker(f"process {share.process + 1} of {load.processes}", process, pipe))
        return _attend(workers, load, progress, lambda: interrupted)
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()
        for number in STOP_SIGNALS:
            signal.signal(number, before[number])


def _attend(workers: Sequence[_Worker], load: Load, progress: Progress, is_interrupted: Callable[[], bool]) -> Result:
    """Hear what the processes say until each has said its last, and tell them when to begin and to stop."""
    results: list[Result] = []
    lost: list[str] = []
    waiting = {worker.pipe: worker for worker in workers}
    begun = stopped = False

    def tell(what: float | None) -> None:
        for pipe in waiting:
            with contextlib.suppress(OSError):  # It died: that will be heard.
                pipe.send(what)

    while waiting:
        for pipe in wait(list(waiting), TICK):
            assert isinstance(pipe, Connection)
            worker = waiting[pipe]
            match _heard(pipe):
                case Result() as result:
                    results.append(result)
                    worker.told = result.requests, len(result.failures)
                    del waiting[pipe]
                case (int(requests), int(failed)):
                    worker.told = requests, failed
                case why:
                    lost.append(f"{worker.name} {why or _death(worker.process)}")
                    del waiting[pipe]
        failed_already = bool(lost) or any(result.failures for result in results)
        if not stopped and (is_interrupted() or (failed_already and not load.keep_going)):
            stopped = True
            tell(None)
        elif not (begun or stopped) and all(worker.told for worker in waiting.values()):
            begun = True
            tell(time.perf_counter())
        told = [worker.told or (0, 0) for worker in workers]
        progress(sum(requests for requests, _ in told), sum(failed for _, failed in told))
    whole = merged(results)
    whole.lost, whole.interrupted = lost, is_interrupted()
    return whole


def _heard(pipe: Connection) -> object:
    """What a process says; None if it is dead."""
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return None
    except Exception as error:
        return f"said what can't be read: {error!r}"


def _death(process: BaseProcess) -> str:
    process.join(1)
    code = process.exitcode or 0
    return f"was ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit status {code}"


def _work(ask: Replay, pipe: Connection, held: list[Connection]) -> None:
    """What a process does; `held` are the ends of pipes that are the parent's."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for other in held:
        other.close()
    last_word: Result | str
    try:
        last_word = program.run_on_loop(_obey(ask, pipe))
    except Exception as error:
        last_word = f"failed: {error!r}"
    with contextlib.suppress(OSError):  # The parent is gone.
        pipe.send(last_word)


async def _obey(ask: Replay, pipe: Connection) -> Result:
    """Begin when the parent says so, and stop when it does, or is gone."""
    loop = asyncio.get_running_loop()
    moment: asyncio.Future[float] = loop.create_future()

    def tell(requests: int, failed: int) -> None:
        with contextlib.suppress(OSError):
            pipe.send((requests, failed))

    async def begin() -> float:
        tell(0, 0)
        return await moment

    stopped = asyncio.Event()

    def hear() -> None:
        match _heard(pipe):
            case float(begun):
                moment.set_result(begun)
            case _:
                loop.remove_reader(pipe.fileno())
                stopped.set()

    loop.add_reader(pipe.fileno(), hear)
    os.set_blocking(pipe.fileno(), True)  # uvloop has changed that, and half a message would be none.
    return await ask(begin=begin, stopped=stopped, progress=tell)
