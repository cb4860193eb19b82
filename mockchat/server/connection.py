"""HTTP/1.1 between a socket and the route: aiohttp's parser in, ready-made answers out, and nobody waits for anybody.

aiohttp's own connection wakes a task for each connection, which starts another for each request: that costs more than
all that we do. Here a request is answered as soon as its last byte is there, and there are no tasks: what has to wait
is kept in a few attributes until the next byte comes, the client has read, or the time is up.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from aiohttp import HttpVersion10, HttpVersion11, StreamReader, web
from aiohttp.http import HttpProcessingError, HttpRequestParser, RawRequestMessage
from aiohttp.log import server_logger
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from mockchat.server.protocol import ApiError

if TYPE_CHECKING:
    from mockchat.server.app import ChatServer

REQUEST_TIMEOUT = 60.0  # seconds, for a request to arrive; for a client to read anything of its answer
KEEP_ALIVE_TIMEOUT = 3630.0  # seconds between requests: longer than what proxies and load balancers allow
LINGER_TIMEOUT = 10.0  # seconds
READ_SIZE = 65536  # bytes
_COMPARED = 32  # bytes

# In place of a request that could not be read.
UNREADABLE = RawRequestMessage(
    "UNKNOWN", "/", HttpVersion10, CIMultiDictProxy(CIMultiDict()), (), True, None, False, False, URL("/")
)


# What is to be written; or what to wait for before the next part: a moment of `time.monotonic()`, or a future's end.
# An infinite moment is never: nothing more is sent, until the client gives up.
Part = bytes | float | asyncio.Future[None]


class Answer(NamedTuple):
    """What is to be written, part by part, and whether the connection stays open afterwards."""

    parts: Iterator[Part]
    persistent: bool


class Route(Protocol):
    """What becomes of each request."""

    closing: bool  # Set when the server shuts down: no further answer may promise to keep its connection.

    @property
    def busy(self) -> bool:
        """Whether something has to be finished beside the answers."""

    async def close(self) -> int:
        """Give up what is not finished, and return how much that is."""

    def check(self, message: RawRequestMessage, size: int) -> None:
        """Raise `ApiError` where a request need not be read, its body being `size` bytes or more."""

    def answer(self, message: RawRequestMessage, body: bytes) -> Answer:
        """Answer a request; every error is an answer too."""

    def error(self, message: RawRequestMessage, error: ApiError, keep_alive: bool) -> Answer:
        """The answer that tells of an error."""


class Connection(asyncio.Protocol):
    """One client's connection: its requests are answered one after the other, in order."""

    # What aiohttp's stream of a body asks of its protocol. It never pauses: a body is taken from it as it comes.
    connected = True
    _reading_paused = False

    def __init__(self, server: "ChatServer") -> None:
        self._server = server
        self._route = server.route
        self._transport: asyncio.Transport
        self._parser = HttpRequestParser(
            self,  # type: ignore[arg-type]
            asyncio.get_running_loop(),
            READ_SIZE,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,
        )
        self._requests: deque[tuple[RawRequestMessage, StreamReader]] = deque()  # Not answered yet.
        self._body: bytearray | None = None  # What there is of the first one's, if that is not whole yet.
        self._receiving = False  # Whether a part of a request is there, be it of its head.
        self._received = b""  # The last of what was received,
        self._request_end = b""  # and of the last request.
        self._malformed: str | None = None  # Why nothing more can be read.
        self._parts: Iterator[Part] | None = None  # What is left of the answer under way.
        self._waiting: asyncio.TimerHandle | asyncio.Future[None] | None = None  # For that the next part is due.
        self._persistent = True
        self._answers = 0
        self._paused = False  # Until the client reads.
        self._half_closed = False
        self._leaving = False  # The last answer is written; what comes now is not read.
        self._since = time.monotonic()  # When the present state began.
        self._unread = 0, self._since  # The bytes that the client has not taken, and since when none of them.

    def pause_reading(self) -> None:
        """Do nothing: what a body's stream has too much of is taken from it at once."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Do nothing, as reading never pauses."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take note of a new connection."""
        self._transport = transport
        self._server.opened(self, transport.get_extra_info("socket").fileno())

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection and what was asked on it."""
        self._drop_answer()
        self._leaving = True
        self._requests.clear()
        self._server.lost(self)

    def data_received(self, data: bytes) -> None:
        """Answer the requests that are whole now."""
        if self._leaving:
            return
        self._received = (self._received + data[-_COMPARED:])[-_COMPARED:]
        try:
            upgraded = True
            while upgraded:  # An upgrade is declined, and what follows is read as HTTP.
                messages, upgraded, data = self._parser.feed_data(data)
                self._requests.extend(messages)
                if upgraded:
                    self._parser.set_upgraded(False)
        except HttpProcessingError as error:
            self._malformed = error.message
        answers = self._answers
        self._advance()
        self._look_around(answers != self._answers)

    def eof_received(self) -> bool:
        """Stay while a client that has sent its last request reads the answer."""
        self._half_closed = True
        return self._parts is not None and not self._leaving

    def pause_writing(self) -> None:
        """Write nothing more for now: the transport's buffer is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on with the answer."""
        self._paused = False
        asyncio.get_running_loop().call_soon(self._go_on)  # asyncio's transport can't be closed from in here.

    def _go_on(self) -> None:
        """Write what is due and can be written, and then see to what was asked meanwhile."""
        if self._parts is not None and self._waiting is None and not self._paused:
            self._write()
            self._advance()
            if self._parts is None and not self._leaving:
                self._transport.resume_reading()
            self._look_around(answered=True)

    def _look_around(self, answered: bool) -> None:
        """Take down in which state the connection is, now that all that could be answered is."""
        if self._leaving:
            return
        if self._parts is not None:
            if self._requests:
                self._transport.pause_reading()
        elif answered and not self._requests and self._is_between():
            self._since = time.monotonic()
        elif not self._receiving:
            self._receiving = True
            self._since = time.monotonic()

    def _is_between(self) -> bool:
        """Whether nothing of the next request is there: then what was received ends as the last request does."""
        received, end = self._received, self._request_end
        return received.endswith(b"\r\n\r\n") or received[-len(end) :] == end[-len(received) :]

    def _advance(self) -> None:
        """Answer what can be answered, as long as the client reads."""
        while self._parts is None and not self._leaving:
            if self._requests:
                answer = self._next_answer(*self._requests[0])
                if answer is None:
                    return
            elif self._malformed is not None:
                answer = self._bad_request()
            else:
                return
            self._begin(answer)

    def _next_answer(self, message: RawRequestMessage, content: StreamReader) -> Answer | None:
        """The answer to the first request; None while it has to wait for the rest of the body."""
        if content.is_eof():
            self._requests.popleft()
            body = content.read_nowait()
            if self._body is not None:
                self._body += body
                body, self._body = bytes(self._body), None
            self._request_end = body[-_COMPARED:]
            return self._route.answer(message, body)
        if self._malformed is not None or content.exception():
            return self._bad_request()
        return self._receive(message, content)

    def _receive(self, message: RawRequestMessage, content: StreamReader) -> Answer | None:
        """Take what there is of a body, and refuse it as soon as that is certain."""
        try:
            if self._body is None:
                self._body = bytearray()
                self._route.check(message, int(message.headers.get("Content-Length", 0)))
                if message.headers.get("Expect", "").lower() == "100-continue" and message.version >= HttpVersion11:
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._body += content.read_nowait()
            self._route.check(message, len(self._body))
        except ApiError as error:
            return self._route.error(message, error, keep_alive=False)
        return None

    def _bad_request(self) -> Answer:
        reason = (self._malformed or "its body").partition("\n")[0].partition(": b'")[0].rstrip(":")
        error = ApiError(400, f"The request is not well-formed HTTP: {reason}")
        return self._route.error(UNREADABLE, error, keep_alive=False)

    def _begin(self, answer: Answer) -> None:
        self._answers += 1
        self._server.requests_count += 1
        self._receiving = False
        self._parts, self._persistent = answer
        self._write()

    def _write(self) -> None:
        """Write the parts of the answer as long as there is room for them, and see what follows."""
        assert self._parts is not None
        try:
            for part in self._parts:
                if isinstance(part, bytes):
                    self._transport.write(part)
                    if self._paused or self._transport.is_closing():
                        return
                elif self._wait_for(part):
                    return
        except Exception as error:
            server_logger.error("Error in the middle of an answer", exc_info=error)
            self.abort()
            return
        self._parts = None
        if not self._persistent or (not self._requests and (self._half_closed or self._route.closing)):
            self._leave()

    def _wait_for(self, part: float | asyncio.Future[None]) -> bool:
        """Go on when the part's moment has come, or its future is done; False where that is so already."""
        if isinstance(part, asyncio.Future):
            if part.done():
                return False
            part.add_done_callback(self._wake)
            self._waiting = part
        elif part == math.inf:
            self._stall()
        else:
            early = part - time.monotonic()
            if early <= 0:
                return False
            self._waiting = asyncio.get_running_loop().call_later(early, self._wake, part)
        return True

    def _wake(self, due: float | asyncio.Future[None]) -> None:
        if isinstance(due, float):
            self._server.woke(time.monotonic() - due)
        self._waiting = None
        self._go_on()

    def _stall(self) -> None:
        """Send nothing more and read nothing, until the client gives up."""
        self._parts = None
        self._requests.clear()
        self._leaving = True
        self._since = math.inf
        self._transport.resume_reading()
        if self._half_closed:  # Who has closed one half can't be seen to close the other.
            self._transport.close()

    def _leave(self) -> None:
        """Close the connection; where the client may still be sending, once it stops.

        To close at once would have the system throw away the answer with what was not read (RFC 9112, section 9.6).
        """
        self._leaving = True
        self._since = time.monotonic()
        if self._half_closed or not (self._requests or self._malformed):
            self._transport.close()
        else:
            self._requests.clear()
            self._transport.resume_reading()
            if self._transport.can_write_eof():  # TLS can't.
                self._transport.write_eof()

    def watch(self, now: float) -> None:
        """End what takes too long; called now and then with the time."""
        unread = self._transport.get_write_buffer_size()
        if unread != self._unread[0]:
            self._unread = unread, now
        waited = now - self._since
        if unread:
            if now - self._unread[1] > self._server.request_timeout:
                self.abort()
        elif self._leaving:
            if waited > LINGER_TIMEOUT:
                self.abort()
        elif self._receiving:
            if waited > self._server.request_timeout:
                problem = f"The request did not arrive whole within {self._server.request_timeout:g} s"
                message = self._requests[0][0] if self._requests else UNREADABLE
                self._malformed = problem  # What comes now belongs to no request.
                self._begin(self._route.error(message, ApiError(408, problem), keep_alive=False))
        elif self._parts is None and waited > (KEEP_ALIVE_TIMEOUT if self._answers else self._server.request_timeout):
            self._transport.close()

    def _drop_answer(self) -> None:
        self._parts = None
        if self._waiting is not None and not asyncio.isfuture(self._waiting):
            self._waiting.cancel()

    def finish(self) -> None:
        """Close the connection as soon as what was begun on it is finished."""
        stalled = self._since == math.inf
        if stalled or not (self._receiving or self._requests or self._parts or self._leaving):
            self._transport.close()

    def abort(self) -> None:
        """Close the connection now."""
        self._drop_answer()
        self._leaving = True
        self._transport.abort()


class Runner(web.AppRunner):
    """aiohttp's runner, as gunicorn's worker uses it, for connections of ours."""

    def __init__(self, server: "ChatServer", shutdown_timeout: float) -> None:
        super().__init__(web.Application(), shutdown_timeout=shutdown_timeout)
        self._chat_server = server

    async def _make_server(self) -> Any:
        self.app.freeze()  # Its shutdown, which does nothing here, asks for that.
        return _RunnerServer(self._chat_server)


class _RunnerServer:
    """What a runner of aiohttp's expects of its server."""

    def __init__(self, server: "ChatServer") -> None:
        self._server = server

    def __call__(self) -> Connection:
        return self._server()

    @property
    def requests_count(self) -> int:
        return self._server.requests_count

    def pre_shutdown(self) -> None:
        """Do nothing: `shutdown` does it all."""

    async def shutdown(self, timeout: float) -> None:
        await self._server.stop(timeout)
        if cut := self._server.cut:
            server_logger.warning("Connections cut before they were finished: %d (see --graceful-timeout)", cut)
