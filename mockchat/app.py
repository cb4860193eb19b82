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

from mockchat import protocol
from mockchat.index import ResponseIndex
from mockchat.protocol import ApiError

PATH = "/v1/chat/completions"
MAX_BODY_SIZE = 64 * 1024 * 1024  # bytes
SHUTDOWN_TIMEOUT = 5.0  # seconds


class ReadyAnswer(web.StreamResponse):
    """An answer of ready-made bytes: status line, headers and body are written as they are, part by part.

    It takes the place of `web.Response`, whose headers cost more than finding the reply. It is written in `write_eof`,
    where aiohttp forgives a client that has gone, and waits there while the client does not read.
    """

    def __init__(self, parts: Iterable[bytes], keep_alive: bool) -> None:
        self._parts = parts
        self._persistent = keep_alive

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open after this answer; asked for when it is written."""
        connection = self._request.protocol
        return self._persistent and not (isinstance(connection, _Connection) and connection.is_last())

    async def prepare(self, request: web.BaseRequest) -> None:
        """Remember where to write; there are no headers to make."""
        self._request = request

    async def write_eof(self, data: bytes = b"") -> None:
        """Write each part as soon as the transport's buffer has room for more."""
        for part in self._parts:
            transport = self._request.transport
            if transport is None or transport.is_closing():
                raise ConnectionResetError("the client has gone")
            transport.write(part)
            await self._request.writer.drain()


class ChatCompletions:
    """The handler of every request: `POST /v1/chat/completions`, and errors for anything else."""

    def __init__(self, index: ResponseIndex, max_body_size: int = MAX_BODY_SIZE, api_keys: Sequence[str] = ()) -> None:
        self._index = index
        self._max_body_size = max_body_size
        self._api_keys = [key.encode() for key in api_keys]
        self._run_id = secrets.token_hex(6).encode()
        self._answered = 0
        self._now = 0
        self._date = b""
        self.closing = False
        self.receiving: dict[web.RequestHandler, StreamReader] = {}  # Bodies on their way.

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request; every error is an answer too."""
        try:
            if self._api_keys:
                self._check_key(request)
            if request.raw_path != PATH or request.method != "POST":
                self._check_route(request)
            if "Content-Encoding" in request.headers:
                self._check_encoding(request)
            content = request.content
            body = content.read_nowait() if content.is_eof() else await self._receive(request)
            if len(body) > self._max_body_size:
                raise self._too_large()
            found = protocol.read_request(body, self._index)
            if found.settings.stream:
                return self._stream(request, protocol.stream(found, int(time.time())))
            return self._answer(request, HTTPStatus.OK, protocol.completion(found, int(time.time())))
        except ApiError as error:
            return self.error(request, error)
        except web.RequestPayloadError:
            return ReadyAnswer((), True)  # aiohttp's own error about it is next in the connection's queue.
        except OSError:
            return ReadyAnswer((), False)  # The client went while it was sending; nobody reads this.

    def _check_key(self, request: web.BaseRequest) -> None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        given = key.strip().encode(errors="surrogateescape") if scheme.lower() == "bearer" else b""
        # Every key is compared, each in constant time: how long it takes tells nothing.
        matches = [hmac.compare_digest(given, expected) for expected in self._api_keys]
        if not any(matches):
            message = "Incorrect API key provided" if given else "No API key provided: send Authorization: Bearer KEY"
            raise ApiError(HTTPStatus.UNAUTHORIZED, message, code="invalid_api_key")

    def _check_route(self, request: web.BaseRequest) -> None:
        if request.path != PATH:
            message = f"Unknown path {request.path[:200]}: this server has one route, POST {PATH}"
            raise ApiError(HTTPStatus.NOT_FOUND, message)
        if request.method != "POST":
            message = f"Method {request.method} is not allowed on {PATH}: use POST"
            raise ApiError(HTTPStatus.METHOD_NOT_ALLOWED, message)

    def _check_encoding(self, request: web.BaseRequest) -> None:
        encoding = ", ".join(request.headers.getall("Content-Encoding"))
        if encoding.lower() != "identity":
            message = f"Content-Encoding {encoding!r} is not supported: send the body uncompressed"
            raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message)

    def _too_large(self) -> ApiError:
        message = f"The request body is larger than {self._max_body_size} bytes (see --max-body-mb)"
        return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)

    async def _receive(self, request: web.BaseRequest) -> bytes:
        """Wait for a body that is not there yet; refuse it as soon as it is known to be too large."""
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

    def error(self, request: web.BaseRequest, error: ApiError) -> ReadyAnswer:
        """An error as OpenAI's object; a miss is plain text for a client that does not ask for JSON."""
        if isinstance(error, protocol.NotRecorded):
            accepted = request.headers.get("Accept", "").lower()
            if "json" not in accepted and "event-stream" not in accepted:
                return self._answer(request, error.status, str(error).encode(), b"text/plain; charset=utf-8")
        return self._answer(request, error.status, error.body())

    def _answer(
        self, request: web.BaseRequest, status: int, body: bytes, content_type: bytes = b"application/json"
    ) -> ReadyAnswer:
        # What is left of a refused body is not worth reading.
        keep_alive = request.keep_alive and not self.closing and request.content.is_eof()
        head = self._head(request, status, content_type, keep_alive) + b"Content-Length: %d\r\n\r\n" % len(body)
        return ReadyAnswer((head if request.method == "HEAD" else head + body,), keep_alive)

    def _stream(self, request: web.BaseRequest, events: Iterator[bytes]) -> ReadyAnswer:
        """Server-sent events in chunks, or up to the connection's end for a client of HTTP/1.0."""
        chunked = request.version >= HttpVersion11
        keep_alive = request.keep_alive and not self.closing and chunked
        head = self._head(request, HTTPStatus.OK, b"text/event-stream; charset=utf-8", keep_alive)
        head += b"Cache-Control: no-cache\r\n" + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n")

        def parts() -> Iterator[bytes]:
            part = head  # Goes out with the first events, as the end does with the last.
            for block in events:
                if part is not head:
                    yield part
                    part = b""
                part += b"%x\r\n%b\r\n" % (len(block), block) if chunked else block
            yield part + b"0\r\n\r\n" if chunked else part

        return ReadyAnswer(parts(), keep_alive)

    def _head(self, request: web.BaseRequest, status: int, content_type: bytes, keep_alive: bool) -> bytes:
        """The status line and the headers that every answer has."""
        now = int(time.time())
        if now != self._now:
            self._now = now
            self._date = formatdate(now, usegmt=True).encode()
        self._answered += 1
        special = _SPECIAL_HEADERS.get(status, b"")
        if not keep_alive:
            special += b"Connection: close\r\n"
        elif request.version < HttpVersion11:
            special += b"Connection: keep-alive\r\n"
        return b"HTTP/1.1 %b\r\nContent-Type: %b\r\nDate: %b\r\nx-request-id: req_%b%08x\r\n%b" % (
            _STATUS_LINES[status],
            content_type,
            self._date,
            self._run_id,
            self._answered,
            special,
        )


