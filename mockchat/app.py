"""The HTTP server: one route on aiohttp, from the socket to `protocol` and back; start-up and shutdown.

What stands here is what makes a request cheap without making HTTP wrong. It uses aiohttp's low-level server
(https://docs.aiohttp.org/en/stable/web_lowlevel.html): no router, no middleware, and answers that are ready-made bytes.
"""

import asyncio
import hmac
import secrets
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.log import server_logger

from mockchat import protocol
from mockchat.index import ResponseIndex
from mockchat.protocol import ApiError

PATH = "/v1/chat/completions"
MAX_BODY_SIZE = 64 * 1024 * 1024  # bytes
SHUTDOWN_TIMEOUT = 5.0  # seconds


class Answer(web.StreamResponse):
    """An answer of ready-made bytes: status line, headers and body are written as they are, part by part.

    It takes the place of `web.Response`, whose headers cost more than finding the reply. What was not written at once
    is written in `write_eof`, where aiohttp forgives a client that has gone, and waits there while the client does not
    read. `persistent` tells whether the connection stays open afterwards.
    """

    def __init__(self, parts: Iterable[bytes], persistent: bool) -> None:
        self.parts = iter(parts)
        self.persistent = persistent

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open after this answer; asked for when it is written."""
        connection = self._request.protocol
        return self.persistent and not (isinstance(connection, _Connection) and connection.is_last())

    async def prepare(self, request: web.BaseRequest) -> None:
        """Remember where to write; there are no headers to make."""
        self._request = request

    async def write_eof(self, data: bytes = b"") -> None:
        """Write each part as soon as the transport's buffer has room for it."""
        for part in self.parts:
            await self._request.writer.drain()
            transport = self._request.transport
            if transport is None or transport.is_closing():
                raise ConnectionResetError("the client has gone")
            transport.write(part)


