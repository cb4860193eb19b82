"""HTTP exchanges over connections of an aiohttp `ClientSession`, at about 0.6 of the session's CPU.

A session makes a URL, headers, cookies, timers, a parser and a task for each request. Here only the bodies differ: a
`Slot` makes the request head once, and keeps its connection. That comes from the session's connector, which knows about
names, TLS, limits and errors.

These parts of aiohttp are used without a promise in its documentation, and only in this file:

- `BaseConnector.connect`, for a session hands out no connections; and the `ClientRequest` that it takes, which adds
  `Host` and other headers;
- `ResponseHandler`, the connection's protocol, whose parser needs no request;
- `http_writer._serialize_headers`, which refuses header injection.
"""

import asyncio
import re
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_writer import _serialize_headers
from multidict import CIMultiDict
from yarl import URL

from mockchat.client import MAX_ANSWER_MB, MB, decoded

# A head after which the body is read by its length, and the connection stays open. Headers that begin like Connection,
# Content-Encoding, Proxy-Connection, Transfer-Encoding or Upgrade could say otherwise: aiohttp reads those answers.
_OTHER_NAME = rb"(?![CcPpTtUu][OoRrPp])[\w-]+"
_HEADER = rb"(?:(?:%b|[Cc]ontent-[Tt]ype):[ -~]*|[Cc]onnection: keep-alive)\r\n" % _OTHER_NAME
_LENGTH = rb"[Cc]ontent-[Ll]ength: ?([0-9]{1,9})\r\n"
_PLAIN_HEAD = re.compile(rb"HTTP/1\.1 200 [ -~]*\r\n(?:%b)*%b(?:%b)*\r\n" % (_HEADER, _LENGTH, _HEADER))
_LONGEST_HEAD = 8190  # bytes: aiohttp's limit for a line, so no line of a shorter head exceeds it.


class Answer(NamedTuple):
    """An answer. If it was read by its length, `headers` and `blocks` are empty; `blocks` are (moment, block) pairs."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    blocks: list[tuple[float, bytes]]

    def arrivals(self, positions: Iterable[int]) -> list[float]:
        """The moments at which the body up to each position had arrived; several positions in a block count once."""
        ends = list(accumulate(len(block) for _, block in self.blocks))
        numbers = dict.fromkeys(bisect_left(ends, position) for position in positions)
        return [self.blocks[number][0] for number in numbers]


class Slot(asyncio.Protocol):
    """A reusable connection: one request at a time.

    Requests have the session's headers, and a user in the URL as credentials. `timed` answers have `blocks`, so aiohttp
    parses all of them.

    1. It is the transport's protocol until the connection is closed.
    2. If the answer has a plain head, it collects the bytes of its length.
    3. If not (another head, a head in two segments, too many bytes, a lost connection), aiohttp's handler gets all
       bytes of the answer, from the first, and parses it.
    4. Bytes without a request abort the connection.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, *, timed: bool = False) -> None:
        self._session = session
        self._url = URL(url)
        self._timed = timed
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._handler: ResponseHandler
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[bytes | None]  # None: the handler has the answer.
        self._is_new = False  # Until the second request.
        self._reads = False  # False while the handler gets the bytes.
        self._parts: list[bytes] = []  # The segments of the answer so far.
        self._start = self._missing = 0  # Where its body begins, and how many bytes are missing.

    @cached_property
    def _request(self) -> aiohttp.ClientRequest:
        url = self._url.with_user(None)  # Errors quote it: without the password.
        headers = CIMultiDict(self._session.headers)
        if self._url.user is not None:
            headers["Authorization"] = aiohttp.encode_basic_auth(self._url.user, self._url.password or "", "latin1")
        request = aiohttp.ClientRequest("POST", url, headers=headers, session=self._session)
        for name in ("Content-Length", "Transfer-Encoding"):
            request.headers.popall(name, None)
        return request

    @cached_property
    def _head(self) -> bytes:
        """The request head up to the number of `Content-Length`."""
        head = _serialize_headers(f"POST {self._url.raw_path_qs} HTTP/1.1", self._request.headers)
        return head.removesuffix(b"\r\n") + b"Content-Length: "

    async def ask(self, body: bytes) -> Answer:
        """Send a body and read the answer. Any error closes the connection.

        Raises `OSError` or an error of aiohttp without an answer, `BadAnswer` for one above `MAX_ANSWER_MB`, and
        `ValueError` for a request that can't be sent.
        """
        try:
            head = b"%b%d\r\n\r\n" % (self._head, len(body))
            if self._is_new:
                await asyncio.sleep(0)  # Notice a server that has closed it without `Connection: close`.
                self._is_new = False
            if not self._is_reusable():
                await self._connect()
            self._reads = True
            self._waiter = self._loop.create_future()
            self._transport.writelines((head, body))
            answer = await self._waiter
            return await self._read() if answer is None else Answer(200, {}, answer, [])
        except BaseException:
            self.close()
            raise

    async def _connect(self) -> None:
        self.close()
        connector = self._session.connector
        assert connector is not None
        self._connection = connection = await connector.connect(self._request, traces=[], timeout=self._session.timeout)
        assert connection.protocol is not None and connection.transport is not None
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
        message, content = await self._handler.read()
        while 100 <= message.code <= 199 and message.code != 101:  # An interim answer: the final one follows.
            message, content = await self._handler.read()
        blocks = [(time.perf_counter(), block) async for block in decoded(message.headers, content)]
        return Answer(message.code, message.headers, b"".join([block for _, block in blocks]), blocks)

    def close(self) -> None:
        if self._connection is not None:
            self._transport.set_protocol(self._handler)
            self._connection.close()
            self._connection = None

    def data_received(self, data: bytes) -> None:
        if not self._reads:
            self._handler.data_received(data)
            return
        if self._waiter.done():
            self._transport.abort()
            return
        self._parts.append(data)
        if len(self._parts) == 1:
            head = None if self._timed else _PLAIN_HEAD.match(data)
            if head is None or head.end() > _LONGEST_HEAD or int(head[1]) > MAX_ANSWER_MB * MB:
                self._hand_over()
                return
            self._start = head.end()
            self._missing = self._start + int(head[1])
        self._missing -= len(data)
        if self._missing < 0:
            self._hand_over()
        elif self._missing == 0:
            parts, self._parts = self._parts, []
            self._waiter.set_result(b"".join(parts)[self._start :])

    def _hand_over(self) -> None:
        parts, self._parts = self._parts, []
        self._reads = False
        self._handler.set_response_params(read_until_eof=True, auto_decompress=False)
        for part in parts:
            self._handler.data_received(part)
        self._waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._reads and not self._waiter.done():
            self._hand_over()  # aiohttp's handler raises the error.
        self._handler.connection_lost(exc)
