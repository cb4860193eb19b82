"""Requests and answers over the connections of an aiohttp `ClientSession`, at less than half of its own cost.

A `ClientSession` makes each request anew: URL, headers, cookies, timers, body, parser, a task. Here all requests are
alike but for their bodies, so the head is made once, and a connection goes on with the next request. Connections come
from the session's connector, which knows about names, TLS, limits and errors. Rules that hold here:

- An answer is read by aiohttp, with its own parser, unless its head is known: it is spelt like one that aiohttp has
  read, says status 200 and a length, and differs at most where nobody looks.
- Where such an answer turns out to be anything but whole and by itself, aiohttp gets what has come of it, and reads it.

What is used of aiohttp that its documentation does not promise, all of it in this file:

- `BaseConnector.connect`: a session has no way to hand out a connection. It wants a `ClientRequest`, which also knows
  the headers that aiohttp adds.
- `ResponseHandler`, the connection's protocol (`set_response_params`, `read`, `should_close`, `is_connected`): its
  parser needs no request. The transport's data can be had before it gets them (`set_protocol`).
- `RawResponseMessage`, in which a parser describes a head.
- `http_writer._serialize_headers`: it refuses headers that would be more than one.
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

from mockchat.core.coding import MAX_ANSWER_MB, MB, Decoder

_LONGEST_HEAD = 8190  # bytes: aiohttp takes no longer line, so in a head of that size all of them are short enough.
_MOST_HEADS = 16  # To know a head costs more than to read one: a server whose heads are all different is not learned.
# What these headers say decides where an answer ends, or what becomes of it or of its connection.
_DECISIVE = frozenset((b"connection", b"content-encoding", b"transfer-encoding", b"upgrade"))
_LENGTH = b"content-length"
_UNKNOWN: Mapping[str, str] = MappingProxyType({})
_ANY_LENGTH, _ANYTHING = b"([0-9]{1,9})", b"[\t -~]*"


class Answer(NamedTuple):
    """What came back; of a timed one, `blocks` are its parts, each with the moment at which it came.

    Of an answer with a known head, the `headers` are not known.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    blocks: list[tuple[float, bytes]]

    def arrivals(self, positions: Iterable[int]) -> list[float]:
        """The moments at which the bytes up to these ascending positions had come: one for all that came together."""
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
    """Asks one URL over the connections of a session. The session's headers are sent, and a user in the URL.

    Where answers are `timed`, aiohttp reads all of them. One that is larger than `max_answer_mb` is given up.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url: str, *, timed: bool = False, max_answer_mb: int = MAX_ANSWER_MB
    ) -> None:
        self._session = session
        self._url = URL(url)
        self._timed = timed
        self._max_answer_mb = max_answer_mb
        self._request: aiohttp.ClientRequest | None = None
        self._head = b""
        self._heads = _Heads()

    async def connect(self) -> "Line":
        """A connection, from the pool or a new one. Raises what aiohttp raises, and `ValueError`."""
        if self._request is None:
            self._request = self._make_request()
        connector = self._session.connector
        assert connector is not None
        connection = await connector.connect(self._request, traces=[], timeout=self._session.timeout)
        return Line(connection, self._request, None if self._timed else self._heads, self._max_answer_mb)

    def _make_request(self) -> aiohttp.ClientRequest:
        url = self._url.with_user(None)  # An error that names it tells no password.
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
        """The head of a request whose body has that size."""
        return b"%b%d\r\n\r\n" % (self._head, size)


class Slot:
    """One of those who ask, one request at a time; as long as it goes on, it keeps its connection."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._line: Line | None = None

    async def ask(self, body: bytes) -> Answer:
        """Send a body and read the answer.

        Raises `aiohttp.ClientError` where there is none, `BadAnswer` where it is too large, `ValueError` where the
        request can't be sent; or what else aiohttp raises.
        """
        line = self._line
        try:
            if line is not None and line.is_new:
                await asyncio.sleep(0)  # A server that has closed it without announcing that is found out now.
                line.is_new = False
            if line is None or not line.is_reusable():
                self.close()
                line = self._line = await self._client.connect()
            return await line.ask(self._client.head(len(body)), body)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and not isinstance(error, aiohttp.ClientError):  # As a session does.
                raise aiohttp.ClientOSError(*error.args) from error
            raise

    def release(self) -> None:
        """Give the connection back to the pool, where it stays open for a while, if it may be used again."""
        if self._line is not None and self._line.is_reusable():
            self._line.release()
            self._line = None
        self.close()

    def close(self) -> None:
        """Close the connection, and with it what is under way."""
        if self._line is not None:
            self._line.close()
            self._line = None