class ChatCompletions:
    """What becomes of each request: `POST /v1/chat/completions`, and errors for anything else."""

    def __init__(self, index: ResponseIndex, max_body_size: int = MAX_BODY_SIZE, api_keys: Sequence[str] = ()) -> None:
        self._index = index
        self._max_body_size = max_body_size
        self._api_keys = [key.encode() for key in api_keys]
        self._run_id = secrets.token_hex(6).encode()
        self._answered = 0
        self._now = 0
        self._heads: dict[tuple[int, bytes, bytes], bytes] = {}  # Of this second.
        self.closing = False
        self.receiving: dict[web.RequestHandler, StreamReader] = {}  # Bodies on their way.

    def answer(self, message: RawRequestMessage, content: StreamReader) -> Answer:
        """Answer a request that is there to its end; every error is an answer too."""
        try:
            self._check(message)
            return self._reply(message, content.read_nowait())
        except ApiError as error:
            return self.error(message, error)
        except Exception as error:
            return self.failure(message, error)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request whose end may still be on its way: the handler that aiohttp calls."""
        connection, message = request.protocol, request._message
        if isinstance(connection, _Connection) and connection.prepared is not None:
            answer, connection.prepared = connection.prepared, None
            return answer
        try:
            self._check(message)
            return self._reply(message, await self._receive(request))
        except ApiError as error:
            # What is left of a refused body is not worth reading.
            return self.error(message, error, keep_alive=request.content.is_eof())
        except web.RequestPayloadError:
            return Answer((), True)  # aiohttp's own error about it is next in the connection's queue.
        except OSError:
            return Answer((), False)  # The client went while it was sending; nobody reads this.

    def _reply(self, message: RawRequestMessage, body: bytes) -> Answer:
        if len(body) > self._max_body_size:
            raise self._too_large()
        found = protocol.read_request(body, self._index)
        created = int(time.time())
        if found.settings.stream:
            return self._stream(message, protocol.stream(found, created))
        return self._whole(message, 200, protocol.completion(found, created))

    def _check(self, message: RawRequestMessage) -> None:
        """Refuse what need not be read."""
        if self._api_keys:
            self._check_key(message.headers.get("Authorization", ""))
        if message.path != PATH or message.method != "POST":
            self._check_route(message)
        if "Content-Encoding" in message.headers:
            self._check_encoding(", ".join(message.headers.getall("Content-Encoding")))

    def _check_key(self, authorization: str) -> None:
        scheme, _, key = authorization.partition(" ")
        given = key.strip().encode(errors="surrogateescape") if scheme.lower() == "bearer" else b""
        # Every key is compared, each in constant time: how long it takes tells nothing.
        matches = [hmac.compare_digest(given, expected) for expected in self._api_keys]
        if not any(matches):
            problem = "Incorrect API key provided" if given else "No API key provided: send Authorization: Bearer KEY"
            raise ApiError(HTTPStatus.UNAUTHORIZED, problem, code="invalid_api_key")

    def _check_route(self, message: RawRequestMessage) -> None:
        path = message.url.path
        if path != PATH:
            problem = f"Unknown path {path[:200]}: this server has one route, POST {PATH}"
            raise ApiError(HTTPStatus.NOT_FOUND, problem)
        if message.method != "POST":
            problem = f"Method {message.method} is not allowed on {PATH}: use POST"
            raise ApiError(HTTPStatus.METHOD_NOT_ALLOWED, problem)

    def _check_encoding(self, encoding: str) -> None:
        if encoding.lower() != "identity":
            problem = f"Content-Encoding {encoding!r} is not supported: send the body uncompressed"
            raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, problem)

    def _too_large(self) -> ApiError:
        problem = f"The request body is larger than {self._max_body_size} bytes (see --max-body-mb)"
        return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, problem)

    async def _receive(self, request: web.BaseRequest) -> bytes:
        """Wait for a body that is not there yet; refuse it as soon as it is known to be too large."""
        if request.content.is_eof():
            return request.content.read_nowait()
        if (request.content_length or 0) > self._max_body_size:
            raise self._too_large()
        expectation = request.headers.get("Expect", "")
        if expectation and request.version >= HttpVersion11 and request.transport is not None:
            if expectation.lower() != "100-continue":
                raise ApiError(HTTPStatus.EXPECTATION_FAILED, f"Unknown expectation {expectation}")
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if isinstance(request.protocol, _Connection) and request.protocol.half_closed:
            request.content.feed_eof()  # Lest aiohttp lingers for the rest of it.
            raise ConnectionResetError("the client stopped sending in the middle of a request")
        self.receiving[request.protocol] = request.content
        try:
            blocks, size = [], 0
            while block := await request.content.readany():
                blocks.append(block)
                size += len(block)
                if size > self._max_body_size:
                    break
        finally:
            whole = self.receiving.pop(request.protocol, None)
        if not whole:
            raise web.RequestPayloadError
        return b"".join(blocks)

    def error(self, message: RawRequestMessage, error: ApiError, keep_alive: bool = True) -> Answer:
        """An error as OpenAI's object; a miss is plain text for a client that does not ask for JSON."""
        if isinstance(error, protocol.NotRecorded):
            accepted = message.headers.get("Accept", "").lower()
            if "json" not in accepted and "event-stream" not in accepted:
                return self._whole(message, error.status, str(error).encode(), keep_alive, b"text/plain; charset=utf-8")
        return self._whole(message, error.status, error.body(), keep_alive)

    def failure(self, message: RawRequestMessage, error: BaseException | None) -> Answer:
        """A bug of ours, logged and told."""
        server_logger.error("Error handling a request", exc_info=error)
        return self.error(message, ApiError(500, "The server failed; its log says how"), keep_alive=False)

    def _whole(
        self,
        message: RawRequestMessage,
        status: int,
        body: bytes,
        keep_alive: bool = True,
        content_type: bytes = b"application/json",
    ) -> Answer:
        keep_alive = keep_alive and not (message.should_close or self.closing)
        head = self._head(message, status, content_type, keep_alive)
        body = b"" if message.method == "HEAD" else body
        whole = b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
        return Answer((whole,), keep_alive)

    def _stream(self, message: RawRequestMessage, events: Iterator[bytes]) -> Answer:
        """Server-sent events in chunks, or up to the connection's end for a client of HTTP/1.0."""
        chunked = message.version >= HttpVersion11
        keep_alive = chunked and not (message.should_close or self.closing)
        head = self._head(message, 200, b"text/event-stream; charset=utf-8", keep_alive)
        head += b"Cache-Control: no-cache\r\n" + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n")

        def parts() -> Iterator[bytes]:
            before = head  # Goes out with the first events, as the end does with the last.
            for block in events:
                end = b"0\r\n\r\n" if block.endswith(protocol.STREAM_END) else b""
                chunk = (before, b"%x\r\n" % len(block), block, b"\r\n", end)
                yield b"".join(chunk) if chunked else before + block
                before = b""

        return Answer(parts(), keep_alive)

    def _head(self, message: RawRequestMessage, status: int, content_type: bytes, keep_alive: bool) -> bytes:
        """The status line and the headers that every answer has."""
        self._answered += 1
        now = int(time.time())
        if now != self._now:
            self._now = now
            self._heads.clear()
        connection = b""
        if not keep_alive:
            connection = b"Connection: close\r\n"
        elif message.version < HttpVersion11:
            connection = b"Connection: keep-alive\r\n"
        key = status, content_type, connection
        if key not in self._heads:
            self._heads[key] = b"HTTP/1.1 %b\r\nContent-Type: %b\r\nDate: %b\r\n%b%bx-request-id: req_%b" % (
                _STATUS_LINES[status],
                content_type,
                formatdate(now, usegmt=True).encode(),
                connection,
                _SPECIAL_HEADERS.get(status, b""),
                self._run_id,
            )
        return b"%b%08x\r\n" % (self._heads[key], self._answered)


