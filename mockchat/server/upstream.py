"""A proxy to another server of the API: forwards what is not recorded, and records the answers.

Follows https://www.rfc-editor.org/rfc/rfc9110#name-message-forwarding. Each exchange is a task of its own: it is
finished and recorded even when its client disconnects.
"""

import asyncio
import io
import secrets
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import aiohttp
from aiohttp.log import server_logger
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from mockchat.client import decoded, explain
from mockchat.core import wire
from mockchat.core.answer import BLANK_LINE, BadAnswer, endpoint, error_message
from mockchat.core.entries import Conversation, DatasetError
from mockchat.core.index import ResponseIndex
from mockchat.core.matching import matching
from mockchat.server import recorder
from mockchat.server.errors import UPSTREAM, ApiError, NotRecorded
from mockchat.server.http import CLOSE, LAST_CHUNK, Answer, AnswerWriter, HttpRequest, Part, chunk, in_blocks
from mockchat.server.memory import NO_MEMORY, Memory
from mockchat.server.record_file import RecordFile

TIMEOUT = 600.0  # seconds, as in OpenAI's SDKs
_CONNECT_TIMEOUT = 10.0  # seconds
_LONGEST_EXCHANGE = 3600.0  # seconds
_ID = b"upstream"  # Stands for the id of a conversation that is not recorded yet.
# Headers that are not forwarded: RFC 9110, section 7.6.1, and those that describe how this body was sent.
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer")
    + ("transfer-encoding", "upgrade", "expect", "host", "content-length", "content-encoding", "accept-encoding")
)


class _Exchange:
    """A request to the upstream, and its answer so far. The client may have disconnected.

    Its bytes are counted until it is freed: the exchange's task and the client's answer refer to it.
    """

    def __init__(self, writer: AnswerWriter, memory: Memory, request: HttpRequest, body: bytes) -> None:
        self.request = request
        self.body = body
        self.is_stream = False  # Whether the answer is a stream of events, which is forwarded as it comes.
        self.status = 0
        self.head = b""  # The status line and the headers, without those of the connection.
        self.received = bytearray()
        self.ready = 0  # Bytes of a stream that can be forwarded: whole events.
        self.error: ApiError | None = ApiError(503, "The server was stopped before the upstream had answered")
        self.refusal: ApiError | None = None  # The upstream's own error, if it answered with one.
        self._writer = writer
        self._memory = memory
        self._is_over = False
        self._news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        memory.held += len(body)

    def __del__(self) -> None:
        self._memory.held -= len(self.body) + len(self.received)

    def receive(self, block: bytes) -> None:
        """Add a block to the answer. Raises `ApiError` beyond the limit of the memory."""
        self.received += block
        self._memory.held += len(block)
        if self._memory.is_full:
            raise ApiError(503, NO_MEMORY)

    def forward(self, ready: int) -> None:
        self.ready = ready
        self._news.set_result(None)
        self._news = asyncio.get_running_loop().create_future()

    def end(self) -> None:
        self._is_over = True
        self.forward(self.ready if self.error else len(self.received))

    async def answer(self) -> Answer:
        if not (self.ready or self._is_over):
            await asyncio.wait([self._news])
        # Closing the connection is the only sign of a stream that broke off.
        keep_alive = self.request.keep_alive and not self.is_stream and not self._writer.closing
        head = self.head if keep_alive else self.head + CLOSE
        if self.is_stream and self.ready:
            return Answer(self._stream(head), keep_alive, self.status, id=_ID)
        if self.error:
            return self._writer.error(self.request, self.error, keep_alive=keep_alive)
        if self.status not in (204, 304):
            head += b"Content-Length: %d\r\n" % len(self.received)
        return Answer(self._whole(head), keep_alive, self.status, self.refusal, id=_ID)

    def _whole(self, head: bytes) -> Iterator[Part]:
        yield from in_blocks((head + b"\r\n", self.received))

    def _stream(self, head: bytes) -> Iterator[Part]:
        chunked = self.request.is_http_1_1
        part = chunk if chunked else bytes
        yield head + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n")
        sent = 0
        while sent < self.ready or not self._is_over:
            if sent == self.ready:
                yield self._news
            else:
                block, sent = bytes(self.received[sent : self.ready]), self.ready
                yield part(block)
        if self.error:
            yield part(b"data: %b\n\n" % self.error.body())
        elif chunked:
            yield LAST_CHUNK


