"""HTTP exchanges over connections of an aiohttp `ClientSession`, at less than half of the session's CPU.

A session makes a URL, headers, cookies, timers, a parser and a task for each request. Here only the bodies differ, so
the request head is made once, and a worker keeps its connection. Connections come from the session's connector, which
knows about names, TLS, limits and errors.

These parts of aiohttp are used without a promise in its documentation, and only in this file:

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
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate
from types import MappingProxyType
from typing import NamedTuple

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.http_writer import _serialize_headers
from multidict import CIMultiDict
from yarl import URL

from mockchat.client import MAX_ANSWER_MB, MB, Decoder

_LONGEST_HEAD = 8190  # bytes: aiohttp's limit for a line, so no line of a shorter head exceeds it.
_MOST_HEADS = 16  # Learning costs more than parsing: if every head is new, stop.
# The values of these headers decide how to read the answer, or whether to reuse its connection.
_DECISIVE = frozenset((b"connection", b"content-encoding", b"transfer-encoding", b"upgrade"))
_LENGTH = b"content-length"
_UNKNOWN: Mapping[str, str] = MappingProxyType({})
_ANY_LENGTH, _ANYTHING = b"([0-9]{1,9})", b"[\t -~]*"


class Answer(NamedTuple):
    """An answer. If its head was known, `headers` and `blocks` are empty; `blocks` are (moment, block) pairs."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    blocks: list[tuple[float, bytes]]

    def arrivals(self, positions: Iterable[int]) -> list[float]:
        """The moments at which the body up to each position had arrived; several positions in a block count once."""
        ends = list(accumulate(len(block) for _, block in self.blocks))
        numbers = dict.fromkeys(bisect_left(ends, position) for position in positions)
        return [self.blocks[number][0] for number in numbers]


class _Heads:
    """The known heads of answers: a pattern, whose group is the length. Learns at most `most`."""

    def __init__(self, most: int) -> None:
        self.match = re.compile(b"(?!)").match  # Matches nothing.
        self._left = most

    def learn(self, message: RawResponseMessage) -> None:
        """Match heads like this one from now on: status 200, a length, a connection that stays open.

        Any length matches, and any printable ASCII in headers that do not decide how to read the answer.
        """
        names = [name.lower() for name, _ in message.raw_headers]
        plain = not (message.should_close or message.compression or message.chunked or message.upgrade)
        is_usual = message.code == 200 and message.version == aiohttp.HttpVersion11 and names.count(_LENGTH) == 1
        if not (plain and is_usual and self._left):
            return
        lines = [b"HTTP/1\\.1 200 %b\r\n" % re.escape((message.reason or "").encode(errors="surrogateescape"))]
        for name, (spelling, value) in zip(names, message.raw_headers, strict=True):
            said = re.escape(value) if name in _DECISIVE else _ANY_LENGTH if name == _LENGTH else _ANYTHING
            lines.append(b"%b: %b\r\n" % (re.escape(spelling), said))
        self.match = re.compile(b"".join([*lines, b"\r\n"])).match
        self._left -= 1


class Client:
    """Makes connections to one URL. Requests have the session's headers, and a user in the URL as credentials.

    `timed` answers have `blocks`, so aiohttp parses all of them.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, *, timed: bool = False) -> None:
        self._session = session
        self._url = URL(url)
        self._request: aiohttp.ClientRequest | None = None
        self._head = b""
        self.heads = _Heads(0 if timed else _MOST_HEADS)

    async def connect(self) -> Connection:
        """A connection, from the pool or new. Raises aiohttp's errors, and `ValueError` for a URL or header."""
        if self._request is None:
            self._request = self._make_request()
        connector = self._session.connector
        assert connector is not None
        return await connector.connect(self._request, traces=[], timeout=self._session.timeout)

    def _make_request(self) -> aiohttp.ClientRequest:
        url = self._url.with_user(None)  # Errors quote it: without the password.
        headers = CIMultiDict(self._session.headers)
        if self._url.user is not None:
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

    def error(self, error: HttpProcessingError) -> aiohttp.ClientResponseError:
        """The session's error for an answer that is not HTTP."""
        assert self._request is not None
        status, text, headers = error.code, error.message, error.headers
        return aiohttp.ClientResponseError(self._request.request_info, (), status=status, message=text, headers=headers)