_SPECIAL_HEADERS = {
    HTTPStatus.UNAUTHORIZED.value: b"WWW-Authenticate: Bearer\r\n",
    HTTPStatus.METHOD_NOT_ALLOWED.value: b"Allow: POST\r\n",
}
_STATUS_LINES = {status.value: f"{status.value} {status.phrase}".encode() for status in HTTPStatus}


class _Connection(web.RequestHandler):
    """aiohttp's connection, with errors that are answers like any other, and the last answer for who half-closes it."""

    def __init__(self, server: "ChatServer", chat: ChatCompletions) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), access_log=None, auto_decompress=False)  # type: ignore[arg-type]
        self._chat = chat
        self.half_closed = False
        self.prepared: Answer | None = None  # To the next request in the queue.

    def data_received(self, data: bytes) -> None:
        """Have aiohttp read the data, and end the wait for a body that turned out not to be HTTP.

        aiohttp queues that error behind the request whose body it is, which then would wait for ever.
        """
        super().data_received(data)
        body = self._chat.receiving.get(self)
        if body is not None and self._messages and not body.is_eof():
            self._chat.receiving.pop(self).feed_eof()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection open while a client that has sent its last request waits for the answer."""
        self.half_closed = True
        return self._request_count > 0 and not self._is_idle() and self not in self._chat.receiving

    def _is_idle(self) -> bool:
        """Whether aiohttp's task waits for the next request."""
        return self._waiter is not None and not self._waiter.done()

    def is_last(self) -> bool:
        """Whether no request can follow the one that was answered."""
        return self.half_closed and not self._messages

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is not HTTP with 400; anything else is a bug of ours, logged and answered with 500."""
        if status >= 500:
            return self._chat.failure(request._message, exc)
        reason = (message or "").partition("\n")[0].partition(": bytearray")[0].rstrip(":")
        error = ApiError(status, f"The request is not well-formed HTTP: {reason}")
        return self._chat.error(request._message, error)


class _PromptConnection(_Connection):
    """A connection that answers at once what can be answered at once.

    aiohttp wakes a task for each connection, which starts a task for each request: that costs more than all that we do.
    So a request that is there to its end when its bytes arrive is answered then and there. Whatever has to wait (for
    the rest of a body, for a slow reader, for what is before it) or closes the connection goes aiohttp's way.

    This needs to know how aiohttp queues requests, and aiohttp may change that: it is used only where all that it
    needs is there, and tests/test_app.py tells whether it still means the same.
    """

    POSSIBLE = hasattr(HttpRequestParser, "message_consumed") and all(
        hasattr(web.RequestHandler, name)
        for name in ("_messages", "_waiter", "_buffer_paused", "_reading_paused", "_next_keepalive_close_time")
    )

    def data_received(self, data: bytes) -> None:
        """Have aiohttp read the data, and answer what is complete."""
        if not self._is_idle():
            super().data_received(data)
            return
        waiter, self._waiter = self._waiter, None  # Lest the task is woken for what is answered here.
        super().data_received(data)
        while self._messages and self._answer_at_once():
            pass
        self._waiter = waiter
        if self._messages and self._is_idle():
            waiter.set_result(None)  # type: ignore[union-attr]

    def _answer_at_once(self) -> bool:
        """Answer the next request in the queue, if that needs no waiting."""
        message, content = self._messages[0]
        if (
            not isinstance(message, RawRequestMessage)
            or message.upgrade
            or not content.is_eof()
            or self.transport is None
            or self._paused
            or self._buffer_paused
        ):
            return False
        answer = self._chat.answer(message, content)
        if not (answer.persistent and self._write(answer.parts)):
            self.prepared = answer
            return False
        self._messages.popleft()
        self._parser.message_consumed()  # type: ignore[union-attr]
        self._next_keepalive_close_time = self._loop.time() + self.keepalive_timeout
        return True

    def _write(self, parts: Iterator[bytes]) -> bool:
        """Write as much as the transport takes; true if that is all."""
        for part in parts:
            self.transport.write(part)  # type: ignore[union-attr]
            if self._paused:
                return False
        return True

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Resume if reading was paused: aiohttp asks for it twice a request, and each time has nothing parsed again."""
        if self._reading_paused:
            super().resume_reading(resume_parser)


