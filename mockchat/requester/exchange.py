"""HTTP exchanges over connections of an aiohttp `ClientSession`, at less than half of the session's CPU.

A session makes each request anew: URL, headers, cookies, timers, parser, a task. Here requests differ in their bodies
alone, so the head is made once, and a connection is used again without the pool. Connections come from the session's
connector, which knows about names, TLS, limits and errors.

What is used of aiohttp that its documentation does not promise, all of it in this file:

- `BaseConnector.connect`: a session does not hand out connections. It takes a `ClientRequest`, which also knows the
  headers that aiohttp adds.
- `ResponseHandler`, the connection's protocol (`set_response_params`, `read`, `should_close`, `data_received`,
  `connection_lost`): its parser needs no request.
- `RawResponseMessage`, the parsed head of an answer.
- `http_writer._serialize_headers`: it refuses header injection.
"""

import asyncio
import re
import time
from collections.abc import Iterable, Mapping
from itertools import accumulate
from types import MappingProxyType
from typing import NamedTuple

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.http_writer import _serialize_headers
from aiohttp.streams import StreamReader
from multidict import CIMultiDict
from yarl import URL

from mockchat.client import MAX_ANSWER_MB, MB, Decoder

_LONGEST_HEAD = 8190  # bytes: aiohttp's limit for a line, so no line of a shorter head exceeds it.
_MOST_HEADS = 16  # Learning costs more than parsing: if every head is new, stop.
# The values of these headers decide how an answer is read, or how its connection goes on.
_DECISIVE = frozenset((b"connection", b"content-encoding", b"transfer-encoding", b"upgrade"))
_LENGTH = b"content-length"
_UNKNOWN: Mapping[str, str] = MappingProxyType({})
_ANY_LENGTH, _ANYTHING = b"([0-9]{1,9})", b"[\t -~]*"


class Answer(NamedTuple):
    """An answer. `headers` is empty if the head was known; `blocks` are (moment, block) pairs unless it was."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    blocks: list[tuple[float, bytes]]

    def arrivals(self, positions: Iterable[int]) -> list[float]:
        """The moments at which these ascending positions had arrived, one for those that arrived together."""
        moments = []
        waiting = iter(positions)
        position = next(waiting, None)
        sizes = accumulate(len(block) for _, block in self.blocks)
        for (moment, _), received in zip(self.blocks, sizes, strict=True):
            if position is not None and position <= received:
                moments.append(moment)
                while position is not None and position <= received:
                    position = next(waiting, None)
        return moments


class Client:
    """Makes connections to one URL. Requests have the session's headers, and a user in the URL as credentials.

    `timed` answers have `blocks`, so aiohttp parses all of them. An answer above `MAX_ANSWER_MB` is an error.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, *, timed: bool = False) -> None:
        self._session = session
        self._url = URL(url)
        self._timed = timed
        self._request: aiohttp.ClientRequest | None = None
        self._head = b""
        self._heads = _Heads()

    async def connect(self) -> "Line":
        """A connection, from the pool or new. Raises aiohttp's errors, and `ValueError` for a URL or header."""
        if self._request is None:
            self._request = self._make_request()
        connector = self._session.connector
        assert connector is not None
        connection = await connector.connect(self._request, traces=[], timeout=self._session.timeout)
        return Line(connection, self._request, None if self._timed else self._heads)

    def _make_request(self) -> aiohttp.ClientRequest:
        url = self._url.with_user(None)  # Errors quote it: without the password.
        headers = CIMultiDict(self._session.headers)
        if self._url.user is not None:
            if "Authorization" in headers:
                raise ValueError("the URL names a user, and there is a header Authorization too")
            user = aiohttp.encode_basic_auth(self._url.user, self._url.password or "", "latin1")
            headers["Authorization"] = user
        request = aiohttp.ClientRequest("POST", url, headers=headers, session=self._session)
        for name in ("Content-Length", "Transfer-Encoding"):
            request.headers.popall(name, None)
        head = _serialize_headers(f"POST {url.raw_path_qs} HTTP/1.1", request.headers)
        self._head = head.removesuffix(b"\r\n") + b"Content-Length: "
        return request

    def head(self, size: int) -> bytes:
        """The request head for a body of that size."""
        return b"%b%d\r\n\r\n" % (self._head, size)


