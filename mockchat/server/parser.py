"""A client's bytes → requests, by aiohttp's parser. No I/O; the only limit is the size of a head.

What is used of aiohttp that its documentation does not promise (setup.cfg bounds its version for that reason):
`HttpRequestParser` and `HttpProcessingError` (aiohttp.http), a parser in C that has seen more attacks than one of ours
ever would; the attributes of a protocol that its bodies use; `set_upgraded(False)`, after which it reads on where an
upgrade was declined. `EMPTY_PAYLOAD` (aiohttp) is a body at its end. `StreamReader` (aiohttp) is made, and filled by
`feed_data` and `feed_eof`, for a body that needs no parser.
"""

import asyncio
import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

from aiohttp import EMPTY_PAYLOAD, HttpVersion11, StreamReader
from aiohttp.http import HttpProcessingError, HttpRequestParser, RawRequestMessage

from mockchat.server.errors import ApiError
from mockchat.server.http import HttpRequest
from mockchat.server.simulation import FAULT_HEADER

_MAX_HEAD_SIZE = 65536  # bytes
_MAX_KEPT_HEAD_SIZE = 4096  # bytes: what an idle connection may hold of its last request
_READ_SIZE = 65536  # bytes
_TOO_LARGE = f"The request head is larger than the {_MAX_HEAD_SIZE} bytes that this server reads"
_UNSEEN = 16384  # bytes: the end of a segment, in which a head that begins behind a request is not seen


@dataclass
class Incoming:
    """A request whose body may still be arriving: `size` is as declared, `arrived` is None until some was taken."""

    request: HttpRequest
    body: StreamReader
    size: int
    arrived: bytearray | None = None

    def take(self) -> int:
        """Take what has arrived, and return the body's size so far."""
        if self.arrived is None:
            self.arrived = bytearray()
        self.arrived += self.body.read_nowait()
        return len(self.arrived)

    def whole(self) -> bytes:
        last = self.body.read_nowait()
        return b"".join((self.arrived, last)) if self.arrived else last


class RequestParser:
    """Reads the requests of one connection."""

    def __init__(self) -> None:
        self.malformed: ApiError | None = None  # Why nothing more can be read.
        self.known: KnownHead | None = None  # That of the last request; while there is one, the parser buffers nothing.
        self._parser = HttpRequestParser(
            _NO_FLOW_CONTROL, asyncio.get_running_loop(), _READ_SIZE, auto_decompress=False
        )
        self._is_new = True
        self._body = EMPTY_PAYLOAD  # That of the last request.
        self._left = 0  # Bytes that it lacks, if its head was known.
        self._head_size = 0  # Bytes of a head that is not complete.

    def feed(self, data: bytes) -> list[Incoming]:
        """The requests whose heads are complete with these bytes."""
        if self._left:  # No parser is needed for the rest of this body.
            body, data = data[: self._left], data[self._left :]
            self._body.feed_data(body)
            self._left -= len(body)
            if not self._left:
                self._body.feed_eof()
            return self.feed(data) if data else []
        if self.known is not None:
            start, size = self.known.match(data)
            if size and len(data) - start <= size:
                self._body = StreamReader(_NO_FLOW_CONTROL, _READ_SIZE, loop=asyncio.get_running_loop())
                self._left = size
                return [Incoming(self.known.request, self._body, size), *self.feed(data[start:])]
        is_certain = self._is_new or self.known is not None
        self._is_new, self.known = False, None
        requests: list[Incoming] = []
        # aiohttp does not say what it has buffered behind a request. A head that begins before the end is seen so.
        for part in (data[:-_UNSEEN], data[-_UNSEEN:]):
            if part and not self.malformed:
                requests += self._parse(part)
        if is_certain and len(requests) == 1 and requests[0].body.is_eof():
            self.known = known_head(data, requests[0].request)
        return requests

    def _parse(self, data: bytes) -> list[Incoming]:
        requests: list[Incoming] = []
        is_in_head, is_upgraded = self._body.is_eof(), True
        # Empty lines begin no request (RFC 9112, section 2.2).
        head_size = self._head_size + len(data) if self._head_size or data.strip(b"\r\n") else 0
        try:
            while is_upgraded:  # An upgrade is declined, and what follows is read as HTTP.
                messages, is_upgraded, data = self._parser.feed_data(data)
                for message, body in messages:
                    size = int(message.headers.get("Content-Length", 0))
                    requests.append(Incoming(_read_head(message), body, size))
                if is_upgraded:
                    self._parser.set_upgraded(False)
        except HttpProcessingError as error:
            reason = error.message.partition("\n")[0].partition(": b'")[0].rstrip(":")
            self.malformed = ApiError(400, f"The request is not well-formed HTTP: {reason}")
        except ApiError as error:
            self.malformed = error
        if requests:
            self._body = requests[-1].body
        self._head_size = head_size if is_in_head and not requests else 0
        if self._head_size > _MAX_HEAD_SIZE and not self.malformed:
            self.malformed = ApiError(431, _TOO_LARGE)
        return requests

    def is_between(self) -> bool:
        """True if no partial request is buffered, except for `_UNSEEN` bytes of a head."""
        return self._body.is_eof() and not self._head_size and self.malformed is None


