"""The one route, `POST /v1/chat/completions`: a request → its answer."""

import asyncio
import hmac
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice

from aiohttp.log import server_logger

from mockchat.core.index import Reply, ResponseIndex
from mockchat.server import completion
from mockchat.server.errors import PATH, ApiError, NotRecorded, unknown_path
from mockchat.server.http import ABORTED, Answer, AnswerWriter, HttpRequest, Part, next_turn
from mockchat.server.memory import MAX_MEMORY_MB, Memory
from mockchat.server.request import LONG_BODY, ChatRequest, in_full, in_place, read_request
from mockchat.server.simulation import DISCONNECT, FAULT_HEADER, FAULTS, STALL, Simulation, is_fault
from mockchat.server.upstream import Upstream

Read = Callable[[], ChatRequest]
FAULT_TOLD = "A fault that was asked for"


class ChatCompletions:
    """The request handler. `max_body_size` is in bytes; `match` names parameters that must be as recorded."""

    def __init__(
        self,
        index: ResponseIndex,
        max_body_size: int = 64 * 1024 * 1024,
        api_keys: Sequence[str] = (),
        simulation: Simulation | None = None,
        max_memory_mb: int = MAX_MEMORY_MB,
        match: Sequence[str] = (),
    ) -> None:
        self.upstream: Upstream | None = None  # Asked for what is not recorded.
        self.memory = Memory(max_memory_mb)
        self.writer = AnswerWriter()
        self._is_reading = asyncio.Lock()
        self._answering: set[asyncio.Task[Answer]] = set()  # Those of long bodies.
        self._index = index
        index.match = match
        self._max_body_size = max_body_size
        self._api_keys = [key.encode() for key in api_keys]
        self._simulation = simulation
        self._arrived: float | None = None  # When the requests of this turn of the loop were complete.

    @property
    def busy(self) -> bool:
        """True while an exchange with the upstream is running."""
        return self.upstream is not None and self.upstream.busy

    async def close(self) -> int:
        """Cancel what is not finished; returns the number of exchanges with an upstream that were cut."""
        for task in self._answering:
            task.cancel()
        return await self.upstream.close() if self.upstream else 0

    def refuse(self, request: HttpRequest, error: ApiError) -> Answer:
        """The error for a request whose rest is not read, which closes the connection."""
        return self.writer.error(request, error, keep_alive=False)

    def check(self, request: HttpRequest, size: int) -> None:
        """Raise `ApiError` for a request that is refused whatever its body says; it has `size` bytes at least."""
        if self._api_keys:
            self._check_key(request.headers)
        if request.path != PATH:
            raise unknown_path(request.path)
        if request.method != "POST":
            raise ApiError(405, f"Method {request.method} is not allowed on {PATH}: use POST")
        if request.is_encoded:
            for name, harmless in (("Content-Encoding", "identity"), ("Transfer-Encoding", "chunked")):
                encoding = ", ".join(request.headers.getall(name, [harmless]))
                if encoding.lower() != harmless:
                    raise ApiError(415, f"{name} {encoding!r} is not supported: send the body uncompressed")
        if request.fault is not None:
            if not (self._simulation and self._simulation.by_header):
                raise ApiError(400, f"{FAULT_HEADER} is disabled: start the server with --fault header")
            if not is_fault(request.fault):
                raise ApiError(400, f"{FAULT_HEADER}: {request.fault!r} is not a fault: ask for {FAULTS}")
        if size > self._max_body_size:
            raise ApiError(413, f"The body is larger than the {self._max_body_size} bytes that this server takes")

    def _check_key(self, headers: Mapping[str, str]) -> None:
        scheme, _, key = headers.get("Authorization", "").partition(" ")
        given = key.strip().encode(errors="surrogateescape") if scheme.lower() == "bearer" else b""
        # Compare every key in constant time, so that the duration reveals nothing.
        matches = [hmac.compare_digest(given, expected) for expected in self._api_keys]
        if any(matches):
            return
        problem = "Incorrect API key provided" if given else "No API key provided: send Authorization: Bearer KEY"
        others = [name for name in ("api-key", "x-api-key") if name in headers and not given]
        raise ApiError(401, ", not ".join([problem, *others]), code="invalid_api_key")

    def answer(self, request: HttpRequest, body: bytes) -> "Answer | asyncio.Future[Answer]":
        """Answer a complete request, now or later; every error is an answer too."""
        try:
            self.check(request, len(body))
        except ApiError as error:
            return self.writer.error(request, error)
        # Where an upstream's answers are added to the index, no thread may read it.
        if self.upstream or len(body) <= LONG_BODY:
            return self._answer(request, body)
        if asked := in_place(body, self._index):
            return self._answer(request, body, lambda: asked)
        task = asyncio.create_task(self._answer_later(request, body, self._arrival()))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        return task

    def _answer(
        self, request: HttpRequest, body: bytes, read: Read | None = None, arrived: float | None = None
    ) -> "Answer | asyncio.Future[Answer]":
        """Answer a request, which `read` reads if given; `arrived` is when it was complete, by default now."""
        try:
            try:
                started = arrived or (self._arrival() if self._simulation else 0.0)  # Before reading, which takes time.
                asked = read() if read else read_request(body, self._index)
                if self._simulation is not None:
                    return self._simulated(request, asked, self._simulation, started)
                return self._completion(request, asked, completion.choose(asked))
            except ApiError as error:
                if request.fault:  # A fault asked for by name needs no valid request.
                    return self._failed(request, request.fault)
                if self.upstream is None or error.status == 413:
                    return self.writer.error(request, error)
                return self.upstream.answer(self.writer, self.memory, request, body, error)
        except Exception as error:  # A bug.
            server_logger.error("Error handling a request", exc_info=error)
            return self.writer.error(request, ApiError(500, "The server failed: check its log"), keep_alive=False)

    async def _answer_later(self, request: HttpRequest, body: bytes, arrived: float) -> Answer:
        """Let a thread read a long body, one at a time; others are answered meanwhile.

        A thread can't be cancelled: a cancelled task waits until its body is read, and so does one cancelled twice.
        """
        self.memory.held += len(body)
        try:
            async with self._is_reading:
                reading = asyncio.get_running_loop().run_in_executor(None, _read_long, body, self._index)
                while not reading.done():
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait([reading])
        except asyncio.CancelledError:
            return self.writer.error(request, ApiError(503, "The server was stopped before it had read the request"))
        finally:
            self.memory.held -= len(body)
        answer = self._answer(request, body, reading.result, arrived)
        assert isinstance(answer, Answer)  # A server with an upstream reads no body later.
        return answer

    def _completion(self, request: HttpRequest, asked: ChatRequest, replies: list[Reply]) -> Answer:
        created, answer_id = int(time.time()), replies[0].conversation_id
        if asked.settings.stream:
            is_timed = self._simulation is not None and self._simulation.timed
            events = (completion.steps if is_timed else completion.stream)(asked, created, replies)
            return self.writer.stream(request, events, completion.STREAM_END, answer_id)
        return self.writer.whole(request, completion.whole(asked, created, replies), answer_id)

    def _simulated(self, request: HttpRequest, asked: ChatRequest, simulation: Simulation, arrived: float) -> Answer:
        """The fault that is drawn or asked for; or the answer in time: a plain one when its stream would have ended."""
        chance, drawn = simulation.begin(asked.history)
        fault = request.fault or drawn
        in_the_middle = fault == DISCONNECT and (request.fault or chance.random() >= 0.5)
        if fault and not in_the_middle:
            return self._failed(request, fault)
        replies = completion.choose(asked, chance.random)
        answer = self._completion(request, asked, replies)
        if in_the_middle:
            answer = Answer(_first_half(answer.parts), False, ABORTED, fault=fault)
        if not simulation.timed:
            return answer
        moments = simulation.moments(arrived, chance)
        if asked.settings.stream:
            return answer._replace(parts=chain.from_iterable(zip(moments, answer.parts, strict=False)))
        waiting = _end_of_stream(moments, completion.steps(asked, 0, replies))
        return answer._replace(parts=chain(waiting, answer.parts))

    def _failed(self, request: HttpRequest, fault: str) -> Answer:
        """A fault in the place of an answer."""
        if fault in (DISCONNECT, STALL):
            return Answer((math.inf,) if fault == STALL else (), False, ABORTED, fault=fault)
        error = ApiError(int(fault), f"{FAULT_TOLD}: status {fault}")
        return self.writer.error(request, error)._replace(fault=fault)

    def _arrival(self) -> float:
        """When this request was complete; the same moment for all of one turn of the event loop."""
        if self._arrived is None:
            self._arrived = time.monotonic()
            asyncio.get_running_loop().call_soon(setattr, self, "_arrived", None)
        return self._arrived


def _read_long(body: bytes, index: ResponseIndex) -> ChatRequest:
    """Like `in_full`, but diagnoses a miss at once."""
    try:
        return in_full(body, index)
    except NotRecorded as error:
        error.body()
        raise


def _end_of_stream(moments: Iterator[float], steps: Iterator[bytes]) -> Iterator[Part]:
    """Wait until the last of these steps is due. Other connections run while many are counted."""
    for number, _ in enumerate(steps, 1):
        due = next(moments)
        if number % 64 == 0:
            yield next_turn()
    yield due


def _first_half(parts: Iterable[Part]) -> list[Part]:
    """The first half of an answer, without its waits; of a long one, of its first 100 parts."""
    some = [part for part in islice(parts, 100) if isinstance(part, bytes)]
    middle = (len(some) - 1) // 2
    return [*some[:middle], some[middle][: len(some[middle]) // 2]]