class Slot:
    """A worker's reusable connection: one request at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._line: Line | None = None

    async def ask(self, body: bytes) -> Answer:
        """Send a body and read the answer.

        Raises `aiohttp.ClientError` without an answer, `BadAnswer` for one that is too large, `ValueError` for a
        request that can't be sent, and any other error of aiohttp.
        """
        line = self._line
        try:
            if line is not None and line.is_new:
                await asyncio.sleep(0)  # Notice a server that has closed it without `Connection: close`.
                line.is_new = False
            if line is None or not line.is_reusable():
                self.close()
                line = self._line = await self._client.connect()
            return await line.ask(self._client.head(len(body)), body)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and not isinstance(error, aiohttp.ClientError):  # As in a session.
                raise aiohttp.ClientOSError(*error.args) from error
            raise

    def release(self) -> None:
        """Give the connection back to the pool if it is reusable; close it if not."""
        if self._line is not None and self._line.is_reusable():
            self._line.release()
            self._line = None
        self.close()

    def close(self) -> None:
        """Close the connection, and with it a request in flight."""
        if self._line is not None:
            self._line.close()
            self._line = None


class _Heads:
    """The known heads of answers: a pattern, whose group is the length."""

    def __init__(self) -> None:
        self.pattern: re.Pattern[bytes] | None = None
        self._learned = 0

    def learn(self, message: RawResponseMessage) -> None:
        """Make the pattern for heads like this one: status 200, a length, a connection that stays open.

        Any length matches, and any printable ASCII in headers that do not decide how to read the answer.
        """
        names = [name.lower() for name, _ in message.raw_headers]
        plain = not (message.should_close or message.compression or message.chunked or message.upgrade)
        if message.code != 200 or message.version != aiohttp.HttpVersion11 or not plain:
            return
        if names.count(_LENGTH) != 1 or self._learned == _MOST_HEADS:
            return
        lines = [b"HTTP/1\\.1 200 %b\r\n" % re.escape((message.reason or "").encode(errors="surrogateescape"))]
        for name, (spelling, value) in zip(names, message.raw_headers, strict=True):
            said = re.escape(value) if name in _DECISIVE else _ANY_LENGTH if name == _LENGTH else _ANYTHING
            lines.append(b"%b: %b\r\n" % (re.escape(spelling), said))
        self.pattern = re.compile(b"".join([*lines, b"\r\n"]))
        self._learned += 1


class Line(asyncio.Protocol):
    """A connection in use.

    1. It is the transport's protocol from `connect` to `release`, unless answers are timed: then aiohttp's handler is.
    2. While no head is known, aiohttp's handler gets all bytes and parses the answer; `_Heads` learns its head.
    3. Once a head is known, it reads the answer itself: match the head, collect the bytes of its length.
    4. If the answer differs (another head, a head in two parts, too many bytes, a lost connection), the handler gets
       all of its bytes, from the first, and parses it.
    5. Bytes that come without a request abort the connection.
    """

    def __init__(self, connection: Connection, request: aiohttp.ClientRequest, heads: _Heads | None) -> None:
        handler, transport = connection.protocol, connection.transport
        assert handler is not None
        assert transport is not None
        self._connection = connection
        self._handler: ResponseHandler = handler
        self._transport = transport
        self._request = request
        self._heads = heads
        self.is_new = True  # Until its second request.
        self._reads = False  # False while the handler gets the bytes.
        self._waiter: asyncio.Future[bytes | None] | None = None
        self._loop = asyncio.get_running_loop()
        # The answer so far: its segments, where its body begins, and how many bytes are missing.
        self._parts: list[bytes] = []
        self._start = self._missing = 0
        if heads is not None:
            transport.set_protocol(self)

    def is_reusable(self) -> bool:
        """True if another request may follow: the connection is open, and no bytes are left on either side."""
        transport = self._transport
        open_and_sent = not (transport.is_closing() or transport.get_write_buffer_size())
        return open_and_sent and (self._reads or not self._handler.should_close)

    async def ask(self, head: bytes, body: bytes) -> Answer:
        """Send a request and read the answer."""
        self._reads = self._reads or (self._heads is not None and self._heads.pattern is not None)
        if self._reads:
            self._waiter = self._loop.create_future()
            self._transport.writelines((head, body))
            try:
                answer = await self._waiter
            finally:
                self._waiter = None
            if answer is not None:
                return Answer(200, _UNKNOWN, answer, [])
        else:
            self._handler.set_response_params(read_until_eof=True, auto_decompress=False)
            self._transport.writelines((head, body))
        return await self._read()

    async def _read(self) -> Answer:
        """The answer as aiohttp parses it."""
        message, content = await self._read_head()
        decoder = Decoder(message.headers.get("Content-Encoding"), MAX_ANSWER_MB)
        blocks = [(time.perf_counter(), decoder.feed(block)) async for block in content.iter_any()]
        decoder.end()
        if self._heads is not None:
            self._heads.learn(message)
        return Answer(message.code, message.headers, b"".join([block for _, block in blocks]), blocks)

    async def _read_head(self) -> tuple[RawResponseMessage, StreamReader]:
        while True:
            try:
                message, content = await self._handler.read()
            except HttpProcessingError as error:
                info = self._request.request_info
                raise aiohttp.ClientResponseError(
                    info, (), status=error.code, message=error.message, headers=error.headers
                ) from error
            if not 100 <= message.code <= 199 or message.code == 101:  # An interim answer: the final one follows.
                return message, content

    def release(self) -> None:
        """Give the connection back to the pool."""
        self._transport.set_protocol(self._handler)
        self._connection.release()

    def close(self) -> None:
        """Close the connection."""
        self._transport.set_protocol(self._handler)
        self._connection.close()

    def data_received(self, data: bytes) -> None:
        """Add a segment of the answer; called by the transport."""
        if not self._reads:
            self._handler.data_received(data)
            return
        if self._waiter is None or self._waiter.done():
            self._transport.abort()
            return
        if self._parts:
            self._missing -= len(data)
        else:
            assert self._heads is not None
            assert self._heads.pattern is not None
            head = self._heads.pattern.match(data)
            if head is None or head.end() > _LONGEST_HEAD or int(head[1]) > MAX_ANSWER_MB * MB:
                self._give_up([data])
                return
            self._start = head.end()
            self._missing = self._start + int(head[1]) - len(data)
            if self._missing == 0:
                self._waiter.set_result(data[self._start :])
                return
        self._parts.append(data)
        if self._missing <= 0:
            parts, self._parts = self._parts, []
            if self._missing == 0:
                self._waiter.set_result(b"".join(parts)[self._start :])
            else:
                self._give_up(parts)

    def _give_up(self, parts: list[bytes]) -> None:
        """Let aiohttp parse the answer, of which these segments are there."""
        assert self._waiter is not None
        self._reads = False
        self._handler.set_response_params(read_until_eof=True, auto_decompress=False)
        for part in parts:
            self._handler.data_received(part)
        self._waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let aiohttp raise the error; called by the transport."""
        if self._waiter is not None and not self._waiter.done():
            self._give_up(self._parts)
        self._handler.connection_lost(exc)