# The attributes of a protocol that aiohttp's bodies use. They pause nothing: bodies are taken as they arrive.
# All parsers share it: they refer to no connection, so both are freed at once, without the garbage collector.
_NO_FLOW_CONTROL: Any = SimpleNamespace(
    connected=True, _reading_paused=False, pause_reading=lambda: None, resume_reading=lambda **_: None
)


def _read_head(message: RawRequestMessage) -> HttpRequest:
    if message.path is None:  # Of `CONNECT` and nothing else.
        raise ApiError(400, "The request is not well-formed HTTP: it has no target")
    size = len(message.path) + sum(len(name) + len(value) for name, value in message.raw_headers)
    if size > _MAX_HEAD_SIZE:
        raise ApiError(431, _TOO_LARGE)
    is_http_1_1 = message.version >= HttpVersion11
    return HttpRequest(
        message.method,
        message.url.path,
        message.headers,
        is_http_1_1,
        # Keep alive clients of HTTP/1.1 with small heads: an idle connection keeps its last head in memory.
        is_http_1_1 and not message.should_close and size <= _MAX_KEPT_HEAD_SIZE,
        message.chunked or "Content-Encoding" in message.headers,
        message.url.raw_query_string,
        message.headers.get(FAULT_HEADER),
    )


class KnownHead(NamedTuple):
    """A cached request head: clients send the same one with each request, but for the Content-Length."""

    before: bytes  # Up to the digits of the length,
    after: bytes  # and from their end.
    request: HttpRequest

    def match(self, data: bytes) -> tuple[int, int]:
        """Where the body starts in data that begin with this head, and its size; 0 and 0 if they do not."""
        before, after, _ = self
        if not data.startswith(before):
            return 0, 0
        end = data.find(b"\r", len(before), len(before) + _MOST_DIGITS + 1)
        digits = data[len(before) : max(end, 0)]
        if not digits.isdigit() or not data.startswith(after, end):
            return 0, 0
        return end + len(after), int(digits)


def known_head(data: bytes, request: HttpRequest) -> KnownHead | None:
    """The head of a request that was read from these data; None if it is not safe to cache.

    Safe is one whole request with one plain Content-Length, CR LF at each line's end, and no `Expect` or `Upgrade`,
    which concern the connection.
    """
    size = data.find(b"\r\n\r\n") + len(b"\r\n\r\n")
    head, headers = data[:size], request.headers
    if request.method != "POST" or request.is_encoded or any(name in headers for name in ("Expect", "Upgrade")):
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
