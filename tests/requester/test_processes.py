import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from itertools import chain, islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.core.entries import Conversation
from mockchat.core.program import ProgramError
from mockchat.requester import processes
from mockchat.requester.run import WHOLE, Failure, Load, Progress, Result, Share, rounds
from mockchat.requester.verify import ERROR, Problem
from tests.helpers import conversation, index_of

# A pytest that has threads may fork: its children do not use what they hold.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


# What each process has to do


def told(conversations: Sequence[Conversation], load: Load, share: Share = WHOLE) -> list[tuple[str, int]]:
    given = rounds(conversations, index_of(*conversations), load, share)
    return [(place.conversation.id, place.number) for place in islice(given, load.limit)]


@given(
    st.lists(st.lists(st.sampled_from(["user:a", "assistant:b"]), max_size=9), min_size=1, max_size=9),
    st.integers(1, 5),
    st.none() | st.integers(1, 30),
    st.booleans(),
    st.booleans(),
    st.integers(0, 9),
)
def test_every_request_is_one_process_s_and_in_order(
    turns: list[list[str]], wanted: int, limit: int | None, shuffle: bool, again: bool, more: int
) -> None:
    conversations = [conversation(f"c{number}", *given) for number, given in enumerate(turns)]
    replies = told(conversations, Load(concurrency=1))
    if not replies:
        return
    count = min(wanted, len(replies), limit or wanted)
    load = Load(
        concurrency=count + more,
        processes=count,
        limit=limit,
        shuffle=shuffle,
        duration=1.0 if again and limit else None,
    )
    parts = processes.parts(conversations, load)
    assert len(parts) == count
    assert [share.process for _, _, share in parts] == list(range(count))
    assert sum(own.concurrency for _, own, _ in parts) == load.concurrency
    assert min(own.concurrency for _, own, _ in parts) > 0
    asked = [told(*part) for part in parts]
    whole = told(conversations, load)
    # As many as those numbers of the whole run that are its: at a rate they take turns.
    assert [len(mine) for mine in asked] == [len(whole[process::count]) for process in range(count)]
    found = list(chain(*asked))
    if len(whole) > len(replies):  # Round and round.
        assert set(found) <= set(replies)
    elif shuffle:
        assert len(set(found)) == len(found)
        assert set(found) <= set(replies)
    else:
        assert found == whole


def test_a_shuffled_part_can_be_had_again() -> None:
    conversations = [conversation(f"c{number}", "hi", f"{number}") for number in range(40)]
    load = Load(concurrency=2, processes=2, shuffle=True, random_seed=1)
    first, second = ([told(*part) for part in processes.parts(conversations, load)] for _ in range(2))
    assert first == second
    assert [sorted(part) == part for part in first] == [False, False]
    assert [int(name[1:]) for name, _ in first[0]] != [int(name[1:]) - 20 for name, _ in first[1]]


# What they found


def failure(at: float) -> Failure:
    return Failure("c", 1, at, Problem(ERROR, "no connection", "x" * 1000))


def test_results_are_merged_as_if_one_process_had_found_all() -> None:
    results = [Result(passed=number, bytes_sent=10, elapsed=number, cpu=number) for number in (2, 3)]
    for result, at in zip(results, (0.2, 0.1), strict=True):
        result.failures.append(failure(at))
        result.counts[ERROR] += 1
        result.retried[2] += 1
        result.latencies.append(at)
    whole = processes.merged(results)
    assert (whole.passed, whole.requests, whole.bytes_sent, whole.elapsed, whole.cpu) == (5, 7, 20, 3, 5)
    assert [failure.at for failure in whole.failures] == [0.1, 0.2]
    assert (whole.counts, whole.retried, list(whole.latencies)) == ({ERROR: 2}, {2: 2}, [0.2, 0.1])
    assert processes.merged([]) == Result()


# Processes

CONVERSATIONS = [conversation("one", "hi", "hello"), conversation("two", "hi", "good day")]
Then = Callable[[], Result]


def asking(first: Then, second: Then | None = None) -> Callable[..., Coroutine[Any, Any, Result]]:
    """Stands for `replay`: what the first process does, and the second, which else waits to be stopped."""

    async def ask(
        conversations: Sequence[Conversation],
        *,
        load: Load,
        share: Share,
        begin: Callable[[], Coroutine[Any, Any, float]],
        stopped: asyncio.Event,
        progress: Progress,
    ) -> Result:
        started = await begin()
        assert 0 <= time.perf_counter() - started < 60
        if share.process == 0:
            return first()
        if second:
            return second()
        progress(1, 0)
        await asyncio.wait_for(stopped.wait(), 60)
        return Result(passed=1, interrupted=True)

    return ask


def run(first: Then, second: Then | None = None, progress: Progress = lambda requests, failed: None) -> Result:
    load = Load(concurrency=2, processes=2, keep_going=second is not None)
    started = time.perf_counter()
    result = processes.replay(asking(first, second), CONVERSATIONS, load, progress)
    assert time.perf_counter() - started < 30
    return result


def test_a_long_result_comes_whole() -> None:
    """Longer than what a pipe holds."""

    def large() -> Result:
        result = Result(passed=1, failures=[failure(at / 1000) for at in range(1000)])
        result.latencies.extend([0.5] * 1_000_000)
        return result

    whole = run(large, large)
    assert (whole.passed, len(whole.failures), len(whole.latencies)) == (2, 2000, 2_000_000)
    assert (whole.lost, whole.interrupted) == ([], False)


def test_the_first_failure_stops_all() -> None:
    whole = run(lambda: Result(failures=[failure(0)]))
    assert (whole.passed, whole.failures, whole.lost, whole.interrupted) == (1, [failure(0)], [], False)


class Unreadable(Result):
    def __reduce__(self) -> Any:
        return int, ("x",)


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
        (fail, "failed: LookupError('oh')"),
        (Unreadable, "said what can't be read: ValueError(\"invalid literal for int() with base 10: 'x'\")"),
    ],
)
@pytest.mark.parametrize("keep_going", [False, True])
def test_a_process_that_dies_is_told_of(end: Then, how: str, keep_going: bool) -> None:
    whole = run(end, (lambda: Result(passed=7)) if keep_going else None)
    assert whole.lost == [f"process 1 of 2 {how}"]
    assert (whole.passed, whole.interrupted) == (7 if keep_going else 1, False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    seen: list[tuple[int, int]] = []

    def progress(requests: int, failed: int) -> None:
        seen.append((requests, failed))
        if seen.count((3, 0)) == 1:
            os.kill(os.getpid(), number)

    whole = run(lambda: Result(passed=2), progress=progress)
    assert (whole.passed, whole.interrupted, whole.lost) == (3, True, [])
    assert signal.getsignal(number) is before


def test_no_more_processes_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(ProgramError, match="can't start 2 processes: Resource temporarily unavailable"):
        run(Result)