_SPECIAL_HEADERS = {
    HTTPStatus.UNAUTHORIZED.value: b"WWW-Authenticate: Bearer\r\n",
    HTTPStatus.METHOD_NOT_ALLOWED.value: b"Allow: POST\r\n",
}
_STATUS_LINES = {status.value: f"{status.value} {status.phrase}".encode() for status in HTTPStatus}


class _Connection(web.RequestHandler):
    """aiohttp's connection, with errors that are answers like any other."""

    def __init__(self, server: "ChatServer", chat: ChatCompletions) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), access_log=None, auto_decompress=False)  # type: ignore[arg-type]
        self._chat = chat
        self.half_closed = False

    def data_received(self, data: bytes) -> None:
        """Pass data on, and end the wait for a body that turned out not to be HTTP.

        aiohttp queues that error behind the request whose body it is, which then would wait for ever.
        """
        super().data_received(data)
        if self._messages and self in self._chat.receiving:
            self._chat.receiving.pop(self).feed_eof()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection open while a client that has sent its last request waits for the answer."""
        self.half_closed = True
        idle = self._request_count == 0 or (self._waiter is not None and not self._waiter.done())
        return not idle and self not in self._chat.receiving

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
        if status < 500:
            reason = (message or "").partition("\n")[0].partition(": bytearray")[0].rstrip(":")
            error = ApiError(status, f"The request is not well-formed HTTP: {reason}")
        else:
            self.log_exception("Error handling a request", exc_info=exc)
            error = ApiError(500, "The server failed; its log says how")
        return self._chat.error(request, error)


class ChatServer(web.Server):
    """aiohttp's low-level server around one handler; made inside a running event loop."""

    def __init__(self, chat: ChatCompletions) -> None:
        super().__init__(chat)
        self._chat = chat

    def __call__(self) -> web.RequestHandler:
        """A new connection's protocol."""
        return _Connection(self, self._chat)

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
