"""One client's connection: a state machine that reads requests, and writes each answer as soon as it can.

aiohttp's own connection has a task, which starts another for each request: that costs more than all that we do. Here is
no task. A connection is in one of the states below; `_enter` alone changes it, and frees what the last one held.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from aiohttp.log import server_logger

from mockchat.server.errors import ApiError
from mockchat.server.http import UNREADABLE, Answer, At, Never, Part, Until, next_turn
from mockchat.server.log import Log
from mockchat.server.memory import too_much
from mockchat.server.parser import MAX_HEAD_SIZE, Incoming, RequestParser, too_large_head
from mockchat.server.route import ChatCompletions
from mockchat.server.states import BUSY, DONE, State, time_limits

_AT_ONCE = 100  # answers
_LONGEST_READ = 262144  # bytes: the most that an event loop reads at once
_SMALL = 16384  # bytes that a connection may hold when the server's memory is full
_QUEUED_REQUEST = 4096  # bytes that a request takes in the queue, beside its own
_IDLE = State.IDLE  # A global is looked up faster than an enum's member.


class Connections:
    """The connections of one server, and what they share. `log` may be None."""

    def __init__(self, route: ChatCompletions, request_timeout: float, log: Log | None) -> None:
        self.route = route
        self.log = log
        self.request_timeout = request_timeout
        self.time_limits = time_limits(request_timeout)
        self.requests_count = 0
        self.connections: set[Connection] = set()

    def opened(self, connection: "Connection", descriptor: int) -> None:
        """Add a new connection, which has this file descriptor."""
        self.connections.add(connection)


class Connection(asyncio.Protocol):
    """One client's connection: its requests are answered one after the other, in order."""

    def __init__(self, server: Connections) -> None:
        self._server = server
        self._route = server.route
        self._transport: asyncio.Transport
        self._state = State.NEW
        self._since = time.monotonic()  # When it entered the state.
        self._parser: RequestParser | None = RequestParser()
        self._requests: deque[Incoming] = deque()  # The queue.
        self._unanswered = 0  # Bytes received that are not answered, at most.
        self._held = 0  # Bytes that the server's memory counts for this connection.
        self._parts: Iterator[Part] | None = None  # What is left of the answer under way.
        self._persistent = True
        self._cancel: Callable[[], object] | None = None  # Ends the wait for the next part, or for the answer.
        self._is_paused = False  # The client does not read, and the transport's buffer is full.
        self._unread = 0, self._since  # Bytes that the client has not read, and since when it has read none of them.
        self._is_half_closed = False

    # States

    def _enter(self, state: State) -> None:
        """Enter a state, note the time, and free what the last one held."""
        self._state, self._since = state, time.monotonic()
        self._unanswered = min(self._unanswered, _LONGEST_READ) if state in BUSY else 0
        self._route.memory.held -= self._held
        self._held = 0
        if state in DONE:
            self._parser = self._parts = None
            self._requests.clear()
            if self._cancel is not None:
                self._cancel()
                self._cancel = None

    def _account(self) -> bool:
        """Count the bytes buffered for this connection; False if the server then holds more than it may."""
        memory = self._route.memory
        size = self._unanswered + _QUEUED_REQUEST * len(self._requests) + self._transport.get_write_buffer_size()
        memory.held += size - self._held
        self._held = size
        return size <= _SMALL or not memory.is_full

    def watch(self, now: float) -> None:
        """End what takes too long; called now and then with the time."""
        unread = self._transport.get_write_buffer_size()
        if unread != self._unread[0]:
            self._unread = unread, now
        if unread:
            if now - self._unread[1] > self._server.request_timeout:
                self.abort()
            return
        limit = self._server.time_limits.get(self._state)
        if limit is None or now - self._since <= limit:
            return
        if self._state is State.RECEIVING:
            self._refuse(ApiError(408, f"The request did not arrive whole within {limit:g} s"))
        elif self._state is State.LINGERING:
            self.abort()
        else:
            self._close()

    def finish(self) -> None:
        """Close the connection as soon as what was begun on it is finished."""
        if self._state in (State.NEW, State.IDLE, State.STALLED):
            self._close()

    def abort(self) -> None:
        """Close the connection now."""
        self._enter(State.CLOSED)
        self._transport.abort()

    def _close(self) -> None:
        """Close the connection once all is written.

        Its end is sent too (FIN): a process that was forked may have the socket open, so closing it would not do that.
        """
        self._end_writing()
        self._transport.close()

    def _end_writing(self) -> None:
        if self._transport.can_write_eof():  # TLS can't.
            with suppress(OSError):  # The client has disconnected.
                self._transport.write_eof()

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
        if self._state is _IDLE and parser.known is not None:
            start, size = parser.known.match(data)
            if start and len(data) - start == size:
                self._begin(self._route.answer(parser.known.request, data[start:]))
                return
        is_idle = self._state is _IDLE or self._state is State.NEW
        self._unanswered += len(data)
        self._requests += parser.feed(data)
        if not (is_idle and not data.strip(b"\r\n")):  # Empty lines begin no request (RFC 9112, section 2.2).
            self._advance()

    def eof_received(self) -> bool:
        """Stay open while a client that has sent its last request reads the answer; TLS does not allow that."""
        self._is_half_closed = True
        return self._state is State.ANSWERING and self._transport.can_write_eof()

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        asyncio.get_running_loop().call_soon(self._resume)  # asyncio's transport can't be closed from in here.

    # Reading

    def _advance(self) -> None:
        """Answer the queued requests that are complete, and enter the state that follows."""
        answered = 0
        while self._parser is not None and self._parts is None and self._cancel is None:
            if answered == _AT_ONCE and self._requests:  # Others get their answers before this goes on.
                self._parts, self._persistent = iter((next_turn(),)), True
                self._write()
                break
            answer = self._next_answer(self._parser)
            if answer is None:
                break
            self._begin(answer)
            answered += 1
        if self._parser is not None:
            self._settle(self._parser, answered > 0)

    def _next_answer(self, parser: RequestParser) -> "Answer | asyncio.Future[Answer] | None":
        """The answer to the first request in the queue; None if it is not complete."""
        request = UNREADABLE
        try:
            if not self._requests:
                if parser.malformed:
                    raise parser.malformed
                return None
            first = self._requests[0]
            if first.request.head_size > MAX_HEAD_SIZE:
                return self._route.refuse(first.request, too_large_head())
            if first.body.is_eof():
                self._requests.popleft()
                body = first.whole()
                parser.ended(body)
                return self._route.answer(first.request, body)
            parser.check(first.body)
            request = first.request
            self._receive(first)
        except ApiError as error:
            return self._route.refuse(request, error)
        return None

    def _receive(self, incoming: Incoming) -> None:
        """Take what has arrived of a body; raises `ApiError` as soon as it is certain that it is refused."""
        request = incoming.request
        if incoming.arrived is None:
            self._route.check(request, request.body_size)
            if request.headers.get("Expect", "").lower() == "100-continue" and request.is_http_1_1:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._route.check(request, incoming.take())

    def _settle(self, parser: RequestParser, has_answered: bool) -> None:
        """Enter the state that follows, once all that is complete is answered."""
        has_more = bool(self._requests) or not parser.is_between()
        if self._parts is not None or self._cancel is not None:
            if has_more:  # The rest is read once this is answered.
                self._transport.pause_reading()
                self._account()
            else:
                self._unanswered = 0
            return
        has_answered = has_answered or self._state is State.ANSWERING
        if has_answered and not has_more:
            self._enter(State.IDLE)
            return
        if has_answered or self._state is not State.RECEIVING:
            self._enter(State.RECEIVING)
        if not self._account():
            self._refuse(too_much())

    def _refuse(self, error: ApiError) -> None:
        """Refuse the request that is arriving, and close the connection."""
        self._begin(self._route.refuse(self._requests[0].request if self._requests else UNREADABLE, error))

    # Writing

    def _begin(self, answer: "Answer | asyncio.Future[Answer]") -> None:
        """Start writing an answer, now or when there is one."""
        self._server.requests_count += 1
        if isinstance(answer, Answer):
            self._take(answer)
        else:
            self._enter(State.ANSWERING)
            self._cancel = answer.cancel
            answer.add_done_callback(self._answered)

    def _answered(self, future: "asyncio.Future[Answer]") -> None:
        if self._parser is None:
            return
        self._cancel = None
        if future.cancelled():
            self.abort()
        else:
            self._take(future.result(), self._since)
            self._continue()

    def _take(self, answer: Answer, asked: float | None = None) -> None:
        log = self._server.log
        if log is not None and (log.each or answer.status != 200):
            answer = log.watch(answer, asked or time.monotonic())
        self._parts, self._persistent = iter(answer.parts), answer.persistent
        self._write()

    def _write(self) -> None:
        """Write the answer's parts, until one has to wait or the client has to read."""
        assert self._parts is not None
        try:
            for part in self._parts:
                if isinstance(part, bytes):
                    self._transport.write(part)
                    if self._is_paused or self._transport.is_closing():
                        self._wait()
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
            self._leave()
        elif self._state is _IDLE:
            self._since = time.monotonic()

    def _wait(self) -> None:
        if self._state is not State.ANSWERING:
            self._enter(State.ANSWERING)

    def _wait_for(self, part: At | Until | Never) -> bool:
        """Wait for the part's moment or future; False if that is past."""
        if isinstance(part, At):
            early = part.moment - time.monotonic()
            if early <= 0:
                return False
            self._wait()
            self._cancel = asyncio.get_running_loop().call_later(early, self._wake).cancel
        elif isinstance(part, Until):
            if part.future.done():
                return False
            self._wait()
            part.future.add_done_callback(self._wake)
            self._cancel = partial(part.future.remove_done_callback, self._wake)
        else:
            self._stall()
        return True

    def _wake(self, future: "asyncio.Future[object] | None" = None) -> None:
        self._cancel = None
        self._resume()

    def _resume(self) -> None:
        """Write on, unless there is still something to wait for."""
        if self._parts is not None and self._cancel is None and not self._is_paused:
            self._write()
            self._continue()

    def _continue(self) -> None:
        """Serve the queued requests once an answer is written."""
        self._advance()
        if self._parts is None and self._cancel is None and self._parser is not None:
            self._transport.resume_reading()

    def _stall(self) -> None:
        self._enter(State.STALLED)
        self._transport.resume_reading()
        # A client that has closed its half of the connection already can't be seen to disconnect.
        if self._is_half_closed:
            self._close()

    def _leave(self) -> None:
        """Close the connection; if the client may still be sending, once it stops.

        A socket closed with unread input resets the connection, and the answer is lost (RFC 9112, section 9.6).
        """
        is_sending = bool(self._requests) or (self._parser is not None and not self._parser.is_between())
        self._enter(State.LINGERING)
        if self._is_half_closed or not is_sending:
            self._close()
            return
        self._transport.resume_reading()
        self._end_writing()