class Slot(asyncio.Protocol):
    """A worker's reusable connection: one request at a time.

    1. It is the transport's protocol until the connection is released or closed.
    2. If the answer has a known head, it collects the bytes of its length.
    3. If not (another head, a head in two segments, too many bytes, a lost connection), aiohttp's handler gets all
       bytes of the answer, from the first, and parses it; `_Heads` learns its head.
    4. Bytes without a request abort the connection.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._handler: ResponseHandler
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[bytes | None]  # None: the handler has the answer.
        self._is_new = False  # Until the second request.
        self._reads = False  # False while the handler gets the bytes.
        # The answer so far: its segments, where its body begins, and how many bytes are missing.
        self._parts: list[bytes] = []
        self._start = self._missing = 0

    async def ask(self, body: bytes) -> Answer:
        """Send a body and read the answer.

        Raises `aiohttp.ClientError` without an answer, `BadAnswer` for one above `MAX_ANSWER_MB`, `ValueError` for a
        request that can't be sent, and any other error of aiohttp.
        """
        try:
            if self._is_new:
                await asyncio.sleep(0)  # Notice a server that has closed it without `Connection: close`.
                self._is_new = False
            if not self._is_reusable():
                await self._connect()
            self._reads = True
            self._waiter = self._loop.create_future()
            self._transport.writelines((self._client.head(len(body)), body))
            answer = await self._waiter
            return await self._read() if answer is None else Answer(200, _UNKNOWN, answer, [])
        except BaseException as error:
            self.close()
            if isinstance(error, HttpProcessingError):
                raise self._client.error(error) from error
            if isinstance(error, OSError) and not isinstance(error, aiohttp.ClientError):  # As in a session.
                raise aiohttp.ClientOSError(*error.args) from error
            raise

    async def _connect(self) -> None:
        self.close()
        self._connection = connection = await self._client.connect()
        assert connection.protocol is not None
        assert connection.transport is not None
        self._handler, self._transport = connection.protocol, connection.transport
        self._parts = []
        self._is_new = True
        self._transport.set_protocol(self)

    def _is_reusable(self) -> bool:
        """True if the connection is open, and no bytes are left on either side."""
        if self._connection is None or self._transport.is_closing() or self._transport.get_write_buffer_size():
            return False
        return self._reads or not self._handler.should_close

    async def _read(self) -> Answer:
        """The answer as aiohttp parses it."""
        message, content = await self._handler.read()
        while 100 <= message.code <= 199 and message.code != 101:  # An interim answer: the final one follows.
            message, content = await self._handler.read()
        decoder = Decoder(message.headers.get("Content-Encoding"), MAX_ANSWER_MB)
        blocks = [(time.perf_counter(), decoder.feed(block)) async for block in content.iter_any()]
        decoder.end()
        self._client.heads.learn(message)
        return Answer(message.code, message.headers, b"".join([block for _, block in blocks]), blocks)

    def release(self) -> None:
        """Give the connection back to the pool if it is reusable; close it if not."""
        if self._connection is not None and self._is_reusable():
            self._transport.set_protocol(self._handler)
            self._connection.release()
            self._connection = None
        self.close()

    def close(self) -> None:
        """Close the connection, and with it a request in flight."""
        if self._connection is not None:
            self._transport.set_protocol(self._handler)
            self._connection.close()
            self._connection = None

    def data_received(self, data: bytes) -> None:
        """Add a segment of the answer; called by the transport."""
        if not self._reads:
            self._handler.data_received(data)
            return
        if self._waiter.done():
            self._transport.abort()
            return
        self._parts.append(data)
        if len(self._parts) == 1:
            head = self._client.heads.match(data)
            if head is None or head.end() > _LONGEST_HEAD or int(head[1]) > MAX_ANSWER_MB * MB:
                self._give_up()
                return
            self._start = head.end()
            self._missing = self._start + int(head[1])
        self._missing -= len(data)
        if self._missing < 0:
            self._give_up()
        elif self._missing == 0:
            parts, self._parts = self._parts, []
            self._waiter.set_result(b"".join(parts)[self._start :])

    def _give_up(self) -> None:
        """Let aiohttp parse the answer."""
        parts, self._parts = self._parts, []
        self._reads = False
        self._handler.set_response_params(read_until_eof=True, auto_decompress=False)
        for part in parts:
            self._handler.data_received(part)
        self._waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let aiohttp raise the error; called by the transport."""
        if self._reads and not self._waiter.done():
            self._give_up()
        self._handler.connection_lost(exc)
