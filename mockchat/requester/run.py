"""The requester's engine: request every recorded reply, verify every answer, count and time.

- A worker makes one request after the other on its connection while requests are due, then ends.
- A semaphore limits the workers, and so the requests in flight. At full speed workers last for the whole run; at a rate
  each begins when a request is due.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import chain, islice, pairwise

import aiohttp
from multidict import CIMultiDict

from mockchat.client import ACCEPTED
from mockchat.core.answer import BROKE_OFF, endpoint
from mockchat.core.entries import Conversation
from mockchat.core.index import ResponseIndex
from mockchat.core.text import excerpt
from mockchat.requester import retry
from mockchat.requester.exchange import Answer, Client, Slot
from mockchat.requester.plan import Load, Question, Schedule, questions, rounds
from mockchat.requester.result import Failure, Result
from mockchat.requester.verify import Problem, no_answer, verify, verify_stream

TICK = 0.1  # seconds
Progress = Callable[[int, int], object]  # Called with the numbers of ended requests and of failures.
_TOLD = ("Retry-After", "Location")  # Headers of a refusal that are reported.


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
    process: int = 0,
    begin: Callable[[], Awaitable[float]] = _now,
    stopped: asyncio.Event | None = None,
    progress: Progress = lambda requests, failed: None,
) -> Result:
    """Ask for the recorded replies and verify the answers.

    Stops at the first failure unless told to keep going. Once `stopped` is set, it returns the result so far, as
    interrupted. `begin` is awaited before the first request and gives the start (of `time.perf_counter`). `progress` is
    called every `TICK`. Of several processes, this is the one with the number `process`.
    """
    asked = islice(questions(rounds(conversations, load, process), index, model, load.stream), load.limit)
    first = list(islice(asked, 1))  # Before the clock starts: shuffling takes time.
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
        schedule = Schedule(chain(first, asked), load, process)
        return await _Run(client, schedule, load, progress).run(begin, stopped or asyncio.Event())


class _Worker:
    """A worker: its connection, its task, when it began, and when its attempt did (`inf`: it has none)."""

    __slots__ = ("began", "slot", "task", "timed_out", "waits_since")

    def __init__(self, client: Client) -> None:
        self.slot = Slot(client)
        self.task: asyncio.Task[None]
        self.began = time.perf_counter()
        self.waits_since = math.inf
        self.timed_out = False


class _Run:
    """The state of a run."""

    def __init__(self, client: Client, schedule: Schedule, load: Load, progress: Progress) -> None:
        self._client = client
        self._schedule = schedule
        self._load = load
        self._progress = progress
        self._result = Result()
        self._semaphore = asyncio.Semaphore(load.concurrency)
        self._workers: set[_Worker] = set()
        self._worker_ended = asyncio.Event()
        self._end = math.inf  # When the run ended; later answers do not count.
        self._error: Exception | None = None  # An error of the program itself, which ended a worker.

    async def run(self, begin: Callable[[], Awaitable[float]], stopped: asyncio.Event) -> Result:
        result, schedule = self._result, self._schedule
        cpu = time.process_time()
        schedule.start(time.perf_counter())
        working = asyncio.create_task(self._work(begin))
        stopping = asyncio.create_task(stopped.wait())
        others = [stopping, asyncio.create_task(self._tick())]
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            result.interrupted = not working.done()
            self._end = time.perf_counter()
            result.elapsed = self._end - schedule.started
            result.sending = schedule.sending(result.elapsed)
            result.cpu = time.process_time() - cpu
        finally:
            for worker in self._workers:
                worker.timed_out = False  # No further attempts.
            left = [working, *others, *[worker.task for worker in self._workers]]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        if not result.interrupted:
            working.result()
        return result

    async def _work(self, begin: Callable[[], Awaitable[float]]) -> None:
        """Run workers until all requests ended, or one failed for good."""
        self._schedule.start(await begin())
        await self._start_workers()
        while self._workers and not self._is_over():
            self._worker_ended.clear()
            await self._worker_ended.wait()
        if self._error:
            raise self._error

    async def _start_workers(self) -> None:
        """Start a worker whenever a request is due and the semaphore allows it."""
        schedule, clock = self._schedule, time.perf_counter
        while True:
            await self._semaphore.acquire()
            while not (taken := schedule.take(clock())):
                if schedule.is_over or self._is_over():
                    return
                await asyncio.sleep(min(max(0.0, schedule.due() - clock()), TICK))
            if self._is_over():
                return
            worker = _Worker(self._client)
            worker.task = asyncio.create_task(self._ask_in_turn(worker, *taken))
            self._workers.add(worker)
            self._result.most_in_flight = max(self._result.most_in_flight, len(self._workers))

    async def _ask_in_turn(self, worker: _Worker, question: Question, due: float) -> None:
        taken: tuple[Question, float] | None = (question, due)
        try:
            while taken:
                await self._ask(worker, *taken)
                taken = None if self._is_over() else self._schedule.take(time.perf_counter())
            worker.slot.release()
        except Exception as error:
            self._error = error
        finally:
            worker.slot.close()
            self._workers.remove(worker)
            self._result.in_flight += min(time.perf_counter(), self._end) - worker.began
            self._worker_ended.set()
            self._semaphore.release()

    def _is_over(self) -> bool:
        return bool(self._result.failures) and not self._load.keep_going

    async def _tick(self) -> None:
        """Every `TICK`, end the attempts that timed out and report progress."""
        timeout = self._load.timeout
        while True:
            await asyncio.sleep(min(TICK, timeout / 10))
            now = time.perf_counter()
            for worker in self._workers:
                if now - worker.waits_since >= timeout:
                    worker.timed_out = True
                    worker.task.cancel()
            self._progress(self._result.requests, len(self._result.failures))

    async def _ask(self, worker: _Worker, question: Question, due: float) -> None:
        """Make a request, in as many attempts as it needs and may have, and count the result."""
        attempts = 1
        while True:
            ended = await self._attempt(worker, question.body)
            end = time.perf_counter()
            try:
                problem = self._verify(question, due, ended, end) if isinstance(ended, Answer) else no_answer(ended)
            except Exception as error:  # Any error is a failure: an answer is verified, or it is not.
                problem = no_answer(error)
            if problem is None or attempts > self._load.retries or (wait := _wait(attempts, ended, problem)) is None:
                break
            worker.slot.release()
            await asyncio.sleep(wait)
            attempts += 1
        if problem is None and attempts == 1:
            self._result.passed += 1
        else:
            self._count(question, due, end, problem, attempts)

    async def _attempt(self, worker: _Worker, body: bytes) -> Answer | Exception:
        worker.waits_since = time.perf_counter()
        try:
            answer = await worker.slot.ask(body)
        except asyncio.CancelledError:
            if not worker.timed_out:
                raise
            worker.timed_out = False
            worker.task.uncancel()
            return TimeoutError(f"none within {self._load.timeout:g} s")
        except Exception as error:  # Any error is a failure, also one of sending.
            await asyncio.sleep(0)  # If it failed at once, let others run.
            return error
        finally:
            worker.waits_since = math.inf
        self._result.bytes_sent += len(body)
        self._result.bytes_received += len(answer.body)
        return answer

    def _count(self, question: Question, due: float, end: float, problem: Problem | None, attempts: int) -> None:
        result = self._result
        if problem and self._is_over():
            return
        if attempts > 1:
            result.retried[attempts] += 1
            problem = problem and problem._replace(detail=f"{problem.detail} (after {attempts:,} attempts)")
        if problem:
            place, at = question.place, due - self._schedule.started
            result.failures.append(Failure(place.conversation.id, place.number, at, end - due, problem))
            result.counts[problem.kind] += 1
        else:
            result.passed += 1

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
            result.due.append(due - self._schedule.started)
            result.latencies.append(end - due)
            return None
        told = [f" ({name}: {excerpt(answer.headers[name])})" for name in _TOLD if name in answer.headers]
        return problem._replace(detail=problem.detail + "".join(told))


def _wait(attempts: int, ended: Answer | Exception, problem: Problem) -> float | None:
    """The seconds until the next attempt; None if there is none.

    A stream that broke off is tried again however that was: cut by the connection, ended early, or with an error event.
    """
    if isinstance(ended, Exception):
        return retry.wait(attempts, ended, {})
    if problem.cause.startswith(BROKE_OFF):
        return retry.wait(attempts, aiohttp.ClientPayloadError(problem.cause), {})
    return retry.wait(attempts, ended.status, ended.headers)