class ChatServer(web.Server):
    """aiohttp's low-level server around one handler; made inside a running event loop."""

    def __init__(self, chat: ChatCompletions) -> None:
        super().__init__(chat)
        self._chat = chat

    def __call__(self) -> web.RequestHandler:
        """A new connection's protocol."""
        return (_PromptConnection if _PromptConnection.POSSIBLE else _Connection)(self, self._chat)

    def pre_shutdown(self) -> None:
        """Take no further requests; one whose body is on its way is still answered."""
        self._chat.closing = True
        for connection in self._settled():
            connection.close()

    async def shutdown(self, timeout: float | None = None) -> None:
        """Finish the answers under way, wait for the bodies on their way, and close; `timeout` is in seconds."""
        end = time.monotonic() + (timeout or 0)
        await asyncio.gather(*(connection.shutdown(timeout) for connection in self._settled()))
        while self._chat.receiving and time.monotonic() < end:
            await asyncio.sleep(0.01)
        await super().shutdown(timeout)

    def _settled(self) -> list[web.RequestHandler]:
        return [connection for connection in self.connections if connection not in self._chat.receiving]


async def serve(chat: ChatCompletions, host: str, port: int, ready: Callable[[str], object]) -> None:
    """Serve until SIGINT or SIGTERM, then finish what is under way.

    `port` 0 picks a free one; `ready` is called with the base URL once connections are accepted. Raises `OSError`
    where the address can't be had.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    runner = web.ServerRunner(ChatServer(chat), shutdown_timeout=SHUTDOWN_TIMEOUT)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
        address, port, *_ = runner.addresses[0]
        ready(f"http://{f'[{address}]' if ':' in address else address}:{port}/v1")
        await stop.wait()
    finally:
        await runner.cleanup()
