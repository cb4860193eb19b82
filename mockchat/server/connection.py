"""One client's connection: requests are read with aiohttp's parser, and answered as soon as their last byte is there.

aiohttp's own connection has a task, which starts another for each request: that costs more than all that we do. Here is
no task. What has to wait is kept in a few attributes until more bytes come, the client has read, or the time is up.

What is used of aiohttp that its documentation does not promise (setup.cfg bounds its version for that reason):
`HttpRequestParser` and `HttpProcessingError` (aiohttp.http), the parser in C, which has seen more attacks than one of
ours ever would. It asks of the protocol it is given `connected`, `_reading_paused`, `pause_reading` and
`resume_reading`, and `set_upgraded(False)` makes it read on after an upgrade was declined.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aiohttp import StreamReader, web
from aiohttp.http import HttpProcessingError, HttpRequestParser
from aiohttp.log import server_logger

from mockchat.server.errors import ApiError
from mockchat.server.http import UNREADABLE, Answer, HttpRequest, KnownHead, Part, known_head, next_turn, read_head
from mockchat.server.memory import too_much

if TYPE_CHECKING:
    from mockchat.server.app import ChatServer

REQUEST_TIMEOUT = 60.0  # seconds, for a request to arrive; for a client to read anything of its answer
_KEEP_ALIVE_TIMEOUT = 3630.0  # seconds between requests: longer than what proxies and load balancers allow
_LINGER_TIMEOUT = 10.0  # seconds
_READ_SIZE = 65536  # bytes
_COMPARED = 32  # bytes
_AT_ONCE = 100  # answers


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
            _READ_SIZE,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,
        )
        self._between = True  # Whether the parser is between two requests, as far as that is certain.
        self._known: KnownHead | None = None  # A head that it has read, and that may come again.
        self._expected: tuple[HttpRequest, int] | None = None  # With such a head: what to read, without the parser.
        self._requests: deque[tuple[HttpRequest, StreamReader]] = deque()  # Not answered yet.
        self._body: bytearray | None = None  # What there is of the first one's, if that is not whole yet.
        self._receiving = False  # Whether a part of a request is there, be it of its head.
        self._received = b""  # The last bytes that the parser was given,
        self._request_end = b""  # and the last bytes of the last request that it read.
        self._malformed: str | None = None  # Why nothing more can be read.
        self._parts: Iterator[Part] | None = None  # What is left of the answer under way.
        self._waiting: asyncio.TimerHandle | asyncio.Future[Any] | None = None  # For the next part to be due.
        self._persistent = True
        self._answers = 0
        self._paused = False  # Whether the transport's buffer is full, as the client does not read.
        self._half_closed = False
        self._leaving = False  # The last answer is written; what comes now is not read.
        self._since = time.monotonic()  # When the present state began.
        self._held = 0  # What this has the server hold, in bytes.
        self._unread = 0, self._since  # The bytes that the client has not taken, and since when it takes none of them.

    # What the transport and the parser call

    def pause_reading(self) -> None:
        """Do nothing: what a body's stream has too much of is taken from it at once."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Do nothing, as reading never pauses."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._server.opened(self, transport.get_extra_info("socket").fileno())

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop_answer()
        self._leaving = True
        self._requests.clear()
        self._hold(0)
        self._server.lost(self)

    def data_received(self, data: bytes) -> None:
        """Answer the requests that are whole now."""
        if self._leaving:
            return
        if self._expected is not None:
            self._collect(data, *self._expected)
            return
        idle = self._is_idle()
        if idle and self._between and self._known is not None:
            start, size = self._known.match(data)
            if start and len(data) - start <= size:
                self._collect(data[start:], self._known.request, size)
                return
        certain = idle and self._between
        self._parse(data)
        self._between = False
        if idle and not data.strip(b"\r\n"):
            return  # Empty lines between requests are no part of the next one (RFC 9112, section 2.2).
        if certain and len(self._requests) == 1 and self._requests[0][1].is_eof():
            self._known = known_head(data, self._requests[0][0])
            self._between = self._known is not None
        answers = self._answers
        self._advance()
        self._look_around(answers != self._answers)

    def eof_received(self) -> bool:
        """Stay while a client that has sent its last request reads the answer; with TLS nobody can."""
        self._half_closed = True
        return self._parts is not None and not self._leaving and self._transport.can_write_eof()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        asyncio.get_running_loop().call_soon(self._go_on)  # asyncio's transport can't be closed from in here.

    # Reading

    def _is_idle(self) -> bool:
        """Whether nothing of a request is there, and no answer under way."""
        return not (self._receiving or self._requests) and self._parts is None and self._malformed is None

    def _collect(self, data: bytes, request: HttpRequest, size: int) -> None:
        """Read a body whose head need not be parsed, and answer when it is whole."""
        if self._body is None and len(data) == size:
            self._begin(self._route.answer(request, data))
            return
        if self._body is None:
            self._body = bytearray()
            self._expected = request, size
            self._receiving = True
            self._since = time.monotonic()
            try:
                self._route.check(request, size)
            except ApiError as error:
                self._begin(self._route.refuse(request, error))
                return
        rest = data[size - len(self._body) :]
        self._body += data[: size - len(self._body)]
        if len(self._body) == size:
            body, self._body, self._expected = bytes(self._body), None, None
            self._begin(self._route.answer(request, body))
            if rest:
                self.data_received(rest)
        elif not self._hold(len(self._body)):
            self._begin(self._route.refuse(request, too_much()))

    def _parse(self, data: bytes) -> None:
        """Have the parser read on."""
        self._received = (self._received + data[-_COMPARED:])[-_COMPARED:]
        try:
            upgraded = True
            while upgraded:  # An upgrade is declined, and what follows is read as HTTP.
                messages, upgraded, data = self._parser.feed_data(data)
                self._requests.extend([(read_head(message), body) for message, body in messages])
                if upgraded:
                    self._parser.set_upgraded(False)
        except HttpProcessingError as error:
            self._malformed = error.message

    def _advance(self) -> None:
        """Answer what can be answered, as long as the client reads."""
        end = self._answers + _AT_ONCE
        while self._parts is None and not self._leaving:
            if self._requests and self._answers == end:
                self._parts = iter((next_turn(),))  # Others get theirs before this goes on.
                self._write()
                return
            if self._requests:
                answer = self._next_answer(*self._requests[0])
                if answer is None:
                    return
            elif self._malformed is not None:
                answer = self._refuse_malformed()
            else:
                return
            self._begin(answer)

    def _next_answer(self, request: HttpRequest, content: StreamReader) -> Answer | None:
        """The answer to the first request; None while it has to wait for the rest of the body."""
        if content.is_eof():
            self._requests.popleft()
            body = content.read_nowait()
            if self._body is not None:
                self._body += body
                body, self._body = bytes(self._body), None
            self._request_end = body[-_COMPARED:]
            return self._route.answer(request, body)
        if self._malformed is not None or content.exception():
            return self._refuse_malformed()
        return self._receive(request, content)

    def _receive(self, request: HttpRequest, content: StreamReader) -> Answer | None:
        """Take what there is of a body, and refuse it as soon as that is certain."""
        try:
            if self._body is None:
                self._body = bytearray()
                self._route.check(request, int(request.headers.get("Content-Length", 0)))
                if request.headers.get("Expect", "").lower() == "100-continue" and request.is_http_1_1:
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._body += content.read_nowait()
            self._route.check(request, len(self._body))
            if not self._hold(len(self._body)):
                raise too_much()
        except ApiError as error:
            return self._route.refuse(request, error)
        return None

    def _hold(self, size: int) -> bool:
        """Take down how much this has the server hold; False if that is too much."""
        memory = self._route.memory
        memory.held += size - self._held
        self._held = size
        return not (size and memory.is_full)

    def _refuse_malformed(self) -> Answer:
        reason = (self._malformed or "its body").partition("\n")[0].partition(": b'")[0].rstrip(":")
        return self._route.refuse(UNREADABLE, ApiError(400, f"The request is not well-formed HTTP: {reason}"))

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
        """Whether nothing of the next request is there: what was received ends as the last one, but for empty lines."""
        received, end = self._received.rstrip(b"\r\n"), self._request_end.rstrip(b"\r\n")
        return self._received.endswith(b"\r\n\r\n") or received[-len(end) :] == end[-len(received) :]

    # Writing

    def _begin(self, answer: Answer) -> None:
        self._answers += 1
        self._server.requests_count += 1
        if self._held:
            self._hold(0)
        self._receiving, self._since = False, time.monotonic()
        self._take(answer)
        self._write()

    def _take(self, answer: Answer) -> None:
        """Go on with this answer."""
        log = self._server.log
        if log is not None and (log.each or answer.status != 200):
            answer = log.watch(answer, self._since)
        self._parts, self._persistent = iter(answer.parts), answer.persistent

    def _write(self) -> None:
        """Write the parts of the answer as long as there is room for them, and see what follows."""
        assert self._parts is not None
        try:
            for part in self._parts:
                if isinstance(part, bytes):
                    self._transport.write(part)
                    if self._paused or self._transport.is_closing():
                        if not self._hold(self._transport.get_write_buffer_size()):
                            self.abort()
                        return
                elif isinstance(part, Answer):
                    self._take(part)
                    self._write()
                    return
                elif self._wait_for(part):
                    return
        except Exception as error:
            server_logger.error("Error in the middle of an answer", exc_info=error)
            self.abort()
            return
        self._parts = None
        if self._held:
            self._hold(0)
        if not self._persistent or (not self._requests and (self._half_closed or self._route.closing)):
            self._leave()

    def _wait_for(self, part: float | asyncio.Future[Any]) -> bool:
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

    def _wake(self, due: float | asyncio.Future[Any]) -> None:
        if isinstance(due, float):
            self._server.woke(time.monotonic() - due)
        self._waiting = None
        self._go_on()

    def _go_on(self) -> None:
        """Write what is due and can be written, and then see to what was asked meanwhile."""
        if self._parts is not None and self._waiting is None and not self._paused:
            self._write()
            self._advance()
            if self._parts is None and not self._leaving:
                self._transport.resume_reading()
            self._look_around(answered=True)

    def _stall(self) -> None:
        """Send nothing more and read nothing, until the client gives up."""
        self._parts = None
        self._requests.clear()
        self._leaving = True
        self._since = math.inf
        self._transport.resume_reading()
        # A client that has closed its half has nothing left to send: that it gives up could not be seen.
        if self._half_closed:
            self._transport.close()

    # The end

    def _leave(self) -> None:
        """Close the connection; where the client may still be sending, once it stops.

        To close at once would have the system throw away the answer with what was not read (RFC 9112, section 9.6).
        """
        self._leaving = True
        self._since = time.monotonic()
        if self._half_closed or not (self._requests or self._expected or self._malformed):
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
        waited, timeout = now - self._since, self._server.request_timeout
        if unread:
            if now - self._unread[1] > timeout:
                self.abort()
        elif self._leaving:
            if waited > _LINGER_TIMEOUT:
                self.abort()
        elif self._receiving:
            if waited > timeout:
                problem = f"The request did not arrive whole within {timeout:g} s"
                begun = self._expected or (self._requests[0] if self._requests else (UNREADABLE,))
                self._malformed = problem  # What comes now belongs to no request.
                self._begin(self._route.refuse(begun[0], ApiError(408, problem)))
        elif self._parts is None and waited > (_KEEP_ALIVE_TIMEOUT if self._answers else timeout):
            self._transport.close()

    def _drop_answer(self) -> None:
        self._parts = None
        if self._waiting is not None and not asyncio.isfuture(self._waiting):
            self._waiting.cancel()

    def finish(self) -> None:
        """Close the connection as soon as what was begun on it is finished."""
        stalled = self._since == math.inf
        if stalled or (self._is_idle() and not self._leaving):
            self._transport.close()

    def abort(self) -> None:
        """Close the connection now."""
        self._drop_answer()
        self._leaving = True
        self._transport.abort()
