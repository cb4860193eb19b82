"""The requester's engine: request every recorded reply, verify every answer, count and time.

- A worker makes one request after the other on its connection while requests are due, then ends.
- A semaphore limits the workers, and so the requests in flight. At full speed workers last for the whole run; at a rate
  each begins when a request is due.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice, pairwise

import aiohttp
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict

from mockchat.client import ACCEPTED
from mockchat.core.answer import BROKE_OFF, endpoint
from mockchat.core.entries import Conversation
from mockchat.core.index import ResponseIndex
from mockchat.requester.exchange import Answer, Client, Slot
from mockchat.requester.plan import Load, Question, Schedule, questions, rounds
from mockchat.requester.result import Failure, Result
from mockchat.requester.verify import Problem, no_answer, verify, verify_stream

TICK = 0.1  # seconds
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds before a retry
LONGEST_ASKED = 60.0  # seconds: the limit for `Retry-After`
Progress = Callable[[int, int], bool]  # Called with the numbers of ended requests and of failures; True stops the run.


async def replay(
    conversations: Sequence[Conversation],
    index: ResponseIndex,
    base_url: str,
    load: Load,
    *,
    model: str | None = None,
    headers: Mapping[str, str] | None = None,
    process: int = 0,
    begin: Callable[[], float] = time.perf_counter,
    progress: Progress = lambda requests, failed: False,
) -> Result:
    """Ask for the recorded replies and verify the answers.

    Stops at the first failure unless told to keep going. `progress` is called every `TICK`; once it returns True, the
    result so far is returned, as interrupted. `begin` returns the start (of `time.perf_counter`), and may wait for it.
    Of several processes, this is the one with the number `process`.
    """
    asked = islice(questions(rounds(conversations, load, process), index, model, load.stream), load.limit)
    all_headers = CIMultiDict(headers or {})
    for name in ("Content-Type", "Accept"):
        all_headers.setdefault(name, "application/json")
    all_headers.setdefault("Accept-Encoding", ACCEPTED)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=load.concurrency),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(),  # `_Run` has one timer for all attempts.
        headers=all_headers,
    ) as session:
        client = Client(session, endpoint(base_url), timed=load.stream)
        return await _Run(client, Schedule(asked, load, begin, process), load).run(progress)


class _Worker:
    """A worker: its connection, its task, and when its attempt began (`inf`: it has none)."""

    task: asyncio.Task[None]

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.waits_since = math.inf
        self.timed_out = False


class _Run:
    """The state of a run."""

    def __init__(self, client: Client, schedule: Schedule, load: Load) -> None:
        self._client = client
        self._schedule = schedule
        self._load = load
        self._result = Result()
        self._semaphore = asyncio.Semaphore(load.concurrency)
        self._workers: set[_Worker] = set()
        self._idle: list[Slot] = []
        self._working: asyncio.Task[None]

    async def run(self, progress: Progress) -> Result:
        result, schedule = self._result, self._schedule
        cpu = time.process_time()
        self._working = asyncio.create_task(self._work())
        try:
            while not self._working.done():
                result.interrupted = progress(result.requests, len(result.failures))
                if result.interrupted:
                    break
                await asyncio.wait([self._working], timeout=min(TICK, self._load.timeout / 10))
                self._end_slow_attempts()
            result.elapsed = time.perf_counter() - schedule.started
            result.sending = schedule.sending(result.elapsed)
            result.cpu = time.process_time() - cpu
        finally:
            self._working.cancel()
            (ended,) = await asyncio.gather(self._working, return_exceptions=True)
            for slot in [*self._idle, *(worker.slot for worker in self._workers)]:  # These were cancelled at once.
                slot.close()
        if isinstance(ended, Exception):  # Of the program itself: those of requests are failures.
            raise ended
        return result

    async def _work(self) -> None:
        """Start a worker whenever a request is due and the semaphore allows it, until all have ended."""
        schedule, clock = self._schedule, time.perf_counter
        async with asyncio.TaskGroup() as group:
            while not schedule.is_over:
                await self._semaphore.acquire()
                while not ((taken := schedule.take(clock())) or schedule.is_over):
                    await asyncio.sleep(min(max(0.0, schedule.due() - clock()), TICK))
                if taken:
                    worker = _Worker(self._idle.pop() if self._idle else Slot(self._client))
                    worker.task = group.create_task(self._ask_in_turn(worker, *taken))
                    self._workers.add(worker)
                    self._result.most_in_flight = max(self._result.most_in_flight, len(self._workers))

    async def _ask_in_turn(self, worker: _Worker, question: Question, due: float) -> None:
        taken: tuple[Question, float] | None = (question, due)
        began = time.perf_counter()
        try:
            while taken:
                await self._ask(worker, *taken)
                taken = None if self._is_over() else self._schedule.take(time.perf_counter())
        finally:
            self._idle.append(worker.slot)
            self._workers.remove(worker)
            self._result.in_flight += time.perf_counter() - began
            self._semaphore.release()

    def _is_over(self) -> bool:
        return bool(self._result.failures) and not self._load.keep_going

    def _end_slow_attempts(self) -> None:
        longest_ago = time.perf_counter() - self._load.timeout
        for worker in self._workers:
            if worker.waits_since <= longest_ago:
                worker.timed_out = True
                worker.task.cancel()

    async def _ask(self, worker: _Worker, question: Question, due: float) -> None:
        """Make a request, in as many attempts as it needs and may have, and count the result."""
        attempts, result = 1, self._result
        while True:
            ended: Answer | Exception
            try:
                ended = await self._attempt(worker, question.body)
                end = time.perf_counter()
                problem = self._verify(question, due, ended, end)
            except Exception as error:  # Any error is a failure: an answer is verified, or it is not.
                ended, end, problem = error, time.perf_counter(), no_answer(error)
                await asyncio.sleep(0)  # If it failed at once, let others run.
            wait = wait_to_retry(attempts, ended, problem) if problem and attempts <= self._load.retries else None
            if wait is None:
                break
            await asyncio.sleep(wait)
            attempts += 1
        if problem and self._is_over():
            return
        result.attempts[attempts] += 1
        if problem is None:
            result.passed += 1
            return
        if attempts > 1:
            problem = problem._replace(detail=f"{problem.detail} (after {attempts:,} attempts)")
        place, at = question.place, due - self._schedule.started
        result.failures.append(Failure(place.conversation.id, place.number, at, end - due, problem))
        if self._is_over():
            self._working.cancel()

    async def _attempt(self, worker: _Worker, body: bytes) -> Answer:
        worker.waits_since = time.perf_counter()
        try:
            answer = await worker.slot.ask(body)
        except asyncio.CancelledError:
            if not worker.timed_out or worker.task.uncancel():  # The run has ended.
                raise
            worker.timed_out = False
            raise TimeoutError(f"none within {self._load.timeout:g} s") from None
        finally:
            worker.waits_since = math.inf
        self._result.bytes_sent += len(body)
        self._result.bytes_received += len(answer.body)
        return answer

    def _verify(self, question: Question, due: float, answer: Answer, end: float) -> Problem | None:
        """The problem of an answer; None if it is right, and then its times are recorded."""
        result = self._result
        if self._load.stream:
            problem, positions = verify_stream(answer.status, answer.body, question.expected)
            if problem is None:
                arrivals = answer.arrivals(positions)
                result.first_tokens.append((arrivals[0] if arrivals else end) - due)  # An empty reply has its end.
                result.gaps.extend([after - before for before, after in pairwise(arrivals)])
        else:
            problem = verify(answer.status, answer.body, question.expected)
        if problem is None:
            result.latencies.append(end - due)
        return problem


def wait_to_retry(attempts: int, ended: Answer | Exception, problem: Problem) -> float | None:
    """The seconds to wait after an attempt that ended so; None if it is final.

    Statuses and backoff follow `_base_client.py` of https://github.com/openai/openai-python.
    """
    if isinstance(ended, Exception):  # A `ValueError` is about the URL, a header or a certificate.
        of_network = (aiohttp.ClientError, HttpProcessingError, OSError)
        passing = isinstance(ended, of_network) and not isinstance(ended, ValueError)
    else:
        broke_off = problem.cause.startswith(BROKE_OFF)
        passing = broke_off or ended.status in (408, 409, 429) or ended.status >= 500
        with suppress(LookupError, ValueError):
            if passing and 0 < (asked := float(ended.headers["Retry-After"])) <= LONGEST_ASKED:
                return asked
    if not passing:
        return None
    return min(FIRST_WAIT * 2.0 ** min(attempts - 1, 100), LONGEST_WAIT) * random.uniform(0.75, 1)
