"""One client's connection: a state machine that reads requests, and writes each answer as soon as it can.

aiohttp's own connection runs a task, and another for each request: they cost more than all the work here, which runs in
callbacks. `_enter` alone changes the state of a connection, and frees what the last state held.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING

from aiohttp.log import server_logger

from mockchat.server.errors import ApiError
from mockchat.server.http import UNREADABLE, Answer, Part, next_turn
from mockchat.server.memory import NO_MEMORY
from mockchat.server.parser import Incoming, RequestParser

if TYPE_CHECKING:
    from mockchat.server.app import ChatServer

REQUEST_TIMEOUT = 60.0  # seconds, for a request to arrive; for a client to read anything of its answer
_AT_ONCE = 100  # answers
_LONGEST_READ = 262144  # bytes: the most that an event loop reads at once
_SMALL = 16384  # bytes that a connection may hold when the server's memory is full
_QUEUED_REQUEST = 4096  # bytes that a request takes in the queue, beside its own


class State(Enum):
    """What a connection is doing."""

    NEW = auto()  # No request has begun to arrive.
    IDLE = auto()  # Between two requests. A request that is answered at once leaves it here.
    RECEIVING = auto()  # A part of a request has arrived.
    ANSWERING = auto()  # An answer waits for its next part, or for the client to read; requests are queued.
    STALLED = auto()  # Nothing more is sent (a simulated fault), until the client disconnects.
    LINGERING = auto()  # The last answer is written. Input is discarded until the client disconnects.
    CLOSED = auto()


_IDLE = State.IDLE  # A global is looked up faster than an enum's member.
_DONE = (State.STALLED, State.LINGERING, State.CLOSED)  # Nothing more is read.
_TIME_LIMITS = {  # seconds
    State.NEW: REQUEST_TIMEOUT,
    State.IDLE: 3630.0,  # Longer than proxies and load balancers keep a connection.
    State.RECEIVING: REQUEST_TIMEOUT,
    State.LINGERING: 10.0,
}


class Connection(asyncio.Protocol):
    """One client's connection: its requests are answered one after the other, in order."""

    def __init__(self, server: "ChatServer") -> None:
        self._server = server
        self._route = server.route
        self._transport: asyncio.Transport
        self._state = State.NEW
        self._since = time.monotonic()  # When it entered the state.
        self._parser: RequestParser | None = RequestParser()
        self._requests: deque[Incoming] = deque()  # The queue.
        self._unanswered = 0  # Upper bound on the bytes received and not answered.
        self._held = 0  # Bytes that the server's memory counts for this connection.
        self._parts: Iterator[Part] | None = None  # What is left of the answer under way.
        self._persistent = True
        self._cancel: Callable[[], object] | None = None  # Ends the wait for the next part, or for the answer.
        self._is_paused = False  # The client does not read, and the transport's buffer is full.
        self._unread = 0, self._since  # Bytes that the client has not read, and since when it has read none of them.
        self._is_half_closed = False

    def _enter(self, state: State) -> None:
        self._state, self._since = state, time.monotonic()
        self._unanswered = 0 if state is _IDLE or state in _DONE else min(self._unanswered, _LONGEST_READ)
        self._route.memory.held -= self._held
        self._held = 0
        if state in _DONE:
            self._parser = self._parts = None
            self._requests.clear()
            if self._cancel is not None:
                self._cancel()
                self._cancel = None

    def _account(self) -> bool:
        """Account for the bytes buffered for this connection; False when over the server's limit."""
        memory = self._route.memory
        size = self._unanswered + _QUEUED_REQUEST * len(self._requests) + self._transport.get_write_buffer_size()
        memory.held += size - self._held
        self._held = size
        return size <= _SMALL or not memory.is_full

    def enforce_limits(self, now: float) -> None:
        unread = self._transport.get_write_buffer_size()
        if unread != self._unread[0]:
            self._unread = unread, now
        if unread:
            if now - self._unread[1] > REQUEST_TIMEOUT:
                self.abort()
        elif now - self._since > _TIME_LIMITS.get(self._state, math.inf):
            if self._state is State.RECEIVING:
                late = ApiError(408, f"The request did not arrive whole within {REQUEST_TIMEOUT:g} s")
                self._begin(self._refusal(late))
            else:
                self._close()

    def finish(self) -> None:
        """Close the connection if it is idle; else it closes after its answer."""
        if self._state in (State.NEW, State.IDLE, State.STALLED):
            self._close()

    def abort(self) -> None:
        self._enter(State.CLOSED)
        self._transport.abort()

    def _close(self) -> None:
        """Close the connection once all is written, or linger while the client may still be sending.

        Closing a socket with unread input resets the connection, and the answer is lost (RFC 9112, section 9.6).
        FIN is sent explicitly: closing the socket does not send it while a forked process has it open.
        """
        is_sending = self._parser is not None and (bool(self._requests) or not self._parser.is_between())
        self._enter(State.LINGERING)
        if self._transport.can_write_eof():  # TLS can't.
            with suppress(OSError):  # The client has disconnected.
                self._transport.write_eof()
        if is_sending and not self._is_half_closed:
            self._transport.resume_reading()
        else:
            self._transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._server.opened(self, transport.get_extra_info("socket").fileno())

    def connection_lost(self, exc: Exception | None) -> None:
        self._enter(State.CLOSED)
        self._server.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            return
        if self._state is _IDLE and (known := parser.known) is not None:
            start, size = known.match(data)
            if start and len(data) - start == size:
                self._begin(self._route.answer(known.request, data[start:]))
                return
        self._unanswered += len(data)
        self._requests += parser.feed(data)
        self._advance()

    def eof_received(self) -> bool:
        """Keep a half-closed connection open until its answer is written (not possible with TLS)."""
        self._is_half_closed = True
        return self._state is State.ANSWERING and self._transport.can_write_eof()

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        asyncio.get_running_loop().call_soon(self._resume)  # asyncio's transport can't be closed in this callback.

    # Reading

    def _advance(self) -> None:
        """Answer the queued requests that are complete, and enter the state that follows."""
        answered = 0
        while self._parser is not None and self._parts is None and self._cancel is None:
            if answered == _AT_ONCE and self._requests:  # Let other connections run.
                self._parts, self._persistent = iter((next_turn(),)), True
                self._write()
            elif (answer := self._next_answer(self._parser)) is not None:
                self._begin(answer)
                answered += 1
            else:
                break
        if self._parser is not None:
            self._settle(self._parser, answered > 0)

    def _next_answer(self, parser: RequestParser) -> "Answer | asyncio.Future[Answer] | None":
        """The answer to the first request in the queue, or its error as soon as that is known; else None."""
        first = self._requests[0] if self._requests else None
        if first and first.body.is_eof():
            self._requests.popleft()
            return self._route.answer(first.request, first.whole())
        if parser.malformed:
            return self._refusal(parser.malformed)
        if first:
            request, is_new = first.request, first.arrived is None
            try:  # A body is refused as soon as it is too large.
                self._route.check(request, max(first.size, first.take()))
            except ApiError as error:
                return self._refusal(error)
            if is_new and request.is_http_1_1 and request.headers.get("Expect", "").lower() == "100-continue":
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    def _settle(self, parser: RequestParser, has_answered: bool) -> None:
        """Enter the state that follows the answers written so far, and pause or resume reading."""
        is_between = parser.is_between() and not self._requests
        if self._parts is not None or self._cancel is not None:
            if is_between:
                self._unanswered = 0
            else:  # The rest is read once this is answered.
                self._transport.pause_reading()
                self._account()
            return
        self._transport.resume_reading()
        if is_between:
            if has_answered or self._state is State.ANSWERING:
                self._enter(State.IDLE)
            self._unanswered = 0  # Empty lines begin no request (RFC 9112, section 2.2).
            return
        if has_answered or self._state is not State.RECEIVING:
            self._enter(State.RECEIVING)
        if not self._account():
            self._begin(self._refusal(ApiError(503, NO_MEMORY)))

    def _refusal(self, error: ApiError) -> Answer:
        """The error for the request that is arriving, which closes the connection."""
        return self._route.refuse(self._requests[0].request if self._requests else UNREADABLE, error)

    # Writing

    def _begin(self, answer: "Answer | asyncio.Future[Answer]", arrived: float | None = None) -> None:
        """Start writing an answer, now or once it is known; its request was complete at `arrived`, by default now."""
        if not isinstance(answer, Answer):
            self._enter(State.ANSWERING)
            self._cancel = answer.cancel
            answer.add_done_callback(self._answered)
            return
        server = self._server
        server.requests_count += 1
        if server.log is not None and (server.log.each or answer.status != 200):
            answer = server.log.watch(answer, arrived or time.monotonic())
        self._parts, self._persistent = iter(answer.parts), answer.persistent
        self._write()

    def _answered(self, future: "asyncio.Future[Answer]") -> None:
        if self._parser is None:
            return
        self._cancel = None
        if future.cancelled():
            self.abort()
        else:
            self._begin(future.result(), self._since)
            self._advance()

    def _write(self) -> None:
        """Write the answer's parts, until one has to wait or the client has to read."""
        assert self._parts is not None
        try:
            for part in self._parts:
                if isinstance(part, bytes):
                    self._transport.write(part)
                    if self._is_paused or self._transport.is_closing():
                        self._enter(State.ANSWERING)
                        if not self._account():
                            self.abort()
                        return
                elif self._wait_for(part):
                    return
        except Exception as error:
            server_logger.error("Error in the middle of an answer", exc_info=error)
            self.abort()
            return
        self._parts = None
        if not self._persistent or (not self._requests and (self._is_half_closed or self._route.writer.closing)):
            self._close()
        elif self._state is _IDLE:
            self._since = time.monotonic()

    def _wait_for(self, part: "float | asyncio.Future[object]") -> bool:
        """Wait for a time, which may have passed (False), or for a future; `inf` stalls."""
        if part == math.inf:
            self._enter(State.STALLED)
            self._transport.resume_reading()
            if self._is_half_closed:  # It sends nothing more: its disconnect can't be detected.
                self._close()
            return True
        if isinstance(part, float):
            early = part - time.monotonic()
            if early <= 0:
                return False
            self._cancel = asyncio.get_running_loop().call_later(early, self._wake).cancel
        else:
            part.add_done_callback(self._wake)
            self._cancel = lambda: part.remove_done_callback(self._wake)
        self._enter(State.ANSWERING)
        return True

    def _wake(self, future: "asyncio.Future[object] | None" = None) -> None:
        self._cancel = None
        self._resume()

    def _resume(self) -> None:
        if self._parts is not None and self._cancel is None and not self._is_paused:
            self._write()
            self._advance()
