"""The requester's engine: request every recorded reply, verify every answer, count and time.

- A worker is a task that makes one request after the other on its connection while requests are due, then ends.
- A semaphore limits the workers, and so the requests in flight. At full speed workers last for the whole run; at a rate
  each begins when a request is due.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import count, pairwise

import aiohttp
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict

from mockchat.client import ACCEPTED
from mockchat.core.answer import BROKE_OFF, endpoint
from mockchat.core.entries import Conversation
from mockchat.core.index import ResponseIndex
from mockchat.requester.exchange import Answer, Slot
from mockchat.requester.plan import Load, Question, Schedule, dealt, questions
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

    `progress` is called every `TICK`; once it returns True, the result so far is returned, as interrupted. `begin`
    returns the start (of `time.perf_counter`), and may wait for it. `process` is this process's number of several.
    """
    asked = dealt(conversations, load, process)
    all_headers = CIMultiDict(headers or {})
    for name in ("Content-Type", "Accept"):
        all_headers.setdefault(name, "application/json")
    all_headers.setdefault("Accept-Encoding", ACCEPTED)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=load.concurrency),
        timeout=aiohttp.ClientTimeout(),  # `_Run` has one timer for all attempts.
        headers=all_headers,
    ) as session:
        new_slot = partial(Slot, session, endpoint(base_url), timed=load.stream)
        schedule = Schedule(questions(asked, index, model, load.stream), load, begin, process)
        return await _Run(new_slot, schedule, load).run(progress)


class _Run:
    """The state of a run."""

    def __init__(self, new_slot: Callable[[], Slot], schedule: Schedule, load: Load) -> None:
        self._new_slot = new_slot
        self._schedule = schedule
        self._load = load
        self._result = Result()
        self._semaphore = asyncio.Semaphore(load.concurrency)
        self._slots: list[Slot] = []
        self._idle: list[Slot] = []  # Those of no worker.
        self._began: dict[asyncio.Task[None], float] = {}  # When the attempt of each worker began.
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
            result.most_in_flight = len(self._slots)  # A slot is made when all are in use.
            result.elapsed = time.perf_counter() - schedule.started
            result.sending = schedule.sending(result.elapsed)
            result.cpu = time.process_time() - cpu
        finally:
            self._working.cancel()
            (ended,) = await asyncio.gather(self._working, return_exceptions=True)
            for slot in self._slots:
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
                    if not self._idle:
                        self._idle = [self._new_slot()]
                        self._slots += self._idle
                    group.create_task(self._ask_in_turn(self._idle.pop(), *taken))

    async def _ask_in_turn(self, slot: Slot, question: Question, due: float) -> None:
        began = time.perf_counter()
        try:
            await self._ask(slot, question, due)
            while not self._has_failed() and (taken := self._schedule.take(time.perf_counter())):
                await self._ask(slot, *taken)
        finally:
            self._idle.append(slot)
            self._result.in_flight += time.perf_counter() - began
            self._semaphore.release()

    def _has_failed(self) -> bool:
        return bool(self._result.failures) and not self._load.keep_going

    def _end_slow_attempts(self) -> None:
        longest_ago = time.perf_counter() - self._load.timeout
        for worker in [worker for worker, began in self._began.items() if began <= longest_ago]:
            del self._began[worker]
            worker.cancel()

    async def _ask(self, slot: Slot, question: Question, due: float) -> None:
        for attempts in count(1):
            ended: Answer | Exception
            try:
                ended = await self._attempt(slot, question.body)
                end = time.perf_counter()
                problem = self._verify(question, due, ended, end)
            except Exception as error:  # Any error is a failure: an answer is verified, or it is not.
                ended, end, problem = error, time.perf_counter(), no_answer(error)
                await asyncio.sleep(0)  # If it failed at once, let others run.
            wait = wait_to_retry(attempts, ended, problem) if problem and attempts <= self._load.retries else None
            if wait is None:
                break
            await asyncio.sleep(wait)
        if problem and self._has_failed():  # This failure may come of the stop.
            return
        self._result.attempts[attempts] += 1
        if problem is None:
            return
        if attempts > 1:
            problem = problem._replace(detail=f"{problem.detail} (after {attempts:,} attempts)")
        place, at = question.place, due - self._schedule.started
        self._result.failures.append(Failure(place.conversation.id, place.number, at, end - due, problem))
        if self._has_failed():
            self._working.cancel()

    async def _attempt(self, slot: Slot, body: bytes) -> Answer:
        worker = asyncio.current_task()
        assert worker is not None
        self._began[worker] = time.perf_counter()
        try:
            answer = await slot.ask(body)
        except asyncio.CancelledError:
            if worker in self._began or worker.uncancel():  # The run has ended, perhaps in the moment of a timeout.
                raise
            raise TimeoutError(f"none within {self._load.timeout:g} s") from None
        finally:
            self._began.pop(worker, None)
        self._result.bytes_sent += len(body)
        self._result.bytes_received += len(answer.body)
        return answer

    def _verify(self, question: Question, due: float, answer: Answer, end: float) -> Problem | None:
        """The problem of an answer; None if it is right: then it and its times are counted."""
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
            result.passed += 1
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
        passing = problem.cause.startswith(BROKE_OFF) or ended.status in (408, 409, 429) or ended.status >= 500
        with suppress(LookupError, ValueError):
            if passing and 0 < (asked := float(ended.headers["Retry-After"])) <= LONGEST_ASKED:
                return asked
    if not passing:
        return None
    return min(FIRST_WAIT * 2.0 ** min(attempts - 1, 100), LONGEST_WAIT) * random.uniform(0.75, 1)
