"""HTTP/1.1 for the rest of the server: request heads, and answers as bytes. No sockets, no JSON.

Follows https://www.rfc-editor.org/rfc/rfc9110 and https://www.rfc-editor.org/rfc/rfc9112.
"""

import asyncio
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, NamedTuple

from multidict import CIMultiDict, CIMultiDictProxy

from mockchat.core.text import excerpt
from mockchat.server.errors import ApiError, NotRecorded

LAST_CHUNK = b"0\r\n\r\n"
CLOSE = b"Connection: close\r\n"
_JSON = b"application/json"
_PLAIN_TEXT = b"text/plain; charset=utf-8"
_EVENT_STREAM = b"text/event-stream; charset=utf-8\r\nCache-Control: no-cache"

# A part of an answer: bytes to write, or what to wait for before the next part: a moment of `time.monotonic()` (`inf`:
# stall until the client disconnects), or the end of a future.
Part = bytes | float | asyncio.Future[Any]


class HttpRequest(NamedTuple):
    """A request head."""

    method: str
    path: str  # Decoded.
    headers: CIMultiDictProxy[str]  # `Content-Length` may be that of an earlier request on the connection.
    is_http_1_1: bool  # Or later.
    keep_alive: bool
    is_encoded: bool  # By a transfer coding (chunked) or a content coding.
    query: str = ""  # Not decoded.
    fault: str | None = None  # The value of the header `X-Mockchat-Fault`.


# Stands for a request that could not be read.
UNREADABLE = HttpRequest("UNKNOWN", "/", CIMultiDictProxy(CIMultiDict()), False, False, False)

ABORTED = 0  # The status of an answer that a simulated fault aborts, at once or in the middle.


class Answer(NamedTuple):
    """The parts to write, and whether the connection stays open afterwards; the rest is for logs and tests."""

    parts: Iterable[Part]
    persistent: bool
    status: int  # Or `ABORTED`.
    error: ApiError | None = None
    fault: str | None = None  # The simulated one.
    id: bytes | None = None  # Of the conversation that it comes from, as a JSON string.


_LONGEST_MISS = 2000  # bytes: aiohttp's clients refuse a header of more than 8,190
_WRITE_SIZE = 65536  # bytes
_LONGEST_PIECE = 4 * _WRITE_SIZE


class AnswerWriter:
    """Writes answers, each with an id of its own in `x-request-id`, which OpenAI's SDKs show as `_request_id`."""

    def __init__(self) -> None:
        self.closing = False  # If true, every answer asks its client to reconnect.
        self._run_id = secrets.token_hex(6).encode()
        self._written = 0
        self._now = 0
        self._date = b""

    def whole(self, request: HttpRequest, body: Sequence[bytes | memoryview], answer_id: bytes) -> Answer:
        keep_alive = request.keep_alive and not self.closing
        head = self._head(200, _JSON, keep_alive, b"Content-Length: %d\r\n" % sum(map(len, body)))
        parts = (head + body[0],) if len(body) == 1 else in_blocks((head, *body))
        return Answer(parts, keep_alive, 200, id=answer_id)

    def error(self, request: HttpRequest, error: ApiError, *, keep_alive: bool = True) -> Answer:
        """An error as OpenAI's object; a miss is plain text for a client that does not accept JSON.

        A miss has its diagnosis in a header too: some clients show headers, but no body.
        """
        error.__traceback__ = error.__context__ = None  # Their frames hold the request's body.
        content_type, body, more = _JSON, error.body(), b""
        if isinstance(error, NotRecorded):
            accepted = request.headers.get("Accept", "").lower()
            if "json" not in accepted and "event-stream" not in accepted:
                content_type, body = _PLAIN_TEXT, str(error).encode()
            why = excerpt(error.diagnosis().text).encode("ascii", "backslashreplace")
            more = b"X-Mockchat-Miss: %b\r\n" % why[:_LONGEST_MISS]
        keep_alive = keep_alive and request.keep_alive and not self.closing
        head = self._head(error.status, content_type, keep_alive, b"%bContent-Length: %d\r\n" % (more, len(body)))
        return Answer((head if request.method == "HEAD" else head + body,), keep_alive, error.status, error)

    def stream(self, request: HttpRequest, blocks: Iterator[bytes], end: bytes, answer_id: bytes) -> Answer:
        """Server-sent events, several in each block; the last block ends with `end`. HTTP/1.0 has no chunks."""
        keep_alive = request.keep_alive and not self.closing
        coding = b"Transfer-Encoding: chunked\r\n" if request.is_http_1_1 else b""
        head = self._head(200, _EVENT_STREAM, keep_alive, coding)

        def parts() -> Iterator[bytes]:
            before = head  # Sent with the first block, as the last chunk is with the last.
            for block in blocks:
                if request.is_http_1_1:
                    last = LAST_CHUNK if block.endswith(end) else b""
                    yield b"".join((before, b"%x\r\n" % len(block), block, b"\r\n", last))
                else:
                    yield before + block
                before = b""

        return Answer(parts(), keep_alive, 200, id=answer_id)

    def _head(self, status: int, content_type: bytes, keep_alive: bool, more: bytes) -> bytes:
        self._written += 1
        now = int(time.time())
        if now != self._now:
            self._now, self._date = now, formatdate(now, usegmt=True).encode()
        return b"HTTP/1.1 %bContent-Type: %b\r\nDate: %b\r\n%bx-request-id: req_%b%08x\r\n%b\r\n" % (
            _STATUS_LINES[status],
            content_type,
            self._date,
            b"" if keep_alive else CLOSE,
            self._run_id,
            self._written,
            more,
        )


def chunk(block: bytes) -> bytes:
    """A block, which is not empty, in the chunked coding."""
    return b"%x\r\n%b\r\n" % (len(block), block)


def in_blocks(parts: Iterable[bytes | bytearray | memoryview]) -> Iterator[bytes]:
    """Join short parts, and cut long ones, into blocks for one write each."""
    block: list[bytes | bytearray | memoryview] = []
    size = 0
    for part in parts:
        for start in range(0, len(part), _LONGEST_PIECE):
            block.append(part[start : start + _LONGEST_PIECE])
            size += len(block[-1])
            if size >= _WRITE_SIZE:
                yield b"".join(block)
                block, size = [], 0
    if block:
        yield b"".join(block)


def next_turn() -> asyncio.Future[None]:
    """A future that ends in a later turn of the event loop: other connections run in between."""
    return asyncio.create_task(asyncio.sleep(0))


_PHRASES = dict.fromkeys(range(400, 600), "Unknown") | {status.value: status.phrase for status in HTTPStatus}
# The status line, and the headers that belong to the status.
_STATUS_LINES = {status: f"{status} {phrase}\r\n".encode() for status, phrase in _PHRASES.items()}
_STATUS_LINES[401] += b"WWW-Authenticate: Bearer\r\n"
_STATUS_LINES[405] += b"Allow: POST\r\n"
_STATUS_LINES[429] += b"Retry-After: 1\r\n"
_STATUS_LINES[503] += b"Retry-After: 1\r\n"
