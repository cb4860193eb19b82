"""The one route: from a request's head and body to the ready-made bytes of its answer."""

import asyncio
import hmac
import math
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from email.utils import formatdate
from http import HTTPStatus
from itertools import chain, islice
from random import Random

from aiohttp import HttpVersion11
from aiohttp.http import RawRequestMessage
from aiohttp.log import server_logger

from mockchat.core.index import ResponseIndex
from mockchat.server import protocol
from mockchat.server.connection import Answer, Part
from mockchat.server.protocol import ApiError, ChatRequest
from mockchat.server.simulation import DISCONNECT, FAULT_HEADER, FAULTS, STALL, Simulation, is_fault
from mockchat.server.upstream import Upstream

PATH = "/v1/chat/completions"
MAX_BODY_SIZE = 64 * 1024 * 1024  # bytes
FAULT_TOLD = "A fault that was asked for"


class ChatCompletions:
    """What becomes of each request: `POST /v1/chat/completions`, and errors for anything else."""

    def __init__(
        self,
        index: ResponseIndex,
        max_body_size: int = MAX_BODY_SIZE,
        api_keys: Sequence[str] = (),
        simulation: Simulation | None = None,
        upstream: Upstream | None = None,
    ) -> None:
        self._index = index
        self._simulation = simulation
        self.upstream = upstream
        self._max_body_size = max_body_size
        self._api_keys = [key.encode() for key in api_keys]
        self._run_id = secrets.token_hex(6).encode()
        self._answered = 0
        self._now = 0
        self._heads: dict[tuple[int, bytes, bytes], bytes] = {}  # Of this second.
        self._read: float | None = None  # When the requests that are read now were there.
        self.closing = False

    @property
    def busy(self) -> bool:
        """Whether something has to be finished beside the answers."""
        return self.upstream is not None and self.upstream.busy

    async def close(self) -> int:
        """Give up what is not finished, and return how much that is."""
        return await self.upstream.close() if self.upstream else 0

    def answer(self, message: RawRequestMessage, body: bytes) -> Answer:
        """Answer a request; every error is an answer too."""
        try:
            self.check(message, len(body))
            try:
                if self._simulation is not None:
                    return self._simulated(message, body, self._simulation)
                found = protocol.read_request(body, self._index)
            except ApiError as error:
                if self.upstream is None:
                    raise
                return self.upstream.answer(self, message, body, error)
            created = int(time.time())
            if found.settings.stream:
                return self._stream(message, protocol.stream(found, created))
            return self._whole(message, 200, protocol.completion(found, created))
        except ApiError as error:
            return self.error(message, error)
        except Exception as error:  # A bug of ours, logged and told.
            server_logger.error("Error handling a request", exc_info=error)
            return self.error(message, ApiError(500, "The server failed; its log says how"), keep_alive=False)

    def _simulated(self, message: RawRequestMessage, body: bytes, simulation: Simulation) -> Answer:
        """The answer at its time, or the failure that is due in its place."""
        named = message.headers.get(FAULT_HEADER) if simulation.by_header else None
        if named is not None and not is_fault(named):
            return self.error(message, ApiError(400, f"{FAULT_HEADER}: {named!r} is no fault: ask for {FAULTS}"))
        try:
            found = protocol.read_request(body, self._index)
        except ApiError:
            if named is None:
                raise
            found = None  # A fault that is asked for by name comes whatever else is asked.
        chance, fault = simulation.begin(found.prefix if found else -1)
        fault = named or fault
        if fault is not None and fault not in (DISCONNECT, STALL):
            return self.error(message, ApiError(int(fault), f"{FAULT_TOLD}: status {fault}"))
        if fault is not None:
            self.broken(fault)
        if fault == STALL:
            return Answer(iter((math.inf,)), persistent=False)
        if found is None or (fault and not named and chance.random() < 0.5):
            return Answer(iter(()), persistent=False)
        answer = self._timed(message, found, chance, simulation)
        return Answer(_first_half(answer.parts), persistent=False) if fault else answer

    def broken(self, fault: str) -> None:
        """Called where a request gets no answer, or not all of it, because of a fault."""

    def _timed(self, message: RawRequestMessage, found: ChatRequest, chance: Random, simulation: Simulation) -> Answer:
        """A stream one piece at a time; the plain answer when the stream would have ended."""
        created, moments = int(time.time()), simulation.moments(self._read_at(), chance)
        replies = protocol.choose(found, chance.random)
        if found.settings.stream:
            events = protocol.steps if simulation.timed else protocol.stream
            answer = self._stream(message, events(found, created, replies))
            return answer._replace(parts=chain.from_iterable(zip(moments, answer.parts, strict=False)))
        answer = self._whole(message, 200, protocol.completion(found, created, replies))
        steps = protocol.count_steps(replies) if simulation.timed else 1
        end = next(islice(moments, steps - 1, None))
        return answer._replace(parts=chain((end,), answer.parts))

    def _read_at(self) -> float:
        """When this request was there to be read: of many that were at once, the last is as old as the first."""
        if self._read is None:
            self._read = time.monotonic()
            asyncio.get_running_loop().call_soon(self._read_on)
        return self._read

    def _read_on(self) -> None:
        self._read = None

    def check(self, message: RawRequestMessage, size: int) -> None:
        """Refuse (`ApiError`) what need not be read, its body being `size` bytes or more."""
        if self._api_keys:
            self._check_key(message.headers.get("Authorization", ""))
        if message.path != PATH or message.method != "POST":
            self._check_route(message)
        if message.chunked or "Content-Encoding" in message.headers:
            self._check_encoding(message)
        if size > self._max_body_size:
            problem = f"The request body is larger than {self._max_body_size} bytes (see --max-body-mb)"
            raise ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, problem)

    def _check_key(self, authorization: str) -> None:
        scheme, _, key = authorization.partition(" ")
        given = key.strip().encode(errors="surrogateescape") if scheme.lower() == "bearer" else b""
        # Every key is compared, each in constant time: how long it takes tells nothing.
        matches = [hmac.compare_digest(given, expected) for expected in self._api_keys]
        if not any(matches):
            problem = "Incorrect API key provided" if given else "No API key provided: send Authorization: Bearer KEY"
            raise ApiError(HTTPStatus.UNAUTHORIZED, problem, code="invalid_api_key")

    def _check_route(self, message: RawRequestMessage) -> None:
        path = message.url.path
        if path != PATH:
            problem = f"Unknown path {path[:200]}: this server has one route, POST {PATH}"
            raise ApiError(HTTPStatus.NOT_FOUND, problem)
        if message.method != "POST":
            problem = f"Method {message.method} is not allowed on {PATH}: use POST"
            raise ApiError(HTTPStatus.METHOD_NOT_ALLOWED, problem)

    def _check_encoding(self, message: RawRequestMessage) -> None:
        for name, harmless in (("Content-Encoding", "identity"), ("Transfer-Encoding", "chunked")):
            encoding = ", ".join(message.headers.getall(name, [harmless]))
            if encoding.lower() != harmless:
                problem = f"{name} {encoding!r} is not supported: send the body uncompressed"
                raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, problem)

    def error(self, message: RawRequestMessage, error: ApiError, keep_alive: bool = True) -> Answer:
        """An error as OpenAI's object; a miss is plain text for a client that does not ask for JSON."""
        if isinstance(error, protocol.NotRecorded):
            accepted = message.headers.get("Accept", "").lower()
            if "json" not in accepted and "event-stream" not in accepted:
                return self._whole(message, error.status, str(error).encode(), keep_alive, b"text/plain; charset=utf-8")
        return self._whole(message, error.status, error.body(), keep_alive)

    def _whole(
        self,
        message: RawRequestMessage,
        status: int,
        body: bytes,
        keep_alive: bool = True,
        content_type: bytes = b"application/json",
    ) -> Answer:
        keep_alive = keep_alive and not (message.should_close or self.closing)
        head = self._head(message, status, content_type, keep_alive)
        body = b"" if message.method == "HEAD" else body
        whole = b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
        return Answer(iter((whole,)), keep_alive)

    def _stream(self, message: RawRequestMessage, events: Iterator[bytes]) -> Answer:
        """Server-sent events in chunks, or up to the connection's end for a client of HTTP/1.0."""
        chunked = message.version >= HttpVersion11
        keep_alive = chunked and not (message.should_close or self.closing)
        head = self._head(message, 200, b"text/event-stream; charset=utf-8", keep_alive)
        head += b"Cache-Control: no-cache\r\n" + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n")

        def parts() -> Iterator[bytes]:
            before = head  # Goes out with the first events, as the end does with the last.
            for block in events:
                end = b"0\r\n\r\n" if block.endswith(protocol.STREAM_END) else b""
                chunk = (before, b"%x\r\n" % len(block), block, b"\r\n", end)
                yield b"".join(chunk) if chunked else before + block
                before = b""

        return Answer(parts(), keep_alive)

    def _head(self, message: RawRequestMessage, status: int, content_type: bytes, keep_alive: bool) -> bytes:
        """The status line and the headers that every answer has."""
        self._answered += 1
        now = int(time.time())
        if now != self._now:
            self._now = now
            self._heads.clear()
        connection = b""
        if not keep_alive:
            connection = b"Connection: close\r\n"
        elif message.version < HttpVersion11:
            connection = b"Connection: keep-alive\r\n"
        key = status, content_type, connection
        if key not in self._heads:
            self._heads[key] = b"HTTP/1.1 %b\r\nContent-Type: %b\r\nDate: %b\r\n%b%bx-request-id: req_%b" % (
                _STATUS_LINES[status],
                content_type,
                formatdate(now, usegmt=True).encode(),
                connection,
                _SPECIAL_HEADERS.get(status, b""),
                self._run_id,
            )
        return b"%b%08x\r\n" % (self._heads[key], self._answered)


def _first_half(parts: Iterable[Part]) -> Iterator[Part]:
    """What is sent of an answer that breaks off in the middle; a long one does so early."""
    some = list(islice(parts, 100))
    left = (sum(isinstance(part, bytes) for part in some) + 1) // 2
    for part in some:
        if isinstance(part, bytes):
            left -= 1
            if not left:
                yield part[: len(part) // 2]
                return
        yield part


_SPECIAL_HEADERS = {
    HTTPStatus.UNAUTHORIZED.value: b"WWW-Authenticate: Bearer\r\n",
    HTTPStatus.METHOD_NOT_ALLOWED.value: b"Allow: POST\r\n",
    HTTPStatus.TOO_MANY_REQUESTS.value: b"Retry-After: 1\r\n",
    HTTPStatus.SERVICE_UNAVAILABLE.value: b"Retry-After: 1\r\n",
}
_STATUS_LINES = {status: f"{status} Unknown".encode() for status in range(400, 600)} | {
    status.value: f"{status.value} {status.phrase}".encode() for status in HTTPStatus
}
