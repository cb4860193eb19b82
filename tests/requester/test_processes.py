import asyncio
import os
import signal
import time
from array import array
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mockchat.core import program
from mockchat.core.program import ProgramError
from mockchat.requester import processes
from mockchat.requester.plan import Load
from mockchat.requester.result import Failure, Result
from mockchat.requester.run import Progress
from mockchat.requester.verify import ERROR, Problem

# A pytest that has threads may fork: its children do not use what they hold.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


Then = Callable[[], Result]


def failure(at: float) -> Failure:
    return Failure("c", 1, at, 0.5, Problem(ERROR, "no connection", "x" * 1000))


def asking(first: Then, second: Then | None = None) -> Callable[..., Coroutine[Any, Any, Result]]:
    """Stands for `replay`: what the first process does, and the second, which else waits to be stopped."""

    async def ask(*, load: Load, process: int, begin: Callable[[], float], progress: Progress) -> Result:
        started = begin()
        assert 0 <= time.perf_counter() - started < 60
        assert load.concurrency == 1
        if process == 0:
            return first()
        if second:
            return second()
        while not progress(1, 0):
            await asyncio.sleep(0.01)
        return Result(passed=1, interrupted=True)

    return ask


def unwatched(requests: int, failed: int) -> bool:
    return False


def run(first: Then, second: Then | None = None, progress: Progress = unwatched) -> Result:
    load = Load(concurrency=2, processes=2, keep_going=second is not None)
    started = time.perf_counter()
    result = program.run_on_loop(processes.replay(asking(first, second), load, progress))
    assert time.perf_counter() - started < 30
    return result


def test_a_long_result_comes_whole() -> None:
    """Longer than what a pipe holds, a megabyte at most."""

    def large() -> Result:
        result = Result(passed=1, failures=[failure(at / 1000) for at in range(1000)])
        result.latencies.extend([0.5] * 200_000)
        return result

    whole = run(large, large)
    assert (whole.passed, len(whole.failures), len(whole.latencies)) == (2, 2000, 400_000)
    assert (whole.lost, whole.interrupted) == ([], False)


def test_the_first_failure_stops_all() -> None:
    whole = run(lambda: Result(failures=[failure(0)]))
    assert (whole.passed, whole.failures, whole.lost, whole.interrupted) == (1, [failure(0)], [], False)


def kill() -> Result:
    os.kill(os.getpid(), signal.SIGKILL)
    return Result()


def leave() -> Result:
    os._exit(3)


def fail() -> Result:
    raise LookupError("oh")


@pytest.mark.parametrize(
    ("end", "how"),
    [
        (kill, "was ended by signal 9 (Killed)"),
        (leave, "ended with exit status 3"),
        (fail, "ended with exit status 1"),
    ],
)
@pytest.mark.parametrize("keep_going", [False, True])
def test_a_process_that_dies_is_told_of(end: Then, how: str, keep_going: bool) -> None:
    whole = run(end, (lambda: Result(passed=7)) if keep_going else None)
    assert whole.lost == [f"process 1 of 2 {how}"]
    assert (whole.passed, whole.interrupted) == (7 if keep_going else 1, False)


def test_progress_stops_all() -> None:
    whole = run(lambda: Result(passed=2), progress=lambda requests, failed: (requests, failed) == (3, 0))
    assert (whole.passed, whole.interrupted, whole.lost) == (3, True, [])


@pytest.mark.parametrize("dies", [False, True])
def test_all_begin_at_one_moment_once_each_is_ready(dies: bool) -> None:
    """Whoever is late to be ready, or dies before it is."""

    async def ask(*, begin: Callable[[], float], process: int, **_: Any) -> Result:
        if process == 1:
            await asyncio.sleep(0.3)
            if dies:
                kill()
        ready = time.perf_counter()
        started = begin()
        assert ready <= started <= time.perf_counter()
        return Result(passed=1, latencies=array("d", [started]))

    load = Load(concurrency=3, processes=3, keep_going=True)
    whole = program.run_on_loop(processes.replay(ask, load, unwatched))
    assert (whole.passed, len(whole.lost), len(set(whole.latencies))) == ((2, 1, 1) if dies else (3, 0, 1))


def test_each_has_its_part_of_the_requests_in_flight_and_all_shuffle_alike() -> None:
    async def ask(*, load: Load, process: int, begin: Callable[[], float], **_: Any) -> Result:
        begin()
        return Result(passed=load.concurrency, latencies=array("d", [load.random_seed]))

    whole = program.run_on_loop(processes.replay(ask, Load(concurrency=5, processes=2, shuffle=True), unwatched))
    assert (whole.passed, len(whole.latencies), len(set(whole.latencies))) == (5, 2, 1)


def test_no_more_processes_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(ProgramError, match="can't start 2 processes: Resource temporarily unavailable"):
        run(Result)
