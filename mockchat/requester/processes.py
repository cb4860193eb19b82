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
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from mockchat.core import program
from mockchat.core.entries import Conversation
from mockchat.core.program import STOP_SIGNALS, ProgramError
from mockchat.requester.plan import Load, assignments
from mockchat.requester.result import Result, merged
from mockchat.requester.run import TICK, Progress

Replay = Callable[..., Coroutine[Any, Any, Result]]


def is_possible() -> bool:
    """Whether this system can fork."""
    return "fork" in multiprocessing.get_all_start_methods()


@dataclass(slots=True)
class _Worker:
    name: str
    process: BaseProcess
    pipe: Connection
    progress: tuple[int, int] | None = None  # None until it is ready.


def replay(
    ask: Replay,
    conversations: Sequence[Conversation],
    load: Load,
    progress: Progress,
) -> Result:
    """Have `load.processes` processes run `ask(conversations, load=…, share=…, begin=…, progress=…)`, each on its loop.

    Stopped by a signal, it returns what was done so far, as interrupted. The results of a process that died are lost,
    and the whole result says so. Raises `ProgramError` where no process can be started.
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
        for own, own_load, share in assignments(conversations, load):
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
    """Receive what the processes say until each has said its last, and tell them when to begin and to stop."""
    results: list[Result] = []
    lost: list[str] = []
    waiting = {worker.pipe: worker for worker in workers}
    begun = stopped = False

    def tell(moment: float | None) -> None:
        for pipe in waiting:
            with contextlib.suppress(OSError):  # It died, which its pipe will say.
                pipe.send(moment)

    while waiting:
        for pipe in wait(list(waiting), TICK):
            assert isinstance(pipe, Connection)
            worker = waiting[pipe]
            match _receive(pipe):
                case Result() as result:
                    results.append(result)
                    worker.progress = result.requests, len(result.failures)
                    del waiting[pipe]
                case (int(requests), int(failed)):
                    worker.progress = requests, failed
                case why:
                    lost.append(f"{worker.name} {why or _death(worker.process)}")
                    del waiting[pipe]
        failed_already = bool(lost) or any(result.failures for result in results)
        if not stopped and (is_interrupted() or (failed_already and not load.keep_going)):
            stopped = True
            tell(None)
        elif not (begun or stopped) and all(worker.progress for worker in waiting.values()):
            begun = True
            tell(time.perf_counter())
        done = [worker.progress or (0, 0) for worker in workers]
        progress(sum(requests for requests, _ in done), sum(failed for _, failed in done))
    whole = merged(results)
    whole.lost, whole.interrupted = lost, is_interrupted()
    return whole


def _receive(pipe: Connection) -> object:
    """What the other process says; None if it is dead."""
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
    """What a process does; `held` are the parent's ends of pipes, which a fork copies."""
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
    """Begin when the parent says so; stop when it says so, or is gone."""
    loop = asyncio.get_running_loop()
    moment: asyncio.Future[float] = loop.create_future()

    def tell(requests: int, failed: int) -> None:
        with contextlib.suppress(OSError):
            pipe.send((requests, failed))

    async def begin() -> float:
        tell(0, 0)
        return await moment

    stopped = asyncio.Event()

    def listen() -> None:
        match _receive(pipe):
            case float(begun):
                moment.set_result(begun)
            case _:
                loop.remove_reader(pipe.fileno())
                stopped.set()

    loop.add_reader(pipe.fileno(), listen)
    os.set_blocking(pipe.fileno(), True)  # uvloop has made it non-blocking, and half a message would be sent.
    return await ask(begin=begin, stopped=stopped, progress=tell)