class _Heads:
    """What the known heads look like: a pattern, whose group is the length."""

    def __init__(self) -> None:
        self.pattern: re.Pattern[bytes] | None = None
        self._learned = 0

    def learn(self, message: RawResponseMessage) -> None:
        """Know the heads that are like this one, if there may be such: status 200, a length, no end of the connection.

        They may differ in the length, and in what headers say that decide nothing, in printable ASCII.
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
    """A connection in use, which gets the transport's data while an answer with a known head is expected."""

    def __init__(
        self, connection: Connection, request: aiohttp.ClientRequest, heads: _Heads | None, max_answer_mb: int
    ) -> None:
        handler, transport = connection.protocol, connection.transport
        assert handler is not None
        assert transport is not None
        self._connection = connection
        self._handler: ResponseHandler = handler
        self._transport = transport
        self._request = request
        self._heads = heads
        self._max_answer_mb = max_answer_mb
        self.is_new = True  # Until it is used again.
        self._ours = False  # Whether this gets the data, and not aiohttp.
        self._waiter: asyncio.Future[bytes | None] | None = None
        self._loop = asyncio.get_running_loop()
        # Of the answer under way: what has come, where its body begins and how many bytes are missing.
        self._parts: list[bytes] = []
        self._start = self._missing = 0
        self._take_over()

    def is_reusable(self) -> bool:
        """Whether another request may follow: the connection is open, and nothing is left over on either side."""
        transport = self._transport
        open_and_sent = not (transport.is_closing() or transport.get_write_buffer_size())
        return open_and_sent and (self._ours or not self._handler.should_close)

    async def ask(self, head: bytes, body: bytes) -> Answer:
        """Send a request and read the answer."""
        if self._ours:
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
        """The answer as aiohttp reads it."""
        message, content = await self._read_head()
        decoder = Decoder(message.headers.get("Content-Encoding"), self._max_answer_mb)
        blocks = [(time.perf_counter(), decoder.feed(block)) async for block in content.iter_any()]
        decoder.end()
        if self._heads is not None:
            self._heads.learn(message)
            self._take_over()
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
            if not 100 <= message.code <= 199 or message.code == 101:  # Others announce the answer that follows.
                return message, content

    def release(self) -> None:
        """Give the connection back to the connector."""
        self._hand_over()
        self._connection.release()

    def close(self) -> None:
        """Have the connector close the connection."""
        self._hand_over()
        self._connection.close()

    def _take_over(self) -> None:
        """Get the transport's data, if a head is known and nothing is there that aiohttp should see."""
        if self._heads and self._heads.pattern and self.is_reusable():
            self._ours = True
            self._transport.set_protocol(self)

    def _hand_over(self) -> None:
        """Let aiohttp have the transport's data."""
        if self._ours:
            self._ours = False
            self._transport.set_protocol(self._handler)

    def data_received(self, data: bytes) -> None:
        """Take a part of the answer, however it is cut; called by the transport."""
        if self._waiter is None or self._waiter.done():  # Nobody has asked for this.
            self._transport.abort()
            return
        if self._parts:
            self._missing -= len(data)
        else:
            assert self._heads is not None
            assert self._heads.pattern is not None
            head = self._heads.pattern.match(data)
            if head is None or head.end() > _LONGEST_HEAD:
                self._give_up([data])
                return
            if int(head[1]) > self._max_answer_mb * MB:
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
        """Let aiohttp read the answer, from its beginning and as it has come."""
        assert self._waiter is not None
        self._handler.set_response_params(read_until_eof=True, auto_decompress=False)
        self._hand_over()
        for part in parts:
            self._handler.data_received(part)
        self._waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let aiohttp say what that means; called by the transport."""
        if self._waiter is not None and not self._waiter.done():
            self._give_up(self._parts)
        self._handler.connection_lost(exc)

    def pause_writing(self) -> None:
        """Tell aiohttp, which will be told when it is over; called by the transport."""
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """Tell aiohttp; called by the transport."""
        self._handler.resume_writing()
