"""HTTP/1.1 as the rest of the server sees it: what a request's head says, and answers as bytes. No sockets, no JSON.

Follows https://www.rfc-editor.org/rfc/rfc9110 and https://www.rfc-editor.org/rfc/rfc9112.
"""

import asyncio
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol, Union

from aiohttp import HttpVersion11
from aiohttp.http import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy

from mockchat.server.errors import ApiError
from mockchat.server.memory import Memory
from mockchat.server.simulation import FAULT_HEADER

LAST_CHUNK = b"0\r\n\r\n"
JSON = b"application/json"
PLAIN_TEXT = b"text/plain; charset=utf-8"
_EVENT_STREAM = b"text/event-stream; charset=utf-8\r\nCache-Control: no-cache"

# What is to be written; or what to wait for before the next part: a moment of `time.monotonic()`, or a future's end.
# An infinite moment never comes: nothing more is sent, until the client gives up. An answer goes on in place of this.
Part = Union[bytes, float, "asyncio.Future[Any]", "Answer"]


class HttpRequest(NamedTuple):
    """A request's head. `path` is decoded, `query` is not; `is_http_1_1` is also true of later versions.

    The size of a body that is there is that of its bytes: on a kept connection, the `Content-Length` among the headers
    may be that of an earlier request with the same head.
    """

    method: str
    path: str
    headers: CIMultiDictProxy[str]
    is_http_1_1: bool
    keep_alive: bool
    is_chunked: bool
    query: str = ""
    fault: str | None = None  # What it asks for by the header `X-Mockchat-Fault`.


def read_head(message: RawRequestMessage) -> HttpRequest:
    """A head as aiohttp's parser gives it (this class is one that aiohttp does not document)."""
    return HttpRequest(
        message.method,
        message.url.path,
        message.headers,
        message.version >= HttpVersion11,
        not message.should_close,
        message.chunked,
        message.url.raw_query_string,
        message.headers.get(FAULT_HEADER),
    )


# Stands for a request that could not be read.
UNREADABLE = HttpRequest("UNKNOWN", "/", CIMultiDictProxy(CIMultiDict()), False, False, False)


class Answer(NamedTuple):
    """What is to be written, part by part, and whether the connection stays open afterwards.

    The rest is for those who watch: the status (0: the answer does not come, or not to its end; None: that is not known
    yet, and an answer comes in place of this), the error if it is one, and the fault that was simulated.
    """

    parts: Iterable[Part]
    persistent: bool
    status: int | None
    error: ApiError | None = None
    fault: str | None = None


class Route(Protocol):
    """What becomes of each request."""

    closing: bool  # Set when the server stops: no further answer may promise to keep its connection.
    memory: Memory

    @property
    def busy(self) -> bool:
        """Whether something has to be finished beside the answers."""

    async def close(self) -> int:
        """Give up what is not finished, and return how much that is."""

    def check(self, request: HttpRequest, size: int) -> None:
        """Raise `ApiError` where a request need not be read, its body being `size` bytes or more."""

    def answer(self, request: HttpRequest, body: bytes) -> Answer:
        """Answer a request that is there to its end; every error is an answer too."""

    def refuse(self, request: HttpRequest, error: ApiError) -> Answer:
        """Answer a request of which the rest is not read; then the connection closes."""

    def error(self, request: HttpRequest, error: ApiError, keep_alive: bool = True) -> Answer:
        """The answer that tells of an error."""


class KnownHead(NamedTuple):
    """The head of a request that was read, for another that has the same one but for its Content-Length.

    A client sends the same head with each request on a connection, and bytes that are the same mean the same: what was
    read once need not be parsed again. `before` and `after` are its bytes on either side of the length's digits.
    """

    before: bytes
    after: bytes
    request: HttpRequest

    def match(self, data: bytes) -> tuple[int, int]:
        """Where the body begins in data that begin with this head, and its size; 0 and 0 if they begin otherwise."""
        before, after, _ = self
        if not data.startswith(before):
            return 0, 0
        end = data.find(b"\r", len(before), len(before) + _MOST_DIGITS + 1)
        digits = data[len(before) : max(end, 0)]
        if not digits.isdigit() or not data.startswith(after, end):
            return 0, 0
        return end + len(after), int(digits)


def known_head(data: bytes, request: HttpRequest) -> KnownHead | None:
    """The head of a request that was read from these data, if it can be known again.

    That is not so where the data are not that one request from its first byte to its last, where its body does not
    end as one plain Content-Length says, and where the connection itself is talked about (`Expect`, `Upgrade`). A line
    that ends otherwise than in CR LF is not trusted to end where it seems to.
    """
    size = data.find(b"\r\n\r\n") + len(b"\r\n\r\n")
    head, headers = data[:size], request.headers
    if request.method != "POST" or request.is_chunked or any(name in headers for name in ("Expect", "Upgrade")):
        return None
    lengths = list(_LENGTH.finditer(head))
    if len(headers.getall("Content-Length", ())) != 1 or len(lengths) != 1 or head.count(b"\n") != head.count(b"\r\n"):
        return None
    digits = lengths[0]
    if size + int(digits[1]) != len(data):
        return None
    return KnownHead(head[: digits.start(1)], head[digits.end(1) :], request)