class Upstream:
    """Forwards requests to the server at `base_url`, and records good answers in `file` and in `index`.

    `timeout` is in seconds, for the head of an answer and between its parts; an exchange ends after an hour.
    """

    def __init__(self, base_url: str, index: ResponseIndex, file: RecordFile, timeout: float = TIMEOUT) -> None:
        self._url = URL(endpoint(base_url))
        self._index = index
        self._file = file
        self._timeout = timeout
        self._exchanges: set[asyncio.Task[None]] = set()
        self._name = f"mockchat-{secrets.token_hex(6)}"
        self.warnings: set[str] = set()  # Warnings logged.
        self.recorded = 0  # Answers recorded.
        self.lost = 0  # Answers that could not be written into the file, or are not yet.
        self._is_writing = asyncio.Lock()

    def answer(
        self, writer: AnswerWriter, memory: Memory, request: HttpRequest, body: bytes, problem: ApiError
    ) -> "Answer | asyncio.Future[Answer]":
        """The upstream's answer to a request that can't be answered here because of `problem`.

        Failures are errors: 502, 503, 504, or 508 for a request that this server has sent itself.
        """
        if self._name in ",".join(request.headers.getall("Via", ())):
            looped = ApiError(508, "The upstream is this server, or forwards to it: give --upstream another base URL")
            return writer.error(request, looped)
        exchange = _Exchange(writer, memory, request, body)
        task = asyncio.create_task(self._run(exchange, isinstance(problem, NotRecorded)))
        self._exchanges.add(task)
        task.add_done_callback(self._exchanges.discard)
        return asyncio.create_task(exchange.answer())

    async def _run(self, exchange: _Exchange, is_readable: bool) -> None:
        if recorded := await self._ask(exchange, is_readable):
            await self._write(recorded)

    async def _ask(self, exchange: _Exchange, is_readable: bool) -> Conversation | None:
        """Complete the exchange. Returns the conversation to write, if its answer is good and new."""
        try:
            await self._talk(exchange)
            exchange.error = None
            if exchange.status == 200:
                return self._add_to_index(exchange, is_readable)
            if exchange.status >= 400:
                message = f"the upstream answered: {error_message(bytes(exchange.received))}"
                if exchange.status == 404 and not self._url.path.endswith("/v1/chat/completions"):
                    message += f" (it was asked at {self._url.path}: should its base URL end in /v1?)"
                exchange.refusal = ApiError(exchange.status, message, code=UPSTREAM)
        except recorder.NotRecordable as reason:
            self._warn(reason)
        except ApiError as error:
            exchange.error = error.with_traceback(None)
        except (BadAnswer, aiohttp.ClientError, OSError, ValueError, RecursionError) as error:
            status = 504 if isinstance(error, TimeoutError) else 502
            exchange.error = ApiError(status, f"The upstream failed: {', '.join(filter(None, explain(error)))}")
            error.__traceback__ = error.__context__ = error.__cause__ = None  # Their frames hold the exchange.
        finally:
            exchange.end()
        return None

    async def _talk(self, exchange: _Exchange) -> None:
        exchange.receive(b"")  # Nothing is asked while the memory is full.
        request = exchange.request
        headers = _end_to_end(request.headers)
        headers["Accept-Encoding"] = "identity"
        headers.add("Via", f"1.1 {self._name}")
        async with asyncio.timeout(self._timeout):
            url = URL(f"{self._url}?{request.query}", encoded=True) if request.query else self._url
            body = io.BytesIO(exchange.body)
            response = await self._session.post(url, data=body, headers=headers, allow_redirects=False)
        async with response:
            if not 200 <= response.status <= 599:
                raise BadAnswer(f"an answer with the status {response.status}")
            exchange.status, exchange.head = response.status, _head(response)
            exchange.is_stream = response.status == 200 and response.content_type == "text/event-stream"
            received = exchange.received
            async for block in decoded(response.headers, response.content):
                searched = max(exchange.ready, len(received) - 3)
                exchange.receive(block)
                # Forward whole events only: an error event after half of another would be lost.
                if exchange.is_stream and (ends := [blank.end() for blank in BLANK_LINE.finditer(received, searched)]):
                    exchange.forward(ends[-1])

    @cached_property
    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # A kept connection may close as it is used, and a request can't be repeated.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(_LONGEST_EXCHANGE, sock_connect=_CONNECT_TIMEOUT, sock_read=self._timeout),
            skip_auto_headers=("Accept", "Content-Type", "User-Agent"),
        )

    def _add_to_index(self, exchange: _Exchange, is_readable: bool) -> Conversation | None:
        """Returns the conversation of a good answer if it is new. Raises `BadAnswer` and `NotRecordable`."""
        completion = recorder.read_answer(bytes(exchange.received), exchange.is_stream)
        if not is_readable:
            raise recorder.NotRecordable("requests that can't be read here")
        parameters = wire.loads(exchange.body)
        recorded = recorder.conversation(parameters, completion)
        if not self._is_new(self._index.compared(wire.join(recorded.messages[:-1])), parameters):
            return None
        self._index.add(recorded)
        return recorded

    async def _write(self, recorded: Conversation) -> None:
        """Append to the file, in a thread: another process may keep it locked."""
        self.lost += 1
        async with self._is_writing:
            try:
                self.recorded += await asyncio.to_thread(self._file.append, recorded)
                self.lost -= 1
            except DatasetError as reason:
                self._warn(reason)

    def _warn(self, reason: Exception) -> None:
        line = f"Passed on but not recorded: {reason}"
        if line not in self.warnings:
            self.warnings.add(line)
            server_logger.warning("%s (said once)", line)

    def _is_new(self, history: bytes, asked: dict[str, Any]) -> bool:
        """False if the answer to an equal request was recorded meanwhile."""
        return not matching(self._index.replies(history), asked, self._index.match)

    @property
    def busy(self) -> bool:
        return bool(self._exchanges)

    async def close(self) -> int:
        """Cancel the running exchanges; returns their number."""
        tasks = list(self._exchanges)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if "_session" in vars(self):
            await self._session.close()
        return len(tasks)


def _end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """The headers that a proxy forwards, without those that aiohttp's client refuses to send."""
    named = {name.strip().lower() for name in ",".join(headers.getall("Connection", ())).split(",")}
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if name.lower() not in _HOP_BY_HOP | named and value.replace("\t", " ").isprintable()
    )


def _head(response: aiohttp.ClientResponse) -> bytes:
    lines = [f"HTTP/1.1 {response.status} {response.reason or ''}"]
    lines += [f"{name}: {value}" for name, value in _end_to_end(response.headers).items()]
    return "\r\n".join([*lines, ""]).encode(errors="surrogateescape")
