"""The requester's engine: ask for every recorded reply, verify every answer, count and time what comes of it."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, count, islice, pairwise
from typing import NamedTuple

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from mockchat.core.answer import endpoint
from mockchat.core.entries import Conversation
from mockchat.core.index import ResponseIndex
from mockchat.core.text import excerpt
from mockchat.requester import retry
from mockchat.requester.plan import WHOLE, Load, Question, Share, questions, rounds
from mockchat.requester.result import Failure, Result
from mockchat.requester.verify import Problem, no_answer, verify, verify_stream

TICK = 0.1  # seconds
Progress = Callable[[int, int], object]  # Called with the number of requests that ended, and that of the failures.
_TOLD = ("Retry-After", "Location")  # What a refusal says in its headers.


async def _now() -> float:
    return time.perf_counter()


async def replay(
    conversations: Sequence[Conversation],
    index: ResponseIndex,
    base_url: str,
    load: Load,
    *,
    model: str | None = None,
    headers: Mapping[str, str] | None = None,
    share: Share = WHOLE,
    begin: Callable[[], Awaitable[float]] = _now,
    stopped: asyncio.Event | None = None,
    progress: Progress = lambda requests, failed: None,
) -> Result:
    """Ask for the recorded replies and verify the answers.

    Stops at the first failure unless told to keep going. Once `stopped` is set, it returns what was done so far, as
    interrupted.
    When all is ready, it begins as soon as `begin` says, and counts from the moment that this gives. `progress` is
    called now and then while it runs.
    """
    asked = questions(rounds(conversations, index, load, share), index, model, load.stream)
    all_headers = CIMultiDict(headers or {})
    for name in ("Content-Type", "Accept"):
        all_headers.setdefault(name, "application/json")
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=load.concurrency),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(),  # `_Run` has its own, which costs less.
        headers=all_headers,
    ) as session:
        run = _Run(session, URL(endpoint(base_url)), load, progress)
        asked = islice(asked, load.limit)
        first = list(islice(asked, 1))  # Made before the clock starts: shuffling takes its time.
        numbers = count(share.process, load.processes)
        return await run.all(zip(numbers, chain(first, asked), strict=False), begin, stopped or asyncio.Event())


class _Answer(NamedTuple):
    """What an attempt brought; of a stream, its blocks and when each arrived."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    blocks: list[tuple[float, bytes]]
    end: float