_LENGTH = re.compile(rb"\r\nContent-Length: *([0-9]{1,18})(?=\r\n)", re.IGNORECASE)
_MOST_DIGITS = 18
_WRITE_SIZE = 65536  # bytes
_LONGEST_WRITE = 4 * _WRITE_SIZE


class AnswerWriter:
    """Writes answers, each with the id of its own that OpenAI's SDKs show as `_request_id`."""

    def __init__(self) -> None:
        self._run_id = secrets.token_hex(6).encode()
        self._written = 0
        self._now = 0
        self._heads: dict[tuple[int, bytes, bytes], bytes] = {}  # Those of this second.

    def whole(
        self,
        request: HttpRequest,
        status: int,
        *body: bytes | memoryview,
        keep_alive: bool = True,
        content_type: bytes = JSON,
        headers: bytes = b"",
    ) -> Answer:
        """An answer whose size is known; the body may be given in parts. `headers` are further lines of the head."""
        keep_alive = keep_alive and request.keep_alive
        head = self._head(status, content_type, connection_header(request, keep_alive))
        size = len(body[0]) if len(body) == 1 else sum(map(len, body))
        head = b"%b%08x\r\n%bContent-Length: %d\r\n\r\n" % (head, self._written, headers, size)
        if request.method == "HEAD":
            return Answer((head,), keep_alive, status)
        parts = (head + body[0],) if len(body) == 1 else in_blocks((head, *body))
        return Answer(parts, keep_alive, status)

    def stream(self, request: HttpRequest, blocks: Iterator[bytes], end: bytes, *, keep_alive: bool = True) -> Answer:
        """Server-sent events, some in each block; the last block ends with `end`.

        They go in chunks, or up to the connection's end for a client of HTTP/1.0.
        """
        keep_alive = keep_alive and request.keep_alive and request.is_http_1_1
        head = self._head(200, _EVENT_STREAM, connection_header(request, keep_alive))
        head += b"%08x\r\n" % self._written + (
            b"Transfer-Encoding: chunked\r\n\r\n" if request.is_http_1_1 else b"\r\n"
        )

        def parts() -> Iterator[bytes]:
            before = head  # Goes out with the first block, as the last chunk does with the last.
            for block in blocks:
                if request.is_http_1_1:
                    last = LAST_CHUNK if block.endswith(end) else b""
                    yield b"".join((before, b"%x\r\n" % len(block), block, b"\r\n", last))
                else:
                    yield before + block
                before = b""

        return Answer(parts(), keep_alive, 200)

    def _head(self, status: int, content_type: bytes, connection: bytes) -> bytes:
        """The status line and the headers that every answer has; what is missing is the number that ends its id."""
        self._written += 1
        now = int(time.time())
        if now != self._now:
            self._now = now
            self._heads.clear()
        key = status, content_type, connection
        head = self._heads.get(key)
        if head is None:
            head = self._heads[key] = b"HTTP/1.1 %b\r\nContent-Type: %b\r\nDate: %b\r\n%b%bx-request-id: req_%b" % (
                _STATUS_LINES[status],
                content_type,
                formatdate(now, usegmt=True).encode(),
                connection,
                _SPECIAL_HEADERS.get(status, b""),
                self._run_id,
            )
        return head


def connection_header(request: HttpRequest, keep_alive: bool) -> bytes:
    """The header that says whether the connection stays open, where the request's version does not say it."""
    if not keep_alive:
        return b"Connection: close\r\n"
    return b"" if request.is_http_1_1 else b"Connection: keep-alive\r\n"


def in_blocks(parts: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """The parts as one write should carry them: short ones together, long ones cut."""
    block: list[bytes | memoryview] = []
    size = 0
    for part in parts:
        if len(part) > _LONGEST_WRITE:
            if size:
                yield b"".join(block)
                block, size = [], 0
            for start in range(0, len(part), _LONGEST_WRITE):
                yield bytes(part[start : start + _LONGEST_WRITE])
            continue
        block.append(part)
        size += len(part)
        if size >= _WRITE_SIZE:
            yield b"".join(block)
            block, size = [], 0
    if size:
        yield b"".join(block)


def next_turn() -> "asyncio.Future[None]":
    """A future that is done when the event loop has seen to everybody else once."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(_end, future)
    return future


def _end(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def chunk(block: bytes) -> bytes:
    """The block in the chunked coding; an empty one would be the last chunk."""
    return b"%x\r\n%b\r\n" % (len(block), block)


_SPECIAL_HEADERS = {
    HTTPStatus.UNAUTHORIZED.value: b"WWW-Authenticate: Bearer\r\n",
    HTTPStatus.METHOD_NOT_ALLOWED.value: b"Allow: POST\r\n",
    HTTPStatus.TOO_MANY_REQUESTS.value: b"Retry-After: 1\r\n",
    HTTPStatus.SERVICE_UNAVAILABLE.value: b"Retry-After: 1\r\n",
}
_STATUS_LINES = {status: f"{status} Unknown".encode() for status in range(400, 600)} | {
    status.value: f"{status.value} {status.phrase}".encode() for status in HTTPStatus
}