class _Run:
    """A run under way."""

    def __init__(self, session: aiohttp.ClientSession, url: URL, load: Load, progress: Progress) -> None:
        self._session = session
        self._url = url
        self._load = load
        self._progress = progress
        self._result = Result()
        self._semaphore = asyncio.Semaphore(load.concurrency)
        self._in_flight: dict[asyncio.Task[None], float] = {}  # Since when the attempt is under way, if one is.
        self._timed_out: set[asyncio.Task[None]] = set()

    async def all(
        self,
        asked: Iterator[tuple[int, Question]],
        begin: Callable[[], Awaitable[float]],
        stopped: asyncio.Event,
    ) -> Result:
        result = self._result
        cpu, self._started = time.process_time(), time.perf_counter()
        working = asyncio.create_task(self._work(asked, begin))
        others = [asyncio.create_task(self._tick()), asyncio.create_task(stopped.wait())]
        try:
            await asyncio.wait([working, others[1]], return_when=asyncio.FIRST_COMPLETED)
            result.interrupted = not working.done()
            result.elapsed = time.perf_counter() - self._started
            result.cpu = time.process_time() - cpu
        finally:
            self._timed_out.clear()  # Nothing is tried again.
            left = [working, *others, *self._in_flight]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        if not result.interrupted:
            working.result()
        return result

    async def _work(self, asked: Iterator[tuple[int, Question]], begin: Callable[[], Awaitable[float]]) -> None:
        self._started = await begin()
        await self._send(asked)
        while self._in_flight and not self._is_over():
            await asyncio.wait(self._in_flight, return_when=asyncio.FIRST_COMPLETED)

    async def _send(self, asked: Iterator[tuple[int, Question]]) -> None:
        """Start a request as soon as it is due and one of the places in flight is free."""
        load, acquire, clock, loop = self._load, self._semaphore.acquire, time.perf_counter, asyncio.get_running_loop()
        end = math.inf if load.duration is None else load.duration
        for number, question in asked:
            due = self._started + number / load.rate if load.rate else 0.0
            if due - self._started >= end:
                return
            while (early := due - clock()) > 0 and not self._is_over():
                await asyncio.sleep(min(early, TICK))
            await acquire()
            now = clock()
            if self._is_over() or now - self._started >= end:
                return
            task = loop.create_task(self._ask(question, due or now))
            self._in_flight[task] = math.inf

    def _is_over(self) -> bool:
        return bool(self._result.failures) and not self._load.keep_going

    async def _tick(self) -> None:
        """Now and then: end the attempts that took too long, and tell how far it is."""
        timeout = self._load.timeout
        while True:
            await asyncio.sleep(min(TICK, timeout / 10))
            now = time.perf_counter()
            for task, since in self._in_flight.items():
                if now - since >= timeout:
                    self._timed_out.add(task)
                    task.cancel()
            self._progress(self._result.requests, len(self._result.failures))

    async def _ask(self, question: Question, due: float) -> None:
        """Make a request, in as many attempts as it takes and may take, and count how it ended."""
        result = self._result
        task = asyncio.current_task()
        assert task is not None
        attempts = 1
        try:
            ended = await self._attempt(question.body, task)
            while attempts <= self._load.retries and (wait := _wait(attempts, ended)) is not None:
                self._in_flight[task] = math.inf
                await asyncio.sleep(wait)
                ended = await self._attempt(question.body, task)
                attempts += 1
        finally:
            del self._in_flight[task]
            self._semaphore.release()
        try:
            problem = self._verify(question, due, ended) if isinstance(ended, _Answer) else no_answer(ended)
        except Exception as error:  # Whatever it is, the request failed: an answer is verified or it is a failure.
            problem = no_answer(error)
        if problem and self._is_over():
            return
        if attempts > 1:
            result.retried[attempts] += 1
            problem = problem and problem._replace(detail=f"{problem.detail} (after {attempts:,} attempts)")
        if problem:
            place = question.place
            result.failures.append(Failure(place.conversation.id, place.number, due - self._started, problem))
            result.counts[problem.kind] += 1
        else:
            result.passed += 1

    async def _attempt(self, body: bytes, task: asyncio.Task[None]) -> _Answer | Exception:
        result = self._result
        self._in_flight[task] = time.perf_counter()
        blocks: list[tuple[float, bytes]] = []
        try:
            async with self._session.post(self._url, data=body, allow_redirects=False) as response:
                if self._load.stream:
                    blocks = [(time.perf_counter(), block) async for block in response.content.iter_any()]
                    answer = b"".join([block for _, block in blocks])
                else:
                    answer = await response.read()
        except asyncio.CancelledError:
            if task not in self._timed_out:
                raise
            self._timed_out.remove(task)
            task.uncancel()
            return TimeoutError(f"none within {self._load.timeout:g} s")
        except Exception as error:  # Whatever it is: a request that can't be sent has failed too.
            return error
        result.bytes_sent += len(body)
        result.bytes_received += len(answer)
        return _Answer(response.status, response.headers, answer, blocks, time.perf_counter())

    def _verify(self, question: Question, due: float, answer: _Answer) -> Problem | None:
        """Take down how long the answer took, and say what is wrong with it."""
        result = self._result
        result.due.append(due - self._started)
        result.latencies.append(answer.end - due)
        if self._load.stream:
            problem, positions = verify_stream(answer.status, answer.body, question.expected)
            if problem is None:
                self._time_tokens(due, answer, positions)
        else:
            problem = verify(answer.status, answer.body, question.expected)
        if problem:
            told = [f" ({name}: {excerpt(answer.headers[name])})" for name in _TOLD if name in answer.headers]
            problem = problem._replace(detail=problem.detail + "".join(told))
        return problem

    def _time_tokens(self, due: float, answer: _Answer, positions: list[int]) -> None:
        """Take down when the tokens arrived that are complete at these positions; an empty reply's first is its end."""
        arrivals = []
        waiting = iter(positions)
        position = next(waiting, None)
        sizes = accumulate(len(block) for _, block in answer.blocks)
        for (moment, _), received in zip(answer.blocks, sizes, strict=True):
            if position is not None and position <= received:
                arrivals.append(moment)
                while position is not None and position <= received:
                    position = next(waiting, None)
        self._result.first_tokens.append((arrivals[0] if arrivals else answer.end) - due)
        self._result.gaps.extend([after - before for before, after in pairwise(arrivals)])


def _wait(attempts: int, ended: _Answer | Exception) -> float | None:
    if isinstance(ended, _Answer):
        return retry.wait(attempts, ended.status, ended.headers)
    return retry.wait(attempts, ended, {})
